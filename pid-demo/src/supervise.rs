//! What the one link does that stays: it hears signals, waits, and does not
//! leave its child behind. None of it is about namespaces.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::process::ExitCode;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use user_demo::{Failure, failed};

/// What the parent hears. A terminal sends ^C and ^\ to COMMAND as well, so
/// these two are COMMAND's business: here they only must not kill.
const HEARD: [Signal; 5] = [
    Signal::SIGCHLD,
    Signal::SIGHUP,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

/// Between a parent and its child. Made before the fork, so that each of the
/// two has it, and no signal gets lost between the fork and `wait`.
pub struct Supervisor {
    alive: PipeReader,
    parent: PipeWriter,
    blocked: SigSet,
    on_child: SigHandler,
}

impl Supervisor {
    #[expect(unsafe_code, reason = "signal has no safe wrapper")]
    pub fn new() -> Result<Supervisor, Failure> {
        let blocked = SigSet::from_iter(HEARD)
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .map_err(failed("sigprocmask"))?;

        // Who ignores SIGCHLD is not sent it, and the status of its children
        // is thrown away. Ignored signals are inherited.
        // SAFETY: the default is no function of ours.
        let on_child = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }
            .map_err(failed("signal"))?;

        let (alive, parent) = io::pipe().map_err(failed("pipe"))?;
        Ok(Supervisor { alive, parent, blocked, on_child })
    }

    /// In the child: to be killed when the parent dies, whatever it dies of.
    /// A COMMAND that changes its ids takes this off again: prctl(2).
    #[expect(unsafe_code, reason = "signal has no safe wrapper")]
    pub fn in_child(mut self) -> Result<(), Failure> {
        set_pdeathsig(Signal::SIGKILL)
            .map_err(failed("prctl(PR_SET_PDEATHSIG)"))?;

        // Has it died before that? getppid() cannot tell: for PID 1 of a
        // namespace it is 0. But then nobody has the other end of this pipe,
        // and to write is EPIPE.
        drop(self.alive);
        self.parent.write_all(b"1").map_err(failed("write"))?;

        // COMMAND inherits what this link was given.
        // SAFETY: what was inherited is "default" or "ignore", no function.
        unsafe { signal(Signal::SIGCHLD, self.on_child) }
            .map_err(failed("signal"))?;
        self.blocked.thread_set_mask().map_err(failed("sigprocmask"))
    }

    /// In the parent: waits until the child ends, and returns its status.
    pub fn wait(self, child: Pid) -> Result<ExitCode, Failure> {
        loop {
            let heard = SigSet::from_iter(HEARD).wait();
            let heard = heard.map_err(failed("sigwait"))?;
            if matches!(heard, Signal::SIGHUP | Signal::SIGTERM) {
                let _ = kill(child, heard);
            }
            // For this one only: there may be others from before our exec.
            let status = waitpid(child, Some(WaitPidFlag::WNOHANG));
            let status = match status.map_err(failed("waitpid"))? {
                WaitStatus::Exited(_, status) => status as u8,
                WaitStatus::Signaled(_, signal, _) => 128 + signal as u8,
                _ => continue, // It goes on.
            };
            return Ok(ExitCode::from(status));
        }
    }
}
