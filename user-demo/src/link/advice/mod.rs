//! What to do about a call that failed. One errno has many possible reasons,
//! above all with user namespaces. So the kernel is asked about each reason
//! before it is named.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs};

use nix::errno::Errno;

use crate::exec;
use crate::forbidden::{chrooted, forbidden, unmountable};
use crate::missing::{exhausted, missing, proc_without};

/// Whether this process has made a PID namespace, in which no process was
/// started yet.
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

/// Which namespace it is. Before Linux 7.0 that of the next child can be read
/// only when it has a PID 1, or had one.
fn link(name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/ns/{name}")).ok()
}

/// The type of namespace that the call makes, as /proc names it.
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
