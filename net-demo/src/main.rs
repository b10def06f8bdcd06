//! Run COMMAND in a new network namespace: with loopback and nothing else.
//!
//!     usage: net-demo [COMMAND [ARG]...]
//!
//! A network namespace holds interfaces, addresses, routes and ports.
//! Man page: network_namespaces(7). Book: chapter 2, "Network Namespace".

mod look;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::{ffi::OsStrExt, io::AsRawFd, process::CommandExt};
use std::process::{Command, ExitCode};
use std::{env, mem};

use libc::{IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS, ifreq, ioctl};
use look::look;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use user_demo::{Refused, refused};

const USAGE: &str = "usage: net-demo [COMMAND [ARG]...]\n";
const VERSION: &str = concat!("net-demo ", env!("CARGO_PKG_VERSION"), "\n");

fn main() -> ExitCode {
    run().unwrap_or_else(|refused| fail(125, refused))
}

/// Enters, then becomes COMMAND. Without COMMAND: the experiment.
fn run() -> Result<ExitCode, Refused> {
    let mut args = env::args_os().skip(1);
    let mut command = args.next();
    match command.as_deref().map(OsStrExt::as_bytes) {
        Some(b"-h" | b"--help") => return print(USAGE),
        Some(b"-V" | b"--version") => return print(VERSION),
        Some(b"--") => command = args.next(),
        Some([b'-', ..]) => return Ok(fail(125, USAGE.trim_end())),
        _ => {}
    }
    let Some(command) = command else { return report() };

    enter()?;

    let error = Command::new(&command).args(args).exec();
    let status = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    let call = format!("exec {}", command.display());
    Ok(fail(status, refused(call)(error)))
}

/// Leaves all networks behind and brings up `lo`. Returns what it was before.
#[expect(unsafe_code, reason = "nix has no ifreq")]
fn enter() -> Result<&'static str, Refused> {
    let mut done = unshare(CloneFlags::CLONE_NEWNET);
    if done == Err(Errno::EPERM) {
        // Not root? A user namespace is free for all, and its root may.
        user_demo::enter()?;
        done = unshare(CloneFlags::CLONE_NEWNET);
    }
    done.map_err(refused("unshare(CLONE_NEWNET)"))?;

    // All there is now is a new lo. It is down, and so even 127.0.0.1 cannot
    // be reached (ENETUNREACH). Any socket will do to ask: netdevice(7).
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(refused("socket"))?;
    // SAFETY: an ifreq may be all zero; the kernel fills in the flags, which
    // are read below, and keeps no pointer to it.
    let mut lo: ifreq = unsafe { mem::zeroed() };
    lo.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
    Errno::result(unsafe { ioctl(socket.as_raw_fd(), SIOCGIFFLAGS, &mut lo) })
        .map_err(refused("ioctl(SIOCGIFFLAGS)"))?;
    let born = i32::from(unsafe { lo.ifr_ifru.ifru_flags });

    // Once it is up, the kernel itself adds 127.0.0.1/8 and ::1/128.
    lo.ifr_ifru.ifru_flags = (born | IFF_UP) as i16;
    Errno::result(unsafe { ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &lo) })
        .map_err(refused("ioctl(SIOCSIFFLAGS)"))?;
    Ok(if born & IFF_UP == 0 { "down" } else { "up" })
}

/// The experiment: a child enters, while this process stays outside.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn report() -> Result<ExitCode, Refused> {
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(refused("bind 127.0.0.1"))?;
    let outside = look(&listener, "-")?;

    let (seen, mut tell) = io::pipe().map_err(refused("pipe"))?;
    // SAFETY: there is one thread only, so the child may go on as we do.
    let fork = unsafe { fork() }.map_err(refused("fork"))?;
    let ForkResult::Parent { child } = fork else {
        let born = enter()?;
        let rows = look(&listener, born)?;
        let text = rows.map(|(_, value)| value).join("\0");
        write!(tell, "{text}").map_err(refused("write"))?;
        return Ok(ExitCode::SUCCESS);
    };
    drop(tell); // Else the child's end would not be the end of the text.
    let text = io::read_to_string(seen).map_err(refused("read"))?;
    let Ok(WaitStatus::Exited(_, 0)) = waitpid(child, None) else {
        return Ok(ExitCode::from(125)); // The child has said why.
    };
    let inside: Vec<&str> = text.split('\0').collect();
    let again = look(&listener, "-")?;

    let expected = [
        inside[0] != outside[0].1,
        inside[1] == "lo",
        inside[2] == "down",
        ["127.0.0.1", "127.0.0.1 ::1"].contains(&inside[3]),
        inside[4] == "0",
        inside[5] == "ECONNREFUSED",
    ];
    let mut status = print(&row("", "outside", "inside", "outside again"))?;
    for (i, (fact, value)) in outside.iter().enumerate() {
        print(&row(fact, value, inside[i], &again[i].1))?;
        if !expected[i] || (again[i].1 != *value && ![1, 4].contains(&i)) {
            status = fail(1, format!("not isolated: {fact}"));
        }
    }
    Ok(status)
}

/// One line of the report: within 80 columns, as far as the values allow.
fn row(fact: &str, outside: &str, inside: &str, again: &str) -> String {
    format!("{fact:18}  {outside:18}  {inside:18}  {again}\n")
}

/// Writes to standard output. A full disk is a failure like others.
fn print(text: &str) -> Result<ExitCode, Refused> {
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(refused("write standard output")).and(Ok(ExitCode::SUCCESS))
}

/// In a chain, the name in front says which link it was.
fn fail(status: u8, why: impl Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "net-demo: {why}");
    ExitCode::from(status)
}
