//! Run COMMAND in a new IPC namespace: without the objects of others.
//!
//!     usage: ipc-demo [COMMAND [ARG]...]
//!
//! An IPC namespace holds System V's IPC objects and POSIX message queues.
//! Man page: ipc_namespaces(7). Book: chapter 2, "IPC Namespace".

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::unix::{ffi::OsStrExt, process::CommandExt};
use std::process::{Command, ExitCode};
use std::{env, fs, ptr};

use libc::{IPC_CREAT, O_CREAT, mq_attr, mq_open, msgget, semget, shmget};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use user_demo::{Refused, refused};

const USAGE: &str = "usage: ipc-demo [COMMAND [ARG]...]\n";
const VERSION: &str = concat!("ipc-demo ", env!("CARGO_PKG_VERSION"), "\n");

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

/// Leaves the outside's objects behind.
fn enter() -> Result<(), Refused> {
    // It starts empty, and what is made in it goes with its last process.
    let mut done = unshare(CloneFlags::CLONE_NEWIPC);
    if done == Err(Errno::EPERM) {
        // Not root? A user namespace is free for all, and its root may.
        user_demo::enter()?;
        done = unshare(CloneFlags::CLONE_NEWIPC);
    }
    done.map_err(refused("unshare(CLONE_NEWIPC)"))
}

/// The experiment: a child enters, while this process stays outside.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn report() -> Result<ExitCode, Refused> {
    let mut key = i32::from_be_bytes(*b"bird");
    while look(key, false)?.iter().any(|(_, value)| value == "found") {
        key += 1; // Somebody outside has this one.
    }
    let outside = look(key, false)?;

    let (seen, mut tell) = io::pipe().map_err(refused("pipe"))?;
    let (stay, go) = io::pipe().map_err(refused("pipe"))?;
    // SAFETY: there is one thread only, so the child may go on as we do.
    let fork = unsafe { fork() }.map_err(refused("fork"))?;
    let ForkResult::Parent { child } = fork else {
        enter()?;
        let moved = look(key, false)?[0] != outside[0]; // Else make nothing.
        let text = look(key, moved)?.map(|(_, value)| value).join("\0");
        write!(tell, "{text}").map_err(refused("write"))?;
        drop((tell, go));
        let _ = io::read_to_string(stay); // Until outside has looked.
        return Ok(ExitCode::SUCCESS);
    };
    drop(tell); // Else the child's end would not be the end of the text.
    let text = io::read_to_string(seen).map_err(refused("read"))?;
    let again = look(key, false)?; // As long as all of it exists inside.
    drop(go);
    let Ok(WaitStatus::Exited(_, 0)) = waitpid(child, None) else {
        return Ok(ExitCode::from(125)); // The child has said why.
    };
    let inside: Vec<&str> = text.split('\0').collect();

    let wanted = ["", "0", "0", "0", "found", "found", "found", "found"];
    let mut expected = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| inside[i] == wanted[i]);
    expected[0] = inside[0] != outside[0].1;
    let mut status = print(&row("", "outside", "inside", "outside again"))?;
    for (i, (fact, value)) in outside.iter().enumerate() {
        print(&row(fact, value, inside[i], &again[i].1))?;
        if !expected[i] || (again[i].1 != *value && wanted[i] != "0") {
            status = fail(1, format!("not isolated: {fact}"));
        }
    }
    Ok(status)
}

/// What this process sees: the rows of the report.
#[expect(unsafe_code, reason = "nix has no System V IPC")]
fn look(key: i32, make: bool) -> Result<[(&'static str, String); 8], Refused> {
    let namespace = fs::read_link("/proc/self/ns/ipc")
        .map_err(refused("readlink /proc/self/ns/ipc"))?;
    // Below a title, a line each: of the reader's namespace, not of /proc's.
    let count = |path: &str| match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().skip(1).count().to_string()),
        Err(error) => Err(refused(format!("read {path}"))(error)),
    };
    let open = |id: i32| {
        Errno::result(id).err().map_or("found".into(), |it| format!("{it:?}"))
    };
    let (how, flags) = if make { (IPC_CREAT | 0o600, O_CREAT) } else { (0, 0) };
    let (name, attr) = (format!("/{key:x}\0"), ptr::null::<mq_attr>());
    let name = name.as_ptr().cast();
    Ok([
        ("IPC namespace", namespace.display().to_string()),
        ("message queues", count("/proc/sysvipc/msg")?),
        ("semaphore sets", count("/proc/sysvipc/sem")?),
        ("shared memory", count("/proc/sysvipc/shm")?),
        // SAFETY: numbers go in and come out; the name ends with a zero.
        ("queue by key", open(unsafe { msgget(key, how) })),
        ("semaphores by key", open(unsafe { semget(key, 1, how) })),
        ("memory by key", open(unsafe { shmget(key, 1, how) })),
        ("POSIX queue", open(unsafe { mq_open(name, flags, 0o600, attr) })),
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
    let _ = writeln!(io::stderr(), "ipc-demo: {why}");
    ExitCode::from(status)
}
