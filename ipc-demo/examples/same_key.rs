//! The same key names two different queues: a message sent to one does not
//! arrive in the other. Both have id 0, because ids restart in each namespace.
//!
//!     cargo run -p ipc-demo --example same_key
//!
//! Man pages: ipc_namespaces(7), sysvipc(7).
#![expect(unsafe_code, reason = "nix has no System V IPC")]

use std::{fs::File, process::ExitCode};

use libc::{IPC_CREAT, IPC_NOWAIT, c_long, msgget, msgrcv, msgsnd};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use user_demo::link::example::{self, learned, row};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    example::run("same_key", run)
}

fn run() -> Result<u8, Failure> {
    // This namespace is the outside here: it vanishes with this process.
    user_demo::unshare(CloneFlags::CLONE_NEWIPC)?;
    let outside = File::open("/proc/self/ns/ipc").map_err(failed("open"))?;
    let made = queue(IPC_CREAT | 0o600);
    send(1);

    user_demo::unshare(CloneFlags::CLONE_NEWIPC)?;
    let one = [made.clone(), queue(0)];
    let two = [made, queue(IPC_CREAT | 0o600)];
    send(2);
    let here = receive() + ", then " + &receive();

    // If both were one queue, it would have no message left now.
    setns(outside, CloneFlags::CLONE_NEWIPC).map_err(failed("setns"))?;
    let got = [receive() + ", then " + &receive(), here];

    println!("{:18}  {:18}  inside", "key 0x62697264", "outside");
    let held = row("queue made outside", one, ["id 0", "ENOENT"])
        & row("queue made inside", two, ["id 0", "id 0"])
        & row("1 and 2 are sent", got, ["1, then ENOMSG", "2, then ENOMSG"]);
    Ok(learned(held, "a key has a meaning in its own namespace only."))
}

/// The queue with our key.
fn queue(flags: i32) -> String {
    // SAFETY: it takes and returns numbers, and no pointers.
    let id = Errno::result(unsafe { msgget(0x62697264, flags) });
    id.map_or_else(|error| format!("{error:?}"), |id| format!("id {id}"))
}

/// Sends a message without text: only its type, which is a number above 0.
fn send(kind: c_long) {
    // SAFETY: the kernel reads the type, and no text.
    unsafe { msgsnd(0, (&raw const kind).cast(), 0, 0) };
}

fn receive() -> String {
    let mut kind: c_long = 0;
    // SAFETY: the kernel writes the type, and no text.
    let n = unsafe { msgrcv(0, (&raw mut kind).cast(), 0, 0, IPC_NOWAIT) };
    Errno::result(n).map_or_else(|e| format!("{e:?}"), |_| kind.to_string())
}
