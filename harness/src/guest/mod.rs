//! The guest's PID 1: makes a realistic outside, then runs the commands that
//! the harness requests over the serial port.

mod archive;
pub mod check;
mod command;
mod outside;

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{
    BaudRate, SetArg, cfmakeraw, cfsetspeed, tcgetattr, tcsetattr,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::Pid;

use self::archive::Archive;
use self::command::{Streams, start};
use crate::arch::Arch;
use crate::window::Window;
use crate::wire::{self, Decoder, End, FromGuest, ToGuest};

/// Serves until the machine is switched off.
///
/// # Errors
/// If the wire to the harness is broken, or input was damaged on its way. Then
/// PID 1 ends, the kernel panics, and the machine ends, as it should.
pub fn serve() -> io::Result<Infallible> {
    let prepared = outside::prepare();
    let mut wire = Wire::open()?;
    wire.send(&match prepared {
        Ok(()) => FromGuest::Ready(wire.window.frames()?),
        Err(why) => FromGuest::Unfit(why),
    })?;
    let mut request = Vec::new();
    loop {
        match wire.receive()? {
            ToGuest::Part(part) => {
                request.extend(part);
                wire.send(&FromGuest::Taken)?;
            }
            ToGuest::Run { part, input } => {
                request.extend(part);
                let started = postcard::from_bytes(&request)
                    .map_err(|_| Errno::EBADMSG.into())
                    .and_then(|request| start(&request, input));
                let end = match started {
                    Ok((command, streams)) => run(&mut wire, command, streams)?,
                    Err(error) => {
                        let errno = error.raw_os_error();
                        End::NotStarted(errno.unwrap_or(libc::EIO))
                    }
                };
                request.clear();
                wire.send(&FromGuest::End(end))?;
            }
            // Input of a command that has ended in the meantime.
            ToGuest::Input(_) | ToGuest::Window { .. } => {
                wire.send(&FromGuest::Taken)?;
            }
            ToGuest::Unpack => {
                let unpacked = Archive::of(&mut wire).unpack();
                let unpacked = unpacked.map_err(|error| error.to_string());
                wire.send(&FromGuest::Unpacked(unpacked))?;
            }
            ToGuest::Resize(..) | ToGuest::Hello { .. } => {}
        }
    }
}

/// The serial port to the harness, and SIGCHLD as a descriptor.
struct Wire {
    port: File,
    children: SignalFd,
    decoder: Decoder,
    inbox: Vec<u8>,
    window: Window,
}

impl Wire {
    fn open() -> io::Result<Wire> {
        let name = Arch::here().map_err(io::Error::other)?.wire;
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/{name}"))?;
        let mut raw = tcgetattr(&port)?;
        cfmakeraw(&mut raw);
        // Before a UART interrupts for less than its trigger level, it waits
        // for the time of four characters: 4 ms at its initial 9600 baud.
        cfsetspeed(&mut raw, BaudRate::B115200)?;
        tcsetattr(&port, SetArg::TCSANOW, &raw)?;
        // Interrupts when 14 of its 16 bytes are full, instead of at 8 bytes:
        // input takes a quarter less time.
        let _ = fs::write(format!("/sys/class/tty/{name}/rx_trig_bytes"), "14");
        let signals = SigSet::from(Signal::SIGCHLD);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let children = SignalFd::with_flags(&signals, flags)?;
        let decoder = Decoder::default();
        Ok(Wire {
            port,
            children,
            decoder,
            inbox: Vec::new(),
            window: Window::open()?,
        })
    }

    fn send(&mut self, message: &FromGuest) -> io::Result<()> {
        self.port.write_all(&wire::encode(message))
    }

    /// Waits for the next message, and reaps orphans in the meantime.
    fn receive(&mut self) -> io::Result<ToGuest> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(message);
            }
            if self.wait(&[])? {
                self.read()?;
            }
            self.reap(Pid::this())?;
        }
    }

    /// Waits for the port, for the end of a child, or for one of these. True
    /// if the port is readable.
    fn wait(&self, more: &[(BorrowedFd, PollFlags)]) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::new(self.port.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(more.iter().map(|(fd, what)| PollFd::new(*fd, *what)));
        poll(&mut fds, PollTimeout::NONE)?;
        Ok(fds[0].any().unwrap_or_default())
    }

    /// Reaps all children that have ended, and returns how COMMAND ended if it
    /// is one of them.
    #[expect(unsafe_code, reason = "nix has no real-time signals")]
    fn reap(&self, command: Pid) -> io::Result<Option<End>> {
        while self.children.read_signal()?.is_some() {}
        let mut end = None;
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes the status, and nothing else.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            match Errno::result(pid) {
                Ok(0) | Err(Errno::ECHILD) => return Ok(end),
                Ok(pid) if pid == command.as_raw() => {
                    let status = ExitStatus::from_raw(status);
                    end = status.code().map(|code| End::Exited(code as u8));
                    end = end.or(status.signal().map(|n| End::Killed(n as u8)));
                }
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what has arrived at the port; blocks if there is nothing.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let n = self.port.read(&mut bytes)?;
        self.inbox.extend(&bytes[..n]);
        Ok(())
    }

    /// The next message among the bytes that were read. Frames that are no
    /// message are skipped: they can only be noise on the line after a restore.
    fn next(&mut self) -> io::Result<Option<ToGuest>> {
        let mut bytes = std::mem::take(&mut self.inbox).into_iter();
        while let Some(byte) = bytes.next() {
            match self.decoder.push(byte) {
                Some(Ok(ToGuest::Hello { nonce, time })) => {
                    clock_settime(
                        ClockId::CLOCK_REALTIME,
                        TimeSpec::from_duration(time),
                    )?;
                    self.send(&FromGuest::Hello(nonce))?;
                }
                Some(Ok(message)) => {
                    self.inbox = bytes.collect();
                    return Ok(Some(message));
                }
                Some(Err(_)) | None => {}
            }
        }
        Ok(None)
    }
}

/// Runs a command to its end, and passes its input and output on.
fn run(wire: &mut Wire, command: Pid, mut streams: Streams) -> io::Result<End> {
    let mut pending = Vec::new(); // Input that COMMAND has no room for yet.
    let mut closing = false;

    loop {
        // Before the first wait: input may have arrived with the request.
        while let Some(message) = wire.next()? {
            match message {
                ToGuest::Input(bytes) => {
                    closing = bytes.is_empty();
                    pending = bytes;
                }
                ToGuest::Window { length, sum } => {
                    pending = wire.window.read(length, sum)?.to_vec();
                }
                ToGuest::Resize(rows, columns) => {
                    streams.resize(rows, columns)?;
                }
                ToGuest::Part(_)
                | ToGuest::Run { .. }
                | ToGuest::Unpack
                | ToGuest::Hello { .. } => {}
            }
        }
        if closing {
            closing = false;
            streams.close_input();
            wire.send(&FromGuest::Taken)?;
        }
        if !pending.is_empty() && streams.feed(&mut pending) {
            wire.send(&FromGuest::Taken)?;
        }

        let ended = wire.reap(command)?;
        // COMMAND was reaped before this read, so all of its output is in the
        // pipes by now. A process that it left behind may hold them open: what
        // that writes later is no output of COMMAND.
        streams.carry(|message| wire.send(message))?;
        if let Some(end) = ended {
            return Ok(end);
        }

        if wire.wait(&streams.awaited(&pending))? {
            wire.read()?;
        }
    }
}
