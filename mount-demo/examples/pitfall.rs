//! The book's pitfall: a new /proc inside breaks the one outside.
//!
//!     cargo run -p mount-demo --example pitfall
//!
//! Here the outside is a namespace as well. Man page: mount_namespaces(7).

use std::{io, process::Command, process::ExitCode};

use nix::libc::SIGCHLD;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, clone};
use nix::sys::wait::{WaitStatus, waitpid};
use user_demo::{Failure, failed, link};

type Status = Result<u8, Failure>;

fn main() -> ExitCode {
    link::example("pitfall", || {
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
    let held = [before, after, usual, once, twice];
    if held != [true, false, true, false, true] {
        return Ok(1);
    }
    println!("\nLearned: mounts stack, and umount takes the top one away.");
    Ok(0)
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
    done.map_err(failed(format!("mount {path}"))).map(|()| 0)
}

/// Runs this as PID 1 of new PID and mount namespaces, to its end.
#[expect(unsafe_code, reason = "the new process runs on a stack of ours")]
fn inside(mut run: impl FnMut() -> Status) -> Status {
    let mut stack = vec![0; 256 * 1024];
    let fail = |failure: Failure| failure.print("pitfall");
    let main = Box::new(|| run().unwrap_or_else(fail).into());
    let both = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    // SAFETY: the new process has a copy of all our memory, and there is one
    // thread only, so it may run any code.
    let child = unsafe { clone(main, &mut stack, both, Some(SIGCHLD)) };
    let child = child.map_err(failed("clone"))?;
    let end = waitpid(child, None).map_err(failed("waitpid"))?;
    Ok(if let WaitStatus::Exited(_, it) = end { it as u8 } else { 125 })
}
