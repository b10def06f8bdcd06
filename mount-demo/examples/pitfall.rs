//! The notes' pitfall: a new /proc inside breaks the one outside.
//!
//!     cargo run -p mount-demo --example pitfall
//!
//! Here the outside is a namespace as well. Man page: mount_namespaces(7).

use std::{io, process::Command, process::ExitCode};

use nix::mount::{MsFlags, mount};
use user_demo::link::Call;
use user_demo::link::example::{self, inside, learned};
use user_demo::{Failure, failed};

type Status = Result<u8, Failure>;

fn main() -> ExitCode {
    example::run("pitfall", || {
        // Not root. A user namespace needs no privilege, and gives all of it.
        inside(|| Ok(0)).or_else(|_| user_demo::enter().map(|()| 0))?;
        inside(outside)
    })
}

/// A machine that may be broken: its mounts are shared, and /proc is its own.
fn outside() -> Status {
    set("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?; // Nothing propagates.
    set("/proc", MsFlags::empty())?;
    set("/", MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    let before = works("ps")?;

    // When this returns, its PID namespace has ended. The mount is here, too.
    inside(|| set("/proc", MsFlags::empty()))?;
    println!("\n# a new /proc was mounted inside");
    let after = works("ps")? || works("mount")?;

    // Nothing is replaced: a line's second number is the id of the mount below.
    println!("\n# the usual repair");
    let usual = works("mount -t proc proc /proc")? && works("ps")?;
    works("grep ' / /proc ' /proc/self/mountinfo | tail -n 3")?;

    // Before the usual repair one umount was enough; now two are needed.
    println!("\n# the right repair");
    let once = works("umount /proc")? && works("ps")?;
    let twice = works("umount /proc")? && works("ps")?;
    let seen = [before, after, usual, once, twice];
    let held = seen == [true, false, true, false, true];
    Ok(learned(held, "mounts stack, and umount takes the top one away."))
}

fn works(line: &str) -> Result<bool, Failure> {
    println!("$ {line}");
    let mut sh = Command::new("sh");
    let end = sh.args(["-c", line]).stderr(io::stdout()).status();
    end.map(|status| status.success()).map_err(failed("exec sh"))
}

/// Changes the propagation; with empty flags it mounts a new /proc.
fn set(path: &str, how: MsFlags) -> Status {
    let done = mount(Some("proc"), path, Some("proc"), how, None::<&str>);
    done.map_err(failed(Call::Mount(path.into()))).map(|()| 0)
}
