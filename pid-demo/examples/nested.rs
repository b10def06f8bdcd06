//! Nested PID namespaces: a process has a PID in each one around it.
//!
//!     cargo run -p pid-demo --example nested
//!
//! Nests them until the kernel refuses, which it does below 32 levels. Man
//! page: pid_namespaces(7), "Nesting PID namespaces".

use std::fs;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use user_demo::{Failure, failed, link};

fn main() -> ExitCode {
    link::example("nested", run)
}

/// Each round makes a namespace one level below, and a process in it, which
/// does the next round.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn run() -> Result<u8, Failure> {
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    let mut level = 0;
    loop {
        // SAFETY: there is one thread only, so the child may run any code.
        let fork = unsafe { fork() }.map_err(failed("fork"))?;
        if let ForkResult::Parent { child } = fork {
            let end = waitpid(child, None).map_err(failed("waitpid"))?;
            return Ok(match end {
                WaitStatus::Exited(_, status) => status as u8,
                _ => 125,
            });
        }
        level += 1;
        match unshare(CloneFlags::CLONE_NEWPID) {
            Ok(()) => {}
            Err(Errno::ENOSPC) => return look(level, Errno::ENOSPC),
            Err(other) => Err(failed("unshare(CLONE_NEWPID)")(other))?,
        }
    }
}

/// The innermost process: one number for each level, the outside's first.
fn look(level: usize, error: Errno) -> Result<u8, Failure> {
    let status = fs::read_to_string("/proc/self/status")
        .map_err(failed("read /proc/self/status"))?;
    let mut lines = status.lines();
    let numbers = lines.find_map(|line| line.strip_prefix("NSpid:\t"));
    let numbers: Vec<&str> = numbers.unwrap_or_default().split('\t').collect();
    println!("namespace  PID of this one process there");
    for (level, number) in numbers.iter().enumerate() {
        println!("level {level:2} {:level$} PID {number}", "");
    }
    println!("level {:2} unshare(CLONE_NEWPID): {error}", level + 1);
    if numbers.len() != level + 1 || numbers[level] != "1" {
        return Ok(1);
    }
    println!("\nLearned: a process has a PID in each namespace around it.");
    Ok(0)
}
