//! EPERM and EACCES: what forbids a call, and how to allow it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::libc::{AT_EUID, getauxval};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::advice::{kind, mounts};

/// EPERM from mounting /proc: it belongs to another user namespace, or would
/// uncover what is covered now.
pub fn unmountable() -> String {
    // A new mount may not show more of /proc than could be seen before. A
    // mount on an empty directory, as systemd's binfmt_misc is, hides nothing.
    let covers = |line: &Vec<String>| {
        let at = line.get(4).map_or("", String::as_str);
        at.starts_with("/proc/") && at != "/proc/sys/fs/binfmt_misc"
    };
    if mounts().iter().any(covers) {
        return "Parts of /proc are covered (is this a container?): \
                leave it, or use `--privileged`"
            .into();
    }
    "/proc belongs to a PID namespace, which must be ours too: \
     user-demo pid-demo mount-demo COMMAND, in this order"
        .into()
}

/// Is this process in a chroot? Then no mount is at its `/`, or its `/` is not
/// that of PID 1. Only root may ask for PID 1's.
pub fn chrooted() -> bool {
    let mounts = mounts();
    let at_root = |line: &Vec<String>| line.get(4).is_some_and(|at| at == "/");
    let link = |it: &str| fs::read_link(format!("/proc/{it}/ns/mnt")).ok();
    let root = |it: &str| fs::metadata(it).ok().map(|it| (it.dev(), it.ino()));
    !mounts.is_empty() && !mounts.iter().any(at_root)
        || link("1").is_some()
            && link("1") == link("self")
            && root("/proc/1/root").is_some_and(|it| Some(it) != root("/"))
}

/// EPERM and EACCES: what forbids the call, and how to allow it.
pub fn forbidden(call: &str) -> String {
    if !kind(call).is_empty() && filtered(call) {
        return "A seccomp filter forbids it (is this a container?): \
                leave it, or use `--privileged`"
            .into();
    }
    let root = began_as_root();
    if root && call == "write /proc/self/uid_map" {
        return "To map uid 0 takes CAP_SETFCAP since Linux 5.12, and this \
                root lacks it"
            .into();
    }
    let sysctl = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    if !root && says(sysctl, "1") {
        return "AppArmor restricts user namespaces here: sudo sysctl -w \
                kernel.apparmor_restrict_unprivileged_userns=0"
            .into();
    }
    if call == "unshare(CLONE_NEWUSER)" {
        let clone = "/proc/sys/kernel/unprivileged_userns_clone";
        if !root && says(clone, "0") {
            return "User namespaces are for root here: \
                    sudo sysctl -w kernel.unprivileged_userns_clone=1"
                .into();
        }
        if chrooted() {
            return "No user namespace begins in a chroot: leave it".into();
        }
        if !mapped("uid_map", geteuid().as_raw())
            || !mapped("gid_map", getegid().as_raw())
        {
            return "Your uid or gid has no mapping in this user namespace: \
                    see /proc/self/uid_map and gid_map"
                .into();
        }
    }
    "Its reason cannot be seen from here (a security module, a chroot?): see \
     user_namespaces(7), and `dmesg`"
        .into()
}

/// Does a seccomp filter answer instead of the kernel? The kernel itself says
/// EINVAL to unshare(CLONE_VFORK), before it looks at anything else.
fn filtered(call: &str) -> bool {
    let name = call.trim_start_matches("unshare(").trim_end_matches(')');
    let flags = CloneFlags::from_name(name).unwrap_or(CloneFlags::empty());
    unshare(flags | CloneFlags::CLONE_VFORK) != Err(Errno::EINVAL)
}

/// Is this id, as this process sees it, in a map? Without /proc nobody can
/// tell, and this says yes.
fn mapped(file: &str, id: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/self/{file}"));
    text.is_err()
        || text.unwrap_or_default().lines().any(|line| {
            let mut words = line.split_whitespace().map(str::parse::<u32>);
            let (Some(Ok(first)), _, Some(Ok(count))) =
                (words.next(), words.next(), words.next())
            else {
                return false;
            };
            (first..first.saturating_add(count)).contains(&id)
        })
}

/// Whether it was started with uid 0. After unshare its uid is unmapped.
#[expect(unsafe_code, reason = "getauxval has no safe wrapper")]
fn began_as_root() -> bool {
    // SAFETY: a number goes in and one comes out.
    unsafe { getauxval(AT_EUID) == 0 }
}

fn says(path: &str, what: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == what)
}
