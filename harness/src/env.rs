//! The environment's variables: settings, where programs are, and how patient
//! to be.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use crate::failure::Failure;

/// All variables of the harness, its tests and scripts, in the order of
/// README's table. Another one that begins like these is a mistake.
const VARIABLES: [&str; 11] = [
    "HARNESS_KERNEL",
    "HARNESS_ACCEL",
    "HARNESS_QEMU",
    "HARNESS_FILES",
    "HARNESS_PACKAGES",
    "HARNESS_CACHE",
    "HARNESS_PATIENCE",
    "HARNESS_KILLS",
    "HARNESS_WALKS",
    "HARNESS_BLESS",
    "HARNESS_TRANSLATED",
];

/// Looks for variables that nobody would read.
///
/// # Errors
/// If there is one: its name, and which there are.
pub fn all_known() -> Result<(), Failure> {
    let mut names = env::vars_os().filter(|(_, value)| !value.is_empty());
    let unknown = names.find_map(|(name, _)| {
        let is_ours = name.as_bytes().starts_with(b"HARNESS_");
        let is_known = VARIABLES.iter().any(|known| name == *known);
        (is_ours && !is_known).then_some(name)
    });
    unknown.map_or(Ok(()), |name| {
        let (name, known) = (name.display(), VARIABLES.join(" "));
        Err(Failure::new(format!("no variable is called {name}, but {known}")))
    })
}

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
