//! Supervises the child: forwards signals to it (`init.rs` has the table),
//! waits for it, lets it not outlive this process, and at its end gives the
//! caller the terminal back.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::libc::{self, SI_KERNEL};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use user_demo::{Failure, failed};

use crate::init::Init;

/// Made before the fork, so that parent and child both have it, and no signal
/// gets lost between the fork and `wait`.
pub struct Supervisor {
    inherited: SigSet,
    started: (PipeReader, PipeWriter),
    release: (PipeReader, PipeWriter),
    /// The terminal, if this process is in its foreground.
    terminal: Option<File>,
}

impl Supervisor {
    pub fn new() -> Result<Supervisor, Failure> {
        let inherited = SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .map_err(failed("sigprocmask"))?;
        let started = io::pipe().map_err(failed("pipe"))?;
        let release = io::pipe().map_err(failed("pipe"))?;
        let terminal = File::open("/dev/tty").ok();
        let terminal = terminal.filter(|it| tcgetpgrp(it) == Ok(getpgrp()));
        Ok(Supervisor { inherited, started, release, terminal })
    }

    /// In the child: it is killed when the parent ends, for whatever reason.
    /// The kernel forgets this where COMMAND changes its ids: prctl(2).
    pub fn in_child(self) -> Result<(), Failure> {
        set_pdeathsig(Signal::SIGKILL)
            .map_err(failed("prctl(PR_SET_PDEATHSIG)"))?;
        let Supervisor { inherited, started, release, .. } = self;

        // The name of this process in /proc: its PID in the PID namespace of
        // that /proc, which may be another one than the parent's.
        let mut writer = started.1;
        let this = fs::read_link("/proc/self").unwrap_or_default();
        writeln!(writer, "{}", this.display()).map_err(failed("write"))?;

        // If the parent died before prctl, read is at its end. getppid cannot
        // tell: for PID 1 of a namespace it is 0.
        drop(release.1);
        { release.0 }.read_exact(&mut [0]).map_err(failed("read"))?;

        inherited.thread_set_mask().map_err(failed("sigprocmask"))?;
        std::mem::forget(writer); // exec closes it, and the parent sees that.
        Ok(())
    }

    /// In the parent: waits until the child ends, and returns its status.
    pub fn wait(self, child: Pid) -> Result<ExitCode, Failure> {
        let Supervisor { inherited, started, release, terminal } = self;
        drop((started.1, release.0));
        let mut started = started.0;
        let mut name = [0; 16];
        let length = started.read(&mut name).map_err(failed("read"))?;
        let name = String::from_utf8_lossy(&name[..length]);
        let proc = File::open(format!("/proc/{}", name.trim_end()));
        let _ = { release.1 }.write_all(b"1");
        // Up to exec the child has the signal mask of this process.
        let _ = started.read_to_end(&mut vec![]);

        let proc = proc.ok().map(File::into);
        let mut init = Init { pid: child, proc, ended: None };
        let all = SigSet::all();
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC)
            .map_err(failed("signalfd"))?;
        let status = 'ended: loop {
            // Others may be left from before our exec, and where this process
            // is itself PID 1 of a namespace, it is the parent of all orphans.
            while let Some((pid, status)) = wait().map_err(failed("waitpid"))? {
                if pid == child {
                    break 'ended init.ended.map_or(status, killed_by);
                }
            }
            let info =
                signals.read_signal().map_err(failed("read signalfd"))?;
            if let Some(info) = info {
                let by_kernel = info.ssi_code == SI_KERNEL;
                let (signal, sender) = (info.ssi_signo, info.ssi_pid);
                init.forward(signal as i32, by_kernel, sender as i32);
            }
        };
        if let Some(terminal) = terminal {
            give_back(&terminal);
        }
        // A report that nobody reads ends this process, as it ends others.
        if !inherited.contains(Signal::SIGPIPE) {
            let _ = SigSet::from_iter([Signal::SIGPIPE]).thread_unblock();
        }
        Ok(ExitCode::from(status))
    }
}

/// Waits for a child that has ended, if there is one: its PID and its status.
#[expect(unsafe_code, reason = "nix has no real-time signals")]
fn wait() -> nix::Result<Option<(Pid, u8)>> {
    let mut status = 0;
    // SAFETY: the kernel writes the status, which lives as long as the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    let pid = Errno::result(pid)?;
    let status = match libc::WIFSIGNALED(status) {
        true => killed_by(libc::WTERMSIG(status)),
        false => libc::WEXITSTATUS(status) as u8,
    };
    Ok((pid != 0).then_some((Pid::from_raw(pid), status)))
}

fn killed_by(signal: i32) -> u8 {
    128 + signal as u8
}

/// An interactive shell puts its process group into the foreground. It cannot
/// put back the one before, which has no number inside. After its end nobody
/// is in the foreground, and the caller would be stopped when it reads. If
/// somebody is, as the caller's shell after ^Z, it stays so.
fn give_back(terminal: &File) {
    let Ok(group) = tcgetpgrp(terminal) else { return };
    if kill(Pid::from_raw(-group.as_raw()), None) == Err(Errno::ESRCH) {
        // SIGTTOU is blocked, so this process may do it from the background.
        let _ = tcsetpgrp(terminal, getpgrp());
    }
}
