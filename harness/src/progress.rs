//! One line about work that takes a while, only if stderr is a terminal.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long work may take before it is reported, and how long a report stays as
/// it is.
const SLOW: Duration = Duration::from_secs(2);

/// Prints what is being done.
pub fn progress(what: fmt::Arguments) {
    if io::stderr().is_terminal() {
        eprintln!("harness: {what}");
    }
}

/// Does the work. If it takes longer than [`SLOW`], a line says what is done
/// now, and for how long it has been; the line goes when the work is done.
pub fn report_if_slow<T>(
    what: impl Fn() -> String + Send,
    work: impl FnOnce() -> T,
) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (done, end) = mpsc::channel::<()>();
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut old = "";
            let late = Err(mpsc::RecvTimeoutError::Timeout);
            while end.recv_timeout(SLOW) == late {
                let passed = begun.elapsed().as_secs();
                // To the line's start, and what is on it is erased.
                eprint!("\r\x1b[Kharness: {passed} s, {}", what());
                old = "\r\x1b[K";
            }
            eprint!("{old}");
        });
        let result = work();
        drop(done);
        result
    })
}
