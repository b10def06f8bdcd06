//! The reader's terminal, while a command in the machine uses it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The reader's terminal in raw mode: each key goes into the machine as it is.
/// Dropping this restores the terminal's settings.
#[derive(Debug)]
pub struct Terminal {
    fd: OwnedFd,
    before: Termios,
    events: SignalFd,
}

impl Terminal {
    /// Sets the terminal to raw mode. From now on these signals are events.
    /// Before that no settings have to be restored, and so they may end this
    /// process at once.
    ///
    /// # Errors
    /// As signalfd(2) and tcsetattr(3), if this is no terminal for example.
    pub fn take(fd: BorrowedFd) -> io::Result<Terminal> {
        let signals: SigSet =
            [Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP]
                .into_iter()
                .collect();
        signals.thread_block()?;
        let events = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        let before = tcgetattr(fd)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(fd, SetArg::TCSADRAIN, &raw)?;
        Ok(Terminal { fd: fd.try_clone_to_owned()?, before, events })
    }

    /// Readable when something has happened to the terminal.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// What has happened: the new size, or `None` if a signal says to end.
    pub fn event(&self) -> Option<(u16, u16)> {
        let signal = self.events.read_signal().ok()??;
        (signal.ssi_signo == Signal::SIGWINCH as u32).then(|| self.size())
    }

    /// Rows and columns.
    #[expect(unsafe_code, reason = "nix has no wrapper for TIOCGWINSZ")]
    pub fn size(&self) -> (u16, u16) {
        let mut size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the kernel writes the size, which lives as long as the call.
        unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size)
        };
        (size.ws_row, size.ws_col)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.fd, SetArg::TCSADRAIN, &self.before);
    }
}
