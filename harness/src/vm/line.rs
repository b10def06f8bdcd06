//! The line to a running machine: messages to its guest and from it.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Vm;
use crate::failure::Failure;
use crate::wire::{self, FromGuest, Rubbish, ToGuest};

impl Vm {
    /// Sends a message.
    ///
    /// # Errors
    /// If the machine has ended, or reads nothing any more.
    pub(super) fn send(&mut self, message: &ToGuest) -> Result<(), Failure> {
        let sent = self.machine.input.write_all(&wire::encode(message));
        sent.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => self.machine.fail("the machine hangs"),
            _ => self.machine.fail("the machine has ended"),
        })
    }

    /// The next message; `None` if the deadline passes first.
    pub(super) fn receive(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<FromGuest>, Failure> {
        while self.inbox.is_empty() {
            match self.wait([None; 2], deadline) {
                None => return Ok(None),
                Some([true, ..]) => self.read()?,
                Some(_) => {}
            }
        }
        Ok(self.inbox.pop_front())
    }

    /// Reads what has arrived on the wire; blocks if there is nothing.
    pub(super) fn read(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 16 * 1024];
        match self.machine.output.read(&mut bytes) {
            Ok(0) => Err(self.machine.fail("the machine has ended")),
            Ok(n) => {
                for message in self.decoder.push(&bytes[..n]) {
                    let message = message.map_err(|it| self.rubbish(it))?;
                    self.inbox.push_back(message);
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

    pub(super) fn rubbish(&mut self, _: Rubbish) -> Failure {
        self.machine.fail("the guest sends rubbish")
    }

    /// Waits for messages, and for one of these. Returns which can be read, the
    /// messages first. `None` if the deadline passes first, even if one is
    /// ready: a guest that sends without end must not postpone it.
    pub(super) fn wait(
        &self,
        more: [Option<BorrowedFd>; 2],
        deadline: Option<Instant>,
    ) -> Option<[bool; 3]> {
        let [first, second] = more;
        let machine = &self.machine;
        let sources = [
            Some(machine.output.as_fd()),
            first,
            second,
            Some(machine.console.as_fd()),
        ];
        let fds = sources.iter().flatten();
        let fds = fds.map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        let mut fds: Vec<PollFd> = fds.collect();
        loop {
            let left =
                deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let patience = match left {
                None => PollTimeout::NONE,
                Some(Duration::ZERO) => return None,
                Some(left) => PollTimeout::try_from(left.as_millis() + 1)
                    .unwrap_or(PollTimeout::MAX),
            };
            // The only possible error is EINTR, and then it waits again.
            if let Ok(1..) = poll(&mut fds, patience) {
                break;
            }
        }
        let mut fds = fds.iter().map(|fd| fd.any().unwrap_or_default());
        let [wire, first, second, console] = sources
            .map(|source| source.is_some() && fds.next().unwrap_or_default());
        if console {
            self.machine.listen();
        }
        Some([wire, first, second])
    }
}
