//! A throw-away virtual machine of the reader's own kernel and tools, to
//! prove in what a namespace does, and to try out what would wreck a machine.
//!
//! [`Harness::new`] finds and builds what goes in, [`Harness::start`] gives a
//! [`Vm`], [`Vm::run`] runs a command there and says how it ended.

use std::fmt;
use std::io::{self, IsTerminal};

pub mod guest;
mod kernel;
mod machine;
mod pack;
mod programs;
mod vm;
pub mod wire;

pub use programs::{DEMOS, build as build_demos};
pub use vm::{Harness, Input, Io, Vm};
pub use wire::{End, Request, User};

/// The *machine* failed; about a command that ran in it this says nothing.
#[derive(Debug)]
pub struct Failure {
    what: String,
    console: String,
}

impl Failure {
    fn new(what: String) -> Failure {
        Failure { what, console: String::new() }
    }

    /// What failed, and why.
    pub fn because(what: impl fmt::Display, why: impl fmt::Display) -> Failure {
        Failure::new(format!("{what}: {why}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&harmless(&self.what))?;
        let lines: Vec<&str> = self.console.lines().collect();
        let last = &lines[lines.len().saturating_sub(20)..];
        for line in last.iter().filter(|line| !line.trim().is_empty()) {
            write!(f, "\n    | {}", harmless(line.trim_end()))?;
        }
        Ok(())
    }
}

/// Words of the guest, which may be anything, for the reader's terminal.
fn harmless(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

impl std::error::Error for Failure {}

/// What takes a while, in one line; only where somebody is looking.
fn say(what: fmt::Arguments) {
    if io::stderr().is_terminal() {
        eprintln!("harness: {what}");
    }
}
