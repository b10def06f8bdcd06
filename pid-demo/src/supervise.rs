//! Supervises the child: forwards signals to it, waits for it, and lets it not
//! outlive this process. One rule of PID namespaces makes this longer than
//! elsewhere: the kernel drops a signal to PID 1 for which that has no handler.
//! Without the namespace the signal would end or stop COMMAND, so that is done
//! here.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process::ExitCode;

use nix::libc::SI_KERNEL;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use user_demo::{Failure, failed};

use crate::init::Init;

/// Made before the fork, so that parent and child both have it, and no signal
/// gets lost between the fork and `wait`.
pub struct Supervisor {
    inherited: SigSet,
    started: (PipeReader, PipeWriter),
    release: (PipeReader, PipeWriter),
}

impl Supervisor {
    pub fn new() -> Result<Supervisor, Failure> {
        let inherited = SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .map_err(failed("sigprocmask"))?;
        let started = io::pipe().map_err(failed("pipe"))?;
        let release = io::pipe().map_err(failed("pipe"))?;
        Ok(Supervisor { inherited, started, release })
    }

    /// In the child: it is killed when the parent ends, for whatever reason.
    /// The kernel forgets this where COMMAND changes its ids: prctl(2).
    pub fn in_child(self) -> Result<(), Failure> {
        set_pdeathsig(Signal::SIGKILL)
            .map_err(failed("prctl(PR_SET_PDEATHSIG)"))?;
        let Supervisor { inherited, started, release } = self;

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
        let Supervisor { inherited, started, release } = self;
        drop((started.1, release.0));
        let mut started = started.0;
        let mut name = [0; 16];
        let length = started.read(&mut name).map_err(failed("read"))?;
        let name = String::from_utf8_lossy(&name[..length]);
        let status = File::open(format!("/proc/{}/status", name.trim_end()));
        let _ = { release.1 }.write_all(b"1");
        // Up to exec the child has the signal mask of this process.
        let _ = started.read_to_end(&mut vec![]);

        let mut init = Init { pid: child, status: status.ok(), ended: None };
        let all = SigSet::all();
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC)
            .map_err(failed("signalfd"))?;
        let status = loop {
            // For this child only: others may be left from before our exec.
            let status = waitpid(child, Some(WaitPidFlag::WNOHANG));
            match status.map_err(failed("waitpid"))? {
                WaitStatus::Exited(_, status) => break status as u8,
                WaitStatus::Signaled(_, by, _) => {
                    let by = init.ended.unwrap_or(by as i32);
                    break 128 + by as u8;
                }
                _ => {} // It still runs.
            }
            let info =
                signals.read_signal().map_err(failed("read signalfd"))?;
            if let Some(info) = info {
                let by_kernel = info.ssi_code == SI_KERNEL;
                // The sender's PID in its own namespace. Our namespace's PID 1
                // has it, too.
                let by_pid_1 = info.ssi_pid == 1;
                init.forward(info.ssi_signo as i32, by_kernel, by_pid_1);
            }
        };
        // A report that nobody reads ends this process, as it ends others.
        if !inherited.contains(Signal::SIGPIPE) {
            let _ = SigSet::from_iter([Signal::SIGPIPE]).thread_unblock();
        }
        Ok(ExitCode::from(status))
    }
}
