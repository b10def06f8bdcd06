//! Which way mounts propagate, by the propagation type of a copy.
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
/// How a copy is made, and what is seen of mounts in it, outside, in its copy.
const KINDS: [(&str, MsFlags, [&str; 4]); 5] = [
    ("shared", MsFlags::MS_SHARED, ["yes", "yes", "yes", "done"]),
    ("private", MsFlags::MS_PRIVATE, ["no", "no", "no", "done"]),
    ("slave", MsFlags::MS_SLAVE, ["no", "yes", "no", "done"]),
    ("slave, shared", BOTH, ["no", "yes", "yes", "done"]),
    ("unbindable", MsFlags::MS_UNBINDABLE, ["no", "no", "no", "EINVAL"]),
];
const BOTH: MsFlags = MsFlags::MS_SLAVE.union(MsFlags::MS_SHARED);

fn main() -> ExitCode {
    example::run("propagation", run)
}

fn run() -> Result<u8, Failure> {
    user_demo::unshare(NEWNS)?;
    set("none", "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?; // Isolated.
    set("tmpfs", "/tmp", MsFlags::empty())?;
    for path in ["/tmp/in", "/tmp/out", "/tmp/copy", "/tmp/bind"] {
        fs::create_dir(path).map_err(failed("mkdir"))?;
    }
    println!("the copy is    its mounts  outside's     its copy's    a bind");
    println!("made           outside     mounts in it  mounts in it  mount");
    let mut held = true;
    for (name, kind, expected) in KINDS {
        // A copy, and a copy of that. This process enters both in turn.
        let start = unshared()?;
        set("none", "/tmp", MsFlags::MS_SHARED)?;
        let outside = unshared()?;
        kind.iter().try_for_each(|flag| set("none", "/tmp", flag))?;
        set("tmpfs", "/tmp/in", MsFlags::empty())?;
        let bound = mount(TMP, "/tmp/bind", TMP, MsFlags::MS_BIND, TMP);
        let inside = unshared()?;
        set("tmpfs", "/tmp/copy", MsFlags::empty())?;
        setns(outside, NEWNS).map_err(failed("setns"))?;
        let out = seen("/tmp/in");
        set("tmpfs", "/tmp/out", MsFlags::empty())?;
        setns(inside, NEWNS).map_err(failed("setns"))?;
        let [into, back] = ["/tmp/out", "/tmp/copy"].map(seen);
        setns(start, NEWNS).map_err(failed("setns"))?;

        let bound = bound.map_or_else(|e| format!("{e:?}"), |()| "done".into());
        held &= [out, into, back, &bound] == expected;
        println!("{name:13}  {out:10}  {into:12}  {back:12}  {bound}");
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

fn seen(path: &str) -> &'static str {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if mounts.contains(&format!(" / {path} ")) { "yes" } else { "no" }
}
