//! EINVAL, ENOSYS, ENOSPC, ENOENT and EROFS: what this kernel does not have,
//! what it has no more of, and what this /proc does not show or permit.

use std::fs;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::utsname::uname;

use super::call::kind;
use crate::link::kernel::{self, Mount, mounts};

/// EINVAL and ENOSYS of unshare.
pub fn missing(flags: CloneFlags) -> Option<String> {
    let folder = Path::new("/proc/self/ns");
    let kind = kind(flags);
    if folder.exists() && !folder.join(kind).exists() {
        return Some(format!("This kernel has no {kind} namespaces"));
    }
    if kind != "user" {
        return None;
    }
    // Threads share memory, and would have different privilege.
    let threads = kernel::status("Threads").concat();
    if threads != "1" && !threads.is_empty() {
        return Some(format!(
            "This process has {threads} threads, and only one may enter \
             (a library of LD_PRELOAD, a #[test]?): see unshare(2)"
        ));
    }
    let release = uname().ok()?.release().to_string_lossy().into_owned();
    release.contains(".el7").then(|| {
        "User namespaces are switched off: boot with user_namespace.enable=1"
            .into()
    })
}

/// ENOSPC of unshare: how to raise the limit. Of the six types two nest.
pub fn exhausted(flags: CloneFlags) -> Option<String> {
    let kind = kind(flags);
    let or_nested = match kind {
        "" => return None,
        "user" => " (or 33 are nested)",
        "pid" => " (or 32 are nested)",
        _ => "",
    };
    Some(format!(
        "No {kind} namespace is left here{or_nested}: \
         sudo sysctl -w user.max_{kind}_namespaces=10000"
    ))
}

/// ENOSPC of mount.
pub fn no_mount_left() -> Option<String> {
    let most = fs::read_to_string("/proc/sys/fs/mount-max").ok()?;
    let most: usize = most.trim().parse().ok()?;
    (mounts().len() >= most).then(|| {
        "No mount is left here: sudo sysctl -w fs.mount-max=100000".into()
    })
}

/// The last one at /proc covers the others.
fn at_proc(mounts: &[Mount]) -> Option<&Mount> {
    mounts.iter().rfind(|mount| mount.at == "/proc")
}

/// ENOENT below /proc.
pub fn proc_without() -> &'static str {
    if at_proc(&mounts()).is_some_and(|proc| proc.has("subset=pid")) {
        return "/proc is mounted with subset=pid: mount it without";
    }
    let empty = |mut all: fs::ReadDir| all.next().is_none();
    if fs::read_dir("/proc").map_or(true, empty) {
        return "Nothing is mounted at /proc: mount -t proc proc /proc";
    }
    "Is /proc this PID namespace's own? See `findmnt /proc`"
}

/// EROFS below /proc.
pub fn read_only() -> Option<String> {
    at_proc(&mounts())?.has("ro").then(|| {
        "/proc is mounted read-only (is this a container?): leave it, or \
         sudo mount -o remount,rw /proc"
            .into()
    })
}

#[test]
fn threads_are_counted() {
    // A test has a thread of its own.
    let advice = missing(CloneFlags::CLONE_NEWUSER).expect("advice");
    assert!(advice.contains("threads, and only one may enter"), "{advice}");
    // The other types do not mind.
    assert_eq!(missing(CloneFlags::CLONE_NEWUTS), None);
}
