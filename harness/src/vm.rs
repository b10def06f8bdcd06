//! The conversation with a running machine: it is asked to run a command,
//! gets its input and gives its output, and says how it ended.

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

/// How long a start from a saved state may take, to the guest's hello.
const RESTORE: Duration = Duration::from_secs(20);

/// A machine that waits for commands.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    decoder: Decoder,
    /// Messages that have come, and were not looked at yet.
    inbox: VecDeque<FromGuest>,
    /// Where the guest takes input from, if that can be written to.
    view: Option<View>,
}

/// Why a saved machine does not go on.
#[derive(Debug)]
pub enum RestoreError {
    /// QEMU did not start, or not with this accelerator.
    Qemu(Failure),
    /// QEMU did, and the machine did not go on from this state.
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
    /// These bytes, and then the end.
    Bytes(&'a [u8]),
    /// What can be read here.
    Stream(BorrowedFd<'a>),
}

/// What has happened to the reader's terminal.
pub type Event<'a> = dyn FnMut() -> Option<(u16, u16)> + 'a;

/// A command's streams and its time.
pub struct Io<'a> {
    /// Standard input.
    pub input: Input<'a>,
    /// Standard output, or all that the terminal shows.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: &'a mut dyn Write,
    /// How long the command may take, once the machine is ready.
    pub patience: Option<Duration>,
    /// Readable when something happens to the terminal; and what: its new
    /// rows and columns, or `None` where it is time to stop.
    pub events: Option<(BorrowedFd<'a>, &'a mut Event<'a>)>,
}

/// Which of those that were waited for can be read.
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

    /// Waits for a machine that boots. Returns where its window is, too.
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
                Err(vm.machine.fail(format!("the guest says {other:?}")))
            }
            None => Err(vm.machine.fail("the guest does not come up")),
        }
    }

    /// Saves the machine, which ends with that.
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

    /// What the console has said, the last of it.
    pub fn console(&self) -> String {
        self.machine.console()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// Where there is no verdict: the machine has died, or time is up, or
    /// the streams on this side are broken.
    pub fn run(
        &mut self,
        request: &Request,
        mut io: Io,
    ) -> Result<End, Failure> {
        let deadline = io.patience.map(|patience| Instant::now() + patience);
        let mut input = Vec::new(); // Read, and not sent yet.
        let mut more = !matches!(io.input, Input::Bytes([]));
        let mut open = more; // The guest has not been told of its end.
        let mut room = true; // The guest takes more of it.
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
                // Reading from a terminal that is gone is an error: that is
                // its end.
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

    /// Sends as much of COMMAND's input as goes into a message; nothing is its
    /// end. Much at once goes through the guest's window.
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
        let (last, parts) = parts.split_last().expect("it says who, at least");
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

    /// Waits for the wire, for the terminal's events, and if it is wanted for
    /// input. `None` when the deadline comes first.
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

    /// Greets the guest until it answers. The first byte into the port of a
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
                _ => return Err(self.machine.fail("the guest is silent")),
            }
            // A slow guest has them all to answer.
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

    /// The next message; `None` when the deadline comes first.
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

    /// Takes in what the wire has, or waits for it.
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
                    // The rest is on its way, byte by byte, and each would
                    // wake us. A moment later they come together.
                    thread::sleep(Duration::from_micros(100));
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.machine.fail(format!("the wire: {error}"))),
        }
    }

    /// There is no verdict, and never will be.
    fn late(&mut self, patience: Option<Duration>) -> Failure {
        let patience = patience.unwrap_or_default();
        self.machine.fail(format!("no verdict: no end after {patience:?}"))
    }
}

/// Waits for one of these. False when the deadline has passed, whatever else
/// has happened: a guest that never stops talking does not stop the clock.
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
        // No error but EINTR can be: there is no signal that it is for.
        if let Ok(1..) = poll(fds, patience) {
            return true;
        }
    }
}
