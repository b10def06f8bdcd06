//! The book's first program: one clone(2), and a shell in four namespaces.
//!
//!     cargo run -p pid-demo --example clone [COMMAND [ARG]...]
//!
//! Without COMMAND: a table of what is new. Man page: clone(2). Book: 1.3.

use std::io::{self, PipeReader, PipeWriter};
use std::process::{Command, ExitCode};
use std::{fs, os::fd::AsRawFd, path::PathBuf};

use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::{prctl::set_pdeathsig, wait::WaitStatus, wait::waitpid};
use nix::{errno::Errno, libc::SIGCHLD, unistd::Pid, unistd::close};
use user_demo::link::example::{learned, make_private};
use user_demo::{Failure, failed, link};

type Pipe = (PipeReader, PipeWriter);
type Status = Result<u8, Failure>;

fn main() -> ExitCode {
    link::run("clone", |mut command| {
        let pipe = io::pipe().map_err(failed("pipe"))?;
        let outside = look();
        let mut inside = || inside(&pipe, &outside, command.take());
        let mut child = start(&mut inside);
        if child == Err(Errno::EPERM) {
            user_demo::enter()?; // Not root: this gives all capabilities.
            child = start(&mut inside);
        }
        let child = child.map_err(failed("clone"))?;
        let _ = SigSet::from_iter([Signal::SIGINT]).thread_block(); // ^C
        Ok(match waitpid(child, None).map_err(failed("waitpid"))? {
            WaitStatus::Exited(_, it) => it as u8,
            WaitStatus::Signaled(_, it, _) => 128 + it as u8,
            _ => 125,
        }
        .into())
    })
}

/// One call makes the namespaces and a process in them, also in the new PID
/// namespace: after unshare(2) only the next child would be in that.
#[expect(unsafe_code, reason = "the new process runs on a stack of ours")]
fn start(run: &mut dyn FnMut() -> Status) -> nix::Result<Pid> {
    let two = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    let four = two | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    let mut stack = vec![0; 256 * 1024];
    let run = || run().unwrap_or_else(Failure::print).into();
    // SAFETY: it has a copy of our memory and stack, and there is one thread.
    unsafe { clone(Box::new(run), &mut stack, four, Some(SIGCHLD)) }
}

/// PID 1 of the new PID namespace.
fn inside(pipe: &Pipe, old: &[PathBuf], command: Option<Command>) -> Status {
    // It ends with its parent. If that has ended already, the write fails.
    set_pdeathsig(Signal::SIGKILL).map_err(failed("prctl"))?;
    let _ = close(pipe.0.as_raw_fd());
    nix::unistd::write(&pipe.1, b"1").map_err(failed("write"))?;
    // In the book the mounts stay shared: see mount-demo's example `pitfall`.
    make_private()?;
    if let Some(command) = command {
        return Err(link::exec(command));
    }
    println!("outside             inside");
    for (out, inside) in old.iter().zip(&look()) {
        let new = if out == inside { "the same" } else { "new" };
        println!("{:18}  {:18}  {new}", out.display(), inside.display());
    }
    Ok(learned(true, "one clone(2) makes a process and its namespaces."))
}

/// The namespaces that this process is in.
fn look() -> Vec<PathBuf> {
    let link = |it| fs::read_link(format!("/proc/self/ns/{it}"));
    let kinds = ["uts", "ipc", "pid", "mnt", "net", "user"];
    kinds.map(|it| link(it).unwrap_or_default()).into()
}
