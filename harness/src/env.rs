//! The environment's variables: settings, where programs are, and how patient
//! to be.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use crate::failure::Failure;

/// An environment variable. An empty one counts as not set.
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// A program of this machine, by its name.
pub fn on_path(name: &OsStr) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&path).map(|dir| dir.join(name));
    found.find(|path| path.is_file())
}

/// `$HARNESS_PATIENCE`: the factor by which every deadline is multiplied, for
/// a slow machine.
pub static PATIENCE: LazyLock<Result<u32, Failure>> = LazyLock::new(|| {
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
