//! Run COMMAND in a new PID namespace: as its PID 1.
//!
//!     usage: pid-demo [COMMAND [ARG]...]
//!
//! A PID namespace counts its processes from 1, and none outlives the first.
//! Only a child can be inside: this process supervises it (`supervise.rs`).
//! Man page: pid_namespaces(7). Book: chapter 2, "PID Namespace".

mod init;
mod supervise;

use std::{fs, io, process::ExitCode};

use nix::sched::CloneFlags;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use supervise::Supervisor;
use user_demo::child::{receive, send};
use user_demo::{Failure, failed, link, report::Report};

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
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn enter() -> Result<Option<(Pid, Supervisor)>, Failure> {
    // A process keeps its PID for life. So this says only in which namespace
    // its children will get theirs.
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;

    // The first child is PID 1. When it ends, the kernel kills all the others
    // inside, and a further fork says ENOMEM, with any amount of memory.
    let supervisor = Supervisor::new()?;
    // SAFETY: there is one thread only, so the child may go on as we do.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Parent { child } => Ok(Some((child, supervisor))),
        ForkResult::Child => supervisor.in_child().map(|()| None),
    }
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let outside = look()?;
    let (reader, writer) = io::pipe().map_err(failed("pipe"))?;
    let Some((child, supervisor)) = enter()? else {
        send(look(), writer);
        return Ok(ExitCode::SUCCESS);
    };
    drop(writer); // Or read never sees the end of the text.
    supervisor.wait(child)?;
    let inside: [String; 4] = receive(reader)?;
    let again = look()?;

    let same = |row: usize| again[row] == outside[row];
    let mut report = Report::new(&outside, &inside, &again)?;
    report.row("PID namespace", inside[0] != outside[0] && same(0))?;
    report.row("PID", inside[1] == "1" && same(1))?;
    // Outside it changes where the parent ends meanwhile.
    report.row("parent PID", inside[2] == "0")?;
    let both = format!("{child} 1"); // Outside, inside.
    report.row("NSpid", inside[3].ends_with(&both) && same(3))?;
    report.verdict()
}

/// What this process sees: a value for each row of the report.
fn look() -> Result<[String; 4], Failure> {
    let namespace = fs::read_link("/proc/self/ns/pid")
        .map_err(failed("readlink /proc/self/ns/pid"))?;
    let status = fs::read_to_string("/proc/self/status")
        .map_err(failed("read /proc/self/status"))?;
    let mut lines = status.lines();
    let numbers = lines.find_map(|line| line.strip_prefix("NSpid:\t"));
    Ok([
        namespace.display().to_string(),
        getpid().to_string(),
        getppid().to_string(),
        // One number for each namespace, from that of /proc on inwards.
        numbers.unwrap_or_default().replace('\t', " "),
    ])
}
