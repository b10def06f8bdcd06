//! PID 1 cannot be killed from inside, not even with SIGKILL.
//!
//!     cargo run -p pid-demo --example init_is_immune
//!
//! From its own namespace PID 1 gets only the signals that it has a handler
//! for, and SIGKILL can have none. Man page: pid_namespaces(7).

use std::io::{self, Read, Write};
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use user_demo::link::example::{self, learned, status};
use user_demo::link::{Call, child::fork};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("init_is_immune", run)
}

fn run() -> Result<u8, Failure> {
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    let (mut question, mut ask) = io::pipe().map_err(failed("pipe"))?;
    let (mut answer, mut reply) = io::pipe().map_err(failed("pipe"))?;
    let Some(init) = fork().map_err(failed(Call::Fork))? else {
        // PID 1 answers each question, until the other end is closed.
        drop((ask, answer));
        let _ = reply.write_all(&[kill_with_sigkill(1)]);
        while question.read(&mut [0]).map_err(failed("read"))? == 1 {
            let _ = reply.write_all(b"!");
        }
        return Ok(0);
    };
    // `question` stays open: a write after PID 1's end must not get EPIPE.
    drop(reply);

    println!("kill(1, SIGKILL)  returned  PID 1 then");
    let mut returned = [0];
    let _ = answer.read(&mut returned);
    let mut still_answers = |from: &str, returned: u8| {
        let _ = ask.write_all(b"?");
        let answers = answer.read(&mut [0]).is_ok_and(|bytes| bytes == 1);
        let then = if answers { "answers" } else { "is dead" };
        println!("{from:16}  {returned:<8}  {then}");
        answers
    };
    let by_itself = still_answers("by itself", returned[0]);

    let Some(other) = fork().map_err(failed(Call::Fork))? else {
        return Ok(kill_with_sigkill(1));
    };
    let by_another = still_answers("by PID 2", status(Some(other))?);

    // Outside it has another PID, and is a process like any other.
    let returned = kill_with_sigkill(init.as_raw());
    waitpid(init, None).map_err(failed("waitpid"))?;
    let from_outside = still_answers("from outside", returned);
    let held = by_itself && by_another && !from_outside;
    Ok(learned(held, "only from outside can PID 1 be killed."))
}

/// What the call returns: 0, or the number of the error.
fn kill_with_sigkill(process: i32) -> u8 {
    let killed = kill(Pid::from_raw(process), Signal::SIGKILL);
    killed.map_or_else(|error| error as u8, |()| 0)
}
