//! When PID 1 is dead, no process can be started: fork(2) fails with ENOMEM.
//!
//!     cargo run -p pid-demo --example dead_init
//!
//! This is what happens after `unshare --pid sh`, without --fork: the first
//! command is PID 1, and every later one fails. Man page: pid_namespaces(7).

use std::fs;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use user_demo::link::example::{self, learned};
use user_demo::link::{Call, child::fork};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("dead_init", run)
}

fn run() -> Result<u8, Failure> {
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;

    let Some(init) = fork().map_err(failed(Call::Fork))? else {
        return Ok(0); // PID 1 ends at once.
    };
    waitpid(init, None).map_err(failed("waitpid"))?;
    println!("fork(2)             result");
    println!("first child         made: it is PID 1, and it has ended");

    // A PID namespace does not get another PID 1. There is no errno for that:
    // ENOMEM means here that no PID could be allocated.
    let second = fork();
    let error = match second {
        Ok(None) => return Ok(0),
        Ok(Some(child)) => {
            waitpid(child, None).map_err(failed("waitpid"))?;
            println!("second child        made");
            return Ok(1);
        }
        Err(error) => error,
    };
    println!("second child        {error}");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = memory.lines().find_map(|it| it.strip_prefix("MemAvailable:"));
    println!("memory available    {}", free.unwrap_or_default().trim());
    let held = error == Errno::ENOMEM;
    Ok(learned(held, "without PID 1 there is no new process: ENOMEM."))
}
