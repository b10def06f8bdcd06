//! Enter a user namespace: the one step that needs no privilege, and that
//! gives the privilege for the other five namespaces.
//!
//! The other demos take this step when their caller lacks a capability. Man
//! page: user_namespaces(7). What else the six have in common stands in
//! [`link`], and is not about namespaces.

use std::{fs, sync::atomic::Ordering};

use nix::errno::Errno;
use nix::sched::{self, CloneFlags};
use nix::unistd::{getegid, geteuid};

use link::Call;
use link::kernel::{CAP_NET_ADMIN, NEW_PID_NAMESPACE, lacks};

pub mod link;
pub use link::{Failure, failed};

/// Moves this process into a new user namespace, as uid 0 and gid 0 there.
///
/// # Errors
/// `unshare` says EPERM in a chroot, under a seccomp filter and where user
/// namespaces are for root only; ENOSPC where there are too many of them, or
/// 33 are nested; EINVAL in a process with more than one thread. Ubuntu's
/// AppArmor permits it and refuses the maps.
pub fn enter() -> Result<(), Failure> {
    // After unshare, and until a map is written, both would read as the
    // overflow id, 65534.
    let (uid, gid) = (geteuid(), getegid());

    sched::unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(failed(CloneFlags::CLONE_NEWUSER))?;

    // Dropping a group could gain access that the group is denied. So since
    // Linux 3.19 setgroups(2) must be denied before gid_map is written, unless
    // the writer has CAP_SETGID outside. Nobody has it after unshare: the
    // capabilities of this process are now over the new namespace only.
    fs::write("/proc/self/setgroups", "deny")
        .map_err(failed(Call::Map("setgroups")))?;

    // "0 1000 1": a range of length 1, from 0 inside and from 1000 outside.
    // Without privilege outside, a process may map its own ids only, once.
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
        .map_err(failed(Call::Map("uid_map")))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
        .map_err(failed(Call::Map("gid_map")))
}

/// unshare(2) for any caller: moves this process into new namespaces.
///
/// A new namespace of any other type takes CAP_SYS_ADMIN, and to bring up what
/// is in a network namespace takes CAP_NET_ADMIN. A caller without them enters
/// a user namespace first. That needs no privilege, and in it the process has
/// all capabilities, over whatever namespaces it makes there.
///
/// # Errors
/// As unshare(2), and as [`enter`].
pub fn unshare(namespaces: CloneFlags) -> Result<(), Failure> {
    // In a container root may have the first and not the second.
    let useless =
        namespaces.contains(CloneFlags::CLONE_NEWNET) && lacks(CAP_NET_ADMIN);
    let mut done = Err(Errno::EPERM);
    if !useless {
        done = sched::unshare(namespaces);
    }
    if done == Err(Errno::EPERM) {
        enter()?;
        done = sched::unshare(namespaces);
    }
    if done.is_ok() && namespaces.contains(CloneFlags::CLONE_NEWPID) {
        NEW_PID_NAMESPACE.store(true, Ordering::Relaxed);
    }
    done.map_err(failed(namespaces))
}
