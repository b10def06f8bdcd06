//! What a link must do that stays: hear signals, wait, and not leave its child
//! behind. None of it is about namespaces, so it is not on the page.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::process::ExitCode;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use user_demo::{Refused, refused};

/// What the parent hears. The terminal's ^C and ^\ are sent to COMMAND as well,
/// so SIGINT and SIGQUIT are its business; here they only must not kill.
const HEARD: [Signal; 5] = [
    Signal::SIGCHLD,
    Signal::SIGHUP,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

/// Binds a child to its parent's life: made before the fork.
pub struct Bond {
    alive: PipeReader,
    parent: PipeWriter,
}

impl Bond {
    /// Comes before the fork: no signal may get lost between it and `wait`.
    #[expect(unsafe_code, reason = "signal has no safe wrapper")]
    pub fn new() -> Result<Bond, Refused> {
        let heard = SigSet::from_iter(HEARD);
        heard.thread_set_mask().map_err(refused("sigprocmask"))?;

        // To a process that ignores SIGCHLD it is not sent at all, and the
        // status of its children is thrown away. "Ignore" can be inherited.
        // SAFETY: no handler is installed.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }
            .map_err(refused("signal"))?;

        let (alive, parent) = io::pipe().map_err(refused("pipe"))?;
        Ok(Bond { alive, parent })
    }

    /// In the child: to be killed when the parent dies, however it dies.
    pub fn hold(mut self) -> Result<(), Refused> {
        set_pdeathsig(Signal::SIGKILL)
            .map_err(refused("prctl(PR_SET_PDEATHSIG)"))?;

        // Has it died before that? getppid() cannot tell, it is 0 for PID 1 of
        // a namespace in any case. But nobody then has the pipe's other end,
        // and who writes gets EPIPE.
        drop(self.alive);
        self.parent.write_all(b"1").map_err(refused("write"))
    }

    /// In the parent: waits until the child ends, and returns its status.
    pub fn wait(self, child: Pid) -> Result<ExitCode, Refused> {
        loop {
            let heard = SigSet::from_iter(HEARD).wait();
            let heard = heard.map_err(refused("sigwait"))?;
            if matches!(heard, Signal::SIGHUP | Signal::SIGTERM) {
                let _ = kill(child, heard);
            }
            // This child only: a process may have others from before its exec.
            let status = waitpid(child, Some(WaitPidFlag::WNOHANG));
            let status = match status.map_err(refused("waitpid"))? {
                WaitStatus::Exited(_, status) => status as u8,
                WaitStatus::Signaled(_, signal, _) => 128 + signal as u8,
                _ => continue, // Stopped, continued, or another's SIGCHLD.
            };
            return Ok(ExitCode::from(status));
        }
    }
}
