//! Does what the walks of `claims/propagation` say, one operation a line:
//! mounts, and mount namespaces, all below /media. After each it prints how the
//! operation ended, 0 or its errno, the mounts of each namespace that it has
//! changed, as /proc/self/mountinfo has them, and an empty line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufWriter, Write};
use std::os::fd::{FromRawFd, IntoRawFd};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::{clone, wait};

const BASE: &str = "/media";

fn at(
    source: &str,
    target: &str,
    kind: &str,
    flags: MsFlags,
) -> nix::Result<()> {
    mount(Some(source), target, Some(kind), flags, None::<&str>)
}

/// The mount namespace of the process that calls this.
fn here() -> File {
    File::open("/proc/self/ns/mnt").expect("a namespace")
}

/// The mount namespaces, by their numbers, and what their mounts were.
struct Namespaces {
    known: BTreeMap<u32, (File, String)>,
    now: u32,
}

impl Namespaces {
    /// The first one, with three file systems that can be mounted, 1 to 3.
    fn new() -> Namespaces {
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        at("", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE).expect("/");
        fs::create_dir_all(BASE).expect("a folder");
        at("base", BASE, "tmpfs", MsFlags::empty()).expect(BASE);
        fs::create_dir(format!("{BASE}/w")).expect("a folder");
        for number in 1..=3 {
            let of_its_own = format!("{BASE}/pool/{number}");
            fs::create_dir_all(&of_its_own).expect("a folder");
            at("pool", &of_its_own, "tmpfs", MsFlags::empty())
                .expect("a mount");
            for dir in ["a/a", "a/b", "b/a", "b/b"] {
                let dir = format!("{of_its_own}/{dir}");
                fs::create_dir_all(dir).expect("a folder");
            }
        }
        let known = BTreeMap::from([(0, (here(), String::new()))]);
        Namespaces { known, now: 0 }
    }

    fn enter(&mut self, number: u32) {
        if self.now != number {
            let (namespace, _) = &self.known[&number];
            setns(namespace, CloneFlags::CLONE_NEWNS).expect("setns");
            self.now = number;
        }
    }

    /// A copy of the namespace, in a new user namespace too, if USER.
    fn copy(&mut self, from: u32, to: u32, user: bool) {
        self.enter(from);
        let mut flags = CloneFlags::CLONE_NEWNS;
        flags.set(CloneFlags::CLONE_NEWUSER, user);
        // The child shares the descriptors, and its status is the number of the
        // one that keeps the namespace.
        let child = clone(CloneFlags::CLONE_FILES, || {
            unshare(flags).expect("unshare");
            here().into_raw_fd() as u8
        });
        // SAFETY: nobody else closes it.
        let namespace = unsafe { File::from_raw_fd(wait(child).into()) };
        self.known.insert(to, (namespace, String::new()));
    }

    fn end(&mut self, number: u32) {
        self.enter(0);
        self.known.remove(&number).expect("a namespace");
    }

    /// All as in the beginning.
    fn begin(&mut self) {
        let numbers: Vec<u32> = self.known.keys().copied().collect();
        for number in numbers.into_iter().filter(|it| *it != 0) {
            self.end(number);
        }
        self.enter(0);
        let top = format!("{BASE}/w");
        let _ = at("", &top, "", MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        while umount2(&*top, MntFlags::MNT_DETACH).is_ok() {}
        self.known.get_mut(&0).expect("the first").1.clear();
    }

    /// The mounts of each namespace that are not what they were.
    fn changes(&mut self, out: &mut impl Write) -> io::Result<()> {
        let numbers: Vec<u32> = self.known.keys().copied().collect();
        for number in numbers {
            self.enter(number);
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            let ours = mounts.lines().filter_map(|line| {
                let (line, _) = line.split_once(" - ")?;
                let at = line.split(' ').nth(4)?.strip_prefix(BASE)?;
                (!at.starts_with("/pool")).then_some(line)
            });
            let ours: String = ours.map(|it| format!("{it}\n")).collect();
            let (_, before) = self.known.get_mut(&number).expect("a namespace");
            if *before != ours {
                write!(out, "namespace {number}\n{ours}")?;
                *before = ours;
            }
        }
        Ok(())
    }
}

pub fn main() -> u8 {
    walk().expect("input, output and mounts");
    0
}

fn walk() -> io::Result<()> {
    let mut namespaces = Namespaces::new();
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |it: &str| -> u32 { it.parse().expect("a number") };
        let mut ended = Ok(());
        match words[..] {
            ["begin"] => namespaces.begin(),
            ["unshare", from, to, user] => {
                namespaces.copy(number(from), number(to), user == "user");
            }
            ["end", namespace] => namespaces.end(number(namespace)),
            _ => {
                namespaces.enter(number(words[1]));
                ended = perform(&words);
            }
        }
        if words[0] != "begin" {
            writeln!(out, "{}", ended.err().map_or(0, |errno| errno as i32))?;
            namespaces.changes(&mut out)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

/// What is done in one namespace.
fn perform(words: &[&str]) -> nix::Result<()> {
    let path = |it: &str| format!("{BASE}/{it}");
    let bind = MsFlags::MS_BIND;
    match *words {
        ["mount", _, pool @ ("1" | "2" | "3"), on] => {
            at(&format!("{BASE}/pool/{pool}"), &path(on), "", bind)
        }
        ["mount", _, _, on] => at("leaf", &path(on), "tmpfs", MsFlags::empty()),
        ["bind", _, from, to] => at(&path(from), &path(to), "", bind),
        ["rbind", _, from, to] => {
            at(&path(from), &path(to), "", bind | MsFlags::MS_REC)
        }
        ["move", _, from, to] => {
            at(&path(from), &path(to), "", MsFlags::MS_MOVE)
        }
        ["umount", _, on] => umount2(&*path(on), MntFlags::empty()),
        ["detach", _, on] => umount2(&*path(on), MntFlags::MNT_DETACH),
        [make, _, on] => {
            let kind = make.strip_prefix("make-").expect("a kind");
            let mut flags = match kind.trim_start_matches('r') {
                "unbindable" => MsFlags::MS_UNBINDABLE,
                "private" => MsFlags::MS_PRIVATE,
                "slave" => MsFlags::MS_SLAVE,
                "shared" => MsFlags::MS_SHARED,
                _ => panic!("{make}"),
            };
            flags.set(MsFlags::MS_REC, kind.starts_with('r'));
            at("", &path(on), "", flags)
        }
        _ => panic!("{words:?}"),
    }
}
