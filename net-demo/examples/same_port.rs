//! Each network namespace has its own 127.0.0.1 and its own ports: inside,
//! nothing listens on the port that is in use outside, and the port is free.
//!
//!     cargo run -p net-demo --example same_port
//!
//! Man page: network_namespaces(7).

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::{mem, os::fd::AsRawFd, process::ExitCode};

use libc::{IFF_UP, SIOCSIFFLAGS, ifreq, ioctl};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use user_demo::link::end;
use user_demo::link::example::{self, learned, row};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("same_port", run)
}

fn run() -> Result<u8, Failure> {
    // Any port that is free outside. It is free again when this process ends.
    let listener = TcpListener::bind("127.0.0.1:0");
    let listener = listener.map_err(failed("bind 127.0.0.1"))?;
    let port = listener.local_addr().map_err(failed("getsockname"))?;
    let outside = [connect(port), bind(port)];

    user_demo::unshare(CloneFlags::CLONE_NEWNET)?;
    let down = [connect(port), bind(port)];
    bring_up_lo()?;
    let inside = [connect(port), bind(port)];

    println!("{:18}  {:18}  bind the same port", "", "connect");
    let held = row("outside", outside, ["done", "EADDRINUSE"])
        & row("inside, lo is down", down, ["ENETUNREACH", "done"])
        & row("inside, lo is up", inside, ["ECONNREFUSED", "done"]);
    Ok(learned(held, "each network namespace has its own ports."))
}

fn connect(to: SocketAddr) -> String {
    end(TcpStream::connect(to), "done")
}

fn bind(to: SocketAddr) -> String {
    end(TcpListener::bind(to), "done")
}

/// As net-demo does it.
#[expect(unsafe_code, reason = "nix has no ifreq")]
fn bring_up_lo() -> Result<(), Failure> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed("socket"))?;
    // SAFETY: an ifreq may be all zero, and the kernel only reads it.
    let mut lo: ifreq = unsafe { mem::zeroed() };
    lo.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
    lo.ifr_ifru.ifru_flags = IFF_UP as _;
    Errno::result(unsafe { ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &lo) })
        .map_err(failed("ioctl(SIOCSIFFLAGS)"))?;
    Ok(())
}
