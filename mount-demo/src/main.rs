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
use user_demo::link::report::{look, namespace, row, verdict};
use user_demo::link::{self, Call, child::in_child, read_link};
use user_demo::{Failure, failed};

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
    mount(none, "/", none, private, none).map_err(failed(Call::Private))?;

    // A /proc shows the PID namespace of the process that mounted it: the old
    // one still shows the outside. Mounts stack, so it is there, below ours.
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, none)
        .map_err(failed(Call::Mount("/proc".into())))
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let number = |text: &str| text.parse().map_or(0, |it: u32| it);
    let rows = [
        namespace("mount namespace", "mnt"),
        row(
            "/proc mounts",
            || Ok(at_proc()?.len().to_string()),
            |it| number(it.inside) == number(it.outside) + 1 && it.stays(),
        ),
        row("/proc propagation", propagation, |it| it.becomes("private")),
        // Outside it varies.
        row("processes in /proc", processes, |it| it.inside == "1"),
        row("/proc/self", || read_link("/proc/self"), |it| it.becomes("1")),
    ];
    let outside = look(&rows)?;
    // As in the book, the child is also PID 1 of a new PID namespace.
    user_demo::unshare(CloneFlags::CLONE_NEWPID)?;
    let (inside, child) = in_child(|| {
        enter()?;
        look(&rows)
    })?;
    drop(child); // The pitfall would last: look when the experiment is over.
    let again = look(&rows)?;
    verdict(&rows, [&outside, &inside, &again])
}

/// The mounts at /proc. The last one is on top.
fn at_proc() -> Result<Vec<String>, Failure> {
    let mounts = link::read("/proc/self/mountinfo")?;
    let stack = mounts.lines().filter(|line| line.contains(" / /proc "));
    Ok(stack.map(String::from).collect())
}

fn propagation() -> Result<String, Failure> {
    let top = at_proc()?.pop().unwrap_or_default();
    let kinds = [("shared", " shared:"), ("slave", " master:")];
    let kind = kinds.iter().find(|(_, sign)| top.contains(sign));
    Ok(kind.map_or("private", |it| it.0).into())
}

fn processes() -> Result<String, Failure> {
    let all = fs::read_dir("/proc")
        .map_err(failed(Call::Proc("read /proc".into())))?;
    let number = |it: &fs::DirEntry| it.file_name().as_bytes()[0] <= b'9';
    Ok(all.flatten().filter(number).count().to_string())
}
