//! An `mqueue` file system shows the IPC namespace in which it was mounted, to
//! every process. mq_open(3) uses the caller's IPC namespace.
//!
//!     cargo run -p ipc-demo --example mqueue_mount
//!
//! Man pages: mq_overview(7), ipc_namespaces(7).

use std::{ffi::CStr, process::ExitCode};

use nix::mqueue::{MQ_OFlag, MqAttr, mq_open};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, stat};
use user_demo::Failure;
use user_demo::link::end;
use user_demo::link::example::{self, learned, make_private, new_mount, row};

fn main() -> ExitCode {
    example::run("mqueue_mount", run)
}

fn run() -> Result<u8, Failure> {
    // These two namespaces are the outside here: queues and mounts in them
    // vanish with this process.
    let flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS;
    user_demo::unshare(flags)?;
    make_private()?;
    let (none, create) = (MQ_OFlag::empty(), MQ_OFlag::O_CREAT);
    new_mount("tmpfs", "/tmp")?;
    new_mount("mqueue", "/tmp/before")?;
    let outside = [open(c"/outside", create), open(c"/inside", none)];

    user_demo::unshare(CloneFlags::CLONE_NEWIPC)?;
    new_mount("mqueue", "/tmp/after")?;
    let inside = [open(c"/outside", none), open(c"/inside", create)];
    let both = |at| ["outside", "inside"].map(|it| find(at, it));
    let (before, after) = (both("/tmp/before"), both("/tmp/after"));

    println!("{:18}  {:18}  queue inside", "", "queue outside");
    let held = row("mq_open outside", outside, ["found", "ENOENT"])
        & row("mq_open inside", inside, ["ENOENT", "found"])
        & row("mounted outside", before, ["found", "ENOENT"])
        & row("mounted inside", after, ["ENOENT", "found"]);
    Ok(learned(held, "a mount shows the namespace that mounted it."))
}

fn open(name: &CStr, how: MQ_OFlag) -> String {
    let attributes = MqAttr::new(0, 1, 1, 0);
    end(mq_open(name, how, Mode::S_IRUSR, Some(&attributes)), "found")
}

fn find(at: &str, name: &str) -> String {
    end(stat(format!("{at}/{name}").as_str()), "found")
}
