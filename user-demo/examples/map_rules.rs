//! A process that enters a user namespace loses all privilege outside, root
//! too. So it may map one uid: its own, in one line of length one, once. It may
//! map its gid in the same way, but only after setgroups(2) is denied.
//!
//!     cargo run -p user-demo --example map_rules
//!
//! In each row a process in a new user namespace writes to the files of these
//! names in /proc/self. Man page: user_namespaces(7).

use std::{fs, io, process::ExitCode};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid, setgroups};
use user_demo::link::example::{self, learned, status};
use user_demo::link::{Call, child::fork};
use user_demo::{Failure, failed};

/// What is written, step by step, and how the last step ends. UID and GID are
/// the process's own ids, and UID+1 is another user's.
const ROWS: &[(&str, &str)] = &[
    ("uid_map 0 UID 1; setgroups deny; gid_map 0 GID 1", "done"),
    ("uid_map 0 UID 1; gid_map 0 GID 1", "EPERM"), // Since Linux 3.19.
    ("uid_map 0 UID+1 1", "EPERM"),
    ("uid_map 0 UID 1, 1 UID+1 1", "EPERM"),
    ("uid_map 0 UID 2", "EPERM"),
    ("uid_map 0 UID 1; uid_map 0 UID 1", "EPERM"),
    ("setgroups deny; setgroups allow", "EPERM"),
    ("uid_map 0 UID 1; setgroups deny; gid_map 0 GID 1; setgroups()", "EPERM"),
    ("uid_map 0 UID 0", "EINVAL"),
    ("uid_map 0 UID 1, 0 UID 1", "EINVAL"),
];

fn main() -> ExitCode {
    example::run("map_rules", run)
}

fn run() -> Result<u8, Failure> {
    let mut held = true;
    println!("{:62}  the last step", "written (UID, GID: one's own)");
    for (steps, fact) in ROWS {
        let Some(child) = fork().map_err(failed(Call::Fork))? else {
            return attempt(steps);
        };
        let n = status(Some(child))?;
        if n >= 125 {
            return Ok(125); // The child has printed why.
        }
        let error = format!("{:?}", Errno::from_raw(n.into()));
        let end = if n == 0 { "done" } else { &error };
        println!("{steps:62}  {end}");
        held &= end == *fact;
    }
    Ok(learned(held, "one line for one's own id, once; deny first."))
}

/// Does the steps in a user namespace of its own. The exit status is the errno
/// of the last one.
fn attempt(steps: &str) -> Result<u8, Failure> {
    let (uid, gid) = (getuid().as_raw(), getgid().to_string());
    let steps = steps.replace("UID+1", &(uid + 1).to_string());
    let steps = steps.replace("UID", &uid.to_string()).replace("GID", &gid);
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(failed(CloneFlags::CLONE_NEWUSER))?;
    let mut done = Ok(());
    for step in steps.split("; ") {
        done.map_err(failed("a step before the last"))?;
        done = match step.replace(", ", "\n").split_once(' ') {
            Some((file, map)) => fs::write(format!("/proc/self/{file}"), map),
            None => setgroups(&[]).map_err(io::Error::from),
        };
    }
    let errno = done.map_or_else(|error| error.raw_os_error(), |()| Some(0));
    Ok(errno.unwrap_or(125) as u8)
}
