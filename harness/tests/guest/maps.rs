//! Writes maps of uids, as `claims/maps.rs` says. Each line has, between tabs,
//! the uid and the capabilities of who creates the user namespace, those of who
//! writes the map (`inside`: the creator himself, from inside), and the maps. It
//! prints for each how the write ended: 0, or its errno. A map that is refused
//! leaves no trace, so the next one is written in the same namespace.

use std::fs;
use std::io::{self, BufRead, Read, Write};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_dumpable, set_keepcaps};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::{child, wait};

/// From now on this process has these ids and these capabilities, `UID:CAPS`.
fn become_user(user: &str) {
    let (uid, caps) = user.split_once(':').expect("two numbers");
    let uid = uid.parse().expect("a uid");
    let caps: u64 = caps.parse().expect("capabilities");
    let (low, high) = (caps as u32, (caps >> 32) as u32);
    let header = [0x2008_0522_u32, 0]; // Version 3, this process.
    let data = [low, low, 0, high, high, 0];
    set_keepcaps(true).expect("prctl");
    setgroups(&[]).expect("setgroups");
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setresgid(group, group, group).expect("setresgid");
    setresuid(user, user, user).expect("setresuid");
    let (header, data) = (header.as_ptr(), data.as_ptr());
    // SAFETY: both have the sizes of this version: capget(2).
    let done = unsafe { libc::syscall(libc::SYS_capset, header, data) };
    Errno::result(done).expect("capset");
    // Its files in /proc belong to it.
    set_dumpable(true).expect("prctl");
}

/// Writes maps until one is accepted. Sends a byte for each.
fn write(file: &str, maps: &[&str], mut results: &io::PipeWriter) {
    for map in maps {
        let end = match fs::write(file, map) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().expect("an errno"),
        };
        results.write_all(&[end as u8]).expect("a result");
        if end == 0 {
            break;
        }
    }
}

/// The same in a new user namespace. Returns the results.
fn attempt(creator: &str, writer: &str, maps: &[&str]) -> Vec<u8> {
    let (mut results, to_results) = io::pipe().expect("a pipe");
    let (made, to_made) = io::pipe().expect("a pipe");
    let (end, to_end) = io::pipe().expect("a pipe");
    let creating = child(|| {
        become_user(creator);
        unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
        if writer == "inside" {
            write("/proc/self/uid_map", maps, &to_results);
        }
        (&to_made).write_all(b"x").expect("a pipe");
        (&end).read_exact(&mut [0]).expect("a pipe");
        0
    });
    (&made).read_exact(&mut [0]).expect("a pipe");
    if writer != "inside" {
        let writing = child(|| {
            become_user(writer);
            write(&format!("/proc/{creating}/uid_map"), maps, &to_results);
            0
        });
        assert_eq!(wait(writing), 0);
    }
    (&to_end).write_all(b"x").expect("a pipe");
    assert_eq!(wait(creating), 0);
    drop(to_results);
    let mut all = Vec::new();
    results.read_to_end(&mut all).expect("results");
    all
}

pub fn main() -> u8 {
    for line in io::stdin().lock().lines() {
        let line = line.expect("a line").replace(';', "\n");
        let words: Vec<&str> = line.split('\t').collect();
        let [creator, writer, maps @ ..] = &words[..] else { panic!("{line}") };
        let mut next = 0;
        while next < maps.len() {
            let results = attempt(creator, writer, &maps[next..]);
            assert!(!results.is_empty(), "no result");
            results.iter().for_each(|it| println!("{it}"));
            next += results.len();
        }
    }
    0
}
