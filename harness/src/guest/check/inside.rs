//! Inside: the namespaces of COMMAND, which are entered by setns(2), and asked
//! by system calls: nothing is needed of the tools in the container's root.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{FileStat, fstat, stat};
use nix::sys::wait::waitpid;
use nix::unistd::{
    ForkResult, Gid, Uid, chroot, fchdir, fork, setgroups, setresgid, setresuid,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outside::Outside;
use super::proc::{NAMESPACES, field, mounts};

pub struct Inside<'a> {
    pub outside: &'a Outside,
    /// COMMAND's process.
    pub pid: i32,
    /// Its /proc/PID/status.
    pub status: String,
    /// Its /proc/PID/mountinfo: what is below its root.
    pub mountinfo: String,
    /// Its own namespaces. Those that it shares with the outside are not here.
    namespaces: Vec<(&'static str, OwnedFd)>,
    root: OwnedFd,
}

/// Where a question is asked: in which of COMMAND's namespaces, and in its root
/// directory. Namespaces that it has not are the outside's anyway.
pub type Place = &'static [&'static str];

/// How a process is called that has lost its parent.
pub const ORPHAN: &CStr = c"check-orphan";

/// As COMMAND itself: its root, its ids and its capabilities.
pub const AS_COMMAND: Place = &["ipc", "uts", "net", "mnt", "root", "user"];

impl<'a> Inside<'a> {
    pub fn of(pid: i32, outside: &'a Outside) -> io::Result<Inside<'a>> {
        let proc = &outside.proc;
        let its = |name| format!("{pid}/{name}");
        let mut namespaces = Vec::new();
        for name in NAMESPACES {
            let id = proc.namespace(&pid.to_string(), name);
            if id != proc.namespace("self", name) {
                let file = format!("{pid}/ns/{name}");
                namespaces.push((name, proc.open_at(&file, OFlag::O_RDONLY)?));
            }
        }
        Ok(Inside {
            outside,
            pid,
            status: proc.read(&its("status"))?,
            mountinfo: proc.read(&its("mountinfo"))?,
            namespaces,
            root: proc.open_at(&its("root"), OFlag::O_PATH)?,
        })
    }

    /// Whether it has a namespace of its own of this type.
    pub fn has(&self, name: &str) -> bool {
        self.namespaces.iter().any(|(there, _)| *there == name)
    }

    pub fn field(&self, name: &str) -> String {
        field(&self.status, name).unwrap_or_default()
    }

    /// COMMAND's PID, as itself sees it.
    pub fn own_pid(&self) -> i32 {
        let all = self.field("NSpid");
        all.split_whitespace()
            .last()
            .and_then(|it| it.parse().ok())
            .unwrap_or(0)
    }

    /// Whether COMMAND's root directory is the outside's.
    pub fn has_outsides_root(&self) -> bool {
        let outside = stat("/").map(|it| id(&it));
        fstat(&self.root).map(|it| id(&it)) == outside
    }

    /// Whether COMMAND's root directory is not that of its mount namespace: it
    /// called chroot(2).
    pub fn is_chrooted(&self) -> io::Result<bool> {
        let root = self.mount_id(self.root.as_fd())?;
        let here = id(&fstat(&self.root)?);
        let namespaces =
            self.ask(&["mnt"], || -> Option<(u64, u64, String)> {
                let top = std::fs::File::open("/").ok()?;
                let (device, inode) = id(&fstat(&top).ok()?);
                Some((device, inode, self.mount_id(top.as_fd()).ok()?))
            })?;
        Ok(namespaces != Some((here.0, here.1, root)))
    }

    /// The id of the mount that a descriptor belongs to.
    fn mount_id(&self, fd: BorrowedFd) -> io::Result<String> {
        let file = format!("self/fdinfo/{}", fd.as_raw_fd());
        let info = self.outside.proc.read(&file)?;
        Ok(field(&info, "mnt_id").unwrap_or_default())
    }

    /// Where the outside's root file system is mounted below COMMAND's root.
    pub fn places_of_outsides_root(&self) -> io::Result<Vec<String>> {
        let own = self.outside.proc.read("self/mountinfo")?;
        let own = mounts(&own);
        let Some(root) = own.iter().rfind(|it| it.at == "/") else {
            return Ok(Vec::new());
        };
        let all = mounts(&self.mountinfo).into_iter();
        let its = all.filter(|it| (it.device, it.root) == (root.device, "/"));
        Ok(its.map(|it| it.at.to_string()).collect())
    }

    /// COMMAND's effective "Uid" or "Gid", as the outside counts it.
    fn id(&self, kind: &str) -> u32 {
        let ids = self.field(kind);
        let effective = ids.split_whitespace().nth(1);
        effective.and_then(|it| it.parse().ok()).unwrap_or(u32::MAX)
    }

    /// The uid that COMMAND has in its user namespace, if it is mapped.
    pub fn mapped_uid(&self) -> Option<u32> {
        let map = format!("{}/uid_map", self.pid);
        self.outside.proc.read(&map).ok()?.lines().find_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let mut next = || numbers.next()?.ok();
            let (first, from, length) = (next()?, next()?, next()?);
            let nth = self.id("Uid").checked_sub(from)?;
            (nth < length).then(|| first + nth)
        })
    }

    /// Asks a question in this place, and returns the answer.
    ///
    /// # Errors
    /// If the place cannot be entered.
    pub fn ask<T: Serialize + DeserializeOwned>(
        &self,
        place: Place,
        question: impl FnOnce() -> T,
    ) -> io::Result<T> {
        // A child asks: a PID namespace is joined by children only, and out of a
        // user namespace leads no way back.
        let (mut from, mut to) = io::pipe()?;
        let child = forked(|| {
            let answer = self.enter(place).map(|()| question());
            let answer = answer.map_err(|error| error.to_string());
            let _ = postcard::to_stdvec(&answer).map(|it| to.write_all(&it));
        })?;
        drop(to);
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let _ = waitpid(child, None);
        let answer: Result<T, String> = postcard::from_bytes(&bytes)
            .map_err(|_| io::Error::other("it does not answer"))?;
        answer.map_err(io::Error::other)
    }

    /// Makes a process in COMMAND's PID namespace, whose parent has ended.
    pub fn orphan(&self, life: impl FnOnce()) -> io::Result<()> {
        self.ask(&["pid"], || forked(life).map(drop).map_err(text))?
            .map_err(io::Error::other)
    }

    /// Enters the place: all namespaces, then the root, and the user namespace
    /// last, since there this process loses what it needs for the others.
    fn enter(&self, place: Place) -> io::Result<()> {
        let join = |name: &str| {
            let its = self.namespaces.iter().find(|(it, _)| *it == name);
            let joined = its.map(|(_, fd)| setns(fd, CloneFlags::empty()));
            joined.transpose().map_err(|error| because(name, error))
        };
        for name in place.iter().filter(|it| !["root", "user"].contains(it)) {
            join(name)?;
            if *name == "pid" && self.has("pid") {
                become_a_child()?;
            }
        }
        if place.contains(&"root") {
            fchdir(&self.root)?;
            chroot(Path::new("."))?;
        }
        if place.contains(&"user") {
            // COMMAND's ids as the outside counts them, while there is no map
            // between: an id that is not mapped has no name inside.
            let all = self.outside.proc.read("self/status")?;
            let all = mask(&field(&all, "CapPrm").unwrap_or_default());
            let [uid, gid] = ["Uid", "Gid"].map(|kind| self.id(kind));
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            setgroups(&[])?;
            setresgid(gid, gid, gid)?;
            prctl::set_keepcaps(true)?;
            setresuid(uid, uid, uid)?;
            set_capabilities([all, all, 0])?;
            join("user")?;
            self.drop_bounding_set();
            let its = ["CapEff", "CapPrm", "CapInh"].map(|it| self.field(it));
            set_capabilities(its.map(|set| mask(&set)))?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "nix has no wrapper for it")]
    fn drop_bounding_set(&self) {
        let kept = mask(&self.field("CapBnd"));
        for capability in (0..64).filter(|it| kept >> it & 1 == 0) {
            // SAFETY: it takes numbers. For a number that is no capability it
            // returns an error.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
}

/// Sets the effective, permitted and inheritable capabilities: capset(2).
#[expect(unsafe_code, reason = "nix has no wrapper for it")]
fn set_capabilities(sets: [u64; 3]) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let data = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    // SAFETY: the kernel reads both, which have the layout of capset(2).
    let done = unsafe {
        libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr())
    };
    Errno::result(done).map(drop).map_err(|e| because("capset", e))
}

/// A directory, as stat(2) tells it from others.
fn id(it: &FileStat) -> (u64, u64) {
    (it.st_dev, it.st_ino)
}

fn because(what: &str, error: Errno) -> io::Error {
    io::Error::other(format!("{what}: {}", error.desc()))
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// The bits of a mask in /proc/PID/status.
pub fn mask(hexadecimal: &str) -> u64 {
    u64::from_str_radix(hexadecimal, 16).unwrap_or_default()
}

/// Runs this in a child.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn forked(life: impl FnOnce()) -> io::Result<nix::unistd::Pid> {
    // SAFETY: this program has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            life();
            // SAFETY: it ends at once, and nothing of its parent's is undone.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Joining a PID namespace concerns the next child: the caller becomes that
/// child, and its former self waits for it.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn become_a_child() -> io::Result<()> {
    // SAFETY: as above.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        let _ = waitpid(child, None);
        // SAFETY: as above.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}
