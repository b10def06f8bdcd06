//! Run COMMAND in a new user namespace: as uid 0, by mapping.
//!
//!     usage: user-demo [COMMAND [ARG]...]
//!
//! A user namespace gives ids a second meaning: the one who is 1000 outside
//! may be 0 inside. Which system calls make it so stands in `lib.rs`, since
//! the other five demos begin with it when they are not started by root.
//! Man page: user_namespaces(7). Book: chapter 2, "User Namespace".

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::{ffi::OsStrExt, fs::MetadataExt, process::CommandExt};
use std::process::{Command, ExitCode};
use std::{env, fs};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getegid, geteuid};
use user_demo::{Refused, enter, refused};

const USAGE: &str = "usage: user-demo [COMMAND [ARG]...]\n";
const VERSION: &str = concat!("user-demo ", env!("CARGO_PKG_VERSION"), "\n");

fn main() -> ExitCode {
    run().unwrap_or_else(|refused| fail(125, refused))
}

/// Enters, then becomes COMMAND. Without COMMAND: the experiment.
fn run() -> Result<ExitCode, Refused> {
    let mut args = env::args_os().skip(1);
    let mut command = args.next();
    match command.as_deref().map(OsStrExt::as_bytes) {
        Some(b"-h" | b"--help") => return print(USAGE),
        Some(b"-V" | b"--version") => return print(VERSION),
        Some(b"--") => command = args.next(),
        Some([b'-', ..]) => return Ok(fail(125, USAGE.trim_end())),
        _ => {}
    }
    let Some(command) = command else { return report() };

    enter()?;

    let error = Command::new(&command).args(args).exec();
    let status = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    let call = format!("exec {}", command.display());
    Ok(fail(status, refused(call)(error)))
}

/// The experiment: a child enters, while this process stays outside.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn report() -> Result<ExitCode, Refused> {
    let outside = look(&file()?)?;

    let (seen, mut tell) = io::pipe().map_err(refused("pipe"))?;
    let (stay, go) = io::pipe().map_err(refused("pipe"))?;
    // SAFETY: there is one thread only, so the child may go on as we do.
    let fork = unsafe { fork() }.map_err(refused("fork"))?;
    let ForkResult::Parent { child } = fork else {
        enter()?;
        let path = file()?;
        let text = look(&path)?.map(|(_, value)| value).join("\0");
        write!(tell, "{text}\0{path}").map_err(refused("write"))?;
        drop((tell, go));
        let _ = io::read_to_string(stay); // Until outside has looked.
        return Ok(ExitCode::SUCCESS);
    };
    drop(tell); // Else the child's end would not be the end of the text.
    let text = io::read_to_string(seen).map_err(refused("read"))?;
    let inside: Vec<&str> = text.split('\0').collect();
    let Some(path) = inside.get(outside.len()) else {
        return Ok(ExitCode::from(125)); // The child has said why.
    };
    let again = look(path)?; // Now at the file that was made inside.
    drop(go);
    let _ = waitpid(child, None);

    let (uid, gid) = (&outside[1].1, &outside[2].1);
    let expected = [
        inside[0] != outside[0].1,
        inside[1] == "0",
        inside[2] == "0",
        inside[3] == format!("0 {uid} 1"),
        inside[4] == format!("0 {gid} 1"),
        inside[5] != "0000000000000000",
        inside[6] == "0",
    ];
    let mut status = print(&row("", "outside", "inside", "outside again"))?;
    for (i, (fact, value)) in outside.iter().enumerate() {
        print(&row(fact, value, inside[i], &again[i].1))?;
        if !expected[i] || again[i].1 != *value {
            status = fail(1, format!("not isolated: {fact}"));
        }
    }
    Ok(status)
}

/// A file without a name: it is gone when this process is.
fn file() -> Result<String, Refused> {
    let file = memfd_create("file", MFdFlags::MFD_CLOEXEC)
        .map_err(refused("memfd_create"))?;
    let this =
        fs::read_link("/proc/self").map_err(refused("readlink /proc/self"))?;
    Ok(format!("/proc/{}/fd/{}", this.display(), file.into_raw_fd()))
}

/// What this process sees: the rows of the report.
fn look(file: &str) -> Result<[(&'static str, String); 7], Refused> {
    let read = |path: &str| match fs::read_to_string(path) {
        Ok(text) => Ok(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(error) => Err(refused(format!("read {path}"))(error)),
    };
    let namespace = fs::read_link("/proc/self/ns/user")
        .map_err(refused("readlink /proc/self/ns/user"))?;
    let status = read("/proc/self/status")?;
    let capabilities = status.split(' ').skip_while(|&word| word != "CapEff:");
    let owner = fs::metadata(file).map_err(refused("stat"))?.uid();
    Ok([
        ("user namespace", namespace.display().to_string()),
        ("uid", geteuid().to_string()),
        ("gid", getegid().to_string()),
        ("uid_map", read("/proc/self/uid_map")?),
        ("gid_map", read("/proc/self/gid_map")?),
        ("capabilities", capabilities.skip(1).take(1).collect()),
        ("owner of its file", owner.to_string()),
    ])
}

/// One line of the report: within 80 columns, as far as the values allow.
fn row(fact: &str, outside: &str, inside: &str, again: &str) -> String {
    format!("{fact:18}  {outside:18}  {inside:18}  {again}\n")
}

/// Writes to standard output. A full disk is a failure like others.
fn print(text: &str) -> Result<ExitCode, Refused> {
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(refused("write standard output")).and(Ok(ExitCode::SUCCESS))
}

/// In a chain, the name in front says which link it was.
fn fail(status: u8, why: impl Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "user-demo: {why}");
    ExitCode::from(status)
}
