//! Abstract unix sockets belong to a network namespace. Sockets with a path do
//! not: every process that sees the file can connect.
//!
//!     cargo run -p net-demo --example abstract_socket
//!
//! Man pages: unix(7), network_namespaces(7).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::{io, process::ExitCode};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use user_demo::{Failure, failed, link};

const NONE: Option<&str> = None;

fn main() -> ExitCode {
    link::example("abstract_socket", run)
}

fn run() -> Result<ExitCode, Failure> {
    // These two namespaces are the outside here: names and mounts in them
    // vanish with this process.
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    user_demo::unshare(flags)?;
    // Mounts are usually shared: without this, ours would propagate outside.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(failed("mount / MS_REC|MS_PRIVATE"))?;
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), NONE)
        .map_err(failed("mount /tmp"))?;

    // An abstract name begins with a zero byte, which tools show as @.
    let name = SocketAddr::from_abstract_name("bird").map_err(failed("@"))?;
    let path = SocketAddr::from_pathname("/tmp/bird").map_err(failed("/"))?;
    let _one = UnixListener::bind_addr(&name).map_err(failed("bind @bird"))?;
    let _two = UnixListener::bind_addr(&path).map_err(failed("bind /tmp"))?;
    let outside = [connect(&name), bind(&name), connect(&path), bind(&path)];

    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(failed("unshare(CLONE_NEWNET)"))?;
    let inside = [connect(&name), bind(&name), connect(&path), bind(&path)];

    println!("{:20}  {:18}  inside", "listener outside", "outside");
    let mut held = true;
    for (i, (what, fact)) in [
        ("connect to @bird", ["done", "ECONNREFUSED"]),
        ("bind @bird as well", ["EADDRINUSE", "done"]),
        ("connect to /tmp/bird", ["done", "done"]),
        ("bind /tmp/bird too", ["EADDRINUSE", "EADDRINUSE"]),
    ]
    .iter()
    .enumerate()
    {
        println!("{what:20}  {:18}  {}", outside[i], inside[i]);
        held &= [&outside[i], &inside[i]] == *fact;
    }
    if held {
        println!(
            "\nLearned: only abstract sockets belong to a network namespace."
        );
    }
    Ok(ExitCode::from(u8::from(!held)))
}

fn connect(to: &SocketAddr) -> String {
    show(UnixStream::connect_addr(to))
}

fn bind(to: &SocketAddr) -> String {
    show(UnixListener::bind_addr(to))
}

fn show<T>(done: io::Result<T>) -> String {
    let errno = |error| Errno::try_from(error).unwrap_or(Errno::EIO);
    done.map_or_else(|it| format!("{:?}", errno(it)), |_| "done".into())
}
