//! What to do about a call that failed. Nearly every failure is about user
//! namespaces, and has one of many reasons. So each is looked for, in the
//! kernel's own words, before it is named.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs};

use nix::errno::Errno;

use crate::exec;
use crate::forbidden::{chrooted, forbidden, unmountable};

/// Whether this process has made a PID namespace, in which nothing was started
/// yet.
pub static NEW_PID_NAMESPACE: AtomicBool = AtomicBool::new(false);

/// What to do about a call that failed, on this machine.
pub fn advice(call: &str, errno: Errno) -> String {
    if let Some(name) = call.strip_prefix("exec ") {
        return exec::advice(name, errno).into();
    }
    let advice = match (call, errno) {
        ("write standard output", Errno::ENOSPC) => {
            return "The disk is full".into();
        }
        ("write standard output", Errno::EPIPE) => {
            return "Its reader has gone".into();
        }
        ("write standard output", _) => {
            return "Is it open for writing?".into();
        }
        ("fork", Errno::ENOMEM) if pid_1_is_dead() => {
            "PID 1 of the namespace is dead: nothing starts there".into()
        }
        ("fork", Errno::EAGAIN) => {
            "There are too many processes: see `ulimit -u`, and pids.max of \
             the cgroup"
                .into()
        }
        ("unshare(CLONE_NEWPID)", Errno::EINVAL)
            if link("pid_for_children") != link("pid") =>
        {
            "`unshare --pid` goes with --fork, before this demo".into()
        }
        (_, Errno::EINVAL | Errno::ENOSYS) if call.starts_with("unshare(") => {
            missing(call)
        }
        (_, Errno::ENOSPC) => exhausted(call),
        (_, Errno::EROFS) => {
            "/proc is mounted read-only (is this a container?): leave it, or \
             use `--privileged`"
                .into()
        }
        (_, Errno::ENOENT) if call.contains("/proc/") => proc_without(),
        ("mount /proc", Errno::EPERM) => unmountable(),
        ("mount / MS_REC|MS_PRIVATE", Errno::EINVAL) if chrooted() => {
            "No mount is at / in this chroot: leave it".into()
        }
        (_, Errno::EPERM | Errno::EACCES) => forbidden(call),
        _ => "See the man page of the call".into(),
    };
    let this = env::args_os().next().unwrap_or_default();
    let name = Path::new(&this).file_name().unwrap_or_default();
    let vm = format!("cargo run -p harness -- {}", name.display());
    format!("{advice}; the VM always works: {vm}")
}

/// The lines of /proc/self/mountinfo, split: the fifth is the mount point.
pub fn mounts() -> Vec<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let split = |line: &str| line.split(' ').map(String::from).collect();
    text.lines().map(split).collect()
}

/// Whether the next child would be in a PID namespace whose PID 1 has ended.
fn pid_1_is_dead() -> bool {
    let next = link("pid_for_children");
    !NEW_PID_NAMESPACE.load(Ordering::Relaxed)
        && next.is_some_and(|next| Some(next) != link("pid"))
}

/// Which namespace. The next child's has a name, before Linux 7.0, only when
/// it has a PID 1, or had one.
fn link(name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/ns/{name}")).ok()
}

/// EINVAL and ENOSYS of unshare.
fn missing(call: &str) -> String {
    let kind = kind(call);
    if !Path::new("/proc/self/ns").join(kind).exists() {
        return format!("This kernel has no {kind} namespaces");
    }
    if kind == "user" {
        return "User namespaces are switched off (RHEL and CentOS 7: boot \
                with user_namespace.enable=1)"
            .into();
    }
    "See the man page of the call".into()
}

/// As the kernel names a type in /proc.
pub fn kind(call: &str) -> &str {
    match call {
        "unshare(CLONE_NEWUSER)" => "user",
        "unshare(CLONE_NEWUTS)" => "uts",
        "unshare(CLONE_NEWIPC)" => "ipc",
        "unshare(CLONE_NEWPID)" => "pid",
        "unshare(CLONE_NEWNS)" => "mnt",
        "unshare(CLONE_NEWNET)" => "net",
        _ => "",
    }
}

/// ENOSPC: which limit, and how to raise it.
fn exhausted(call: &str) -> String {
    let most = fs::read_to_string("/proc/sys/fs/mount-max");
    let most = most.ok().and_then(|text| text.trim().parse().ok());
    match kind(call) {
        "" if call.starts_with("mount ")
            && most.is_some_and(|most: usize| mounts().len() >= most) =>
        {
            "No mount is left here: sudo sysctl -w fs.mount-max=100000".into()
        }
        "" => "A limit of this machine is reached".into(),
        kind => format!(
            "No {kind} namespace is left here (or 32 are nested): \
             sudo sysctl -w user.max_{kind}_namespaces=10000"
        ),
    }
}

/// ENOENT below /proc.
fn proc_without() -> String {
    let subset = |line: &Vec<String>| {
        line.get(4).is_some_and(|at| at == "/proc")
            && line.last().is_some_and(|options| options.contains("subset=pid"))
    };
    if mounts().iter().any(subset) {
        return "/proc is mounted with subset=pid: mount it without".into();
    }
    "Is /proc this PID namespace's own? See `findmnt /proc`".into()
}
