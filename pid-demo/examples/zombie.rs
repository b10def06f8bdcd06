//! A zombie stays until its parent waits for it. For an orphan inside, the
//! parent is PID 1.
//!
//!     cargo run -p pid-demo --example zombie
//!
//! Until then its status and its PID are kept: wait(2), NOTES.

use std::fs::{read_link, read_to_string};
use std::{io, io::Read, io::Write, process::ExitCode};

use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use user_demo::link::example::{self, learned, status};
use user_demo::link::{Call, child::fork};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("zombie", run)
}

/// Four processes: the one outside, PID 1, its child, and that one's child,
/// which becomes the orphan.
fn run() -> Result<u8, Failure> {
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    if let Some(init) = fork().map_err(failed(Call::Fork))? {
        return status(Some(init));
    }
    let (pid_reader, mut pid_writer) = io::pipe().map_err(failed("pipe"))?;
    let (mut end, end_writer) = io::pipe().map_err(failed("pipe"))?;
    let Some(parent) = fork().map_err(failed(Call::Fork))? else {
        drop(end_writer);
        if fork().map_err(failed(Call::Fork))?.is_none() {
            // The old /proc shows it under its PID outside.
            let this = read_link("/proc/self").map_err(failed("proc"))?;
            let _ = write!(pid_writer, "{}", this.display());
            drop(pid_writer);
            let _ = end.read(&mut [0]); // Until the other end is closed.
        }
        return Ok(0);
    };
    drop((pid_writer, end));
    let orphan = io::read_to_string(pid_reader).map_err(failed("read"))?;
    waitpid(parent, None).map_err(failed("waitpid"))?;
    let before = state(&orphan);
    drop(end_writer);
    // WNOWAIT: waits until it has ended, and leaves the zombie.
    waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        .map_err(failed("waitid"))?;
    let ended = state(&orphan);
    waitpid(None, None).map_err(failed("waitpid"))?;
    let after = state(&orphan);
    println!("an orphan         its state in /proc");
    println!("runs              {before}");
    println!("has ended         {ended}");
    println!("PID 1 has waited  {after}");
    let held = before != ended && ended == "Z (zombie)" && after == "gone";
    Ok(learned(held, "PID 1 has to wait(2) for orphans."))
}

/// As `ps` reads it.
fn state(process: &str) -> String {
    let path = format!("/proc/{process}/status");
    let status = read_to_string(path).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:\t"));
    state.unwrap_or("gone").to_string()
}
