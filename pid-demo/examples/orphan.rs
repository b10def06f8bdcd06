//! An orphan is adopted by PID 1 of its own namespace.
//!
//!     cargo run -p pid-demo --example orphan
//!
//! A process whose parent has ended gets another one, which has to wait for
//! it. Man page: pid_namespaces(7), "The namespace init process".

use std::io::{self, Read};
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::unistd::{getpid, getppid};
use user_demo::link::example::{self, learned, status};
use user_demo::link::{Call, child::fork};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("orphan", run)
}

/// Each process starts the next one: this one, which stays outside; PID 1; the
/// parent; and the one that becomes an orphan and prints what it sees.
fn run() -> Result<u8, Failure> {
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    if let Some(init) = fork().map_err(failed(Call::Fork))? {
        return status(Some(init));
    }

    let (mut looked, looked_writer) = io::pipe().map_err(failed("pipe"))?;
    let (mut ended, ended_writer) = io::pipe().map_err(failed("pipe"))?;
    if let Some(parent) = fork().map_err(failed(Call::Fork))? {
        drop(looked_writer);
        status(Some(parent))?;
        drop(ended_writer); // Now the process below is an orphan.
        return status(None); // Only its parent can wait for it: that is us.
    }
    drop(ended_writer);
    if let Some(_orphan) = fork().map_err(failed(Call::Fork))? {
        drop(looked_writer);
        let _ = looked.read(&mut [0]); // Until it has looked.
        return Ok(0); // Without waiting for it.
    }

    let before = getppid();
    println!("its parent  PID  parent's PID");
    println!("lives       {:<3}  {before}", getpid());
    drop(looked_writer);
    let _ = ended.read(&mut [0]); // Until its parent has ended.
    println!("has ended   {:<3}  {}", getpid(), getppid());
    let held = before.as_raw() != 1 && getppid().as_raw() == 1;
    Ok(learned(held, "PID 1 becomes the parent of an orphan."))
}
