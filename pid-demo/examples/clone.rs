//! The book's first program: one clone(2), and a shell in four namespaces.
//!
//!     cargo run -p pid-demo --example clone [COMMAND [ARG]...]
//!
//! fork(2) copies; clone(2) is told what to share, and what to make anew.

use std::io::{ErrorKind, PipeReader, PipeWriter};
use std::os::{fd::AsRawFd, unix::process::CommandExt};
use std::process::{Command, ExitCode};
use std::{env, io};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, close, write};
use nix::{errno::Errno, libc::SIGCHLD};
use user_demo::{Refused, refused};

fn main() -> ExitCode {
    run().unwrap_or_else(|refused| fail(125, refused))
}

/// Stays outside, and passes on the status of what runs inside.
fn run() -> Result<ExitCode, Refused> {
    let pipe = io::pipe().map_err(refused("pipe"))?;
    let mut child = start(&pipe);
    if child == Err(Errno::EPERM) {
        user_demo::enter()?; // Not root? A user namespace is free for all.
        child = start(&pipe);
    }
    let child = child.map_err(refused("clone"))?;
    // ^C at a terminal is for the shell, which it reaches as well.
    let _ = SigSet::from_iter([Signal::SIGINT, Signal::SIGQUIT]).thread_block();
    match waitpid(child, None).map_err(refused("waitpid"))? {
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
    let inside = || inside(pipe).unwrap_or_else(|refused| fail(125, refused));
    // SAFETY: the new process has a copy of all our memory, the stack too, and
    // there is one thread only, so it may go on as we do.
    unsafe { clone(Box::new(inside), &mut stack, four, Some(SIGCHLD)) }
}

/// PID 1: becomes COMMAND.
fn inside((alive, tell): &(PipeReader, PipeWriter)) -> Result<isize, Refused> {
    // Not to be left behind. If outside has gone already, the write fails.
    set_pdeathsig(Signal::SIGKILL).map_err(refused("prctl"))?;
    let _ = close(alive.as_raw_fd());
    write(tell, b"1").map_err(refused("write"))?;
    // The book mounts no /proc here, but who types `mount -t proc proc /proc`
    // into the shell would break the outside's, if the tree stayed shared.
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)
        .map_err(refused("mount / MS_REC|MS_PRIVATE"))?;

    let mut args = env::args_os().skip(1);
    let name = args.next().unwrap_or_else(|| "sh".into());
    let error = Command::new(&name).args(args).exec();
    let status = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    Ok(fail(status, refused(format!("exec {}", name.display()))(error)))
}

fn fail<Status: From<u8>>(status: u8, why: Refused) -> Status {
    eprintln!("clone: {why}");
    status.into()
}
