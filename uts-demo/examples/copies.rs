//! A new UTS namespace starts with a copy of the caller's names. After that a
//! change in one namespace does not change the other.
//!
//!     cargo run -p uts-demo --example copies
//!
//! Man page: uts_namespaces(7).

use std::{fs::File, process::ExitCode};

use nix::sched::{CloneFlags, setns};
use nix::sys::utsname::uname;
use nix::unistd::sethostname;
use user_demo::link::example::{self, learned, row};
use user_demo::link::{Call, setdomainname};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("copies", run)
}

fn run() -> Result<u8, Failure> {
    // This namespace is the outside here, so that the machine keeps its names.
    user_demo::unshare(CloneFlags::CLONE_NEWUTS)?;
    let outside = File::open("/proc/self/ns/uts").map_err(failed("open"))?;
    rename("tree", "wood")?;

    // The kernel copies both names now, and never again.
    user_demo::unshare(CloneFlags::CLONE_NEWUTS)?;
    let inside = File::open("/proc/self/ns/uts").map_err(failed("open"))?;

    let at_birth = [names(&outside)?, names(&inside)?];
    rename("bird", "nest")?;
    let first = [names(&outside)?, names(&inside)?];
    go_to(&outside)?;
    rename("hill", "field")?;
    let then = [names(&outside)?, names(&inside)?];

    println!("{:18}  {:18}  inside", "", "outside");
    let held = row("at birth", at_birth, ["tree, wood", "tree, wood"])
        & row("inside renamed", first, ["tree, wood", "bird, nest"])
        & row("outside renamed", then, ["hill, field", "bird, nest"]);
    Ok(learned(held, "a new UTS namespace is a copy, and then its own."))
}

/// Enters a namespace, and returns both of its names.
fn names(namespace: &File) -> Result<String, Failure> {
    go_to(namespace)?;
    let it = uname().map_err(failed("uname"))?;
    Ok(format!("{}, {}", it.nodename().display(), it.domainname().display()))
}

fn go_to(namespace: &File) -> Result<(), Failure> {
    setns(namespace, CloneFlags::CLONE_NEWUTS).map_err(failed("setns"))
}

fn rename(host: &str, domain: &str) -> Result<(), Failure> {
    sethostname(host).map_err(failed(Call::Sethostname))?;
    setdomainname(domain).map_err(failed(Call::Setdomainname))
}
