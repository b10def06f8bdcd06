//! One QEMU process: its monitor, its console, and how it is ended.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid};
use serde_json::{Value, json};

use crate::accelerator::Accelerator;
use crate::arch::Arch;
use crate::env::patience;
use crate::failure::Failure;
use crate::qemu::{Process, arguments, qemu};
use crate::sparse::{copy_sparse, cut_out};

/// How long QEMU's monitor may take for an answer. Its greeting takes 0.1 s if
/// QEMU was not in the page cache.
const MONITOR: Duration = Duration::from_secs(4);

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
    console: UnixStream,
    /// The memory of a machine that was booted.
    memory: Option<File>,
    /// The saved state, for a machine that was not booted.
    state: Option<PipeReader>,
    /// What the console has printed.
    printed: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
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
        let (output, guest_output) =
            io::pipe().map_err(|e| Failure::because("pipe", e))?;
        let (monitor, guest_monitor) = pair()?;
        let (console, guest_console) = pair()?;
        let errors = copy(&guest_console)?;
        let (memory, state) = memory_and_state(dir, at)?;
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
        let mut inherited = vec![process.monitor, process.console];
        inherited.extend(process.memory);
        inherited.extend(state.as_ref().map(AsRawFd::as_raw_fd));
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

        // A write to a machine that hangs must not block forever.
        input
            .set_write_timeout(Some(patience(MONITOR)))
            .and_then(|()| monitor.set_write_timeout(Some(patience(MONITOR))))
            .map_err(|error| Failure::because("setsockopt", error))?;
        let printed = Arc::default();
        let reader = keep(copy(&console)?, Arc::clone(&printed));
        Ok(Machine {
            child,
            input,
            output,
            monitor: BufReader::new(monitor),
            console,
            memory,
            state,
            printed,
            reader: Some(reader),
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
        // The reader still gets what is in the socket, and then EOF, even if
        // another process has the other end open.
        let _ = self.console.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let console = self.console();
        let mut what = what.into();
        if let Some(at) = console.find("Kernel panic") {
            let line = console[at..].lines().next().unwrap_or_default();
            what = format!("{what}: {line}");
        }
        Failure::with_console(what, console)
    }

    /// The last part of what the console has printed.
    pub fn console(&self) -> String {
        let printed = self.printed.lock().unwrap_or_else(|e| e.into_inner());
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// Negotiates capabilities with the monitor.
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
        File::open(dir.join("initramfs"))
            .and_then(|initramfs| cut_out(memory, &initramfs))
            .and_then(|()| File::create(dir.join("memory")))
            .and_then(|file| copy_sparse(memory, &file))
            .map_err(|error| Failure::because("memory", error))
    }

    /// Continues from the file `state`.
    pub fn restore(&mut self) -> Result<(), Failure> {
        let Some(state) = self.state.take() else { return Ok(()) };
        let uri = format!("fd:{}", state.as_raw_fd());
        self.execute("migrate-incoming", json!({ "uri": uri }))?;
        Ok(())
    }

    /// Sends a command to the monitor (QMP), and returns the answer.
    fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, Failure> {
        let line = json!({"execute": command, "arguments": arguments});
        if let Err(error) = writeln!(self.monitor.get_mut(), "{line}") {
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
        let patience = patience(MONITOR);
        let mut line = String::new();
        let read = self
            .monitor
            .get_ref()
            .set_read_timeout(Some(patience))
            .and_then(|()| self.monitor.read_line(&mut line));
        match read {
            Ok(0) => Err(self.fail("QEMU ended at its start")),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(reply) => Ok(reply),
                Err(error) => {
                    Err(self.fail(format!("QEMU's monitor: {error}")))
                }
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
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

fn pair() -> Result<(UnixStream, UnixStream), Failure> {
    UnixStream::pair().map_err(|error| Failure::because("socketpair", error))
}

fn copy(socket: &UnixStream) -> Result<UnixStream, Failure> {
    socket.try_clone().map_err(|error| Failure::because("dup", error))
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

/// The memory of a machine that boots, or else the state of a saved one.
fn memory_and_state(
    dir: &Path,
    at: Start,
) -> Result<(Option<File>, Option<PipeReader>), Failure> {
    match at {
        // A file on a disk would take a second longer.
        Start::Boot => memfd_create(c"memory", MFdFlags::MFD_CLOEXEC)
            .map(|memory| (Some(memory.into()), None))
            .map_err(|error| Failure::because("memfd_create", error)),
        Start::State => through_a_pipe(&dir.join("state"))
            .map(|state| (None, Some(state)))
            .map_err(|error| Failure::because("state", error)),
    }
}

/// A thread that keeps the last part of what the console prints.
fn keep(console: UnixStream, text: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        block_signals();
        keep_last(console, &text);
    })
}

/// A pipe from which the file's bytes can be read. QEMU from 11.1 on cannot
/// read the state from the descriptor of a file (`fd:`), and QEMU 7.2 cannot
/// read it from a file by its name (`file:`). Both can read it from a pipe.
fn through_a_pipe(path: &Path) -> io::Result<PipeReader> {
    let mut file = File::open(path)?;
    let (reader, mut writer) = io::pipe()?;
    // An error means that QEMU has ended, which is noticed elsewhere.
    thread::spawn(move || {
        block_signals();
        io::copy(&mut file, &mut writer)
    });
    Ok(reader)
}

/// Blocks all signals in this thread. The main thread blocks the signals of its
/// signalfd(2), and so the kernel would deliver them here.
fn block_signals() {
    let _ = SigSet::all().thread_block();
}

/// Reads to the end, and keeps the last part.
fn keep_last(mut console: UnixStream, text: &Mutex<Vec<u8>>) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = console.read(&mut bytes) {
        let mut text = text.lock().unwrap_or_else(|e| e.into_inner());
        text.extend(&bytes[..n]);
        if let Some(surplus) = text.len().checked_sub(CONSOLE) {
            text.drain(..surplus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_part_of_the_console_is_kept() {
        let (mut guest, console) = UnixStream::pair().expect("a socket");
        let text = Mutex::default();
        thread::scope(|scope| {
            scope.spawn(|| keep_last(console, &text));
            guest.write_all(&vec![b'-'; 3 * CONSOLE]).expect("write");
            guest.write_all(b"the last words").expect("write");
            drop(guest);
        });
        let text = text.into_inner().expect("text");
        assert_eq!(text.len(), 64 * 1024);
        assert!(text.ends_with(b"--the last words"));
    }
}
