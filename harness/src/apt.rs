//! What apt knows and fetches: its lists of packages, and their files.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::progress::{progress, report_if_slow};

/// A package's file: its name, which has the version in it, and its length in
/// bytes.
pub type Archive = (String, u64);

/// Lists of packages.
pub struct Lists {
    /// Their folder, if they are not the system's.
    pub own: Option<PathBuf>,
    /// Whether they are fetched first.
    pub update: bool,
}

impl Lists {
    /// A package and all that it needs today, directly or not.
    pub fn needed(&self, package: &str) -> Result<Vec<String>, String> {
        let mut apt = self.command("apt-cache");
        let apt = apt.args(["depends", "--recurse", "--important", package]);
        output(apt).map(|text| names(&text))
    }

    /// What would be installed with these packages, as NAME=VERSION. What apt
    /// would remove for that does not matter: nothing is installed.
    pub fn to_install(&self, names: &[String]) -> Result<Vec<String>, String> {
        let mut apt = self.command("apt-get");
        // A package may be installed, and its program may be gone.
        let apt = apt.args(["-s", "install", "--reinstall"]);
        let apt = apt.arg("--no-install-recommends").args(names);
        output(apt).map(|text| installed(&text))
    }

    /// The files of these packages.
    pub fn archives(&self, names: &[String]) -> Result<Vec<Archive>, String> {
        let mut apt = self.command("apt-get");
        let apt = apt.args(["--print-uris", "download"]).args(names);
        output(apt).map(|text| archives(&text))
    }

    /// Fetches these files into this folder.
    pub fn download(&self, files: &[Archive], to: &Path) -> Result<(), String> {
        fs::create_dir_all(to).map_err(|error| reason(to, error))?;
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        let size = mb(files.iter().map(|(_, size)| size).sum());
        let names = files.iter().filter_map(|(name, _)| name.split('_').next());
        let names: Vec<&str> = names.collect();
        progress(format_args!(
            "fetching {size} MB, to be unpacked and not installed: {}",
            names.join(" ")
        ));
        let fetched = || {
            let entries = fs::read_dir(to).into_iter().flatten().flatten();
            let entries = entries.filter_map(|entry| entry.metadata().ok());
            mb(entries.map(|found| found.len()).sum())
        };
        let now = || format!("fetched {} of {size} MB", fetched());
        let packages = files.iter().map(|(name, _)| {
            // NAME_VERSION_ARCHITECTURE.deb
            let mut parts = name.split('_');
            let name = parts.next().unwrap_or_default();
            let version = parts.next().unwrap_or_default();
            format!("{name}={}", version.replace("%3a", ":"))
        });
        // Files that are there are not fetched again, unless they are damaged.
        let mut apt = self.command("apt-get");
        apt.arg("download").args(packages).current_dir(to);
        report_if_slow(now, || output(&mut apt)).map(drop)
    }

    /// Fetches these lists.
    pub fn update(&self) -> Result<(), String> {
        let Some(own) = &self.own else { return Ok(()) };
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = own.join(dir);
            fs::create_dir_all(&dir).map_err(|error| reason(&dir, error))?;
        }
        let mut apt = self.command("apt-get");
        output(apt.arg("update")).map(drop)
    }

    fn command(&self, name: &str) -> Command {
        let mut apt = command(name);
        // Root's apt would fetch as the user `_apt`, who cannot write here.
        apt.args(["-q", "-o", "APT::Sandbox::User=root"]);
        if let Some(own) = &self.own {
            let own = own.display();
            for option in [
                format!("Dir::State::lists={own}/lists"),
                format!("Dir::Cache={own}/cache"),
                // Tables of 80 MB, which save a second.
                "Dir::Cache::pkgcache=".into(),
                "Dir::Cache::srcpkgcache=".into(),
                "Acquire::GzipIndexes=true".into(),
                "Acquire::Languages=none".into(),
            ] {
                apt.args(["-o", &option]);
            }
        }
        apt
    }
}

/// The packages in an answer of `apt-cache depends`.
fn names(answer: &str) -> Vec<String> {
    // Dependencies are indented below each package's own line.
    let names = answer.lines().filter(|line| !line.starts_with(' '));
    names.map(String::from).collect()
}

/// The packages in an answer of `apt-get -s install`: `Inst NAME [OLD] (NEW
/// RELEASE [ARCHITECTURE])`.
fn installed(answer: &str) -> Vec<String> {
    let lines = answer.lines().filter_map(|line| line.strip_prefix("Inst "));
    let packages = lines.filter_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        let version = rest.split_once('(')?.1.split(' ').next()?;
        Some(format!("{name}={version}"))
    });
    packages.collect()
}

/// The files in an answer of `apt-get --print-uris`: 'URI' NAME LENGTH HASH.
fn archives(answer: &str) -> Vec<Archive> {
    let lines = answer.lines().filter_map(|line| line.strip_prefix('\''));
    let files = lines.filter_map(|line| {
        let mut words = line.split_once("' ")?.1.split(' ');
        Some((words.next()?.to_string(), words.next()?.parse().ok()?))
    });
    let mut files: Vec<Archive> = files.collect();
    files.sort();
    files
}

/// A program whose output is parsed, and so must be in English.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C");
    command
}

/// Runs it, and returns what it prints.
///
/// # Errors
/// All that it says of its failure.
pub fn output(command: &mut Command) -> Result<String, String> {
    let name = OsString::from(command.get_program());
    let name = name.display();
    let output =
        command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why.trim();
        let why = if why.is_empty() { "no reason given" } else { why };
        return Err(format!("{name}: {why}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What failed with this file, in words.
pub fn reason(path: &Path, error: io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_package_are_no_packages_of_their_own() {
        let answer = "linux-image-virtual
linux-image-6.8.0-31-generic
 |Depends: wireless-regdb
  Depends: kmod
kmod\n";
        let wanted =
            ["linux-image-virtual", "linux-image-6.8.0-31-generic", "kmod"];
        assert_eq!(names(answer), wanted);
    }
}
