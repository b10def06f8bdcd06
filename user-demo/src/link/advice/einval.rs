//! EINVAL, ENOSYS, ENOSPC and ENOENT: what this kernel does not have, what it
//! has no more of, and what this /proc does not show.

use std::fs;
use std::path::Path;

use crate::advice::{kind, mounts};

/// EINVAL and ENOSYS of unshare.
pub fn missing(call: &str) -> String {
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

/// ENOSPC: which limit, and how to raise it.
pub fn exhausted(call: &str) -> String {
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
pub fn proc_without() -> String {
    let mounts = mounts(); // The last one at /proc covers the others.
    let at_proc =
        |line: &&Vec<String>| line.get(4).is_some_and(|at| at == "/proc");
    let options = mounts.iter().rfind(at_proc).and_then(|line| line.last());
    if options.is_some_and(|options| options.contains("subset=pid")) {
        return "/proc is mounted with subset=pid: mount it without".into();
    }
    "Is /proc this PID namespace's own? See `findmnt /proc`".into()
}
