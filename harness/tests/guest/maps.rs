//! Writes maps of uids, as `claims/maps.rs` says, one a line: the uid and the
//! capabilities of who creates the user namespace, and of who writes the map
//! (`inside`: the creator himself, from inside), and the map's lines. It prints
//! for each how the write ended: 0, or its errno. A map that is refused leaves
//! no trace, so the next one is written in the same namespace. Built by rustc
//! alone, so the C library's functions are declared here.

use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::fs::OpenOptions;
use std::io::{self, BufRead, Read, Write};
use std::{process, ptr};

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setgroups(count: usize, groups: *const c_uint) -> c_int;
    fn setresgid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn setresuid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn capset(header: *const c_void, data: *const c_void) -> c_int;
}

const NEWUSER: c_int = 0x1000_0000;
const SET_DUMPABLE: c_int = 4;
const SET_KEEPCAPS: c_int = 8;

fn done(returned: c_int) {
    assert_eq!(returned, 0, "{}", io::Error::last_os_error());
}

/// From now on this process has these ids and these capabilities, `UID:CAPS`.
fn become_user(user: &str) {
    let (uid, caps) = user.split_once(':').expect("two numbers");
    let uid: c_uint = uid.parse().expect("a uid");
    let caps: u64 = caps.parse().expect("capabilities");
    let (low, high) = (caps as u32, (caps >> 32) as u32);
    let header = [0x2008_0522_u32, 0]; // Version 3, this process.
    let data = [low, low, 0, high, high, 0];
    let one: c_ulong = 1;
    unsafe {
        done(prctl(SET_KEEPCAPS, one));
        done(setgroups(0, ptr::null()));
        done(setresgid(uid, uid, uid));
        done(setresuid(uid, uid, uid));
        done(capset(header.as_ptr().cast(), data.as_ptr().cast()));
        // Its files in /proc belong to it.
        done(prctl(SET_DUMPABLE, one));
    }
}

/// Runs this in a child, and returns its PID.
fn child(run: impl FnOnce()) -> c_int {
    let pid = unsafe { fork() };
    if pid == 0 {
        run();
        process::exit(0);
    }
    assert!(pid > 0, "fork: {}", io::Error::last_os_error());
    pid
}

fn wait(pid: c_int) {
    let mut status = 0;
    assert_eq!(unsafe { waitpid(pid, &mut status, 0) }, pid, "waitpid");
    assert_eq!(status, 0, "a child");
}

/// Writes maps until one is accepted. Sends a byte for each.
fn write(file: &str, maps: &[String], mut results: &io::PipeWriter) {
    for map in maps {
        let file = OpenOptions::new().write(true).open(file);
        let mut file = file.expect("a map");
        let end = match file.write(map.as_bytes()) {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().expect("an errno"),
        };
        results.write_all(&[end as u8]).expect("a result");
        if end == 0 {
            break;
        }
    }
}

/// The same in a new user namespace. Returns the results.
fn attempt(creator: &str, writer: &str, maps: &[String]) -> Vec<u8> {
    let (mut results, to_results) = io::pipe().expect("a pipe");
    let (made, to_made) = io::pipe().expect("a pipe");
    let (end, to_end) = io::pipe().expect("a pipe");
    let tell = |mut pipe: &io::PipeWriter| pipe.write_all(b"x").expect("a pipe");
    let hear = |mut pipe: &io::PipeReader| {
        pipe.read_exact(&mut [0]).expect("a pipe");
    };
    let creating = child(|| {
        become_user(creator);
        done(unsafe { unshare(NEWUSER) });
        if writer == "inside" {
            write("/proc/self/uid_map", maps, &to_results);
        }
        tell(&to_made);
        hear(&end);
    });
    hear(&made);
    if writer != "inside" {
        wait(child(|| {
            become_user(writer);
            write(&format!("/proc/{creating}/uid_map"), maps, &to_results);
        }));
    }
    tell(&to_end);
    wait(creating);
    drop(to_results);
    let mut all = Vec::new();
    results.read_to_end(&mut all).expect("results");
    all
}

fn main() {
    let mut groups: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line.expect("a line");
        let (creator, rest) = line.split_once(' ').expect("a writer");
        let (writer, map) = rest.split_once(' ').expect("a map");
        let map = map.replace(';', "\n");
        match groups.last_mut() {
            Some((a, b, maps)) if a == creator && b == writer => maps.push(map),
            _ => groups.push((creator.into(), writer.into(), vec![map])),
        }
    }
    for (creator, writer, maps) in groups {
        let mut next = 0;
        while next < maps.len() {
            let results = attempt(&creator, &writer, &maps[next..]);
            assert!(!results.is_empty(), "no result");
            results.iter().for_each(|it| println!("{it}"));
            next += results.len();
        }
    }
}
