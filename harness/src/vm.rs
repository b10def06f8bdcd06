//! The protocol with a running machine: it gets a request and the command's
//! input, and sends the output and how the command ended.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::accelerator::Accelerator;
use crate::machine::{Machine, Start};
use crate::progress::progress;
use crate::window::View;
use crate::wire::{
    self, CHUNK, Decoder, End, FromGuest, Request, Rubbish, ToGuest, User,
    WINDOW,
};
use crate::{Failure, patience};

/// How long a start from a saved state may take, until the guest answers.
const RESTORE: Duration = Duration::from_secs(20);

/// A machine that waits for commands.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    decoder: Decoder,
    /// Messages that have arrived and are not handled yet.
    inbox: VecDeque<FromGuest>,
    /// The guest's window, until a write to it fails.
    view: Option<View>,
}

/// Why a saved machine could not be restored.
#[derive(Debug)]
pub enum RestoreError {
    /// QEMU did not start, or not with this accelerator.
    Qemu(Failure),
    /// QEMU started, but the machine did not continue from this state.
    State(Failure),
}

impl RestoreError {
    /// What failed.
    pub fn into_failure(self) -> Failure {
        match self {
            RestoreError::Qemu(failure) | RestoreError::State(failure) => {
                failure
            }
        }
    }
}

/// Where a command's input comes from.
#[derive(Debug)]
pub enum Input<'a> {
    /// These bytes, and then EOF.
    Bytes(&'a [u8]),
    /// What is read from this descriptor.
    Stream(BorrowedFd<'a>),
}

/// What has happened to the reader's terminal.
pub type Event<'a> = dyn FnMut() -> Option<(u16, u16)> + 'a;

/// A command's streams and its deadline.
pub struct Io<'a> {
    /// Standard input.
    pub input: Input<'a>,
    /// Standard output, or all that the terminal shows.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: &'a mut dyn Write,
    /// How long the command may take, once the machine is ready.
    pub patience: Option<Duration>,
    /// A descriptor that is readable when something happens to the terminal,
    /// and a function that says what: the new rows and columns, or `None` to
    /// stop.
    pub events: Option<(BorrowedFd<'a>, &'a mut Event<'a>)>,
}

/// What can be read after a wait.
struct Ready {
    wire: bool,
    input: bool,
    event: bool,
}

impl Vm {
    fn new(machine: Machine) -> Vm {
        let (decoder, inbox) = (Decoder::default(), VecDeque::new());
        Vm { machine, decoder, inbox, view: None }
    }

    /// Waits until a machine has booted. Also returns the page frames of its
    /// window.
    pub fn boot(
        machine: Machine,
        patience: Duration,
    ) -> Result<(Vm, Vec<u64>), Failure> {
        let mut vm = Vm::new(machine);
        vm.machine.negotiate()?;
        match vm.receive(Some(Instant::now() + patience))? {
            Some(FromGuest::Ready(frames)) => Ok((vm, frames)),
            Some(FromGuest::Unfit(why)) => {
                Err(vm.machine.fail(format!("the guest is unfit: {why}")))
            }
            Some(other) => {
                let what = format!("the guest sends {other:?} at boot");
                Err(vm.machine.fail(what))
            }
            None => Err(vm.machine.fail("the guest does not come up")),
        }
    }

    /// Saves the machine, and ends it.
    pub fn save(mut self, dir: &Path) -> Result<(), Failure> {
        self.machine.save(dir)
    }

    /// Starts a machine from the state that was saved in `dir`, which has its
    /// window in these page frames.
    pub fn restore(
        dir: &Path,
        frames: &[u64],
        accelerator: Accelerator,
    ) -> Result<Vm, RestoreError> {
        let deadline = Instant::now() + patience(RESTORE);
        let mut vm = Machine::start(dir, accelerator, Start::State)
            .map(Vm::new)
            .map_err(RestoreError::Qemu)?;
        vm.machine.negotiate().map_err(RestoreError::Qemu)?;
        vm.machine.restore().map_err(RestoreError::State)?;
        vm.greet(deadline).map_err(RestoreError::State)?;
        vm.view = View::new(vm.machine.process(), frames);
        Ok(vm)
    }

    /// The last part of what the console has printed.
    pub fn console(&self) -> String {
        self.machine.console()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If there is no verdict: the machine has died, the deadline has passed,
    /// or a stream on this side is broken.
    pub fn run(
        &mut self,
        request: &Request,
        mut io: Io,
    ) -> Result<End, Failure> {
        let deadline = io.patience.map(|patience| Instant::now() + patience);
        let mut input = Vec::new(); // Read, but not sent yet.
        let mut more = !matches!(io.input, Input::Bytes([])); // To be read.
        let mut open = more; // EOF has not been sent yet.
        let mut room = true; // The guest has taken the last message.
        self.request(request, open, deadline, io.patience)?;
        loop {
            if more
                && input.is_empty()
                && let Input::Bytes(bytes) = &mut io.input
            {
                let (now, later) = bytes.split_at(bytes.len().min(WINDOW));
                input.extend_from_slice(now);
                *bytes = later;
                more = !now.is_empty();
            }
            if open && room && !(more && input.is_empty()) {
                open = !input.is_empty();
                self.send_input(&mut input)?;
                room = false;
            }
            let wanted = more && input.is_empty();
            let Some(ready) = self.wait(&io, wanted, deadline) else {
                return Err(self.late(io.patience));
            };
            if ready.input
                && let Input::Stream(stream) = &io.input
            {
                input.resize(WINDOW, 0);
                // An error, as from a terminal that is gone, counts as EOF.
                let n = nix::unistd::read(stream, &mut input).unwrap_or(0);
                input.truncate(n);
                more = n > 0;
            }
            if ready.event
                && let Some((_, event)) = &mut io.events
            {
                let Some((rows, columns)) = event() else {
                    return Err(self.machine.fail("ended by a signal"));
                };
                self.send(&ToGuest::Resize(rows, columns))?;
            }
            if ready.wire {
                self.read()?;
            }
            while let Some(message) = self.inbox.pop_front() {
                let written = match message {
                    FromGuest::Out(bytes) => io.output.write_all(&bytes),
                    FromGuest::Err(bytes) => io.errors.write_all(&bytes),
                    FromGuest::Taken => {
                        room = true;
                        Ok(())
                    }
                    FromGuest::End(end) => return Ok(end),
                    // A second answer to the greeting.
                    _ => Ok(()),
                };
                if let Err(error) = written {
                    return Err(self.machine.fail(format!("write: {error}")));
                }
            }
        }
    }

    /// Sends as much of COMMAND's input as fits into a message; an empty one is
    /// EOF. More than that goes through the guest's window.
    fn send_input(&mut self, input: &mut Vec<u8>) -> Result<(), Failure> {
        if input.len() > CHUNK
            && let Some(view) = &self.view
        {
            let now = &input[..input.len().min(WINDOW)];
            match view.write(now) {
                Ok(()) => {
                    let (length, sum) = (now.len() as u32, wire::sum(now));
                    input.drain(..now.len());
                    return self.send(&ToGuest::Window { length, sum });
                }
                Err(error) => {
                    progress(format_args!(
                        "input is slow here, some 20 kB in a second: \
                         QEMU's memory: {error}"
                    ));
                    self.view = None;
                }
            }
        }
        let now = input.drain(..input.len().min(CHUNK)).collect();
        self.send(&ToGuest::Input(now))
    }

    /// Sends a request, in pieces.
    fn request(
        &mut self,
        request: &Request,
        input: bool,
        deadline: Option<Instant>,
        patience: Option<Duration>,
    ) -> Result<(), Failure> {
        let request = postcard::to_stdvec(request).expect("plain data");
        let parts: Vec<_> = request.chunks(CHUNK).collect();
        let (last, parts) = parts.split_last().expect("it is not empty");
        for part in parts {
            self.send(&ToGuest::Part(part.to_vec()))?;
            loop {
                match self.receive(deadline)? {
                    Some(FromGuest::Taken) => break,
                    Some(_) => {} // A second answer to the greeting.
                    None => return Err(self.late(patience)),
                }
            }
        }
        self.send(&ToGuest::Run { part: last.to_vec(), input })
    }

    /// Waits for the wire, for the terminal's events, and, if `input` is set,
    /// for input. `None` if the deadline passes first.
    fn wait(
        &self,
        io: &Io,
        input: bool,
        deadline: Option<Instant>,
    ) -> Option<Ready> {
        let stream = match &io.input {
            Input::Stream(stream) if input => Some(*stream),
            _ => None,
        };
        let event = io.events.as_ref().map(|(event, _)| *event);
        let sources = [Some(self.machine.output.as_fd()), stream, event];
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

    /// Runs a command, and collects what it writes.
    pub fn output(
        &mut self,
        user: User,
        argv: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &[u8],
        patience: Duration,
    ) -> Result<Output, Failure> {
        let argv = argv.into_iter().map(|arg| arg.as_ref().as_bytes().to_vec());
        let argv = argv.collect();
        let request = Request { argv, user, dir: None, terminal: None };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let io = Io {
            input: Input::Bytes(input),
            output: &mut stdout,
            errors: &mut stderr,
            patience: Some(patience),
            events: None,
        };
        let end = self.run(&request, io)?;
        if let End::NotStarted(errno) = end {
            let error = io::Error::from_raw_os_error(errno);
            let _ = write!(&mut stderr, "exec: {error}");
        }
        let status = match end {
            End::Killed(signal) => i32::from(signal),
            _ => i32::from(end.status()) << 8,
        };
        let status = ExitStatus::from_raw(status);
        Ok(Output { status, stdout, stderr })
    }

    /// Greets the guest until it answers. The first byte that is sent to a
    /// restored machine may get lost, so the greeting is repeated.
    fn greet(&mut self, deadline: Instant) -> Result<(), Failure> {
        let mut wait = Duration::from_millis(10);
        for nonce in 0.. {
            let time = SystemTime::now().duration_since(UNIX_EPOCH);
            let time = time.unwrap_or_default();
            self.send(&ToGuest::Hello { nonce, time })?;
            match self.receive(Some(Instant::now() + wait))? {
                Some(FromGuest::Hello(_)) => break,
                _ if Instant::now() < deadline => {}
                _ => {
                    let what = "the guest does not answer";
                    return Err(self.machine.fail(what));
                }
            }
            // A slow guest has to answer each greeting.
            wait = (wait * 2).min(Duration::from_secs(1));
        }
        Ok(())
    }

    fn send(&mut self, message: &ToGuest) -> Result<(), Failure> {
        let sent = self.machine.input.write_all(&wire::encode(message));
        sent.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => self.machine.fail("the machine hangs"),
            _ => self.machine.fail("the machine has ended"),
        })
    }

    /// The next message; `None` if the deadline passes first.
    fn receive(
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
    fn read(&mut self) -> Result<(), Failure> {
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

    /// The failure when the deadline has passed without a verdict.
    fn late(&mut self, patience: Option<Duration>) -> Failure {
        let patience = patience.unwrap_or_default();
        self.machine.fail(format!("no verdict: no end after {patience:?}"))
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
