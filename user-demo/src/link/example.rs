//! What the examples have in common: each tries something, prints a table of
//! what it saw, and ends with what it teaches.

use std::{fs, process::ExitCode};

use nix::libc::SIGCHLD;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, clone};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Call, Failure, begin, failed};

/// Runs an example of this name, which takes no COMMAND. Its status is what
/// `example` returns, or 125 where a call failed.
pub fn run<S: Into<ExitCode>>(
    name: &'static str,
    example: impl FnOnce() -> Result<S, Failure>,
) -> ExitCode {
    begin(name);
    example().map_or_else(|failure| failure.print().into(), S::into)
}

/// Prints a row of two values. True if they are what the fact says.
pub fn row(what: &str, measured: [String; 2], fact: [&str; 2]) -> bool {
    println!("{what:18}  {:18}  {}", measured[0], measured[1]);
    measured == fact
}

/// The end of an example: its lesson, if the facts held. The status is 0 then,
/// and 1 if they did not.
pub fn learned(held: bool, lesson: &str) -> u8 {
    if held {
        println!("\nLearned: {lesson}");
    }
    u8::from(!held)
}

/// Makes all mounts private. They are usually shared: without this, one that
/// an example makes would propagate outside.
///
/// # Errors
/// As mount(2).
pub fn make_private() -> Result<(), Failure> {
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none).map_err(failed(Call::Private))
}

/// Mounts a new file system of this type, in a directory that it makes.
///
/// # Errors
/// As mkdir(2) and mount(2).
pub fn new_mount(kind: &str, at: &str) -> Result<(), Failure> {
    fs::create_dir_all(at).map_err(failed(&*format!("mkdir {at}")))?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
        .map_err(failed(Call::Mount(at.into())))
}

/// Waits for this child, or for any. Returns its status, or 125 if it was
/// killed.
///
/// # Errors
/// As waitpid(2).
pub fn status(child: Option<Pid>) -> Result<u8, Failure> {
    match waitpid(child, None).map_err(failed("waitpid"))? {
        WaitStatus::Exited(_, status) => Ok(status as u8),
        _ => Ok(125),
    }
}

/// Runs this as PID 1 of new PID and mount namespaces, to its end.
///
/// # Errors
/// As clone(2): EPERM without CAP_SYS_ADMIN.
pub fn inside(run: impl FnMut() -> Result<u8, Failure>) -> Result<u8, Failure> {
    process(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID, run)
}

/// Runs this in a process that clone(2) makes in new namespaces, to its end.
///
/// # Errors
/// As clone(2).
#[expect(unsafe_code, reason = "the new process runs on a stack of ours")]
pub fn process(
    namespaces: CloneFlags,
    mut run: impl FnMut() -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let mut stack = vec![0; 256 * 1024];
    let main = || run().unwrap_or_else(Failure::print).into();
    // SAFETY: the new process has a copy of all our memory, and there is one
    // thread only, so it may run any code.
    let child =
        unsafe { clone(Box::new(main), &mut stack, namespaces, Some(SIGCHLD)) };
    status(Some(child.map_err(failed("clone"))?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn status_says_whether_the_lesson_was_learned() {
        assert_eq!([true, false].map(|held| super::learned(held, "")), [0, 1]);
    }
}
