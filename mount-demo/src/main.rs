//! Run COMMAND in a new mount namespace: with mounts and a /proc of its own.
//!
//!     usage: mount-demo [COMMAND [ARG]...]
//!
//! A mount namespace holds the tree of mounts: what is where below `/`.
//! Man page: mount_namespaces(7). Book: chapter 2, "Mount Namespace".

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::unix::{ffi::OsStrExt, process::CommandExt};
use std::process::{Command, ExitCode};
use std::{env, fs};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use user_demo::{Refused, refused};

const USAGE: &str = "usage: mount-demo [COMMAND [ARG]...]\n";
const VERSION: &str = concat!("mount-demo ", env!("CARGO_PKG_VERSION"), "\n");

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

/// Copies all mounts, cuts the copy off, and mounts a /proc of its own.
fn enter() -> Result<(), Refused> {
    let mut done = unshare(CloneFlags::CLONE_NEWNS);
    if done == Err(Errno::EPERM) {
        // Not root? A user namespace is free for all, and its root may.
        user_demo::enter()?;
        done = unshare(CloneFlags::CLONE_NEWNS);
    }
    done.map_err(refused("unshare(CLONE_NEWNS)"))?;

    // systemd makes all mounts shared, with their copies too: our /proc would
    // cover the outside's, and `ps` would fail there even after our end, until
    // `umount /proc`. MS_REC: what counts is the mount at /proc, not at `/`.
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)
        .map_err(refused("mount / MS_REC|MS_PRIVATE"))?;

    // A /proc is of the PID namespace of who mounts it: the old one goes on
    // showing the outside. Mounts stack, so it is still there, below ours.
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, none)
        .map_err(refused("mount /proc"))
}

/// The experiment: a child enters, while this process stays outside.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn report() -> Result<ExitCode, Refused> {
    let outside = look()?;

    // As in the book, the child is also PID 1 of a new PID namespace.
    if unshare(CloneFlags::CLONE_NEWPID).is_err() {
        user_demo::enter()?;
        let done = unshare(CloneFlags::CLONE_NEWPID);
        done.map_err(refused("unshare(CLONE_NEWPID)"))?;
    }
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

    let more = outside[1].1.parse().map_or(0, |mounts: u32| mounts + 1);
    let wanted = ["", &more.to_string(), "private", "1", "1"];
    let mut expected = [0, 1, 2, 3, 4].map(|i| inside[i] == wanted[i]);
    expected[0] = inside[0] != outside[0].1;
    let mut status = print(&row("", "outside", "inside", "outside again"))?;
    for (i, (fact, value)) in outside.iter().enumerate() {
        print(&row(fact, value, inside[i], &again[i].1))?;
        if !expected[i] || (again[i].1 != *value && i != 3) {
            status = fail(1, format!("not isolated: {fact}"));
        }
    }
    Ok(status)
}

/// What this process sees: the rows of the report.
fn look() -> Result<[(&'static str, String); 5], Refused> {
    let link = |it| fs::read_link(it).map_err(refused("readlink /proc/self"));
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(refused("read /proc/self/mountinfo"))?;
    let stack = mounts.lines().filter(|line| line.contains(" / /proc "));
    let top = stack.clone().next_back().unwrap_or_default();
    let kinds = [("shared", " shared:"), ("slave", " master:")];
    let kind = kinds.iter().find(|(_, sign)| top.contains(sign));
    let all = fs::read_dir("/proc").map_err(refused("read /proc"))?.flatten();
    let processes = all.filter(|it| it.file_name().as_bytes()[0] <= b'9');
    Ok([
        ("mount namespace", link("/proc/self/ns/mnt")?.display().to_string()),
        ("/proc mounts", stack.count().to_string()),
        ("/proc propagation", kind.map_or("private", |it| it.0).to_string()),
        ("processes in /proc", processes.count().to_string()),
        ("/proc/self", link("/proc/self")?.display().to_string()),
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
    let _ = writeln!(io::stderr(), "mount-demo: {why}");
    ExitCode::from(status)
}
