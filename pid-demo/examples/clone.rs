//! The book's first program: one clone(2), and a shell in four namespaces.
//!
//!     cargo run -p pid-demo --example clone [COMMAND [ARG]...]
//!
//! fork(2) copies; clone(2) is told what to share, and what to make anew.

use std::io::{PipeReader, PipeWriter};
use std::process::{Command, ExitCode};
use std::{convert::Infallible, env, io, os::fd::AsRawFd};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, close, write};
use nix::{errno::Errno, libc::SIGCHLD};
use user_demo::{Failure, failed, link};

fn main() -> ExitCode {
    link::example("clone", run)
}

/// Stays outside, and passes on the status of what runs inside.
fn run() -> Result<ExitCode, Failure> {
    let pipe = io::pipe().map_err(failed("pipe"))?;
    let mut child = start(&pipe);
    if child == Err(Errno::EPERM) {
        // Not root: a user namespace needs no privilege, and gives it.
        user_demo::enter()?;
        child = start(&pipe);
    }
    let child = child.map_err(failed("clone"))?;
    // ^C at a terminal is for the shell, which it reaches as well.
    let _ = SigSet::from_iter([Signal::SIGINT, Signal::SIGQUIT]).thread_block();
    match waitpid(child, None).map_err(failed("waitpid"))? {
        WaitStatus::Exited(_, status) => Ok(ExitCode::from(status as u8)),
        WaitStatus::Signaled(_, by, _) => Ok(ExitCode::from(128 + by as u8)),
        _ => Ok(ExitCode::from(125)),
    }
}

/// One call makes the namespaces, and the process in them: in the new PID
/// namespace, too, where unshare(2) could only put its next child.
#[expect(unsafe_code, reason = "the new process runs on a stack of ours")]
fn start(pipe: &(PipeReader, PipeWriter)) -> nix::Result<Pid> {
    let four = CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS;
    let mut stack = vec![0; 256 * 1024];
    let inside = || {
        let Err(failure) = inside(pipe);
        failure.print("clone").into()
    };
    // SAFETY: the new process has a copy of all our memory, the stack too, and
    // there is one thread only, so it may go on as we do.
    unsafe { clone(Box::new(inside), &mut stack, four, Some(SIGCHLD)) }
}

/// PID 1: becomes COMMAND. Returns only where that fails.
fn inside(
    (alive, tell): &(PipeReader, PipeWriter),
) -> Result<Infallible, Failure> {
    // Not to be left behind. If outside has gone already, the write fails.
    set_pdeathsig(Signal::SIGKILL).map_err(failed("prctl"))?;
    let _ = close(alive.as_raw_fd());
    write(tell, b"1").map_err(failed("write"))?;
    // The book mounts no /proc here, but who types `mount -t proc proc /proc`
    // into the shell would break the outside's, if the tree stayed shared.
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)
        .map_err(failed("mount / MS_REC|MS_PRIVATE"))?;

    let mut args = env::args_os().skip(1);
    let name = args.next().unwrap_or_else(|| "sh".into());
    let mut command = Command::new(name);
    command.args(args);
    Err(link::exec(command))
}
