//! Abstract unix sockets belong to a network namespace. Sockets with a path do
//! not: every process that sees the file can connect.
//!
//!     cargo run -p net-demo --example abstract_socket
//!
//! Man pages: unix(7), network_namespaces(7).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;

use nix::sched::CloneFlags;
use user_demo::link::end;
use user_demo::link::example::{self, learned, make_private, new_mount, row};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("abstract_socket", run)
}

fn run() -> Result<u8, Failure> {
    // These two namespaces are the outside here: names and mounts in them
    // vanish with this process.
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    user_demo::unshare(flags)?;
    make_private()?;
    new_mount("tmpfs", "/tmp")?;

    // An abstract name begins with a zero byte, which tools show as @.
    let name = SocketAddr::from_abstract_name("bird").map_err(failed("@"))?;
    let path = SocketAddr::from_pathname("/tmp/bird").map_err(failed("/"))?;
    let _one = UnixListener::bind_addr(&name).map_err(failed("bind @bird"))?;
    let _two = UnixListener::bind_addr(&path).map_err(failed("bind /tmp"))?;
    let outside = [connect(&name), bind(&name), connect(&path), bind(&path)];

    user_demo::unshare(CloneFlags::CLONE_NEWNET)?;
    let inside = [connect(&name), bind(&name), connect(&path), bind(&path)];

    println!("{:20}  {:18}  inside", "listener outside", "outside");
    let mut held = true;
    for ((what, fact), seen) in [
        ("connect to @bird", ["done", "ECONNREFUSED"]),
        ("bind @bird as well", ["EADDRINUSE", "done"]),
        ("connect to /tmp/bird", ["done", "done"]),
        ("bind /tmp/bird too", ["EADDRINUSE", "EADDRINUSE"]),
    ]
    .into_iter()
    .zip(outside.into_iter().zip(inside))
    {
        held &= row(&format!("{what:20}"), seen.into(), fact);
    }
    Ok(learned(held, "only abstract sockets belong to a network namespace."))
}

fn connect(to: &SocketAddr) -> String {
    end(UnixStream::connect_addr(to), "done")
}

fn bind(to: &SocketAddr) -> String {
    end(UnixListener::bind_addr(to), "done")
}
