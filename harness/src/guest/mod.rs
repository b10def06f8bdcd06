//! The guest's PID 1: makes a realistic outside, then runs the commands that
//! the harness requests over the serial port.

mod archive;
pub mod check;
mod command;
mod outside;
mod spawn;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

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
use self::command::{set_path, start};
use self::spawn::{Streams, reap};
use crate::arch::Arch;
use crate::window::Window;
use crate::wire::{self, Data, Decoder, End, FromGuest, Rubbish, ToGuest};

/// Serves until the machine is switched off.
///
/// # Errors
/// If the wire to the harness is broken, or input was damaged on its way. Then
/// PID 1 ends, the kernel panics, and the machine ends, as it should.
pub fn serve() -> io::Result<Infallible> {
    set_path();
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
            ToGuest::Resize(..) | ToGuest::Hello(_) => {}
        }
    }
}

/// The serial port to the harness, and SIGCHLD as a descriptor.
struct Wire {
    port: File,
    children: SignalFd,
    decoder: Decoder,
    inbox: VecDeque<ToGuest>,
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
        Ok(Wire {
            port,
            children,
            decoder: Decoder::default(),
            inbox: VecDeque::new(),
            window: Window::open()?,
        })
    }

    fn send(&mut self, message: &FromGuest) -> io::Result<()> {
        self.port.write_all(&wire::encode(message))
    }

    /// Waits for the next message, and reaps orphans in the meantime.
    fn receive(&mut self) -> io::Result<ToGuest> {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(message);
            }
            let (has_come, has_ended) = self.wait(Vec::new())?;
            if has_ended {
                self.reap(None)?;
            }
            if has_come {
                self.read()?;
            }
        }
    }

    /// Waits for the port, for the end of a child, or for one of these. Returns
    /// whether something has come at the port, and whether a child has ended.
    fn wait<'a>(
        &'a self,
        mut fds: Vec<PollFd<'a>>,
    ) -> io::Result<(bool, bool)> {
        fds.push(PollFd::new(self.port.as_fd(), PollFlags::POLLIN));
        fds.push(PollFd::new(self.children.as_fd(), PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::NONE)?;
        let mut ready = || fds.pop().and_then(|it| it.any()) == Some(true);
        let has_ended = ready();
        Ok((ready(), has_ended))
    }

    /// Reaps all children that have ended, and returns how COMMAND ended if it
    /// is one of them.
    fn reap(&self, command: Option<Pid>) -> io::Result<Option<End>> {
        while self.children.read_signal()?.is_some() {}
        let mut ended = reap().into_iter();
        let ended = ended.find(|(pid, _)| Some(*pid) == command);
        Ok(ended.and_then(|(_, status)| {
            let end = status.code().map(|code| End::Exited(code as u8));
            end.or(status.signal().map(|number| End::Killed(number as u8)))
        }))
    }

    /// Reads what has arrived at the port; blocks if there is nothing. Frames
    /// that are no message are skipped: they can only be noise on the line after
    /// a restore.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let n = self.port.read(&mut bytes)?;
        for message in self.decoder.push(&bytes[..n]) {
            match message {
                Ok(ToGuest::Hello(time)) => {
                    let time = Duration::from_nanos(time);
                    let time = TimeSpec::from_duration(time);
                    clock_settime(ClockId::CLOCK_REALTIME, time)?;
                    self.send(&FromGuest::Hello)?;
                }
                Ok(message) => self.inbox.push_back(message),
                Err(Rubbish) => {}
            }
        }
        Ok(())
    }
}

/// Runs a command to its end, and passes its input and output on.
fn run(wire: &mut Wire, command: Pid, mut streams: Streams) -> io::Result<End> {
    let mut pending = Vec::new(); // Input that COMMAND has no room for yet.
    loop {
        // Before the first wait: input may have arrived with the request.
        while let Some(message) = wire.inbox.pop_front() {
            match message {
                ToGuest::Input(bytes) if bytes.is_empty() => {
                    streams.input = None;
                    wire.send(&FromGuest::Taken)?;
                }
                ToGuest::Input(bytes) => pending = bytes,
                ToGuest::Window { length, sum } => {
                    pending = wire.window.read(length, sum)?.to_vec();
                }
                ToGuest::Resize(rows, columns) => {
                    streams.resize(rows, columns)?;
                }
                ToGuest::Part(_)
                | ToGuest::Run { .. }
                | ToGuest::Unpack
                | ToGuest::Hello(_) => {}
            }
        }
        if !pending.is_empty() && streams.feed(&mut pending) {
            wire.send(&FromGuest::Taken)?;
        }
        let (has_come, has_ended) = wire.wait(streams.awaited(&pending))?;
        let end = match has_ended {
            true => wire.reap(Some(command))?,
            false => None,
        };
        // COMMAND was reaped before this read, so all of its output is in the
        // pipes by now. A process that it left behind may hold them open: what
        // that writes later is no output of COMMAND.
        streams.carry(|number, bytes| {
            let message = [FromGuest::Out, FromGuest::Err][number];
            wire.send(&message(Data::new(bytes)))
        })?;
        if let Some(end) = end {
            return Ok(end);
        }
        if has_come {
            wire.read()?;
        }
    }
}
