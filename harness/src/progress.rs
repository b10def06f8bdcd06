//! One line about work that takes a while, only if stderr is a terminal.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long work may take before it is reported.
const SLOW: Duration = Duration::from_secs(2);

/// Prints what is being done.
pub fn progress(what: fmt::Arguments) {
    if io::stderr().is_terminal() {
        eprintln!("harness: {what}");
    }
}

/// Does the work, and prints what it is if it takes longer than [`SLOW`].
pub fn report_if_slow<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(SLOW) == Err(mpsc::RecvTimeoutError::Timeout) {
                progress(format_args!("{what}"));
            }
        });
        let result = work();
        drop(done);
        result
    })
}
