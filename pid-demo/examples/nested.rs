//! Nested PID namespaces: a process has a PID in each one around it.
//!
//!     cargo run -p pid-demo --example nested
//!
//! Nests them until the kernel refuses, which it does below 32 levels. Man
//! page: pid_namespaces(7), "Nesting PID namespaces".

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use user_demo::link::example::{self, learned, status};
use user_demo::link::{self, Call, child::fork};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("nested", run)
}

/// Each round makes a namespace one level below, and a process in it, which
/// does the next round.
fn run() -> Result<u8, Failure> {
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    let mut level = 0;
    loop {
        if let Some(child) = fork().map_err(failed(Call::Fork))? {
            return status(Some(child));
        }
        level += 1;
        match unshare(CloneFlags::CLONE_NEWPID) {
            Ok(()) => {}
            Err(Errno::ENOSPC) => return look(level, Errno::ENOSPC),
            Err(other) => Err(failed(CloneFlags::CLONE_NEWPID)(other))?,
        }
    }
}

/// The innermost process: one number for each level, the outside's first.
fn look(level: usize, error: Errno) -> Result<u8, Failure> {
    let numbers = link::proc_status("NSpid")?;
    let numbers: Vec<&str> = numbers.split(' ').collect();
    println!("namespace  PID of this one process there");
    for (level, number) in numbers.iter().enumerate() {
        println!("level {level:2} {:level$} PID {number}", "");
    }
    println!("level {:2} unshare(CLONE_NEWPID): {error}", level + 1);
    let held = numbers.len() == level + 1 && numbers[level] == "1";
    Ok(learned(held, "a process has a PID in each namespace around it."))
}
