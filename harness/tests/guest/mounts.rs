//! Does what the walks of `claims/propagation` say, one operation a line:
//! mounts, and mount namespaces, all below /media. After each it prints how the
//! operation ended, the mounts of each namespace that it has changed, as
//! /proc/self/mountinfo has them, and an empty line. Built by rustc alone, so the C library's
//! functions are declared here.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::io::{self, BufRead, BufWriter, Write};
use std::{fs, ptr};

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn setns(descriptor: c_int, kind: c_int) -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn close(descriptor: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn _exit(status: c_int) -> !;
}

const BASE: &str = "/media";

const NEWNS: c_int = 0x20000;
const NEWUSER: c_int = 0x1000_0000;
const FILES_AND_SIGCHLD: c_int = 0x400 | 17;
const CLONE: c_long = if cfg!(target_arch = "aarch64") { 220 } else { 56 };
const BIND: c_ulong = 0x1000;
const MOVE: c_ulong = 0x2000;
const REC: c_ulong = 0x4000;
const PRIVATE: c_ulong = 1 << 18;
const DETACH: c_int = 2;

/// How a system call ended: 0, or its errno.
fn end(returned: c_int) -> c_int {
    match returned {
        -1 => io::Error::last_os_error().raw_os_error().expect("an errno"),
        _ => 0,
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

fn at(source: &str, target: &str, kind: &str, flags: c_ulong) -> c_int {
    let [source, target, kind] = [source, target, kind].map(text);
    end(unsafe {
        let (source, target) = (source.as_ptr(), target.as_ptr());
        mount(source, target, kind.as_ptr(), flags, ptr::null())
    })
}

fn unmount(target: &str, flags: c_int) -> c_int {
    end(unsafe { umount2(text(target).as_ptr(), flags) })
}

/// A descriptor of the mount namespace of the process that calls this.
fn here() -> c_int {
    unsafe { open(text("/proc/self/ns/mnt").as_ptr(), 0) }
}

/// The mount namespaces, by their numbers, and what their mounts were.
struct Namespaces {
    known: BTreeMap<u32, (c_int, String)>,
    now: u32,
}

impl Namespaces {
    /// The first one, with three file systems that can be mounted, 1 to 3.
    fn new() -> Namespaces {
        assert_eq!(end(unsafe { unshare(NEWNS) }), 0);
        assert_eq!(at("", "/", "", REC | PRIVATE), 0);
        fs::create_dir_all(BASE).expect("a folder");
        assert_eq!(at("base", BASE, "tmpfs", 0), 0);
        fs::create_dir(format!("{BASE}/w")).expect("a folder");
        for number in 1..=3 {
            let of_its_own = format!("{BASE}/pool/{number}");
            fs::create_dir_all(&of_its_own).expect("a folder");
            assert_eq!(at("pool", &of_its_own, "tmpfs", 0), 0);
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
            let (descriptor, _) = self.known[&number];
            assert_eq!(end(unsafe { setns(descriptor, NEWNS) }), 0);
            self.now = number;
        }
    }

    /// A copy of the namespace, in a new user namespace too, if USER.
    fn copy(&mut self, from: u32, to: u32, user: bool) {
        self.enter(from);
        // The child shares the descriptors, and its status is the number of the
        // one that keeps the namespace.
        let flags = if user { NEWUSER | NEWNS } else { NEWNS };
        let zero = 0 as c_long;
        let child = unsafe {
            let flags = FILES_AND_SIGCHLD as c_long;
            syscall(CLONE, flags, zero, zero, zero, zero)
        };
        if child == 0 {
            let made = unsafe { unshare(flags) } == 0;
            unsafe { _exit(if made { here() } else { 0 }) }
        }
        let mut status = 0;
        let ended = unsafe { waitpid(child as c_int, &mut status, 0) };
        assert_eq!(i64::from(ended), child as i64, "waitpid");
        assert!(status > 0xff, "unshare: {status}");
        self.known.insert(to, (status >> 8, String::new()));
    }

    fn end(&mut self, number: u32) {
        self.enter(0);
        let (descriptor, _) = self.known.remove(&number).expect("a namespace");
        unsafe { close(descriptor) };
    }

    /// All as in the beginning.
    fn begin(&mut self) {
        let numbers: Vec<u32> = self.known.keys().copied().collect();
        for number in numbers.into_iter().filter(|it| *it != 0) {
            self.end(number);
        }
        self.enter(0);
        let _ = at("", &format!("{BASE}/w"), "", REC | PRIVATE);
        while unmount(&format!("{BASE}/w"), DETACH) == 0 {}
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

fn main() -> io::Result<()> {
    let mut namespaces = Namespaces::new();
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let number =
            |at: usize| -> u32 { words[at].parse().expect("a number") };
        let path = |at: usize| format!("{BASE}/{}", words[at]);
        if !["begin", "unshare", "end"].contains(&words[0]) {
            namespaces.enter(number(1));
        }
        let mut ended = 0;
        match words[0] {
            "begin" => namespaces.begin(),
            "unshare" => namespaces.copy(number(1), number(2), words[3] == "user"),
            "end" => namespaces.end(number(1)),
            "mount" if number(2) > 3 => {
                ended = at("leaf", &path(3), "tmpfs", 0);
            }
            "mount" => {
                let source = format!("{BASE}/pool/{}", number(2));
                ended = at(&source, &path(3), "", BIND);
            }
            "bind" => ended = at(&path(2), &path(3), "", BIND),
            "rbind" => ended = at(&path(2), &path(3), "", BIND | REC),
            "move" => ended = at(&path(2), &path(3), "", MOVE),
            "umount" => ended = unmount(&path(2), 0),
            "detach" => ended = unmount(&path(2), DETACH),
            call => {
                let (kind, rec) = match call.strip_prefix("make-r") {
                    Some(kind) => (kind, REC),
                    None => (&call["make-".len()..], 0),
                };
                let flag = match kind {
                    "unbindable" => 1 << 17,
                    "private" => PRIVATE,
                    "slave" => 1 << 19,
                    "shared" => 1 << 20,
                    _ => panic!("{line}"),
                };
                ended = at("", &path(2), "", flag | rec);
            }
        }
        if words[0] != "begin" {
            writeln!(out, "{ended}")?;
            namespaces.changes(&mut out)?;
            writeln!(out)?;
        }
    }
    out.flush()
}
