//! Run COMMAND in a new mount namespace: with mounts and a /proc of its own.
//!
//!     usage: mount-demo [COMMAND [ARG]...]
//!
//! A mount namespace holds the tree of mounts: what is where below `/`.
//! Man page: mount_namespaces(7). Book: chapter 2, "Mount Namespace".

use std::os::unix::ffi::OsStrExt;
use std::{fs, process::ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use user_demo::{Failure, child::in_child, failed, link, report::Report};

fn main() -> ExitCode {
    link::run("mount-demo", |command| {
        let Some(command) = command else { return report() };
        enter()?;
        Err(link::exec(command))
    })
}

/// Copies all mounts, makes the copy private, and mounts a /proc of its own.
fn enter() -> Result<(), Failure> {
    // All mounts are copied. The copies of shared mounts are their peers, and
    // a mount made on one of them is made on all.
    user_demo::unshare(CloneFlags::CLONE_NEWNS)?;

    // systemd makes all mounts shared. So without this the new /proc would
    // also cover the one outside, and `ps` would fail there, even after this
    // program has ended, until `umount /proc`. MS_REC: the propagation of the
    // mount at /proc counts, not of the one at `/`.
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)
        .map_err(failed("mount / MS_REC|MS_PRIVATE"))?;

    // A /proc shows the PID namespace of the process that mounted it: the old
    // one still shows the outside. Mounts stack, so it is there, below ours.
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, none)
        .map_err(failed("mount /proc"))
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let outside = look()?;
    // As in the book, the child is also PID 1 of a new PID namespace.
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    let (inside, child) = in_child(|| {
        enter()?;
        look()
    })?;
    drop(child); // The pitfall would last: look when the experiment is over.
    let again = look()?;

    let same = |row: usize| again[row] == outside[row];
    let more = outside[1].parse().map_or(0, |mounts: u32| mounts + 1);
    let mut report = Report::new(&outside, &inside, &again)?;
    report.row("mount namespace", inside[0] != outside[0] && same(0))?;
    report.row("/proc mounts", inside[1] == more.to_string() && same(1))?;
    report.row("/proc propagation", inside[2] == "private" && same(2))?;
    report.row("processes in /proc", inside[3] == "1")?; // Outside it varies.
    report.row("/proc/self", inside[4] == "1" && same(4))?;
    report.verdict()
}

/// What this process sees: a value for each row of the report.
fn look() -> Result<[String; 5], Failure> {
    let link = |it| fs::read_link(it).map_err(failed("readlink /proc/self"));
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(failed("read /proc/self/mountinfo"))?;
    let stack = mounts.lines().filter(|line| line.contains(" / /proc "));
    let top = stack.clone().next_back().unwrap_or_default();
    let kinds = [("shared", " shared:"), ("slave", " master:")];
    let kind = kinds.iter().find(|(_, sign)| top.contains(sign));
    let all = fs::read_dir("/proc").map_err(failed("read /proc"))?.flatten();
    let processes = all.filter(|it| it.file_name().as_bytes()[0] <= b'9');
    Ok([
        link("/proc/self/ns/mnt")?.display().to_string(),
        stack.count().to_string(),
        kind.map_or("private", |it| it.0).to_string(),
        processes.count().to_string(),
        link("/proc/self")?.display().to_string(),
    ])
}
