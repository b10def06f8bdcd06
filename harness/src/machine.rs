//! One QEMU process: its command line, its monitor, and how it is ended.

use std::fs::{self, File};
use std::io::{
    self, BufRead, BufReader, ErrorKind, PipeReader, Read, Seek, SeekFrom,
    Write,
};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, Whence, getppid, lseek};
use serde_json::{Value, json};

use crate::accelerator::Accelerator;
use crate::arch::Arch;
use crate::{Failure, on_path, patience, variable};

/// The guest's memory in MiB, for an initramfs of this many bytes. Its files
/// may take half of the memory, and are there twice while the kernel unpacks
/// them. Memory that the guest never touches takes no room on this machine.
fn memory_for(initramfs: u64) -> u64 {
    (128 + 4 * (initramfs >> 20)).next_multiple_of(64)
}

/// The kernel's command line, in addition to the architecture's.
///
/// - `panic=-1`: a panic ends the machine at once.
/// - `cryptomgr.notests`: the kernel does not test its ciphers at boot.
/// - `fb_tunnels=none`: tunnel drivers put no devices into a new network
///   namespace, which would not be "only loopback".
/// - `norandmaps`: with fixed addresses TCG translates a library once, and not
///   for each process, and a command takes half the time.
/// - `lsm=capability psi=0`: security modules without a policy, and statistics
///   that nobody reads, would still cost time at each call.
const APPEND: &str = "quiet panic=-1 cryptomgr.notests fb_tunnels=none \
                      norandmaps lsm=capability psi=0 rdinit=/init";

/// How long QEMU's monitor may take for an answer. Its greeting takes 0.1 s if
/// QEMU was not in the page cache.
const MONITOR: Duration = Duration::from_secs(4);

/// How long writing a machine's state may take.
const SAVE: Duration = Duration::from_secs(60);

/// How much of the console is kept.
const CONSOLE: usize = 64 * 1024;

/// The path of `$HARNESS_QEMU`, or else of this architecture's QEMU.
pub fn qemu() -> Result<PathBuf, Failure> {
    let name = match variable("HARNESS_QEMU") {
        Some(name) => name,
        None => Arch::here()?.qemu.into(),
    };
    let path = match name.as_bytes().contains(&b'/') {
        true => Some(PathBuf::from(&name)).filter(|path| path.is_file()),
        false => on_path(&name),
    };
    path.and_then(|path| std::path::absolute(path).ok()).ok_or_else(|| {
        let name = name.display();
        Failure::new(format!("no {name} on this machine: run harness/setup"))
    })
}

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
    /// Starts QEMU in `dir`, which holds `kernel` and `initramfs`, and for a
    /// saved state `memory` and `state`.
    #[expect(unsafe_code, reason = "what the child does before exec")]
    pub fn start(
        dir: &Path,
        accelerator: Accelerator,
        at: Start,
    ) -> Result<Machine, Failure> {
        let pair = || {
            UnixStream::pair().map_err(|e| Failure::because("socketpair", e))
        };
        let (input, guest_input) = pair()?;
        let (output, guest_output) =
            io::pipe().map_err(|e| Failure::because("pipe", e))?;
        let (monitor, guest_monitor) = pair()?;
        let (console, guest_console) = pair()?;
        let errors = guest_console.try_clone();
        let errors = errors.map_err(|error| Failure::because("dup", error))?;
        let [monitor_fd, console_fd] =
            [&guest_monitor, &guest_console].map(|socket| socket.as_raw_fd());
        let mut inherited = vec![monitor_fd, console_fd];
        let mut memory = None;
        let mut state = None;
        let (path, share) = match at {
            Start::Boot => {
                // A file on a disk would take a second longer.
                let file = memfd_create(c"memory", MFdFlags::MFD_CLOEXEC)
                    .map_err(|e| Failure::because("memfd_create", e))?;
                let fd = file.as_raw_fd();
                inherited.push(fd);
                memory = Some(file.into());
                (format!("/proc/self/fd/{fd}"), "on")
            }
            Start::State => {
                let pipe = through_a_pipe(&dir.join("state"))
                    .map_err(|e| Failure::because("state", e))?;
                inherited.push(pipe.as_raw_fd());
                state = Some(pipe);
                ("memory".into(), "off")
            }
        };

        let initramfs = fs::metadata(dir.join("initramfs"))
            .map_err(|error| Failure::because("initramfs", error))?;
        let size = format!("{}M", memory_for(initramfs.len()));
        let arch = Arch::here()?;
        let (cpu, append) = match accelerator {
            Accelerator::Kvm => ("host", String::new()),
            Accelerator::Tcg if at == Start::Boot => {
                (arch.cpu, (arch.tcg_append)())
            }
            Accelerator::Tcg => (arch.cpu, String::new()),
        };
        let board = format!("{},memory-backend=memory", arch.machine);
        let append = format!("{} {append} {APPEND}", arch.append);
        let chardev = |id: &str, fd: RawFd| format!("socket,id={id},fd={fd}");
        let mut qemu = Command::new(qemu()?);
        qemu.current_dir(dir)
            .args(["-M", &board, "-accel", accelerator.name(), "-cpu", cpu])
            .args(["-m", &size, "-object"])
            .arg(format!(
                "memory-backend-file,id=memory,size={size},\
                 mem-path={path},share={share}"
            ))
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-nic", "none"])
            .args(["-chardev", &chardev("console", console_fd)])
            .args(["-serial", "chardev:console"])
            .args(["-chardev", "stdio,id=wire,signal=off"])
            .args(["-device", arch.wire_device])
            .args(["-chardev", &chardev("monitor", monitor_fd)])
            .args(["-qmp", "chardev:monitor"])
            .stdin(OwnedFd::from(guest_input))
            .stdout(guest_output)
            .stderr(OwnedFd::from(errors));
        if at == Start::Boot {
            qemu.args(["-kernel", "kernel", "-initrd", "initramfs"])
                .args(["-append", &append]);
        }
        if at == Start::State {
            qemu.args(["-incoming", "defer"]);
        }
        let parent = nix::unistd::getpid();
        // SAFETY: these are system calls only, safe between fork and exec.
        unsafe {
            qemu.pre_exec(move || {
                // QEMU ends with the thread that started it, even after a
                // SIGKILL.
                set_pdeathsig(Signal::SIGKILL)?;
                if getppid() != parent {
                    return Err(io::ErrorKind::Other.into());
                }
                for &fd in &inherited {
                    let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
                    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        let child = qemu.spawn().map_err(|error| {
            Failure::because(qemu.get_program().display(), error)
        })?;
        drop((guest_monitor, guest_console, qemu));

        // A write to a machine that hangs must not block forever.
        input
            .set_write_timeout(Some(patience(MONITOR)))
            .and_then(|()| monitor.set_write_timeout(Some(patience(MONITOR))))
            .map_err(|error| Failure::because("setsockopt", error))?;
        let printed = Arc::new(Mutex::new(Vec::new()));
        let source =
            console.try_clone().map_err(|e| Failure::because("dup", e))?;
        let reader = thread::spawn({
            let printed = Arc::clone(&printed);
            move || {
                block_signals();
                keep_last(source, &printed);
            }
        });
        let monitor = BufReader::new(monitor);
        let reader = Some(reader);
        Ok(Machine {
            child,
            input,
            output,
            monitor,
            console,
            memory,
            state,
            printed,
            reader,
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
        let Some(memory) = &mut self.memory else { return Ok(()) };
        File::create(dir.join("memory"))
            .and_then(|mut file| copy_sparse(memory, &mut file))
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

/// Copies a file, and keeps its holes.
fn copy_sparse(from: &mut File, to: &mut File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    loop {
        let data = match lseek(&*from, at, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(()), // No more.
            data => data?,
        };
        at = lseek(&*from, data, Whence::SeekHole)?;
        from.seek(SeekFrom::Start(data as u64))?;
        to.seek(SeekFrom::Start(data as u64))?;
        io::copy(&mut from.take((at - data) as u64), to)?;
    }
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
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn guest_has_room_for_its_files_twice() {
        for mib in [1, 40, 700] {
            let memory = memory_for(mib << 20);
            assert!((128..192).contains(&(memory - 4 * mib)), "{memory}");
        }
    }

    #[test]
    fn copy_has_the_holes_of_its_source() {
        let mut from = tempfile::tempfile().expect("a file");
        let mut to = tempfile::tempfile().expect("a file");
        let part = vec![7; 64 * 1024];
        from.seek(SeekFrom::Start(1 << 20)).expect("seek");
        from.write_all(&part).expect("write");
        from.set_len(3 << 20).expect("a size");
        copy_sparse(&mut from, &mut to).expect("a copy");

        let mut bytes = Vec::new();
        to.rewind().expect("seek");
        to.read_to_end(&mut bytes).expect("read");
        let (before, rest) = bytes.split_at(1 << 20);
        let (data, after) = rest.split_at(part.len());
        assert_eq!((data, bytes.len()), (&*part, 3 << 20));
        assert!(before.iter().chain(after).all(|byte| *byte == 0));
        assert!(to.metadata().expect("a file").blocks() * 512 < 1 << 20);
    }

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
