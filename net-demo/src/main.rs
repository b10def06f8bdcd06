//! Run COMMAND in a new network namespace: with loopback and nothing else.
//!
//!     usage: net-demo [COMMAND [ARG]...]
//!
//! A network namespace holds interfaces, addresses, routes and ports.
//! Man page: network_namespaces(7). Book: chapter 2, "Network Namespace".

mod look;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::{cell::Cell, mem, os::fd::AsRawFd, process::ExitCode};

use libc::{IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS, ifreq, ioctl};
use nix::{errno::Errno, sched::CloneFlags};
use user_demo::link::report::{Outcome, Seen, look, namespace, row, verdict};
use user_demo::link::{self, child::in_child, end};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    link::run("net-demo", |command| {
        let Some(command) = command else { return report() };
        enter()?;
        Err(link::exec(command))
    })
}

/// Enters a new network namespace, and brings up `lo`, its loopback interface.
/// Returns whether that was up or down before.
#[expect(unsafe_code, reason = "nix has no ifreq")]
fn enter() -> Result<&'static str, Failure> {
    // A device is in one namespace at a time: the new one has only its own lo.
    user_demo::unshare(CloneFlags::CLONE_NEWNET)?;

    // It is down, and so even 127.0.0.1 cannot be reached (ENETUNREACH). Any
    // socket will do to ask the kernel: netdevice(7).
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed("socket"))?;
    // SAFETY: an ifreq may be all zero; the kernel fills in the flags, which
    // are read below, and keeps no pointer to it.
    let mut lo: ifreq = unsafe { mem::zeroed() };
    lo.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
    Errno::result(unsafe { ioctl(socket.as_raw_fd(), SIOCGIFFLAGS, &mut lo) })
        .map_err(failed("ioctl(SIOCGIFFLAGS)"))?;
    let born = i32::from(unsafe { lo.ifr_ifru.ifru_flags });

    // Once it is up, the kernel itself adds 127.0.0.1/8 and ::1/128.
    lo.ifr_ifru.ifru_flags = (born | IFF_UP) as i16;
    Errno::result(unsafe { ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &lo) })
        .map_err(failed("ioctl(SIOCSIFFLAGS)"))?;
    Ok(if born & IFF_UP == 0 { "down" } else { "up" })
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(failed("bind 127.0.0.1"))?;
    let address = listener.local_addr().map_err(failed("getsockname"))?;
    let answer = || Ok(end(TcpStream::connect(address), "answers"));
    let born = &Cell::new("-");
    let own = ["127.0.0.1", "127.0.0.1 ::1"]; // There are kernels without IPv6.
    let rows = [
        namespace("net namespace", "net"),
        // Outside it may change.
        row("interfaces up", look::up, |it| it.inside == "lo"),
        row("lo at birth", || Ok(born.get().into()), |it| it.becomes("down")),
        row("lo", look::lo, |it| own.contains(&it.inside) && it.stays()),
        row("other addresses", look::others, |it| it.inside == "0"),
        row("listener outside", answer, unreached),
    ];
    let outside = look(&rows)?;
    let (inside, _child) = in_child(|| {
        born.set(enter()?);
        look(&rows)
    })?;
    let again = look(&rows)?;
    verdict(&rows, [&outside, &inside, &again])
}

/// What must hold for a connection to the outside's listener.
fn unreached(seen: Seen) -> Outcome {
    match [seen.outside, seen.inside, seen.again] {
        ["answers", "ECONNREFUSED", "answers"] => Outcome::Isolated,
        ["answers", "answers", _] => Outcome::NotIsolated,
        errors => Outcome::Untried(errors.join(", ")), // A limit, a firewall.
    }
}
