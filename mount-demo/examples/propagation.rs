//! Which way mounts propagate: shared, private, slave and unbindable.
//!
//!     cargo run -p mount-demo --example propagation
//!
//! Copies of a shared mount stay connected: mount_namespaces(7).

use std::{fs, fs::File, process::ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use user_demo::link::Call;
use user_demo::link::example::{self, learned};
use user_demo::{Failure, failed};

const NEWNS: CloneFlags = CloneFlags::CLONE_NEWNS;
const TMP: Option<&str> = Some("/tmp");
/// The propagation type of a copy: whether mounts propagate out of it, and into
/// it, and whether it can be bind mounted.
const KINDS: [(&str, MsFlags, [bool; 3]); 4] = [
    ("shared", MsFlags::MS_SHARED, [true, true, true]),
    ("private", MsFlags::MS_PRIVATE, [false, false, true]),
    ("slave", MsFlags::MS_SLAVE, [false, true, true]),
    ("unbindable", MsFlags::MS_UNBINDABLE, [false; 3]),
];

fn main() -> ExitCode {
    example::run("propagation", run)
}

fn run() -> Result<u8, Failure> {
    user_demo::unshare(NEWNS)?;
    set("none", "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?; // Isolated.
    set("tmpfs", "/tmp", MsFlags::empty())?;
    for path in ["/tmp/in", "/tmp/out", "/tmp/bind"] {
        fs::create_dir(path).map_err(failed("mkdir"))?;
    }
    println!("the copy    a mount in it  a mount outside  a bind");
    println!("is made     is outside     is in it         mount of it");
    let mut held = true;
    for (name, kind, expected) in KINDS {
        // A copy, and a copy of that. This process enters both in turn.
        let start = unshared()?;
        set("none", "/tmp", MsFlags::MS_SHARED)?;
        let outside = unshared()?;
        set("none", "/tmp", kind)?;
        set("tmpfs", "/tmp/in", MsFlags::empty())?;
        let bound = mount(TMP, "/tmp/bind", TMP, MsFlags::MS_BIND, TMP);
        let inside = File::open("/proc/self/ns/mnt").map_err(failed("open"))?;

        setns(outside, NEWNS).map_err(failed("setns"))?;
        let out = seen("/tmp/in");
        set("tmpfs", "/tmp/out", MsFlags::empty())?;
        setns(inside, NEWNS).map_err(failed("setns"))?;
        let into = seen("/tmp/out");
        setns(start, NEWNS).map_err(failed("setns"))?;

        held &= [out, into, bound.is_ok()] == expected;
        let yes = |it| if it { "yes" } else { "no" };
        let bound = bound.map_or_else(|e| format!("{e:?}"), |()| "done".into());
        println!("{name:10}  {:13}  {:15}  {bound}", yes(out), yes(into));
    }
    Ok(learned(held, "the propagation type decides what is passed on."))
}

/// Enters a copy of the mount namespace. Returns the old one, for setns(2).
fn unshared() -> Result<File, Failure> {
    let old = File::open("/proc/self/ns/mnt").map_err(failed("open"))?;
    unshare(NEWNS).map_err(failed(CloneFlags::CLONE_NEWNS)).map(|()| old)
}

fn set(what: &str, path: &str, how: MsFlags) -> Result<(), Failure> {
    let done = mount(Some(what), path, Some(what), how, None::<&str>);
    done.map_err(failed(Call::Mount(path.into())))
}

fn seen(path: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    mounts.is_ok_and(|mounts| mounts.contains(&format!(" / {path} ")))
}
