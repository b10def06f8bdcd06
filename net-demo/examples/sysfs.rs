//! /proc/net shows the caller's network namespace. /sys/class/net shows that
//! of the process that mounted /sys, until /sys is mounted anew.
//!
//!     cargo run -p net-demo --example sysfs
//!
//! Man pages: network_namespaces(7), sysfs(5). Outside there must be an
//! interface other than `lo`, or no difference is seen.

use std::{collections::BTreeSet, fs, process::ExitCode};

use nix::sched::CloneFlags;
use user_demo::link::example::{self, learned, make_private, new_mount};
use user_demo::link::read;
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("sysfs", run)
}

fn run() -> Result<u8, Failure> {
    let outside = [proc()?, sys()?];

    // With a mount namespace, so that the machine keeps its /sys.
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    user_demo::unshare(flags)?;
    let inside = [proc()?, sys()?];

    make_private()?;
    new_mount("sysfs", "/sys")?;
    let anew = [proc()?, sys()?];

    println!("{:18}  {:26}  /sys/class/net", "", "/proc/net/dev");
    for (when, [proc, sys]) in
        [("outside", &outside), ("inside", &inside), ("/sys anew", &anew)]
    {
        println!("{when:18}  {:26}  {}", short(proc), short(sys));
    }
    let follows = inside[0] != outside[0] && inside[0] == anew[0];
    let stays = inside[1] == outside[1] && inside[1] != inside[0];
    let held = follows && stays && anew[1] == anew[0];
    Ok(learned(held, "/sys shows the network namespace that mounted it."))
}

fn proc() -> Result<BTreeSet<String>, Failure> {
    let text = read("/proc/net/dev")?;
    let names = text.lines().skip(2).filter_map(|line| line.split(':').next());
    Ok(names.map(|name| name.trim().into()).collect())
}

fn sys() -> Result<BTreeSet<String>, Failure> {
    let dir = fs::read_dir("/sys/class/net");
    let dir = dir.map_err(failed("read /sys/class/net"))?.flatten();
    Ok(dir.map(|it| it.file_name().display().to_string()).collect())
}

/// A list that fits into its column.
fn short(names: &BTreeSet<String>) -> String {
    let more = names.len().saturating_sub(3);
    let all = names.iter().take(3).cloned().collect::<Vec<_>>().join(" ");
    if more == 0 { all } else { format!("{all} and {more} more") }
}
