//! What this process inherited, and COMMAND shall inherit as it was. Rust's
//! runtime changes some of it before `main`: it ignores SIGPIPE, and opens
//! /dev/null where standard input, output or error is closed. So this looks
//! earlier, as std itself does for the arguments.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::libc::{self, SIG_DFL, SIG_IGN, SIGCHLD, SIGPIPE};

static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static CHILD_IGNORED: AtomicBool = AtomicBool::new(false);

/// The C library calls what stands in this section before it calls `main`.
#[used]
#[expect(unsafe_code, reason = "the C library calls it")]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

#[expect(unsafe_code, reason = "signal, fcntl and open, before Rust starts")]
extern "C" fn at_start() {
    // SAFETY: there is one thread, "default" is no function of ours, the path
    // ends with a zero, and nothing here allocates.
    unsafe {
        let pipe = libc::signal(SIGPIPE, SIG_DFL);
        PIPE_IGNORED.store(pipe == SIG_IGN, Relaxed);
        // Where SIGCHLD is ignored, the status of a child is thrown away, and
        // waitpid says ECHILD.
        let child = libc::signal(SIGCHLD, SIG_DFL);
        CHILD_IGNORED.store(child == SIG_IGN, Relaxed);
        // A file opened later must not become standard output. A folder
        // cannot be written to, and with O_CLOEXEC COMMAND finds none.
        for fd in 0..=2 {
            if libc::fcntl(fd, libc::F_GETFD) == -1 {
                libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            }
        }
    }
}

/// At the start of `main`: a closed pipe ends this process silently, as it
/// ends ls(1), unless the caller ignores SIGPIPE.
pub fn restore_sigpipe() {
    restore(SIGPIPE, &PIPE_IGNORED);
}

/// Just before COMMAND: signals that were ignored are ignored again.
pub fn restore_all() {
    restore_sigpipe();
    restore(SIGCHLD, &CHILD_IGNORED);
}

#[expect(unsafe_code, reason = "signal has no safe wrapper")]
fn restore(signal: i32, ignored: &AtomicBool) {
    let was = if ignored.load(Relaxed) { SIG_IGN } else { SIG_DFL };
    // SAFETY: neither is a function of ours.
    unsafe { libc::signal(signal, was) };
}
