//! What to do about a refusal. Nearly every one is about user namespaces.

use std::{env, fs, path::Path};

use nix::errno::Errno;
use nix::unistd::geteuid;

/// What to do about a call that failed, on this machine.
pub fn advice(call: &str, errno: Errno) -> String {
    let advice = match (call, errno) {
        (call, Errno::ENOENT) if call.starts_with("exec ") => {
            return "Is the name spelled right, and is it on PATH?".into();
        }
        (call, _) if call.starts_with("exec ") => {
            return "Is it a program, and executable (chmod +x)?".into();
        }
        (call, _) if call.starts_with("write standard output") => {
            return "Is the disk full, or has the reader gone?".into();
        }
        (call, Errno::ENOENT) if call.contains("/proc/") => {
            "Is /proc this PID namespace's own? See `findmnt /proc`".into()
        }
        (call, Errno::ENOSPC) => exhausted(call),
        ("mount /proc", Errno::EPERM) => unmountable(),
        ("mount / MS_REC|MS_PRIVATE", Errno::EINVAL) => {
            "/ is no mount point here: is this a chroot?".into()
        }
        ("unshare(CLONE_NEWPID)", Errno::EINVAL) => {
            "`unshare --pid` goes with --fork, before this demo".into()
        }
        ("fork", Errno::ENOMEM) => {
            "Is PID 1 of this namespace dead? Then nothing starts".into()
        }
        (_, Errno::EINVAL | Errno::ENOSYS) => {
            "Does this kernel have the namespace? See /proc/self/ns".into()
        }
        (_, Errno::EPERM | Errno::EACCES) => forbidden(),
        _ => "See the man page of the call".into(),
    };
    format!("{advice}; the VM always works: {}", in_the_vm())
}

/// ENOSPC: which limit, and how to raise it.
fn exhausted(call: &str) -> String {
    let kind = match call {
        "unshare(CLONE_NEWUSER)" => "user",
        "unshare(CLONE_NEWUTS)" => "uts",
        "unshare(CLONE_NEWIPC)" => "ipc",
        "unshare(CLONE_NEWPID)" => "pid",
        "unshare(CLONE_NEWNS)" => "mnt",
        "unshare(CLONE_NEWNET)" => "net",
        _ => return "A limit of this machine is reached".into(),
    };
    format!(
        "No {kind} namespace is left here (or 32 are nested): \
         sudo sysctl -w user.max_{kind}_namespaces=10000"
    )
}

/// EPERM from a /proc: whose it would be, or what it would uncover.
fn unmountable() -> String {
    // A user namespace may not see more of /proc than was to be seen before.
    // What covers an empty directory, as systemd's binfmt_misc, hides nothing.
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    let covers = |line: &str| {
        let at = line.split(' ').nth(4).unwrap_or_default();
        at.starts_with("/proc/") && at != "/proc/sys/fs/binfmt_misc"
    };
    if mounts.is_ok_and(|mounts| mounts.lines().any(covers)) {
        return "Parts of /proc are covered (is this a container?): \
                leave it, or use `--privileged`"
            .into();
    }
    "/proc belongs to a PID namespace, which must be ours too: \
     user-demo pid-demo mount-demo COMMAND, in this order"
        .into()
}

/// EPERM and EACCES: who forbids it, and who may lift that.
fn forbidden() -> String {
    let says = |path: &str, what: &str| {
        fs::read_to_string(path).is_ok_and(|text| text.contains(what))
    };
    let sysctl = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    if !geteuid().is_root() && says(sysctl, "1") {
        return "AppArmor restricts user namespaces here: sudo sysctl -w \
                kernel.apparmor_restrict_unprivileged_userns=0"
            .into();
    }
    if says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return "User namespaces are for root here: \
                sudo sysctl -w kernel.unprivileged_userns_clone=1"
            .into();
    }
    if says("/proc/self/status", "Seccomp:\t2") {
        return "A seccomp filter forbids it (is this a container?): \
                leave it, or use `--privileged`"
            .into();
    }
    if !says("/proc/self/mountinfo", " / / ") {
        return "No user namespace begins in a chroot: leave it".into();
    }
    "Be root, or have user namespaces allowed".into()
}

/// The command line that runs this program in the harness's VM.
fn in_the_vm() -> String {
    let this = env::args_os().next().unwrap_or_default();
    let name = Path::new(&this).file_name().unwrap_or_default();
    format!("cargo run -p harness -- {}", name.display())
}
