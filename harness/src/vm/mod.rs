//! The protocol with a running machine: it gets a request and the command's
//! input, and sends the output and how the command ended.

mod line;

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::accelerator::Accelerator;
use crate::cache::{Manifest, Saved};
use crate::env::patience;
use crate::failure::Failure;
use crate::machine::{Machine, Start};
use crate::progress::progress;
use crate::terminal::Terminal;
use crate::window::View;
use crate::wire::{
    self, CHUNK, Decoder, End, FromGuest, Request, ToGuest, User, WINDOW,
};

/// How long a start from a saved state may take, until the guest answers.
const RESTORE: Duration = Duration::from_secs(20);

/// How long the guest may take to unpack files.
const UNPACK: Duration = Duration::from_secs(60);

/// How many bytes go over the serial port in half a second.
pub const SHORT: u64 = 64 * 1024;

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

/// A command's streams and its deadline.
pub struct Io<'a> {
    /// Standard input, if there is any.
    pub input: Option<BorrowedFd<'a>>,
    /// Standard output, or all that the terminal shows.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: &'a mut dyn Write,
    /// How long the command may take, once the machine is ready.
    pub patience: Option<Duration>,
    /// The reader's terminal, if COMMAND has one.
    pub terminal: Option<&'a Terminal>,
}

impl Vm {
    fn new(machine: Machine) -> Vm {
        let (decoder, inbox) = (Decoder::default(), VecDeque::new());
        Vm { machine, decoder, inbox, view: None }
    }

    /// Waits until a machine has booted. Also returns the page frames of its
    /// window.
    pub(crate) fn boot(
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
    pub(crate) fn save(mut self, dir: &Path) -> Result<(), Failure> {
        self.machine.save(dir)
    }

    /// Starts a machine from its saved state.
    pub(crate) fn restore(
        saved: &Saved,
        accelerator: Accelerator,
    ) -> Result<Vm, RestoreError> {
        let deadline = Instant::now() + patience(RESTORE);
        let Saved { dir, manifest: Manifest { memory, frames, .. }, .. } =
            saved;
        let mut vm = Machine::start(dir, *memory, accelerator, Start::State)
            .map(Vm::new)
            .map_err(RestoreError::Qemu)?;
        vm.machine.negotiate().map_err(RestoreError::Qemu)?;
        vm.machine.restore(dir).map_err(RestoreError::State)?;
        vm.greet(deadline).map_err(RestoreError::State)?;
        vm.view = View::new(vm.machine.process(), frames);
        Ok(vm)
    }

    /// Whether the guest's memory can be written, so that input is fast.
    pub(crate) fn has_window(&self) -> bool {
        self.view.is_some()
    }

    /// Unpacks an archive of files in the machine, before the first command.
    ///
    /// # Errors
    /// If the guest cannot take it: it names the file.
    pub(crate) fn unpack(&mut self, archive: &[u8]) -> Result<(), Failure> {
        let deadline = Some(Instant::now() + patience(UNPACK));
        self.send(&ToGuest::Unpack)?;
        let mut rest = archive;
        loop {
            let sent = self.send_piece(rest)?;
            rest = &rest[sent..];
            let answer = self.answer(deadline, Some(UNPACK))?;
            if let FromGuest::Unpacked(unpacked) = answer {
                return unpacked.map_err(|why| {
                    let what = format!("the machine cannot take {why}");
                    self.machine.fail(what)
                });
            }
        }
    }

    /// The last part of what the console has printed.
    pub fn console(&self) -> String {
        self.machine.printed()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If there is no verdict: the machine has died, the deadline has passed,
    /// or a stream on this side is broken.
    pub fn run(&mut self, request: &Request, io: Io) -> Result<End, Failure> {
        let Io { mut input, output, errors, patience, terminal } = io;
        let deadline = patience.map(|patience| Instant::now() + patience);
        self.request(request, input.is_some(), deadline, patience)?;
        // Input that is read and not sent yet. The guest takes a piece before
        // the next one is sent.
        let mut pending = Vec::new();
        let mut is_busy = false;
        loop {
            if !is_busy && !pending.is_empty() {
                self.send_input(&mut pending)?;
                is_busy = true;
            }
            let stream = input.filter(|_| !is_busy);
            let events = terminal.map(Terminal::events);
            let ready = self.wait([stream, events], deadline);
            let Some([wire, readable, happened]) = ready else {
                return Err(self.late(patience));
            };
            if let Some(stream) = stream.filter(|_| readable) {
                pending = vec![0; WINDOW];
                // An error, as from a terminal that is gone, counts as EOF.
                let n = nix::unistd::read(stream, &mut pending).unwrap_or(0);
                pending.truncate(n);
                if n == 0 {
                    input = None;
                    self.send(&ToGuest::Input(Vec::new()))?;
                }
            }
            if let Some(terminal) = terminal.filter(|_| happened) {
                let Some((rows, columns)) = terminal.event() else {
                    return Err(self.machine.fail("ended by a signal"));
                };
                self.send(&ToGuest::Resize(rows, columns))?;
            }
            if wire {
                self.read()?;
            }
            while let Some(message) = self.inbox.pop_front() {
                let (name, to, data) = match message {
                    FromGuest::Out(data) => ("output", &mut *output, data),
                    FromGuest::Err(data) => ("error", &mut *errors, data),
                    FromGuest::Taken => {
                        is_busy = false;
                        continue;
                    }
                    FromGuest::End(end) => return Ok(end),
                    // A second answer to the greeting.
                    _ => continue,
                };
                let bytes = data.bytes().map_err(|it| self.rubbish(it))?;
                to.write_all(&bytes).map_err(|error| {
                    let what = format!("write to standard {name}: {error}");
                    let mut failure = self.machine.fail(what);
                    failure.broken_pipe = error.kind() == ErrorKind::BrokenPipe;
                    failure
                })?;
            }
        }
    }

    /// Sends as much of COMMAND's input as fits into a message.
    fn send_input(&mut self, input: &mut Vec<u8>) -> Result<(), Failure> {
        let sent = self.send_piece(input)?;
        if sent < input.len() && self.view.is_none() {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                progress(format_args!(
                    "input is slow here, some 20 kB in a second: \
                     QEMU's memory cannot be written"
                ));
            });
        }
        input.drain(..sent);
        Ok(())
    }

    /// Sends as much of this as fits into a message, or into the guest's window
    /// if that is more. Returns how much.
    fn send_piece(&mut self, input: &[u8]) -> Result<usize, Failure> {
        if input.len() > CHUNK
            && let Some(view) = &self.view
        {
            let now = &input[..input.len().min(WINDOW)];
            match view.write(now) {
                Ok(()) => {
                    let (length, sum) = (now.len() as u32, wire::sum(now));
                    self.send(&ToGuest::Window { length, sum })?;
                    return Ok(now.len());
                }
                Err(_) => self.view = None,
            }
        }
        let now = &input[..input.len().min(CHUNK)];
        self.send(&ToGuest::Input(now.to_vec()))?;
        Ok(now.len())
    }

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
            self.answer(deadline, patience)?;
        }
        self.send(&ToGuest::Run { part: last.to_vec(), input })
    }

    /// The guest's answer to a piece.
    fn answer(
        &mut self,
        deadline: Option<Instant>,
        patience: Option<Duration>,
    ) -> Result<FromGuest, Failure> {
        loop {
            match self.receive(deadline)? {
                Some(FromGuest::Hello) => {} // A second one to the greeting.
                Some(answer) => return Ok(answer),
                None => return Err(self.late(patience)),
            }
        }
    }

    /// Runs a command, and collects what it writes.
    ///
    /// # Errors
    /// As [`Vm::run`].
    pub fn output(
        &mut self,
        user: User,
        argv: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &[u8],
        patience: Duration,
    ) -> Result<Output, Failure> {
        let argv =
            argv.into_iter().map(|arg| CString::new(arg.as_ref().as_bytes()));
        let argv = argv
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::because("argv", error))?;
        let (dir, terminal, closed) = (None, None, [false; 3]);
        let request = Request { argv, user, dir, terminal, closed };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let bytes = in_memory(input)
            .map_err(|error| Failure::because("memfd_create", error))?;
        let io = Io {
            input: (!input.is_empty()).then_some(bytes.as_fd()),
            output: &mut stdout,
            errors: &mut stderr,
            patience: Some(patience),
            terminal: None,
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
        loop {
            let time = SystemTime::now().duration_since(UNIX_EPOCH);
            let time = time.unwrap_or_default().as_nanos() as u64;
            self.send(&ToGuest::Hello(time))?;
            match self.receive(Some(Instant::now() + wait))? {
                Some(FromGuest::Hello) => return Ok(()),
                _ if Instant::now() < deadline => {}
                _ => {
                    let what = "the guest does not answer";
                    return Err(self.machine.fail(what));
                }
            }
            // A slow guest has to answer each greeting.
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    /// The failure when the deadline has passed without a verdict.
    fn late(&mut self, patience: Option<Duration>) -> Failure {
        let patience = patience.unwrap_or_default();
        self.machine.fail(format!("no verdict: no end after {patience:?}"))
    }
}

/// A file with these bytes.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"input", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
