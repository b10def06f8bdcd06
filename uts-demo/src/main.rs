//! Run COMMAND in a new UTS namespace: under names of its own.
//!
//!     usage: uts-demo [COMMAND [ARG]...]
//!
//! A UTS namespace holds the two names of a machine: the hostname and the NIS
//! domain name. Man page: uts_namespaces(7). Book: chapter 2, "UTS Namespace".

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::unix::{ffi::OsStrExt, process::CommandExt};
use std::process::{Command, ExitCode};
use std::{env, fs};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::utsname::uname;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, sethostname};
use user_demo::{Refused, refused};

const USAGE: &str = "usage: uts-demo [COMMAND [ARG]...]\n";
const VERSION: &str = concat!("uts-demo ", env!("CARGO_PKG_VERSION"), "\n");

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

/// Leaves the outside's names behind and takes others.
#[expect(unsafe_code, reason = "nix has no setdomainname")]
fn enter() -> Result<(), Refused> {
    // From here on this process has both names for itself: a new namespace
    // starts as a copy of the old one, and then each goes its own way.
    let mut done = unshare(CloneFlags::CLONE_NEWUTS);
    if done == Err(Errno::EPERM) {
        // Not root? A user namespace is free for all, and its root may.
        user_demo::enter()?;
        done = unshare(CloneFlags::CLONE_NEWUTS);
    }
    done.map_err(refused("unshare(CLONE_NEWUTS)"))?;

    // `hostname -b bird`. Without unshare this would rename the machine for
    // everyone on it. /etc/hostname and an old prompt stay what they were.
    sethostname("bird").map_err(refused("sethostname"))?;

    // `domainname nest`: NIS's name, which has nothing to do with DNS.
    // SAFETY: the kernel reads these four bytes and keeps no pointer.
    Errno::result(unsafe { libc::setdomainname(c"nest".as_ptr(), 4) })
        .map_err(refused("setdomainname"))?;
    Ok(())
}

/// The experiment: a child enters, while this process stays outside.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn report() -> Result<ExitCode, Refused> {
    let outside = look()?;

    let (seen, mut tell) = io::pipe().map_err(refused("pipe"))?;
    // SAFETY: there is one thread only, so the child may go on as we do.
    let fork = unsafe { fork() }.map_err(refused("fork"))?;
    let ForkResult::Parent { child } = fork else {
        enter()?;
        let text = look()?.map(|(_, value)| value).join("\0");
        write!(tell, "{text}").map_err(refused("write"))?;
        return Ok(ExitCode::SUCCESS);
    };
    drop(tell); // Else the child's end would not be the end of the text.
    let text = io::read_to_string(seen).map_err(refused("read"))?;
    let Ok(WaitStatus::Exited(_, 0)) = waitpid(child, None) else {
        return Ok(ExitCode::from(125)); // The child has said why.
    };
    let inside: Vec<&str> = text.split('\0').collect();
    let again = look()?;

    let moved = inside[0] != outside[0].1;
    let expected = [moved, inside[1] == "bird", inside[2] == "nest"];
    let mut status = print(&row("", "outside", "inside", "outside again"))?;
    for (i, (fact, value)) in outside.iter().enumerate() {
        print(&row(fact, value, inside[i], &again[i].1))?;
        if !expected[i] || again[i].1 != *value {
            status = fail(1, format!("not isolated: {fact}"));
        }
    }
    Ok(status)
}

/// What this process sees: the rows of the report.
fn look() -> Result<[(&'static str, String); 3], Refused> {
    let namespace = fs::read_link("/proc/self/ns/uts")
        .map_err(refused("readlink /proc/self/ns/uts"))?;
    let names = uname().map_err(refused("uname"))?;
    Ok([
        ("UTS namespace", namespace.display().to_string()),
        ("hostname", names.nodename().display().to_string()),
        ("NIS domain name", names.domainname().display().to_string()),
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
    let _ = writeln!(io::stderr(), "uts-demo: {why}");
    ExitCode::from(status)
}
