//! Run COMMAND in a new PID namespace: as its PID 1.
//!
//!     usage: pid-demo [COMMAND [ARG]...]
//!
//! A PID namespace counts its processes from 1, and none outlives the first.
//! This is the link that stays: what it does meanwhile stands in `stay.rs`.
//! Man page: pid_namespaces(7). Book: chapter 2, "PID Namespace".

mod stay;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::unix::{ffi::OsStrExt, process::CommandExt};
use std::process::{Command, ExitCode};
use std::{env, fs};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use stay::Bond;
use user_demo::{Refused, refused};

const USAGE: &str = "usage: pid-demo [COMMAND [ARG]...]\n";
const VERSION: &str = concat!("pid-demo ", env!("CARGO_PKG_VERSION"), "\n");

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

    if let Some((child, bond)) = enter()? {
        return bond.wait(child); // Inside it goes on as in the others.
    }

    let error = Command::new(&command).args(args).exec();
    let status = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    let call = format!("exec {}", command.display());
    Ok(fail(status, refused(call)(error)))
}

/// Leaves this process outside: inside is its next child.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn enter() -> Result<Option<(Pid, Bond)>, Refused> {
    // A PID is for life. So unshare says only where children will be born.
    let mut done = unshare(CloneFlags::CLONE_NEWPID);
    if done == Err(Errno::EPERM) {
        // Not root? A user namespace is free for all, and its root may.
        user_demo::enter()?;
        done = unshare(CloneFlags::CLONE_NEWPID);
    }
    done.map_err(refused("unshare(CLONE_NEWPID)"))?;

    // The first child is PID 1. When it ends, the kernel kills all the others
    // inside, and a further fork says ENOMEM, with any amount of memory.
    let bond = Bond::new()?;
    // SAFETY: there is one thread only, so the child may go on as we do.
    match unsafe { fork() }.map_err(refused("fork"))? {
        ForkResult::Parent { child } => Ok(Some((child, bond))),
        ForkResult::Child => bond.hold().map(|()| None),
    }
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Refused> {
    let outside = look()?;

    let (seen, mut tell) = io::pipe().map_err(refused("pipe"))?;
    let Some((child, bond)) = enter()? else {
        let text = look()?.map(|(_, value)| value).join("\0");
        write!(tell, "{text}").map_err(refused("write"))?;
        return Ok(ExitCode::SUCCESS);
    };
    drop(tell); // Else the child's end would not be the end of the text.
    let text = io::read_to_string(seen).map_err(refused("read"))?;
    if bond.wait(child)? != ExitCode::SUCCESS {
        return Ok(ExitCode::from(125)); // The child has said why.
    }
    let inside: Vec<&str> = text.split('\0').collect();
    let again = look()?;

    let expected = [
        inside[0] != outside[0].1,
        inside[1] == "1",
        inside[2] == "0",
        inside[3].ends_with(&format!("{child} 1")), // Out here, in there.
    ];
    let mut status = print(&row("", "outside", "inside", "outside again"))?;
    for (i, (fact, value)) in outside.iter().enumerate() {
        print(&row(fact, value, inside[i], &again[i].1))?;
        if !expected[i] || (again[i].1 != *value && *fact != "parent PID") {
            status = fail(1, format!("not isolated: {fact}"));
        }
    }
    Ok(status)
}

/// What this process sees: the rows of the report.
fn look() -> Result<[(&'static str, String); 4], Refused> {
    let namespace = fs::read_link("/proc/self/ns/pid")
        .map_err(refused("readlink /proc/self/ns/pid"))?;
    let status = fs::read_to_string("/proc/self/status")
        .map_err(refused("read /proc/self/status"))?;
    let mut lines = status.lines();
    let numbers = lines.find_map(|line| line.strip_prefix("NSpid:\t"));
    Ok([
        ("PID namespace", namespace.display().to_string()),
        ("PID", getpid().to_string()),
        ("parent PID", getppid().to_string()),
        // One number for each namespace, from that of /proc on inwards.
        ("NSpid", numbers.unwrap_or_default().replace('\t', " ")),
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
    let _ = writeln!(io::stderr(), "pid-demo: {why}");
    ExitCode::from(status)
}
