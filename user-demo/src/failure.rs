//! Why a program ends early: the call, its error, and what to do about it.

use std::io::{self, Write};

use nix::errno::Errno;

use crate::advice::advice;

/// What a program says on standard error before it ends, and its status then.
#[derive(Debug)]
pub struct Failure {
    pub(crate) status: u8,
    /// Each begins with the program's name when it is printed.
    pub(crate) messages: Vec<String>,
}

/// For `map_err`: names the call that failed. Below the call and its error
/// stands a line of advice, which depends on this machine: so it is looked
/// for at once, while the process still is where the call failed.
pub fn failed<E: Into<io::Error>>(
    call: impl Into<String>,
) -> impl FnOnce(E) -> Failure {
    |error| {
        let call = call.into();
        let errno = Errno::try_from(error.into()).unwrap_or(Errno::EIO);
        let advice = advice(&call, errno);
        Failure::new(125, format!("{call}: {errno}\n{advice}"))
    }
}

impl Failure {
    /// Says it on standard error, and returns the status to end with. In a
    /// chain, the name in front says which link it was.
    pub fn print(self, name: &str) -> u8 {
        for message in self.messages {
            // Where nobody reads it, the status still says it.
            let _ = writeln!(io::stderr(), "{name}: {message}");
        }
        self.status
    }

    pub(crate) fn new(status: u8, message: String) -> Failure {
        Failure { status, messages: vec![message] }
    }
}
