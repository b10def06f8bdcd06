//! Run COMMAND in a new PID namespace: as its PID 1.
//!
//!     usage: pid-demo [COMMAND [ARG]...]
//!
//! A PID namespace counts its processes from 1, and none outlives the first.
//! Only a child can be inside: this process supervises it (`supervise.rs`).
//! Man page: pid_namespaces(7). Book: chapter 2, "PID Namespace".

mod init;
mod supervise;

use std::{cell::Cell, io, process::ExitCode};

use nix::sched::CloneFlags;
use nix::unistd::{Pid, getpid, getppid};
use supervise::Supervisor;
use user_demo::link::child::{fork, receive, send};
use user_demo::link::report::{look, namespace, row, verdict};
use user_demo::link::{self, Call, proc_status};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    link::run("pid-demo", |command| {
        let Some(command) = command else { return report() };
        match enter()? {
            Some((child, supervisor)) => supervisor.wait(child),
            None => Err(link::exec(command)),
        }
    })
}

/// Returns twice, as fork does: `None` in the child, which is inside.
fn enter() -> Result<Option<(Pid, Supervisor)>, Failure> {
    // A process keeps its PID for life. So this says only in which namespace
    // its children will get theirs.
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;

    // The first child is PID 1. When it ends, the kernel kills all the others
    // inside, and a further fork says ENOMEM, with any amount of memory.
    let supervisor = Supervisor::new()?;
    match fork().map_err(failed(Call::Fork))? {
        Some(child) => Ok(Some((child, supervisor))),
        None => supervisor.in_child().map(|()| None),
    }
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let both = &Cell::new(Pid::this()); // Of the child: outside, and 1 inside.
    // One for each namespace, from that of /proc on inwards.
    let numbers = || proc_status("NSpid");
    let rows = [
        namespace("PID namespace", "pid"),
        row("PID", || Ok(getpid().to_string()), |it| it.becomes("1")),
        // Outside it changes where the parent ends meanwhile.
        row("parent PID", || Ok(getppid().to_string()), |it| it.inside == "0"),
        row("NSpid", numbers, |it| {
            it.inside.ends_with(&format!("{} 1", both.get())) && it.stays()
        }),
    ];
    let outside = look(&rows)?;
    let (reader, writer) = io::pipe().map_err(failed("pipe"))?;
    let Some((child, supervisor)) = enter()? else {
        send(look(&rows), writer);
        return Ok(ExitCode::SUCCESS);
    };
    both.set(child);
    drop(writer); // Or read never sees the end of the text.
    supervisor.wait(child)?;
    let inside = receive(reader)?;
    let again = look(&rows)?;
    verdict(&rows, [&outside, &inside, &again])
}
