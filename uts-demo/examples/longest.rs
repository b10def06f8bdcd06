//! How long the names of a UTS namespace may be.
//!
//!     cargo run -p uts-demo --example longest
//!
//! Man pages: sethostname(2), setdomainname(2).

use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::unistd::sethostname;
use user_demo::Failure;
use user_demo::link::example::{self, learned};
use user_demo::link::{end, setdomainname};

fn main() -> ExitCode {
    example::run("longest", run)
}

fn run() -> Result<u8, Failure> {
    // In its own namespace, so that the machine keeps its names.
    user_demo::unshare(CloneFlags::CLONE_NEWUTS)?;

    println!("{:18}  {:18}  65 bytes", "", "64 bytes");
    let held = row("sethostname", |name| sethostname(name))
        & row("setdomainname", setdomainname);
    // __NEW_UTS_LEN is 64: the kernel's buffer has one more byte, for the
    // zero.
    Ok(learned(held, "a name has 64 bytes at most."))
}

/// Prints what was measured. True if that is what the fact says.
fn row(call: &str, set: fn(&str) -> nix::Result<()>) -> bool {
    let seen = [64, 65].map(|length| end(set(&"x".repeat(length)), "done"));
    example::row(call, seen, ["done", "EINVAL"])
}
