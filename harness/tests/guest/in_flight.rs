//! Makes a socket in the network namespace of process PID, and comes back:
//!
//!     in_flight PID sent|closed
//!
//! `sent` sends it over a Unix socket that nobody reads. No process has it open
//! then. It prints `ready`, and the Unix socket is open until it reads a line.
//! Built by rustc alone, so the C library's functions are declared here.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::{env, io, ptr};

unsafe extern "C" {
    fn setns(descriptor: i32, kind: i32) -> i32;
    fn sendmsg(socket: i32, message: *const Message, flags: i32) -> isize;
}

/// `struct msghdr`: a name, the data, control messages, flags; each but the last
/// with its length.
#[repr(C)]
struct Message {
    name: *const u8,
    name_length: u32,
    data: *const Data,
    data_length: usize,
    control: *const Descriptor,
    control_length: usize,
    flags: i32,
}

/// `struct iovec`
#[repr(C)]
struct Data {
    bytes: *const u8,
    length: usize,
}

/// `struct cmsghdr`, and the one descriptor that it is about.
#[repr(C)]
struct Descriptor {
    length: usize,
    level: i32,
    kind: i32,
    descriptor: i32,
}

const NEWNET: i32 = 0x4000_0000;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

fn enter(namespace: &File) {
    let entered = unsafe { setns(namespace.as_raw_fd(), NEWNET) };
    assert_eq!(entered, 0, "setns: {}", io::Error::last_os_error());
}

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    // A Unix socket belongs to a network namespace as well: the outside's.
    let (from, _to) = UnixStream::pair()?;
    let outside = File::open("/proc/self/ns/net")?;
    let inside = File::open(format!("/proc/{}/ns/net", args[0]))?;
    enter(&inside);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    enter(&outside);
    drop(inside);
    if args[1] == "sent" {
        let data = Data { bytes: b"x".as_ptr(), length: 1 };
        let control = Descriptor {
            length: 20, // Without the padding at the end.
            level: SOL_SOCKET,
            kind: SCM_RIGHTS,
            descriptor: socket.as_raw_fd(),
        };
        let message = Message {
            name: ptr::null(),
            name_length: 0,
            data: &data,
            data_length: 1,
            control: &control,
            control_length: size_of::<Descriptor>(),
            flags: 0,
        };
        let sent = unsafe { sendmsg(from.as_raw_fd(), &message, 0) };
        assert_eq!(sent, 1, "sendmsg: {}", io::Error::last_os_error());
    }
    drop(socket);
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}
