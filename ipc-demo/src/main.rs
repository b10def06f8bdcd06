//! Run COMMAND in a new IPC namespace: without the objects of others.
//!
//!     usage: ipc-demo [COMMAND [ARG]...]
//!
//! An IPC namespace holds System V's IPC objects and POSIX message queues.
//! Man page: ipc_namespaces(7). Book: chapter 2, "IPC Namespace".

use std::{cell::Cell, process::ExitCode, ptr};

use libc::{IPC_CREAT, O_CREAT, mq_attr, mq_open, msgget, semget, shmget};
use nix::{errno::Errno, sched::CloneFlags};
use user_demo::Failure;
use user_demo::link::report::{Outcome, Seen, look, namespace, row, verdict};
use user_demo::link::{self, child::in_child, end};

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
#[expect(unsafe_code, reason = "nix has no System V IPC")]
fn report() -> Result<ExitCode, Failure> {
    let key = &Cell::new(i32::from_be_bytes(*b"bird"));
    let make = &Cell::new(false);
    let how = || if make.get() { IPC_CREAT | 0o600 } else { 0 };
    let open = |id: i32| Ok(end(Errno::result(id), "found"));
    let posix = || {
        let (name, attr) =
            (format!("/{:x}\0", key.get()), ptr::null::<mq_attr>());
        let flag = if make.get() { O_CREAT } else { 0 };
        // SAFETY: the name ends with a zero; the attributes are the usual.
        open(unsafe { mq_open(name.as_ptr().cast(), flag, 0o600, attr) })
    };
    // SAFETY: numbers go in and come out.
    let queue = || open(unsafe { msgget(key.get(), how()) });
    let set = || open(unsafe { semget(key.get(), 1, how()) });
    let memory = || open(unsafe { shmget(key.get(), 1, how()) });
    let rows = [
        namespace("IPC namespace", "ipc"),
        // Others may make objects outside meanwhile.
        row("message queues", || count("msg"), |it| it.inside == "0"),
        row("semaphore sets", || count("sem"), |it| it.inside == "0"),
        row("shared memory", || count("shm"), |it| it.inside == "0"),
        row("queue by key", queue, hidden),
        row("semaphores by key", set, hidden),
        row("memory by key", memory, hidden),
        row("POSIX queue", posix, hidden),
    ];
    while look(&rows)?.contains(&"found".into()) {
        key.set(key.get() + 1); // Somebody outside has one with this key.
    }
    let outside = look(&rows)?;
    let (inside, child) = in_child(|| {
        enter()?;
        make.set(look(&rows)?[0] != outside[0]); // Or make nothing.
        look(&rows)
    })?;
    let again = look(&rows)?; // While all the objects exist inside.
    drop(child);
    verdict(&rows, [&outside, &inside, &again])
}

/// How many objects are listed: a title, and a line for each in the namespace
/// of the process that reads, whichever /proc this is.
fn count(kind: &str) -> Result<String, Failure> {
    let text = link::read(&format!("/proc/sysvipc/{kind}"))?;
    Ok(text.lines().skip(1).count().to_string())
}

/// What must hold for an object that is made inside.
fn hidden(seen: Seen) -> Outcome {
    match [seen.outside, seen.inside, seen.again] {
        ["ENOENT", "found", "ENOENT"] => Outcome::Isolated,
        ["ENOENT", "ENOENT", _] | [.., "found"] => Outcome::NotIsolated,
        values => {
            // A limit, or a filter.
            let known = |value: &&str| !["found", "ENOENT"].contains(value);
            let errno = values.into_iter().find(known);
            Outcome::Untried(errno.unwrap_or_default().into())
        }
    }
}
