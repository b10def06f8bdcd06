//! Run COMMAND in a new user namespace: as uid 0, by mapping.
//!
//!     usage: user-demo [COMMAND [ARG]...]
//!
//! A user namespace maps ids: uid 1000 outside may be uid 0 inside. The system
//! calls stand in `lib.rs`, since the other five demos begin with them where
//! their caller is not root. Man page: user_namespaces(7). Book: chapter 2,
//! "User Namespace".

use std::io::{self, Read, Write};
use std::os::{fd::IntoRawFd, unix::fs::MetadataExt};
use std::{cell::RefCell, fs, process::ExitCode};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{getegid, geteuid};
use user_demo::link::report::{look, namespace, row, verdict};
use user_demo::link::{self, child::in_child, proc_status, read_link};
use user_demo::{Failure, enter, failed};

fn main() -> ExitCode {
    link::run("user-demo", |command| {
        let Some(command) = command else { return report() };
        enter()?;
        Err(link::exec(command))
    })
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let map = |id: u32| format!("0 {id} 1");
    let (uid_map, gid_map) = (map(geteuid().into()), map(getegid().into()));
    let capabilities = || proc_status("CapEff");
    let file = &RefCell::new(file()?);
    let rows = [
        namespace("user namespace", "user"),
        row("uid", || Ok(geteuid().to_string()), |it| it.becomes("0")),
        row("gid", || Ok(getegid().to_string()), |it| it.becomes("0")),
        row("uid_map", || read("uid_map"), |it| it.becomes(&uid_map)),
        row("gid_map", || read("gid_map"), |it| it.becomes(&gid_map)),
        row("capabilities", capabilities, |it| {
            it.inside != "0000000000000000" && it.stays()
        }),
        row(
            "owner of its file",
            || owner(&file.borrow()),
            |it| it.becomes("0"),
        ),
    ];
    let outside = look(&rows)?;
    let (mut named, mut name) = io::pipe().map_err(failed("pipe"))?;
    let (inside, _child) = in_child(|| {
        enter()?;
        let made = self::file()?;
        name.write_all(made.as_bytes()).map_err(failed("write"))?;
        file.replace(made);
        look(&rows)
    })?;
    // While the child lives: at the file that was made inside.
    let mut made = [0; 64];
    let length = named.read(&mut made).map_err(failed("read"))?;
    file.replace(String::from_utf8_lossy(&made[..length]).into());
    let again = look(&rows)?;
    verdict(&rows, [&outside, &inside, &again])
}

/// A file without a name, which is gone when this process is. Returns where
/// other processes find it.
fn file() -> Result<String, Failure> {
    let file = memfd_create("file", MFdFlags::MFD_CLOEXEC)
        .map_err(failed("memfd_create"))?;
    let this = read_link("/proc/self")?;
    Ok(format!("/proc/{this}/fd/{}", file.into_raw_fd()))
}

fn owner(file: &str) -> Result<String, Failure> {
    Ok(fs::metadata(file).map_err(failed("stat"))?.uid().to_string())
}

/// A file of /proc/self, with single spaces in it.
fn read(file: &str) -> Result<String, Failure> {
    let text = link::read(&format!("/proc/self/{file}"))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}
