//! What an IPC namespace does not isolate: POSIX shared memory and sockets
//! with a path. These are files, which a mount namespace isolates.
//!
//!     cargo run -p ipc-demo --example not_isolated
//!
//! Man pages: ipc_namespaces(7), shm_overview(7), unix(7).

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;

use libc::IPC_CREAT;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::{mman::shm_open, stat::Mode};
use user_demo::link::end;
use user_demo::link::example::{self, learned, make_private, new_mount, row};
use user_demo::{Failure, failed};

const SOCKET: &str = "/dev/shm/socket";

fn main() -> ExitCode {
    example::run("not_isolated", run)
}

fn run() -> Result<u8, Failure> {
    // These two namespaces are the outside here: objects and mounts in them
    // vanish with this process.
    let flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS;
    user_demo::unshare(flags)?;
    make_private()?;
    new_mount("tmpfs", "/dev/shm")?;

    let _listener = UnixListener::bind(SOCKET).map_err(failed("bind"))?;
    let outside = [
        queue(IPC_CREAT),
        end(shm_open("/bird", OFlag::O_CREAT, Mode::empty()), "found"),
        end(UnixStream::connect(SOCKET), "found"),
    ];
    user_demo::unshare(CloneFlags::CLONE_NEWIPC)?;
    let inside = [
        queue(0),
        end(shm_open("/bird", OFlag::empty(), Mode::empty()), "found"),
        end(UnixStream::connect(SOCKET), "found"),
    ];

    println!("{:20}  {:18}  inside", "made outside", "outside");
    let mut held = true;
    for ((what, fact), seen) in [
        ("System V queue", ["found", "ENOENT"]),
        ("POSIX shared memory", ["found", "found"]),
        ("socket", ["found", "found"]),
    ]
    .into_iter()
    .zip(outside.into_iter().zip(inside))
    {
        held &= row(&format!("{what:20}"), seen.into(), fact);
    }
    Ok(learned(held, "what is a file, an IPC namespace does not hide."))
}

#[expect(unsafe_code, reason = "nix has no System V IPC")]
fn queue(flags: i32) -> String {
    // SAFETY: it takes and returns numbers, and no pointers.
    end(Errno::result(unsafe { libc::msgget(0x62697264, flags) }), "found")
}
