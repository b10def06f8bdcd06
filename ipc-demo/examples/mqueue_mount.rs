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
use user_demo::{Failure, failed, link};

const NONE: Option<&str> = None;

fn main() -> ExitCode {
    link::example("mqueue_mount", run)
}

fn run() -> Result<ExitCode, Failure> {
    // These two namespaces are the outside here: queues and mounts in them
    // vanish with this process.
    let flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS;
    user_demo::unshare(flags)?;
    // Mounts are usually shared: without this, ours would propagate outside.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(failed("mount / MS_REC|MS_PRIVATE"))?;
    let (none, create) = (MQ_OFlag::empty(), MQ_OFlag::O_CREAT);
    new("/tmp", "tmpfs")?;
    new("/tmp/before", "mqueue")?;
    let outside = [open(c"/outside", create), open(c"/inside", none)];

    unshare(CloneFlags::CLONE_NEWIPC)
        .map_err(failed("unshare(CLONE_NEWIPC)"))?;
    new("/tmp/after", "mqueue")?;
    let inside = [open(c"/outside", none), open(c"/inside", create)];
    let both = |at| ["outside", "inside"].map(|it| find(at, it));
    let (before, after) = (both("/tmp/before"), both("/tmp/after"));

    println!("{:18}  {:18}  queue inside", "", "queue outside");
    let held = row("mq_open outside", outside, ["found", "ENOENT"])
        & row("mq_open inside", inside, ["ENOENT", "found"])
        & row("mounted outside", before, ["found", "ENOENT"])
        & row("mounted inside", after, ["ENOENT", "found"]);
    if held {
        println!("\nLearned: a mount shows the namespace that mounted it.");
    }
    Ok(ExitCode::from(u8::from(!held)))
}

/// Prints what was measured. True if that is what the fact says.
fn row(what: &str, measured: [String; 2], fact: [&str; 2]) -> bool {
    println!("{what:18}  {:18}  {}", measured[0], measured[1]);
    measured == fact
}

/// Mounts a new file system of this type, in a directory that it makes.
fn new(at: &str, kind: &str) -> Result<(), Failure> {
    fs::create_dir_all(at).map_err(failed(format!("mkdir {at}")))?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE)
        .map_err(failed(format!("mount {at}")))
}

fn open(name: &CStr, how: MQ_OFlag) -> String {
    let queue =
        mq_open(name, how, Mode::S_IRUSR, Some(&MqAttr::new(0, 1, 1, 0)));
    queue.map_or_else(|error| format!("{error:?}"), |_| "found".into())
}

fn find(at: &str, name: &str) -> String {
    let found = stat(format!("{at}/{name}").as_str());
    found.map_or_else(|error| format!("{error:?}"), |_| "found".into())
}
