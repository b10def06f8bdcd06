//! Programs of the claims' own, which run in the machine. The name by which this
//! one is started says which of them it is.
#![expect(unsafe_code, reason = "what nix has no safe function for")]
#![expect(clippy::disallowed_methods, reason = "no link: their words are text")]

#[path = "made-wrong/container.rs"]
mod container;
mod in_flight;
mod maps;
mod mounts;
mod signals;

use std::env;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() -> ExitCode {
    let mut words = env::args();
    let path = words.next().expect("a name");
    let words: Vec<String> = words.collect();
    let status = match path.rsplit('/').next() {
        Some("container") => container::main(&words),
        Some("in_flight") => in_flight::main(&words),
        Some("maps") => maps::main(),
        Some("mounts") => mounts::main(),
        Some("signals") => signals::main(&words),
        name => panic!("{name:?}"),
    };
    ExitCode::from(status)
}

/// Runs this in a child, which ends with its status.
fn child(run: impl FnOnce() -> u8) -> Pid {
    clone(CloneFlags::empty(), run)
}

/// The same with these flags of clone(2), which is like fork(2) when it gets no
/// stack. What the parent has not yet written is not written by the child.
fn clone(flags: CloneFlags, run: impl FnOnce() -> u8) -> Pid {
    let flags = libc::c_long::from(flags.bits() | libc::SIGCHLD);
    let none = 0_usize;
    // SAFETY: this process has one thread, and no argument is a pointer.
    let child = unsafe {
        libc::syscall(libc::SYS_clone, flags, none, none, none, none)
    };
    match Errno::result(child).expect("clone") {
        // SAFETY: it takes any number.
        0 => unsafe { libc::_exit(run().into()) },
        child => Pid::from_raw(child as libc::pid_t),
    }
}

/// Waits for the end of a child: its status, or 128+N if signal N ended it.
fn wait(child: Pid) -> u8 {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            status => return status_of(status.expect("waitpid")),
        }
    }
}

fn status_of(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Exited(_, status) => status as u8,
        WaitStatus::Signaled(_, number, _) => 128 + number as u8,
        _ => panic!("{status:?}"),
    }
}
