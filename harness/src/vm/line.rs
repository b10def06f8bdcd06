//! The line to a running machine: messages to its guest and from it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failure::Failure;
use crate::machine::Machine;
use crate::wire::{self, Decoder, FromGuest, Rubbish, ToGuest};

/// A machine, and the messages from it.
#[derive(Debug)]
pub struct Line {
    /// The machine at the other end.
    pub machine: Machine,
    decoder: Decoder,
    /// Messages that have arrived and are not handled yet.
    pub inbox: VecDeque<FromGuest>,
}

/// What can be read after a wait.
#[derive(Debug)]
pub struct Ready {
    /// Messages from the machine.
    pub wire: bool,
    /// COMMAND's input.
    pub input: bool,
    /// What happens to the terminal.
    pub event: bool,
}

impl Line {
    /// The line to a machine that has sent nothing yet.
    pub fn new(machine: Machine) -> Line {
        let (decoder, inbox) = (Decoder::default(), VecDeque::new());
        Line { machine, decoder, inbox }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the machine has ended, or reads nothing any more.
    pub fn send(&mut self, message: &ToGuest) -> Result<(), Failure> {
        let sent = self.machine.input.write_all(&wire::encode(message));
        sent.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => self.machine.fail("the machine hangs"),
            _ => self.machine.fail("the machine has ended"),
        })
    }

    /// The next message; `None` if the deadline passes first.
    pub fn receive(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<FromGuest>, Failure> {
        while self.inbox.is_empty() {
            let port = self.machine.output.as_fd();
            if !wait(&mut [PollFd::new(port, PollFlags::POLLIN)], deadline) {
                return Ok(None);
            }
            self.read()?;
        }
        Ok(self.inbox.pop_front())
    }

    /// Reads what has arrived on the wire; blocks if there is nothing.
    pub fn read(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 16 * 1024];
        match self.machine.output.read(&mut bytes) {
            Ok(0) => Err(self.machine.fail("the machine has ended")),
            Ok(n) => {
                for byte in &bytes[..n] {
                    match self.decoder.push(*byte) {
                        Some(Ok(message)) => self.inbox.push_back(message),
                        Some(Err(Rubbish)) => {
                            let what = "the guest sends rubbish";
                            return Err(self.machine.fail(what));
                        }
                        None => {}
                    }
                }
                if self.decoder.inside() {
                    // The rest arrives byte by byte, and each byte would wake
                    // this thread up. After a moment many are read together.
                    thread::sleep(Duration::from_micros(100));
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.machine.fail(format!("the wire: {error}"))),
        }
    }

    /// Waits for messages, for the stream `input`, and for an `event` at the
    /// terminal. `None` if the deadline passes first.
    pub fn wait(
        &self,
        input: Option<BorrowedFd>,
        event: Option<BorrowedFd>,
        deadline: Option<Instant>,
    ) -> Option<Ready> {
        let sources = [Some(self.machine.output.as_fd()), input, event];
        let fds = sources.iter().flatten();
        let fds = fds.map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        let mut fds: Vec<PollFd> = fds.collect();
        if !wait(&mut fds, deadline) {
            return None;
        }
        let mut fds = fds.iter().map(|fd| fd.any().unwrap_or_default());
        let [wire, input, event] = sources
            .map(|source| source.is_some() && fds.next().unwrap_or_default());
        Some(Ready { wire, input, event })
    }
}

/// Waits for one of these. False if the deadline has passed, even if one is
/// ready: a guest that sends without end must not postpone it.
fn wait(fds: &mut [PollFd], deadline: Option<Instant>) -> bool {
    loop {
        let patience = match deadline {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return false;
                }
                let left = left.as_millis() + 1;
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        // The only possible error is EINTR, and then it waits again.
        if let Ok(1..) = poll(fds, patience) {
            return true;
        }
    }
}
