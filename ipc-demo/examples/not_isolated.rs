//! What an IPC namespace does not isolate: POSIX shared memory and sockets
//! with a path. These are files, which a mount namespace isolates.
//!
//!     cargo run -p ipc-demo --example not_isolated
//!
//! Man pages: ipc_namespaces(7), shm_overview(7), unix(7).

use std::os::unix::net::{UnixListener, UnixStream};
use std::{io, process::ExitCode};

use libc::IPC_CREAT;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::{mman::shm_open, stat::Mode};
use user_demo::{Failure, failed, link};

const NONE: Option<&str> = None;
const SOCKET: &str = "/dev/shm/socket";

fn main() -> ExitCode {
    link::example("not_isolated", run)
}

fn run() -> Result<ExitCode, Failure> {
    // These two namespaces are the outside here: objects and mounts in them
    // vanish with this process.
    let flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS;
    user_demo::unshare(flags)?;
    // Mounts are usually shared: without this, ours would propagate outside.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(failed("mount / MS_REC|MS_PRIVATE"))?;
    let (at, kind) = ("/dev/shm", Some("tmpfs"));
    mount(kind, at, kind, MsFlags::empty(), NONE)
        .map_err(failed("mount /dev/shm"))?;

    let _listener = UnixListener::bind(SOCKET).map_err(failed("bind"))?;
    let outside = [
        queue(IPC_CREAT),
        show(shm_open("/bird", OFlag::O_CREAT, Mode::empty())),
        show(UnixStream::connect(SOCKET)),
    ];
    unshare(CloneFlags::CLONE_NEWIPC)
        .map_err(failed("unshare(CLONE_NEWIPC)"))?;
    let inside = [
        queue(0),
        show(shm_open("/bird", OFlag::empty(), Mode::empty())),
        show(UnixStream::connect(SOCKET)),
    ];

    let whats = ["System V queue", "POSIX shared memory", "socket"];
    let fact = [["found", "ENOENT"], ["found", "found"], ["found", "found"]];
    let mut held = true;
    println!("{:20}  {:18}  inside", "made outside", "outside");
    for i in 0..whats.len() {
        println!("{:20}  {:18}  {}", whats[i], outside[i], inside[i]);
        held &= fact[i] == [&outside[i], &inside[i]];
    }
    if held {
        println!("\nLearned: what is a file, an IPC namespace does not hide.");
    }
    Ok(ExitCode::from(u8::from(!held)))
}

fn show<T, E: Into<io::Error>>(done: Result<T, E>) -> String {
    let errno = |e: E| Errno::try_from(e.into()).unwrap_or(Errno::EIO);
    done.map_or_else(|e| format!("{:?}", errno(e)), |_| "found".into())
}

#[expect(unsafe_code, reason = "nix has no System V IPC")]
fn queue(flags: i32) -> String {
    // SAFETY: it takes and returns numbers, and no pointers.
    show(Errno::result(unsafe { libc::msgget(0x62697264, flags) }))
}
