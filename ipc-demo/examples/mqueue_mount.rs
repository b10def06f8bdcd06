//! An `mqueue` file system shows the IPC namespace in which it was mounted, to
//! every process. mq_open(3) uses the caller's IPC namespace.
//!
//!     cargo run -p ipc-demo --example mqueue_mount
//!
//! Man pages: mq_overview(7), ipc_namespaces(7).

use std::{ffi::CStr, fs, process::ExitCode};

use nix::mount::{MsFlags, mount};
use nix::mqueue::{MQ_OFlag, MqAttr, mq_open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, stat};
use user_demo::link::example::{self, learned, make_private, row};
use user_demo::link::{Call, end};
use user_demo::{Failure, failed};

const NONE: Option<&str> = None;

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
    new("/tmp", "tmpfs")?;
    new("/tmp/before", "mqueue")?;
    let outside = [open(c"/outside", create), open(c"/inside", none)];

    unshare(CloneFlags::CLONE_NEWIPC)
        .map_err(failed(CloneFlags::CLONE_NEWIPC))?;
    new("/tmp/after", "mqueue")?;
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

/// Mounts a new file system of this type, in a directory that it makes.
fn new(at: &str, kind: &str) -> Result<(), Failure> {
    fs::create_dir_all(at).map_err(failed(format!("mkdir {at}")))?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE)
        .map_err(failed(Call::Mount(at.into())))
}

fn open(name: &CStr, how: MQ_OFlag) -> String {
    let attributes = MqAttr::new(0, 1, 1, 0);
    end(mq_open(name, how, Mode::S_IRUSR, Some(&attributes)), "found")
}

fn find(at: &str, name: &str) -> String {
    end(stat(format!("{at}/{name}").as_str()), "found")
}
