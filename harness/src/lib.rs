//! A throw-away virtual machine of the reader's own kernel and tools, in which
//! to prove what a namespace does, and to try what would damage a machine.
//!
//! [`Harness::new`] finds a kernel (`kernel.rs`), packs the guest's files
//! (`pack.rs`) and starts a machine (`machine.rs`), whose state it saves
//! (`saved.rs`). [`Harness::start`] starts such a machine from its saved state:
//! a [`Vm`]. [`Vm::run`] sends a [`Request`] over the [`wire`] to the
//! [`guest`]'s PID 1, which runs the command and reports how it ended.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

mod accelerator;
mod arch;
mod failure;
pub mod guest;
mod kernel;
mod machine;
mod pack;
mod programs;
mod progress;
mod saved;
mod vm;
mod window;
pub mod wire;

pub use failure::{Failure, printable};
pub use programs::{DEMOS, build as build_demos};
pub use saved::Harness;
pub use vm::{Input, Io, Vm};
pub use wire::{End, Request, User};

/// The guest's name of the serial port over which requests and output travel.
///
/// # Errors
/// If the harness does not support this architecture.
pub fn wire_port() -> Result<&'static str, Failure> {
    Ok(arch::Arch::here()?.wire)
}

/// An environment variable. An empty one counts as not set.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// A program of this machine, by its name.
fn on_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&path).map(|dir| dir.join(name));
    found.find(|path| path.is_file())
}

/// `$HARNESS_PATIENCE`: the factor by which every deadline is multiplied, for
/// a slow machine.
static PATIENCE: LazyLock<Result<u32, Failure>> = LazyLock::new(|| {
    let Some(text) = variable("HARNESS_PATIENCE") else { return Ok(1) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        let text = text.display();
        Failure::new(format!("HARNESS_PATIENCE is {text}: a number from 1 on?"))
    })
});

/// This deadline, multiplied by `$HARNESS_PATIENCE`.
pub fn patience(deadline: Duration) -> Duration {
    deadline * *PATIENCE.as_ref().unwrap_or(&1)
}
