//! EPERM and EACCES: what forbids a call, and how to allow it.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::libc::{self, AT_EGID, AT_EUID, AT_GID, AT_UID, c_ulong, getauxval};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::get_dumpable;
use nix::unistd::{getegid, geteuid, sethostname};

use super::call::Call;
use crate::link::kernel::{self, CAP_SYS_ADMIN, lacks, mounts, says};
use crate::link::setdomainname;

/// Does a seccomp filter answer instead of the kernel? Asked with arguments
/// about which the kernel itself says another error: before it asks for any
/// privilege, or where the caller has that.
pub fn filtered(call: &Call) -> bool {
    if kernel::status("Seccomp").concat() != "2" {
        return false;
    }
    let long = "x".repeat(65); // A name has 64 bytes at most.
    let (said, by_kernel) = match call {
        Call::Unshare(flags) => {
            (unshare(*flags | CloneFlags::CLONE_VFORK), Errno::EINVAL)
        }
        Call::Mount(_) | Call::Private => {
            let none = None::<&str>;
            (mount(none, "", none, MsFlags::empty(), none), Errno::ENOENT)
        }
        Call::Sethostname => (sethostname(&long), Errno::EINVAL),
        Call::Setdomainname => (setdomainname(&long), Errno::EINVAL),
        _ => return false,
    };
    said != Err(by_kernel)
}

/// EPERM from mounting /proc: parts of it are covered, or it belongs to a PID
/// namespace of another user namespace.
pub fn unmountable() -> Option<&'static str> {
    // A new mount may not show more of /proc than could be seen before.
    if mounts().iter().any(|mount| covers(&mount.at)) {
        return Some(
            "Parts of /proc are covered (is this a container?): leave it, or \
             start it with `--security-opt systempaths=unconfined` (Podman: \
             `unmask=ALL`)",
        );
    }
    (!owns_pid_namespace()).then_some(
        "/proc belongs to a PID namespace, which must be ours too: \
         user-demo pid-demo mount-demo COMMAND, in this order",
    )
}

/// Does a mount at this place hide a part of /proc? Not on the directories
/// that the kernel keeps empty for one: systemd mounts the first, and an NFS
/// server the second.
fn covers(at: &str) -> bool {
    let empty = ["/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd"];
    at.starts_with("/proc/") && !empty.contains(&at)
}

/// Does the PID namespace of this process belong to its user namespace? The
/// kernel refuses to name one that is further outside.
#[expect(unsafe_code, reason = "nix has no NS_GET_USERNS")]
fn owns_pid_namespace() -> bool {
    const NS_GET_USERNS: libc::Ioctl = 0xb701; // ioctl_ns(2)
    let Ok(pid) = File::open("/proc/self/ns/pid") else { return false };
    // SAFETY: it takes no argument, and returns a descriptor of our own.
    let owner = unsafe {
        match libc::ioctl(pid.as_raw_fd(), NS_GET_USERNS) {
            -1 => return false,
            owner => File::from_raw_fd(owner),
        }
    };
    let inode = |it: fs::Metadata| it.ino();
    owner.metadata().ok().map(inode)
        == fs::metadata("/proc/self/ns/user").ok().map(inode)
}

/// Is this process in a chroot? Then no mount is at its `/`, or its `/` is not
/// that of PID 1. Only root may ask for PID 1's.
pub fn chrooted() -> bool {
    let mounts = mounts();
    let link = |it: &str| fs::read_link(format!("/proc/{it}/ns/mnt")).ok();
    let root = |it: &str| fs::metadata(it).ok().map(|it| (it.dev(), it.ino()));
    !mounts.is_empty() && !mounts.iter().any(|mount| mount.at == "/")
        || link("1").is_some()
            && link("1") == link("self")
            && root("/proc/1/root").is_some_and(|it| Some(it) != root("/"))
}

/// EPERM and EACCES: what forbids the call, and how to allow it.
pub fn forbidden(call: &Call, errno: Errno) -> Option<String> {
    if let Call::Map(file) = call
        && let Some(advice) = map_refused(file, errno)
    {
        return Some(advice.into());
    }
    let restricts = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let clone = "/proc/sys/kernel/unprivileged_userns_clone";
    let advice = if !began_as_root() && says(restricts, "1") {
        "AppArmor restricts user namespaces here: sudo sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0"
    } else if let Some(profile) = apparmor() {
        return Some(format!(
            "AppArmor's profile {profile} may forbid it (is this a \
             container?): leave it, or start it with \
             `--security-opt apparmor=unconfined`"
        ));
    } else if !matches!(call, Call::Unshare(CloneFlags::CLONE_NEWUSER)) {
        return None;
    } else if says(clone, "0") && (lacks(CAP_SYS_ADMIN) || !is_initial()) {
        "User namespaces are for root here: \
         sudo sysctl -w kernel.unprivileged_userns_clone=1"
    } else if chrooted() {
        "No user namespace begins in a chroot: leave it"
    } else if !mapped("uid_map", geteuid().as_raw())
        || !mapped("gid_map", getegid().as_raw())
    {
        "Your uid or gid has no mapping in this user namespace: \
         see /proc/self/uid_map and gid_map"
    } else {
        return None;
    };
    Some(advice.into())
}

/// Why a map, or setgroups, could not be written. Until there is a map, the
/// kernel says the overflow id for each id: what they were stands in auxv.
fn map_refused(file: &str, errno: Errno) -> Option<&'static str> {
    let ids = [("Uid", geteuid().to_string()), ("Gid", getegid().to_string())];
    let pretended = ids.iter().any(|(name, said)| {
        kernel::status(name).get(1).is_some_and(|id| id != said)
    });
    let undumpable = errno == Errno::EACCES && get_dumpable() == Ok(false);
    let differ = |real, effective| at_start(real) != at_start(effective);
    Some(if pretended {
        "Your uid is pretended (fakeroot?), and the kernel maps real ones \
         only: call fakeroot inside, user-demo fakeroot COMMAND"
    } else if undumpable && differ(AT_UID, AT_EUID) {
        "Your real and effective uid differ, and so /proc/self is root's: \
         setpriv --reuid=UID --keep-groups COMMAND makes them one"
    } else if undumpable && differ(AT_GID, AT_EGID) {
        "Your real and effective gid differ, and so /proc/self is root's: \
         setpriv --regid=GID --keep-groups COMMAND makes them one"
    } else if undumpable {
        "This program's file cannot be read, or has capabilities, and so \
         /proc/self is root's: see PR_SET_DUMPABLE in prctl(2)"
    } else if began_as_root() && file == "uid_map" && errno == Errno::EPERM {
        "To map uid 0 takes CAP_SETFCAP since Linux 5.12, and this \
         root lacks it (in a container: `--cap-add SETFCAP`)"
    } else {
        return None;
    })
}

/// The AppArmor profile that confines this process.
fn apparmor() -> Option<String> {
    let text = fs::read_to_string("/proc/self/attr/apparmor/current").ok()?;
    text.trim().strip_suffix(" (enforce)").map(String::from)
}

/// Is this the initial user namespace? It maps every id to itself.
fn is_initial() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map");
    map.is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Is this id, as this process sees it, in a map? Without /proc nobody can
/// tell, and this says yes.
fn mapped(file: &str, id: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/self/{file}"));
    text.map_or(true, |map| maps(&map, id))
}

/// A line has the first id inside, the first id outside, and how many.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
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
fn began_as_root() -> bool {
    at_start(AT_EUID) == 0
}

/// What execve(2) has told this process: getauxval(3).
#[expect(unsafe_code, reason = "getauxval has no safe wrapper")]
fn at_start(what: c_ulong) -> c_ulong {
    // SAFETY: a number goes in and one comes out.
    unsafe { getauxval(what) }
}

#[test]
fn mount_covers_what_is_not_empty() {
    for at in ["/proc/timer_list", "/proc/sys", "/proc/sys/fs", "/proc/fs"] {
        assert!(covers(at), "{at}");
    }
    for at in ["/proc", "/process", "/", "/sys", "/sys/proc/acpi"] {
        assert!(!covers(at), "{at}");
    }
    assert!(!covers("/proc/sys/fs/binfmt_misc"));
    assert!(!covers("/proc/fs/nfsd"));
}

#[test]
fn map_has_ranges() {
    let map = "         0       1000          1\n 10 100000 5\n";
    let ids = [0, 10, 14];
    assert!(ids.iter().all(|&id| maps(map, id)));
    let ids = [1, 5, 9, 15, 1000, 100000, u32::MAX];
    assert!(!ids.iter().any(|&id| maps(map, id)));
    assert!(maps("0 0 4294967295", 4294967294));
    assert!(maps("5 0 4294967295", 6)); // No overflow.
    assert!(!maps("", 0) && !maps("0 0", 0));
}
