//! Makes a socket in the network namespace of process PID, and comes back:
//!
//!     in_flight PID sent|closed
//!
//! `sent` sends it over a Unix socket that nobody reads. No process has it open
//! then. It prints `ready`, and the Unix socket is open until it reads a line.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

pub fn main(args: &[String]) -> u8 {
    // A Unix socket belongs to a network namespace as well: the outside's.
    let (from, _to) = UnixStream::pair().expect("two sockets");
    let namespace = |of: &str| {
        File::open(format!("/proc/{of}/ns/net")).expect("a namespace")
    };
    let outside = namespace("self");
    setns(namespace(&args[0]), CloneFlags::CLONE_NEWNET).expect("setns");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    setns(outside, CloneFlags::CLONE_NEWNET).expect("setns");
    if args[1] == "sent" {
        let data = [io::IoSlice::new(b"x")];
        let descriptors = [socket.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let (from, flags) = (from.as_raw_fd(), MsgFlags::empty());
        let sent = sendmsg::<()>(from, &data, &control, flags, None);
        assert_eq!(sent, Ok(1));
    }
    drop(socket);
    println!("ready");
    io::stdin().read_line(&mut String::new()).expect("a line");
    0
}
