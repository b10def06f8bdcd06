//! Processes, as the outside's /proc shows them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

/// The outside's /proc. It is opened before the first container starts, and
/// nothing is read by the path `/proc`: a container that made no mount private
/// covers that for everybody, also for this program.
pub struct Proc(OwnedFd);

/// The namespaces that a container may have of its own, as /proc calls them.
/// The user namespace is the last: whoever joins it may join no other.
pub const NAMESPACES: [&str; 7] =
    ["cgroup", "ipc", "uts", "net", "pid", "mnt", "user"];

impl Proc {
    pub fn open() -> io::Result<Proc> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Proc(nix::fcntl::open("/proc", flags, Mode::empty())?))
    }

    /// A file below /proc, opened.
    pub fn open_at(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, path, flags, Mode::empty())?)
    }

    /// The text of a file below /proc. Bytes that are no text are replaced.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::from(self.open_at(path, OFlag::O_RDONLY)?)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The target of a link below /proc, or nothing.
    pub fn link(&self, path: &str) -> String {
        let target = readlinkat(&self.0, path).unwrap_or_default();
        target.to_string_lossy().into_owned()
    }

    /// The names in a folder below /proc that are numbers.
    pub fn numbers(&self, path: &str) -> Vec<i32> {
        let folder = self.open_at(path, OFlag::O_DIRECTORY);
        let folder = folder.and_then(|fd| Ok(Dir::from_fd(fd)?));
        let entries = folder.into_iter().flatten().flatten();
        entries
            .filter_map(|it| it.file_name().to_str().ok()?.parse().ok())
            .collect()
    }

    /// The words of a process's command line. A zombie and a kernel thread
    /// have none.
    pub fn argv(&self, pid: i32) -> Vec<String> {
        let line = self.read(&format!("{pid}/cmdline")).unwrap_or_default();
        let words = line.strip_suffix('\0').into_iter();
        words.flat_map(|line| line.split('\0')).map(String::from).collect()
    }

    /// A line of /proc/PID/status: proc_pid_status(5).
    pub fn status(&self, pid: i32, name: &str) -> Option<String> {
        field(&self.read(&format!("{pid}/status")).ok()?, name)
    }

    /// The id of a process's namespace, for example `uts:[4026531838]`.
    pub fn namespace(&self, pid: &str, name: &str) -> String {
        self.link(&format!("{pid}/ns/{name}"))
    }

    /// What a process is called in a reason: `sleep(12)`.
    pub fn name(&self, pid: i32) -> String {
        let name = self.read(&format!("{pid}/comm")).unwrap_or_default();
        format!("{}({pid})", name.trim_end())
    }
}

impl AsFd for Proc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A line of the text of /proc/PID/status.
pub fn field(status: &str, name: &str) -> Option<String> {
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(key, _)| *key == name);
    found.next().map(|(_, value)| value.trim().to_string())
}

/// A line of /proc/PID/mountinfo: proc_pid_mountinfo(5).
pub struct Mount<'a> {
    pub id: &'a str,
    /// The device's number, `major:minor`.
    pub device: &'a str,
    /// The directory of the file system that is mounted.
    pub root: &'a str,
    pub at: &'a str,
    /// Its peer group, and the one of which it is a slave.
    pub shared: Option<&'a str>,
    pub master: Option<&'a str>,
}

pub fn mounts(mountinfo: &str) -> Vec<Mount<'_>> {
    let parse = |line| {
        let (head, _) = str::split_once(line, " - ")?;
        let words: Vec<&str> = head.split(' ').collect();
        let [id, _, device, root, at, _, optional @ ..] = &words[..] else {
            return None;
        };
        let group = |tag| optional.iter().find_map(|it| it.strip_prefix(tag));
        let (shared, master) = (group("shared:"), group("master:"));
        Some(Mount { id, device, root, at, shared, master })
    };
    mountinfo.lines().filter_map(parse).collect()
}
