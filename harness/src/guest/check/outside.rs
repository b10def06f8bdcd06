//! The outside: what a container must leave as it was.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::mqueue::{MQ_OFlag, MqAttr, mq_open};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Pid, sethostname};

use super::patience;
use super::proc::{Proc, mounts};
use crate::guest::spawn::reap;

/// A queue of the outside, and a file that only root may write.
pub const QUEUE: &str = "/check-outside";
pub const FILE: &str = "check-outside";

/// Where a container leaves files, if it leaves any. Below these folders two
/// more levels are looked at.
const FOLDERS: [&str; 8] =
    ["/tmp", "/run", "/var", "/etc", "/mnt", "/root", "/home", "/dev"];

/// mount(8)'s own notes, which nobody removes.
const NOTES: &str = "/run/mount";

const CGROUPS: &str = "/sys/fs/cgroup";

/// Something that may be left behind: its kind, what tells it from the others,
/// and how a reason names it.
#[derive(PartialEq, Eq, Hash)]
struct Trace {
    kind: &'static str,
    key: String,
    name: String,
}

pub struct Outside {
    pub proc: Proc,
    /// The processes before the first start.
    processes: Vec<i32>,
    traces: Vec<Trace>,
}

impl Outside {
    pub fn new() -> io::Result<Outside> {
        let proc = Proc::open()?;
        let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_RDWR | MQ_OFlag::O_CLOEXEC;
        // Without attributes nix passes no mode either, and mq_open(3) takes
        // for both what happens to be in the registers.
        let attributes = MqAttr::new(0, 1, 1, 0);
        mq_open(QUEUE, flags, Mode::S_IRUSR, Some(&attributes))?;
        let file = Path::new("/").join(FILE);
        let mut only_root = fs::OpenOptions::new();
        only_root.write(true).create(true).mode(0o600).open(file)?;
        let mut outside =
            Outside { processes: proc.numbers("."), proc, traces: Vec::new() };
        outside.traces = outside.look();
        Ok(outside)
    }

    /// Waits until this is so, at most that long, times `$HARNESS_PATIENCE`.
    pub fn wait(
        &self,
        deadline: Duration,
        mut so: impl FnMut() -> bool,
    ) -> bool {
        let end = Instant::now() + patience(deadline);
        while !so() {
            if Instant::now() > end {
                return so();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// The processes that PREFIX has brought: all below this one, to which an
    /// orphan comes back (PR_SET_CHILD_SUBREAPER). Somebody else may be at work
    /// in this machine as well.
    pub fn strays(&self) -> Vec<i32> {
        let this = std::process::id() as i32;
        let mut new = self.proc.numbers(".");
        new.retain(|pid| !self.processes.contains(pid));
        // What was there before is above all that was not.
        let parents: HashMap<i32, i32> = new
            .iter()
            .filter_map(|pid| {
                let parent = self.proc.status(*pid, "PPid")?;
                Some((*pid, parent.parse().ok()?))
            })
            .collect();
        new.retain(|pid| {
            let mut above = *pid;
            while let Some(parent) = parents.get(&above) {
                above = *parent;
            }
            above == this
        });
        new
    }

    /// The one that has this name.
    pub fn named(&self, name: &CStr) -> Option<i32> {
        let has = |pid: &i32| self.proc.status(*pid, "Name");
        let mut strays = self.strays().into_iter();
        strays.find(|pid| has(pid).as_deref() == name.to_str().ok())
    }

    pub fn names(&self, processes: &[i32]) -> String {
        let names: Vec<_> =
            processes.iter().map(|pid| self.proc.name(*pid)).collect();
        names.join(", ")
    }

    /// What is wrong with the path `/proc`, if it does not show the outside.
    pub fn broken_proc(&self) -> Option<&'static str> {
        let whole = fstat(&self.proc).ok().map(|it| it.st_dev);
        let seen = fs::metadata("/proc").ok().map(|it| it.dev());
        let covered = Path::new("/proc/version").exists();
        match (whole == seen, covered) {
            (true, _) => None,
            (false, true) => Some("another proc is mounted over it"),
            (false, false) => Some("it is not mounted any more"),
        }
    }

    /// Ends what PREFIX has brought, and puts the rest of the outside back, so
    /// that the next start meets what the first one met. Returns what had been
    /// left, besides processes.
    pub fn put_back(&mut self) -> io::Result<Option<String>> {
        self.wait(Duration::from_secs(5), || {
            reap();
            let strays = self.strays();
            for stray in &strays {
                let _ = kill(Pid::from_raw(*stray), Signal::SIGKILL);
            }
            strays.is_empty()
        });
        let now = self.look();
        let then: HashSet<&Trace> = self.traces.iter().collect();
        let still: HashSet<&Trace> = now.iter().collect();
        let new = |it: &&Trace| !then.contains(it);
        let gone = self.traces.iter().filter(|it| !still.contains(it));
        let mut left: Vec<String> = Vec::new();
        for trace in now.iter().filter(new) {
            left.push(format!("{} {}", trace.kind, trace.name));
        }
        for trace in gone {
            // A mount that was changed is new and gone: told once.
            let there = format!("{} {}", trace.kind, trace.name);
            if !left.contains(&there) {
                left.push(format!("{there} is gone"));
            }
        }
        if left.is_empty() {
            return Ok(None);
        }
        // What was made last is removed first.
        for trace in now.iter().rev().filter(new) {
            let name = Path::new(&trace.name);
            let _ = match trace.kind {
                "mount" => umount2(name, MntFlags::MNT_DETACH).is_ok(),
                "cgroup" => fs::remove_dir(name).is_ok(),
                "file" => fs::remove_file(name)
                    .or_else(|_| fs::remove_dir(name))
                    .is_ok(),
                "interface" => Command::new("ip")
                    .args(["link", "delete", &trace.name])
                    .status()
                    .is_ok(),
                _ => false,
            };
        }
        if let Some(name) = self.traces.iter().find(|it| it.kind == "hostname")
        {
            sethostname(&name.name)?;
        }
        if self.broken_proc().is_some() {
            let proc = Some("proc");
            mount(proc, "/proc", proc, MsFlags::empty(), None::<&str>)?;
        }
        self.traces = self.look();
        let more = left.len().saturating_sub(3);
        left.truncate(3);
        let more = if more > 0 { format!(", {more} more") } else { "".into() };
        Ok(Some(left.join(", ") + &more))
    }

    /// Everything that may be left behind, except processes.
    fn look(&self) -> Vec<Trace> {
        let mut traces = Vec::new();
        let mut add = |kind, key: &str, name: &str| {
            traces.push(Trace { kind, key: key.into(), name: name.into() });
        };
        let mountinfo = self.proc.read("self/mountinfo").unwrap_or_default();
        for mount in mounts(&mountinfo) {
            let groups = [mount.shared, mount.master];
            add("mount", &format!("{} {groups:?}", mount.id), mount.at);
        }
        for name in interfaces() {
            add("interface", &name, &name);
        }
        for (kind, file) in [
            ("message queue", "msg"),
            ("semaphore set", "sem"),
            ("shared memory", "shm"),
        ] {
            let list = self.proc.read(&format!("sysvipc/{file}"));
            for line in list.unwrap_or_default().lines().skip(1) {
                let mut words = line.split_whitespace();
                let key = words.next().unwrap_or_default();
                add(kind, words.next().unwrap_or_default(), key);
            }
        }
        let name = hostname();
        add("hostname", &name, &name);
        let mut cgroups = Vec::new();
        walk(Path::new(CGROUPS), 9, true, &mut cgroups);
        let mut files = Vec::new();
        for folder in FOLDERS {
            walk(Path::new(folder), 3, false, &mut files);
        }
        for (kind, paths) in [("cgroup", cgroups), ("file", files)] {
            for path in paths {
                let path = path.to_string_lossy();
                add(kind, &path, &path);
            }
        }
        traces
    }

    /// The name that the outside had, if it has another one now.
    pub fn hostname_was(&self) -> Option<&str> {
        let now = hostname();
        let was = self.traces.iter().find(|it| it.kind == "hostname")?;
        (was.name != now).then_some(&was.name)
    }

    /// An interface that the outside had, and has no more.
    pub fn interface_gone(&self) -> Option<&str> {
        let now = interfaces();
        let mut had = self.traces.iter().filter(|it| it.kind == "interface");
        had.find(|it| !now.contains(&it.name)).map(|it| &*it.name)
    }

    /// The cgroups that PREFIX has made, and that have a limit of memory.
    pub fn memory_limits(&self) -> Vec<PathBuf> {
        let is_new = |path: &PathBuf| {
            let path = path.to_string_lossy();
            !self.traces.iter().any(|it| it.kind == "cgroup" && it.key == path)
        };
        // Without a limit the file says `max`, and in version 1 the largest
        // number of whole pages.
        let is_limited = |path: &PathBuf| {
            let files = ["memory.max", "memory.limit_in_bytes"];
            let mut files = files.iter().map(|it| path.join(it));
            let text = files.find_map(|it| fs::read_to_string(it).ok());
            let bytes = text.and_then(|it| it.trim().parse::<u64>().ok());
            bytes.is_some_and(|bytes| bytes < 1 << 60)
        };
        let mut cgroups = Vec::new();
        walk(Path::new(CGROUPS), 9, true, &mut cgroups);
        cgroups.retain(|path| is_new(path) && is_limited(path));
        cgroups
    }

    /// The directories of the cgroups that a process is in: proc_pid_cgroup(5).
    pub fn cgroups(&self, pid: i32) -> Vec<PathBuf> {
        let list = self.proc.read(&format!("{pid}/cgroup")).unwrap_or_default();
        let lines = list.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (hierarchy, path) = (parts.next()?, parts.next()?);
            let hierarchy = Path::new(CGROUPS).join(hierarchy);
            Some(hierarchy.join(path.trim_start_matches('/')))
        });
        lines.collect()
    }
}

fn hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The names of the network interfaces of the caller's network namespace.
pub fn interfaces() -> Vec<String> {
    let mut names: Vec<String> = getifaddrs()
        .into_iter()
        .flatten()
        .map(|it| it.interface_name)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The paths below this folder, in this file system and down to this depth.
fn walk(dir: &Path, depth: usize, only_dirs: bool, found: &mut Vec<PathBuf>) {
    let device =
        |path: &Path| fs::symlink_metadata(path).ok().map(|it| it.dev());
    let here = device(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|it| it.is_dir());
        if path == Path::new(NOTES) || only_dirs && !is_dir {
            continue;
        }
        found.push(path.clone());
        if is_dir && depth > 1 && device(&path) == here {
            walk(&path, depth - 1, only_dirs, found);
        }
    }
}
