//! What the examples have in common: each tries something, prints a table of
//! what it saw, and ends with what it teaches.

use std::process::ExitCode;

use nix::libc::SIGCHLD;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, clone};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::{Call, Failure, begin, failed};

/// Runs an example of this name, which takes no COMMAND. Its status is what
/// `example` returns, or 125 where a call failed.
pub fn run<S: Into<ExitCode>>(
    name: &'static str,
    example: impl FnOnce() -> Result<S, Failure>,
) -> ExitCode {
    begin(name);
    let done = example().map(S::into);
    done.unwrap_or_else(|failure| ExitCode::from(failure.print(name)))
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

/// fork(2): `None` in the child.
///
/// # Errors
/// As fork(2).
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
pub fn child() -> nix::Result<Option<Pid>> {
    // SAFETY: there is one thread only, so the child may run any code.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
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

/// Runs this as PID 1 of new PID and mount namespaces, to its end. `name` is
/// the example's, for what it prints where it fails.
///
/// # Errors
/// As clone(2): EPERM without CAP_SYS_ADMIN.
#[expect(unsafe_code, reason = "the new process runs on a stack of ours")]
pub fn inside(
    name: &str,
    mut run: impl FnMut() -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let mut stack = vec![0; 256 * 1024];
    let main = || run().unwrap_or_else(|it| it.print(name)).into();
    let both = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    // SAFETY: the new process has a copy of all our memory, and there is one
    // thread only, so it may run any code.
    let child =
        unsafe { clone(Box::new(main), &mut stack, both, Some(SIGCHLD)) };
    status(Some(child.map_err(failed("clone"))?))
}
