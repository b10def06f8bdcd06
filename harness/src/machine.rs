//! One QEMU process: its monitor, its console, and how it is ended.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{
    self, BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Read, Write,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use serde_json::{Value, json};

use crate::accelerator::Accelerator;
use crate::arch::Arch;
use crate::env::patience;
use crate::failure::Failure;
use crate::qemu::{Process, arguments, qemu};
use crate::sparse::{copy_sparse, cut_out};

/// How long QEMU's monitor may take for an answer. Its greeting takes 0.1 s if
/// QEMU was not in the page cache, and took more than 4 s on a machine with six
/// times the work that it has processors for.
const MONITOR: Duration = Duration::from_secs(20);

/// How long writing a machine's state may take.
const SAVE: Duration = Duration::from_secs(60);

/// How much of the console is kept.
const CONSOLE: usize = 64 * 1024;

/// A running machine. It ends when this is dropped, or when the thread that
/// started it ends for any reason.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    /// To the second serial port.
    pub input: UnixStream,
    /// From the second serial port. QEMU writes single bytes: a pipe holds
    /// 65 536 of them, but a socket only a few hundred.
    pub output: PipeReader,
    monitor: BufReader<UnixStream>,
    /// The console. When nobody reads it, the guest waits in the end.
    pub console: UnixStream,
    /// The last part of what it has printed.
    printed: RefCell<Vec<u8>>,
    /// The memory of a machine that was booted.
    memory: Option<File>,
    /// For a saved state. QEMU from 11.1 on cannot read it from the descriptor
    /// of a file (`fd:`), and QEMU 7.2 cannot read it from a file by its name
    /// (`file:`). Both can read it from a pipe.
    state: Option<(PipeReader, PipeWriter)>,
}

/// Where a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the kernel's first instruction. Its memory can be saved.
    Boot,
    /// At a saved state. The file of its memory stays as it is.
    State,
}

impl Machine {
    /// Starts QEMU with so many MiB of memory in `dir`, which holds `kernel` and
    /// `initramfs`, or for a saved state `memory` and `state`.
    pub fn start(
        dir: &Path,
        size: u64,
        accelerator: Accelerator,
        at: Start,
    ) -> Result<Machine, Failure> {
        let (input, guest_input) = pair()?;
        let pipe = || io::pipe().map_err(|e| Failure::because("pipe", e));
        let (output, guest_output) = pipe()?;
        let state = pipe()?;
        let (monitor, guest_monitor) = pair()?;
        let (console, guest_console) = pair()?;
        let errors = console
            .set_nonblocking(true)
            .and_then(|()| guest_console.try_clone())
            .map_err(|error| Failure::because("console", error))?;
        // A file on a disk would take a second longer.
        let memory = (at == Start::Boot)
            .then(|| memfd_create(c"memory", MFdFlags::MFD_CLOEXEC))
            .transpose()
            .map_err(|error| Failure::because("memfd_create", error))?;
        let arch = Arch::here()?;
        let process = Process {
            accelerator,
            size,
            console: guest_console.as_raw_fd(),
            monitor: guest_monitor.as_raw_fd(),
            memory: memory.as_ref().map(AsRawFd::as_raw_fd),
            append: match (at, accelerator) {
                (Start::Boot, Accelerator::Tcg) => (arch.tcg_append)(),
                _ => String::new(),
            },
        };
        let mut inherited =
            vec![process.monitor, process.console, state.0.as_raw_fd()];
        inherited.extend(process.memory);
        let mut qemu = Command::new(qemu()?);
        qemu.current_dir(dir)
            .args(arguments(arch, &process))
            .stdin(OwnedFd::from(guest_input))
            .stdout(guest_output)
            .stderr(OwnedFd::from(errors));
        end_with_this_thread(&mut qemu, inherited);
        let child = qemu.spawn().map_err(|error| {
            Failure::because(qemu.get_program().display(), error)
        })?;
        drop((guest_monitor, guest_console, qemu));

        Ok(Machine {
            child,
            input,
            output,
            monitor: BufReader::new(monitor),
            console,
            printed: RefCell::default(),
            memory: memory.map(File::from),
            state: Some(state),
        })
    }

    /// QEMU's PID.
    pub fn process(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Ends the machine, and returns an error with its console's last lines.
    pub fn fail(&mut self, what: impl Into<String>) -> Failure {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let console = self.printed();
        let mut what = what.into();
        if let Some(at) = console.find("Kernel panic") {
            let line = console[at..].lines().next().unwrap_or_default();
            what = format!("{what}: {line}");
        }
        Failure::with_console(what, console)
    }

    /// The last part of what the console has printed.
    pub fn printed(&self) -> String {
        self.listen();
        String::from_utf8_lossy(&self.printed.borrow()).into_owned()
    }

    /// Reads what the console has printed since.
    pub fn listen(&self) {
        keep_last(&self.console, &mut self.printed.borrow_mut());
    }

    pub fn negotiate(&mut self) -> Result<(), Failure> {
        self.reply()?; // The greeting.
        self.execute("qmp_capabilities", json!({}))?;
        // The memory is in a file already, and is left out of the state.
        let ignore = json!([{"capability": "x-ignore-shared", "state": true}]);
        self.execute(
            "migrate-set-capabilities",
            json!({ "capabilities": ignore }),
        )?;
        Ok(())
    }

    /// Writes the machine into the files `state` and `memory` in `dir`. It is
    /// stopped after that.
    pub fn save(&mut self, dir: &Path) -> Result<(), Failure> {
        self.execute("migrate", json!({"uri": "exec:cat > state"}))?;
        let deadline = Instant::now() + patience(SAVE);
        loop {
            let now = self.execute("query-migrate", json!({}))?;
            match now["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => {
                    return Err(self.fail(format!("saving the state: {now}")));
                }
                _ if Instant::now() > deadline => {
                    return Err(self.fail("saving the state takes too long"));
                }
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
        let Some(memory) = &self.memory else { return Ok(()) };
        fs::read(dir.join("initramfs"))
            .and_then(|initramfs| cut_out(memory, &initramfs))
            .and_then(|()| File::create(dir.join("memory")))
            .and_then(|file| copy_sparse(memory, &file))
            .map_err(|error| Failure::because("memory", error))
    }

    /// Continues from the file `state` in `dir`.
    pub fn restore(&mut self, dir: &Path) -> Result<(), Failure> {
        let Some((pipe, to)) = self.state.take() else { return Ok(()) };
        let state = fs::read(dir.join("state"))
            .map_err(|error| Failure::because("state", error))?;
        let uri = format!("fd:{}", pipe.as_raw_fd());
        self.execute("migrate-incoming", json!({ "uri": uri }))?;
        drop(pipe);
        let patience = patience(MONITOR);
        match write_in_time(to, &state, patience) {
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                let what = "QEMU does not read its state for";
                Err(self.fail(format!("{what} {patience:?}")))
            }
            // Another error means that QEMU has ended, which is noticed
            // elsewhere.
            _ => Ok(()),
        }
    }

    /// Sends a command to the monitor (QMP), and returns the answer.
    fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, Failure> {
        // All at once: each write wakes QEMU up.
        let line = json!({"execute": command, "arguments": arguments});
        let line = format!("{line}\n");
        if let Err(error) = self.monitor.get_mut().write_all(line.as_bytes()) {
            return Err(self.fail(format!("QEMU's monitor: {error}")));
        }
        loop {
            let mut reply = self.reply()?;
            if let Some(error) = reply.get("error") {
                let what = format!("QEMU's monitor: {command}: {error}");
                return Err(self.fail(what));
            }
            if let Some(value) = reply.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn reply(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        match self.monitor.read_line(&mut line) {
            Ok(0) => Err(self.fail("QEMU ended at its start")),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(reply) => Ok(reply),
                Err(error) => {
                    Err(self.fail(format!("QEMU's monitor: {error}")))
                }
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let patience = patience(MONITOR);
                Err(self.fail(format!("QEMU says nothing for {patience:?}")))
            }
            Err(error) => Err(self.fail(format!("QEMU's monitor: {error}"))),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our end of a socket, and QEMU's. A machine that hangs must not block us
/// forever.
fn pair() -> Result<(UnixStream, UnixStream), Failure> {
    let (ours, qemus) = UnixStream::pair()
        .map_err(|error| Failure::because("socketpair", error))?;
    let patience = Some(patience(MONITOR));
    ours.set_write_timeout(patience)
        .and_then(|()| ours.set_read_timeout(patience))
        .map_err(|error| Failure::because("setsockopt", error))?;
    Ok((ours, qemus))
}

/// Writes all of it to a pipe.
///
/// # Errors
/// As write(2), and `TimedOut` if nobody reads for so long.
fn write_in_time(
    mut to: PipeWriter,
    mut bytes: &[u8],
    patience: Duration,
) -> io::Result<()> {
    fcntl(&to, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, patience) == Ok(0) {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// QEMU ends with the thread that starts it, even after a SIGKILL, and has
/// these descriptors.
#[expect(unsafe_code, reason = "what the child does before exec")]
fn end_with_this_thread(qemu: &mut Command, inherited: Vec<RawFd>) {
    let parent = getpid();
    // SAFETY: these are system calls only, safe between fork and exec.
    unsafe {
        qemu.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(io::ErrorKind::Other.into());
            }
            for &fd in &inherited {
                let fd = BorrowedFd::borrow_raw(fd);
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
}

/// Reads what there is, and keeps the last part.
fn keep_last(mut console: impl Read, printed: &mut Vec<u8>) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = console.read(&mut bytes) {
        printed.extend(&bytes[..n]);
        let surplus = printed.len().saturating_sub(CONSOLE);
        printed.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_to_a_pipe_that_nobody_reads_ends() {
        let long = vec![7; 1 << 20];
        let (mut reader, to) = io::pipe().expect("a pipe");
        let late = write_in_time(to, &long, Duration::ZERO);
        assert_eq!(late.expect_err("late").kind(), ErrorKind::TimedOut);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("what was written");
        assert!(long.starts_with(&read) && read.len() < long.len());

        let (mut reader, to) = io::pipe().expect("a pipe");
        let mut read = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| reader.read_to_end(&mut read).expect("a pipe"));
            write_in_time(to, &long, patience(MONITOR)).expect("written");
        });
        assert_eq!(read, long);
    }

    #[test]
    fn last_part_of_the_console_is_kept() {
        let mut printed = b"the first words".to_vec();
        let more = [&[b'-'; 3 * CONSOLE], &b"the last words"[..]].concat();
        keep_last(&*more, &mut printed);
        assert_eq!(printed.len(), 64 * 1024);
        assert!(printed.ends_with(b"--the last words"));
    }
}
