//! The programs of this workspace. Where Cargo has started this program, Cargo
//! builds them; else they are those beside it. No path is compiled in, so a
//! checkout that was copied, moved or restored has programs of its own.

use std::env::consts::ARCH;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access, geteuid};
use serde_json::Value;

use crate::env::variable;
use crate::failure::Failure;
use crate::progress::report_if_slow;

/// The demos: the packages of this workspace that go into the guest.
pub const DEMOS: [&str; 6] =
    ["uts-demo", "ipc-demo", "pid-demo", "mount-demo", "user-demo", "net-demo"];

/// The paths of the programs that go with this `harness`, which is in the
/// folder where Cargo has put it: the demos and their examples. Under Cargo,
/// what is not built yet is built first.
///
/// # Errors
/// If Cargo cannot build them.
pub fn build(harness: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut programs = match workspace() {
        Some(workspace) => by_cargo(&workspace, &target_dir(harness))?,
        None => beside(harness),
    };
    programs.sort();
    Ok(programs)
}

/// The folder for what is saved: below the target folder in which this
/// `harness` is, where that is the caller's own, and else below his home. Then
/// there is a second one: the owner's, which the caller may read.
///
/// # Errors
/// If he has no home.
pub fn caches(harness: &Path) -> Result<(PathBuf, Option<PathBuf>), Failure> {
    let target = target_dir(harness);
    // A copy of the program alone may lie in any folder.
    let is_cargos =
        workspace().is_some() || target.join("CACHEDIR.TAG").is_file();
    let is_own = target
        .metadata()
        .is_ok_and(|target| target.uid() == geteuid().as_raw())
        && access(&target, AccessFlags::W_OK).is_ok();
    let below = is_cargos.then(|| target.join("harness-cache"));
    let below = match below {
        Some(cache) if is_own => return Ok((cache, None)),
        below => below,
    };
    let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(variable("HOME")?).join(".cache"));
    let caches = caches.or_else(home).ok_or_else(|| {
        Failure::new("no folder to save machines in: HARNESS_CACHE=/a/folder")
    })?;
    Ok((caches.join("namespace-demos"), below))
}

/// The workspace, if Cargo has started this program, or the test that has:
/// Cargo names to what it starts the package that this belongs to.
fn workspace() -> Option<PathBuf> {
    let package = variable("CARGO_PKG_NAME")?;
    let dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let is_ours = package == env!("CARGO_PKG_NAME");
    is_ours.then(|| dir.parent().map(Path::to_path_buf)).flatten()
}

/// Cargo's target folder: TARGET/debug/harness, or with `--target`
/// TARGET/x86_64-unknown-linux-gnu/debug/harness.
fn target_dir(harness: &Path) -> PathBuf {
    let above = |path: &Path| path.parent().unwrap_or(path).to_path_buf();
    let dir = above(&above(harness));
    let name = dir.file_name().unwrap_or_default().as_bytes();
    match name.strip_prefix(ARCH.as_bytes()) {
        Some([b'-', ..]) => above(&dir),
        _ => dir,
    }
}

/// Has Cargo build the programs. It runs in the workspace, because the
/// settings of the reader's current directory are not meant for it. Its words
/// are not COMMAND's: they are shown only if it fails.
fn by_cargo(workspace: &Path, target: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cargo = variable("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(&cargo);
    command
        .args(["build", "--bins", "--examples", "--color=never"])
        .args(DEMOS.iter().flat_map(|demo| ["--package", demo]))
        .arg("--message-format=json-render-diagnostics")
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace)
        .stdin(Stdio::null());
    let failed = |error| {
        let what = format!("{} in {}", cargo.display(), workspace.display());
        Failure::because(what, error)
    };
    let file = memfd_create(c"words", MFdFlags::MFD_CLOEXEC);
    let file = file.map_err(|errno| failed(errno.into()))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let words = || {
        let words = fs::read(&path).unwrap_or_default();
        String::from_utf8_lossy(&words).into_owned()
    };
    command.stderr(file.try_clone().map_err(failed)?);
    let now = || {
        let words = words();
        let last = words.lines().next_back().unwrap_or_default();
        // "Compiling uts-demo v0.1.0 (/a/long/path)"
        let last = last.split(" (").next().unwrap_or_default().trim();
        format!("building the demos: {last}")
    };
    let output = report_if_slow(now, || command.output()).map_err(failed)?;
    if !output.status.success() {
        return Err(Failure::new(refusal(&words())));
    }
    let messages = output.stdout.split(|byte| *byte == b'\n');
    Ok(messages
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .collect())
}

/// What to say of a build that failed: the first error, and then everything
/// that Cargo said but what it has compiled.
fn refusal(words: &str) -> String {
    let mut errors = words.lines().filter(|it| it.starts_with("error"));
    let error = errors.next().unwrap_or("no error is named");
    // "   Compiling uts-demo v0.1.0 (/a/long/path)": the compiler's own lines
    // that are indented begin with a sign.
    let is_status = |it: &&str| {
        it.starts_with("   ") && it.trim_start().starts_with(char::is_uppercase)
    };
    let words: Vec<&str> = words.lines().filter(|it| !is_status(it)).collect();
    format!("cargo build failed: {error}\n{}", words.join("\n"))
}

/// The programs in the folder of this `harness`, however old they are. One line
/// says what is not there.
fn beside(harness: &Path) -> Vec<PathBuf> {
    let dir = harness.parent().unwrap_or(harness);
    let demos = DEMOS.map(|demo| dir.join(demo));
    let (mut programs, missing): (Vec<_>, Vec<_>) =
        demos.into_iter().partition(|demo| demo.is_file());
    let mut missing: Vec<_> =
        missing.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let examples = fs::read_dir(dir.join("examples"));
    let examples: Vec<_> = examples
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_example(path))
        .collect();
    if examples.is_empty() {
        missing.push("the examples");
    }
    if !missing.is_empty() {
        let (missing, dir) = (missing.join(", "), dir.display());
        eprintln!(
            "harness: not built in {dir}: {missing}; to build them, type: \
             cargo build --workspace --all-targets"
        );
    }
    programs.extend(examples);
    programs
}

/// Whether this is a program, and not one of the files by which Cargo knows it:
/// `copies`, not `copies-0123456789abcdef` or `copies.d`.
fn is_example(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let is_program = path.metadata().is_ok_and(|found| {
        found.is_file() && found.permissions().mode() & 0o111 != 0
    });
    is_program && !name.contains(&b'-') && !name.contains(&b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_folder_is_the_one_that_cargo_was_told() {
        let triple = format!("{ARCH}-unknown-linux-gnu");
        for (harness, target) in [
            ("/src/target/debug/harness", "/src/target"),
            ("/src/target/release/harness", "/src/target"),
            ("/src/target/TRIPLE/debug/harness", "/src/target"),
            // CARGO_TARGET_DIR may be below another target folder.
            ("/src/target/other/debug/harness", "/src/target/other"),
            ("/harness", "/"),
        ] {
            let harness = harness.replace("TRIPLE", &triple);
            assert_eq!(target_dir(Path::new(&harness)), Path::new(target));
        }
    }
}
