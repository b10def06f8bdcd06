//! A new user namespace gives all capabilities at once, but no ids: those come
//! with the map. A program started before that has no capability at all.
//!
//!     cargo run -p user-demo --example before_the_map
//!
//! Man pages: user_namespaces(7), capabilities(7).

use std::process::{Command, ExitCode};
use std::{fs, io};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use user_demo::link::example::{self, learned};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("before_the_map", run)
}

fn run() -> Result<u8, Failure> {
    let (uid, gid) = (geteuid(), getegid());
    println!("{:20}  {:7}  {:7}  capabilities", "", "uid", "gid");
    row("outside", this()?, "", "");

    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(failed(CloneFlags::CLONE_NEWUSER))?;
    // Until a map is written, every id reads as the overflow id, 65534.
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid");
    let overflow = overflow.map_err(failed("read overflowuid"))?;
    let overflow = overflow.trim();
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap");
    let last = last.map_err(failed("read cap_last_cap"))?;
    let all = u64::MAX >> (63 - last.trim().parse().unwrap_or(63));
    let (all, none) = (format!("{all:016x}"), "0".repeat(16));
    let mut held = row("before the map", this()?, overflow, &all);
    // Only for uid 0 does execve(2) keep the capabilities, and this is not 0.
    held &= row("  and a program", program()?, overflow, &none);

    for (file, text) in [
        ("setgroups", "deny".into()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(failed(&*format!("write /proc/self/{file}")))?;
    }
    held &= row("after the map", this()?, "0", &all);
    held &= row("  and a program", program()?, "0", &all);
    Ok(learned(held, "only uid 0 keeps its capabilities at execve(2)."))
}

/// Prints what was measured. True if that is what the fact says.
fn row(when: &str, status: String, id: &str, capabilities: &str) -> bool {
    // "Uid:" and "Gid:" have four numbers: real, effective, saved, fsuid.
    let word = |name: &str, n: usize| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(n)).unwrap_or("?")
    };
    let (uid, gid, set) =
        (word("Uid:", 2), word("Gid:", 2), word("CapEff:", 1));
    println!("{when:20}  {uid:7}  {gid:7}  {set}");
    [uid, gid, set] == [id, id, capabilities]
}

fn this() -> Result<String, Failure> {
    fs::read_to_string("/proc/self/status").map_err(failed("read status"))
}

/// The same for a program that this process starts.
fn program() -> Result<String, Failure> {
    let output = Command::new("cat").arg("/proc/self/status").output();
    let text = output.and_then(|it| io::read_to_string(&*it.stdout));
    text.map_err(failed("exec cat"))
}
