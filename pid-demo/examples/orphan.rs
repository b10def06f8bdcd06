//! An orphan is adopted by PID 1 of its own namespace.
//!
//!     cargo run -p pid-demo --example orphan
//!
//! A process whose parent has ended gets another one, which has to wait for
//! it. Man page: pid_namespaces(7), "The namespace init process".

use std::io::{self, Read};
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use user_demo::{Failure, failed, link};

fn main() -> ExitCode {
    link::example("orphan", run)
}

/// Each process starts the next one: this one, which stays outside; PID 1; the
/// parent; and the one that becomes an orphan and prints what it sees.
fn run() -> Result<u8, Failure> {
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    if let Some(init) = child()? {
        return status(Some(init));
    }

    let (mut looked, looked_writer) = io::pipe().map_err(failed("pipe"))?;
    let (mut ended, ended_writer) = io::pipe().map_err(failed("pipe"))?;
    if let Some(parent) = child()? {
        drop(looked_writer);
        status(Some(parent))?;
        drop(ended_writer); // Now the process below is an orphan.
        return status(None); // Only its parent can wait for it: that is us.
    }
    drop(ended_writer);
    if let Some(_orphan) = child()? {
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
    if before.as_raw() == 1 || getppid().as_raw() != 1 {
        return Ok(1);
    }
    println!("\nLearned: PID 1 becomes the parent of an orphan.");
    Ok(0)
}

/// Waits for this child, or for any.
fn status(child: Option<Pid>) -> Result<u8, Failure> {
    match waitpid(child, None).map_err(failed("waitpid"))? {
        WaitStatus::Exited(_, status) => Ok(status as u8),
        _ => Ok(125),
    }
}

/// None in the child.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn child() -> Result<Option<Pid>, Failure> {
    // SAFETY: there is one thread only, so the child may run any code.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}
