//! The standard streams as this program's caller gave them: one may be closed.
//! Rust's runtime opens /dev/null there before `main`, and what is written to
//! that is lost without an error. So this looks earlier.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;

static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// The C library calls what stands in this section before it calls `main`.
#[used]
#[expect(unsafe_code, reason = "the C library calls it")]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

#[expect(unsafe_code, reason = "fcntl, before Rust starts")]
extern "C" fn at_start() {
    for (fd, closed) in (0..).zip(&CLOSED) {
        // SAFETY: this changes nothing.
        closed.store(unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1, Relaxed);
    }
}

/// Which of standard input, output and error were closed at the start.
pub fn closed() -> [bool; 3] {
    CLOSED.each_ref().map(|closed| closed.load(Relaxed))
}

/// Writes to standard output.
///
/// # Errors
/// Also if it is closed, or open for reading only: `io::stdout()` would hide
/// that.
pub fn print(text: &str) -> io::Result<()> {
    if closed()[1] {
        return Err(Errno::EBADF.into());
    }
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    File::from(stdout).write_all(text.as_bytes())
}
