//! What takes a while, in one line; only where somebody is looking.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A reader wonders what a program does that says nothing for longer.
const SOON: Duration = Duration::from_secs(2);

/// Says what is being done.
pub fn progress(what: fmt::Arguments) {
    if io::stderr().is_terminal() {
        eprintln!("harness: {what}");
    }
}

/// Does it, and says so as soon as it has taken a while.
pub fn said_when_slow<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(SOON) == Err(mpsc::RecvTimeoutError::Timeout) {
                progress(format_args!("{what}"));
            }
        });
        let result = work();
        drop(done);
        result
    })
}
