//! Run COMMAND in a new IPC namespace: without the objects of others.
//!
//!     usage: ipc-demo [COMMAND [ARG]...]
//!
//! An IPC namespace holds System V's IPC objects and POSIX message queues.
//! Man page: ipc_namespaces(7). Book: chapter 2, "IPC Namespace".

use std::{fs, process::ExitCode, ptr};

use libc::{IPC_CREAT, O_CREAT, mq_attr, mq_open, msgget, semget, shmget};
use nix::{errno::Errno, sched::CloneFlags};
use user_demo::report::{Outcome, Report};
use user_demo::{Failure, child::in_child, failed, link};

fn main() -> ExitCode {
    link::run("ipc-demo", |command| {
        let Some(command) = command else { return report() };
        enter()?;
        Err(link::exec(command))
    })
}

/// Enters a new IPC namespace, which has no object of the outside.
fn enter() -> Result<(), Failure> {
    // The new namespace is empty. The objects made in it are destroyed when
    // its last process ends.
    user_demo::unshare(CloneFlags::CLONE_NEWIPC)
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let mut key = i32::from_be_bytes(*b"bird");
    while look(key, false)?[4..].contains(&"found".into()) {
        key += 1; // Somebody outside has an object with this key.
    }
    let outside = look(key, false)?;
    let (inside, child) = in_child(|| {
        enter()?;
        let moved = look(key, false)?[0] != outside[0]; // Or make nothing.
        look(key, moved)
    })?;
    let again = look(key, false)?; // While all the objects exist inside.
    drop(child);

    let mut report = Report::new(&outside, &inside, &again)?;
    let moved = inside[0] != outside[0] && again[0] == outside[0];
    report.row("IPC namespace", moved)?;
    // Others may make objects outside meanwhile.
    report.row("message queues", inside[1] == "0")?;
    report.row("semaphore sets", inside[2] == "0")?;
    report.row("shared memory", inside[3] == "0")?;
    let hidden = |row: usize| match [&outside, &inside, &again]
        .map(|column| column[row].as_str())
    {
        ["ENOENT", "found", "ENOENT"] => Outcome::Isolated,
        ["ENOENT", "ENOENT", _] | [.., "found"] => Outcome::NotIsolated,
        values => {
            // A limit, or a filter.
            let known = |value: &&str| !["found", "ENOENT"].contains(value);
            let errno = values.into_iter().find(known);
            Outcome::Untried(errno.unwrap_or_default().into())
        }
    };
    report.row("queue by key", hidden(4))?;
    report.row("semaphores by key", hidden(5))?;
    report.row("memory by key", hidden(6))?;
    report.row("POSIX queue", hidden(7))?;
    report.verdict()
}

/// What this process sees: a value for each row of the report.
#[expect(unsafe_code, reason = "nix has no System V IPC")]
fn look(key: i32, make: bool) -> Result<[String; 8], Failure> {
    let namespace = fs::read_link("/proc/self/ns/ipc")
        .map_err(failed("readlink /proc/self/ns/ipc"))?;
    // A title, and a line for each object in the namespace of the process that
    // reads, whichever /proc this is.
    let count = |path: &str| match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().skip(1).count().to_string()),
        Err(error) => Err(failed(format!("read {path}"))(error)),
    };
    let open = |id: i32| {
        Errno::result(id).err().map_or("found".into(), |it| format!("{it:?}"))
    };
    let (how, flags) = if make { (IPC_CREAT | 0o600, O_CREAT) } else { (0, 0) };
    let (name, attr) = (format!("/{key:x}\0"), ptr::null::<mq_attr>());
    let name = name.as_ptr().cast();
    Ok([
        namespace.display().to_string(),
        count("/proc/sysvipc/msg")?,
        count("/proc/sysvipc/sem")?,
        count("/proc/sysvipc/shm")?,
        // SAFETY: numbers go in and come out; the name ends with a zero.
        open(unsafe { msgget(key, how) }),
        open(unsafe { semget(key, 1, how) }),
        open(unsafe { shmget(key, 1, how) }),
        open(unsafe { mq_open(name, flags, 0o600, attr) }),
    ])
}
