//! What keeps a new /proc inside: six ways, each in its own mount namespace.
//!
//!     cargo run -p mount-demo --example fixes
//!
//! See also the example `pitfall`. Man page: mount_namespaces(7).

use std::{fs, io, io::Write, process::ExitCode};

use nix::mount::{MsFlags as Ms, mount};
use user_demo::link::Call;
use user_demo::link::example::{self, inside, learned};
use user_demo::{Failure, failed};

type Status = Result<u8, Failure>;
type Fix = (&'static str, fn() -> Status, bool);

/// What is done inside before /proc is mounted, and whether that is enough.
const FIXES: [Fix; 6] = [
    ("nothing", || Ok(0), false),
    ("MS_PRIVATE on /", || set("/", Ms::MS_PRIVATE), false),
    ("MS_PRIVATE on /proc", || set("/proc", Ms::MS_PRIVATE), true),
    ("MS_REC|MS_PRIVATE on /", || set("/", Ms::MS_REC | Ms::MS_PRIVATE), true),
    ("MS_REC|MS_SLAVE on /", || set("/", Ms::MS_REC | Ms::MS_SLAVE), true),
    ("new user namespace", || user_demo::enter().map(|()| 0), true),
];

fn main() -> ExitCode {
    example::run("fixes", run)
}

fn run() -> Status {
    if inside(|| Ok(0)).is_err() {
        // Not root. A user namespace needs no privilege, and gives all of it.
        user_demo::enter()?;
    }
    println!("before /proc is mounted inside  /proc/self outside, afterwards");
    let worst = |worst, fix| Ok(inside(|| outside(fix))?.max(worst));
    let worst = FIXES.into_iter().try_fold(0, worst)?;
    let held = worst == 0;
    learned(held, "what counts is the propagation of /proc itself.");
    Ok(worst)
}

/// A machine that may be broken: its mounts are shared, and /proc is its own.
fn outside((name, fix, enough): Fix) -> Status {
    set("/", Ms::MS_REC | Ms::MS_PRIVATE)?; // Nothing propagates out of it.
    set("/proc", Ms::empty())?;
    set("/", Ms::MS_REC | Ms::MS_SHARED)?;
    // `fix` runs in a copy of these mounts, and /proc is mounted in a copy of
    // that. In a copy that a new user namespace owns, shared mounts are slaves.
    let proc = || set("/proc", Ms::empty());
    let status = inside(|| fix().and_then(|_| inside(proc)))?;
    let gone = fs::read_link("/proc/self").is_err();
    let seen = if gone { "gone" } else { "there" };
    writeln!(io::stdout(), "{name:30}  {seen}").map_err(failed("write"))?;
    Ok(status.max(u8::from(gone == enough)))
}

/// Changes the propagation; with empty flags it mounts a new /proc.
fn set(path: &str, how: Ms) -> Status {
    let done = mount(Some("proc"), path, Some("proc"), how, None::<&str>);
    done.map_err(failed(Call::Mount(path.into()))).map(|()| 0)
}
