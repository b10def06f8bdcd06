//! Run COMMAND in a new user namespace: as uid 0, by mapping.
//!
//!     usage: user-demo [COMMAND [ARG]...]
//!
//! A user namespace maps ids: uid 1000 outside may be uid 0 inside. The system
//! calls stand in `lib.rs`, since the other five demos begin with them where
//! their caller is not root. Man page: user_namespaces(7). Book: chapter 2,
//! "User Namespace".

use std::os::{fd::IntoRawFd, unix::fs::MetadataExt};
use std::{fs, process::ExitCode};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{getegid, geteuid};
use user_demo::child::in_child;
use user_demo::{Failure, enter, failed, link, report::Report};

fn main() -> ExitCode {
    link::run("user-demo", |command| {
        let Some(command) = command else { return report() };
        enter()?;
        Err(link::exec(command))
    })
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let outside = look(file()?)?;
    let (inside, _child) = in_child(|| {
        enter()?;
        look(file()?)
    })?;
    // While the child lives: at the file that was made inside.
    let again = look(inside[7].clone())?;

    let same = |row: usize| again[row] == outside[row];
    let (uid, gid) = (&outside[1], &outside[2]);
    let uid_map = format!("0 {uid} 1");
    let gid_map = format!("0 {gid} 1");
    let mut report = Report::new(&outside, &inside, &again)?;
    report.row("user namespace", inside[0] != outside[0] && same(0))?;
    report.row("uid", inside[1] == "0" && same(1))?;
    report.row("gid", inside[2] == "0" && same(2))?;
    report.row("uid_map", inside[3] == uid_map && same(3))?;
    report.row("gid_map", inside[4] == gid_map && same(4))?;
    let some = inside[5] != "0000000000000000";
    report.row("capabilities", some && same(5))?;
    report.row("owner of its file", inside[6] == "0" && same(6))?;
    report.verdict()
}

/// A file without a name, which is gone when this process is.
fn file() -> Result<String, Failure> {
    let file = memfd_create("file", MFdFlags::MFD_CLOEXEC)
        .map_err(failed("memfd_create"))?;
    let this =
        fs::read_link("/proc/self").map_err(failed("readlink /proc/self"))?;
    Ok(format!("/proc/{}/fd/{}", this.display(), file.into_raw_fd()))
}

/// What this process sees: a value for each row of the report, and the file.
fn look(file: String) -> Result<[String; 8], Failure> {
    let read = |path: &str| match fs::read_to_string(path) {
        Ok(text) => Ok(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(error) => Err(failed(format!("read {path}"))(error)),
    };
    let namespace = fs::read_link("/proc/self/ns/user")
        .map_err(failed("readlink /proc/self/ns/user"))?;
    let status = read("/proc/self/status")?;
    let capabilities = status.split(' ').skip_while(|&word| word != "CapEff:");
    let owner = fs::metadata(&file).map_err(failed("stat"))?.uid();
    Ok([
        namespace.display().to_string(),
        geteuid().to_string(),
        getegid().to_string(),
        read("/proc/self/uid_map")?,
        read("/proc/self/gid_map")?,
        capabilities.skip(1).take(1).collect(),
        owner.to_string(),
        file,
    ])
}
