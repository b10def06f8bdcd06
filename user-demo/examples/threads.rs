//! A process with more than one thread cannot enter a user namespace: its
//! threads share memory, and would have different privilege.
//!
//!     cargo run -p user-demo --example threads
//!
//! Go's runtime starts threads before main(). So the book's program makes the
//! namespace with clone(2). Man page: unshare(2), EINVAL.

use std::{process::ExitCode, sync::mpsc, thread};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use user_demo::link::example::{self, learned};
use user_demo::link::proc_status;
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("threads", run)
}

fn run() -> Result<u8, Failure> {
    println!("{:8}  unshare(CLONE_NEWUSER)", "threads");
    let (release, wait) = mpsc::channel::<()>();
    let second = thread::spawn(move || wait.recv());
    let mut held = row("EINVAL")?;

    drop(release);
    let _ = second.join();
    // A thread may still be in /proc for a moment after join.
    while proc_status("Threads")? != "1" {
        thread::yield_now();
    }
    held &= row("done")?;
    Ok(learned(held, "enter a user namespace before starting threads."))
}

/// Tries unshare(2), and prints what happens. True if that is what the fact
/// says.
fn row(fact: &str) -> Result<bool, Failure> {
    let threads = proc_status("Threads")?;
    let end = match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => "done",
        Err(Errno::EINVAL) => "EINVAL",
        Err(other) => Err(failed(CloneFlags::CLONE_NEWUSER)(other))?,
    };
    println!("{threads:8}  {end}");
    Ok(end == fact)
}
