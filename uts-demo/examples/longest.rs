//! How long the names of a UTS namespace may be.
//!
//!     cargo run -p uts-demo --example longest
//!
//! Man pages: sethostname(2), setdomainname(2).

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use user_demo::Failure;
use user_demo::link::end;
use user_demo::link::example::{self, learned};

fn main() -> ExitCode {
    example::run("longest", run)
}

#[expect(unsafe_code, reason = "nix has no setdomainname")]
fn run() -> Result<u8, Failure> {
    // In its own namespace, so that the machine keeps its names.
    user_demo::unshare(CloneFlags::CLONE_NEWUTS)?;

    println!("{:18}  {:18}  65 bytes", "", "64 bytes");
    let name = [b'x'; 65];
    let name = name.as_ptr().cast();
    let mut held = true;
    // SAFETY: the kernel reads this many bytes, and keeps no pointer.
    held &=
        row("sethostname", |length| unsafe { libc::sethostname(name, length) });
    // SAFETY: as above.
    held &= row("setdomainname", |length| unsafe {
        libc::setdomainname(name, length)
    });
    // __NEW_UTS_LEN is 64: the kernel's buffer has one more byte, for the
    // zero.
    Ok(learned(held, "a name has 64 bytes at most."))
}

/// Prints what was measured. True if that is what the fact says.
fn row(call: &str, set: impl Fn(usize) -> i32) -> bool {
    let seen = [64, 65].map(|length| end(Errno::result(set(length)), "done"));
    example::row(call, seen, ["done", "EINVAL"])
}
