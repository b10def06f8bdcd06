//! What the distribution has and this machine lacks: packages, fetched and
//! unpacked without root, and not installed. Only apt can do that.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A package and all that it needs today, directly or not. `None` if this
/// machine has no apt, or apt does not know the package.
pub fn needed(package: &str) -> Option<Vec<String>> {
    let mut apt = command("apt-cache");
    let apt = apt.args(["depends", "--recurse", "--important", package]);
    output(apt).ok().map(|text| names(&text))
}

/// The packages in apt's answer.
fn names(answer: &str) -> Vec<String> {
    // Dependencies are indented below each package's own line.
    let names = answer.lines().filter(|line| !line.starts_with(' '));
    names.map(String::from).collect()
}

/// Fetches these packages, and unpacks them into the folder `dir`, which is
/// replaced if `check` finds in the new one what it is for. The caller must
/// hold the lock of the folder above.
///
/// # Errors
/// What failed, in words.
pub fn fetch(
    packages: &[String],
    dir: &Path,
    check: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    // In a temporary folder, which is renamed when it is complete.
    let new = dir.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    let fetched = unpack(packages, &new).and_then(|()| check(&new));
    let done = fetched.and_then(|()| {
        let _ = fs::remove_dir_all(dir);
        fs::rename(&new, dir).map_err(|error| error.to_string())
    });
    let _ = fs::remove_dir_all(&new);
    done
}

fn unpack(packages: &[String], new: &Path) -> Result<(), String> {
    fs::create_dir_all(new).map_err(|error| error.to_string())?;
    // If root calls it, apt fetches as the user `_apt`. That user cannot write
    // here, so apt prints a warning and fetches as root.
    let mut apt = command("apt-get");
    output(apt.args(["-q", "download"]).args(packages).current_dir(new))?;
    let debs = fs::read_dir(new).into_iter().flatten().flatten();
    for deb in debs.map(|entry| entry.path()) {
        if deb.extension().is_some_and(|end| end == "deb") {
            output(command("dpkg").arg("-x").arg(&deb).arg(new))?;
            fs::remove_file(deb).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// A program whose output is parsed, and so must be in English.
fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C");
    command
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = OsString::from(command.get_program());
    let name = name.display();
    let output =
        command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let last = why.trim().lines().last().unwrap_or("no reason given");
        return Err(format!("{name}: {last}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

    #[test]
    fn folder_is_replaced_only_by_a_complete_one() {
        let cache = tempfile::tempdir().expect("a folder");
        let dir = cache.path().join("package");
        fs::create_dir(&dir).expect("a folder");
        fs::write(dir.join("old"), "").expect("a file");
        let nothing = ["nosuch-package".to_string()];
        let check = |_: &Path| panic!("nothing was fetched");
        let why = fetch(&nothing, &dir, check).expect_err("no such package");
        assert!(why.starts_with("apt-get: "), "{why}");
        assert!(dir.join("old").exists());
        assert!(!cache.path().join("package.new").exists());
    }
}
