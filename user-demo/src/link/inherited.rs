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
    // SAFETY: there is one thread, "default" and "ignore" are no functions of
    // ours, the path ends with a zero, and nothing here allocates.
    unsafe {
        PIPE_IGNORED.store(ignored(SIGPIPE), Relaxed);
        // Where SIGCHLD is ignored, the status of a child is thrown away, and
        // waitpid says ECHILD.
        CHILD_IGNORED.store(ignored(SIGCHLD), Relaxed);
        libc::signal(SIGCHLD, SIG_DFL);
        // A file opened later must not become standard output. A folder
        // cannot be written to, and with O_CLOEXEC COMMAND finds none.
        for fd in 0..=2 {
            if libc::fcntl(fd, libc::F_GETFD) == -1 {
                libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            }
        }
    }
}

/// # Safety
/// There must be one thread only.
#[expect(unsafe_code, reason = "signal has no safe wrapper")]
unsafe fn ignored(signal: i32) -> bool {
    // SAFETY: no function is set; this is how to ask what is.
    unsafe {
        let found = libc::signal(signal, SIG_DFL);
        if found == SIG_IGN {
            libc::signal(signal, SIG_IGN);
        }
        found == SIG_IGN
    }
}

/// At the start of `main`: a closed pipe ends this process silently, as it
/// ends ls(1), unless the caller ignores SIGPIPE.
#[expect(unsafe_code, reason = "signal has no safe wrapper")]
pub fn restore_sigpipe() {
    let was = if PIPE_IGNORED.load(Relaxed) { SIG_IGN } else { SIG_DFL };
    // SAFETY: neither is a function of ours.
    unsafe { libc::signal(SIGPIPE, was) };
}

/// Just before COMMAND: signals that were ignored are ignored again.
#[expect(unsafe_code, reason = "signal has no safe wrapper")]
pub fn restore_all() {
    restore_sigpipe();
    if CHILD_IGNORED.load(Relaxed) {
        // SAFETY: it is no function of ours.
        unsafe { libc::signal(SIGCHLD, SIG_IGN) };
    }
}
