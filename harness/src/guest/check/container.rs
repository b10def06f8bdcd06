//! A container that is started: `PREFIX COMMAND`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

use super::outside::Outside;

/// How long a container may take to start COMMAND, or to end after it.
pub const START: Duration = Duration::from_secs(10);
/// How long it may take to end when it must, or to leave nothing behind. A good
/// one needs a hundredth of this.
pub const SOON: Duration = Duration::from_secs(2);

pub struct Container {
    pub pid: Pid,
    command: Vec<String>,
    input: Option<OwnedFd>,
    /// Output and errors, or the terminal.
    streams: Vec<File>,
    /// What came from them.
    pub said: [Vec<u8>; 2],
    pub end: Option<ExitStatus>,
}

/// What COMMAND has as its standard streams.
#[derive(PartialEq)]
pub enum Streams {
    Pipes,
    Terminal,
}

impl Container {
    /// Starts `PREFIX COMMAND`, in a process group of its own.
    pub fn start(
        prefix: &[OsString],
        command: &[&str],
        streams: Streams,
    ) -> io::Result<Container> {
        let mut start = Command::new(&prefix[0]);
        start.args(&prefix[1..]).args(command);
        let spawn = |start: &mut Command| {
            start.spawn().map_err(|error| {
                let name = prefix[0].to_string_lossy();
                io::Error::other(format!("exec {name}: {error}"))
            })
        };
        let (child, input, streams) = match streams {
            Streams::Pipes => {
                let streams = || Stdio::piped();
                start.stdin(streams()).stdout(streams()).stderr(streams());
                let mut child = spawn(start.process_group(0))?;
                let streams = [
                    child.stdout.take().map(OwnedFd::from),
                    child.stderr.take().map(OwnedFd::from),
                ];
                let input = child.stdin.take().map(OwnedFd::from);
                (child, input, streams.into_iter().flatten().collect())
            }
            Streams::Terminal => {
                let pair = openpty(None, None)?;
                for end in [&pair.master, &pair.slave] {
                    fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
                }
                start.stdin(pair.slave.try_clone()?);
                start.stdout(pair.slave.try_clone()?).stderr(pair.slave);
                (spawn(take_terminal(&mut start))?, None, vec![pair.master])
            }
        };
        let streams: Vec<OwnedFd> = streams;
        for stream in &streams {
            let flags = fcntl(stream.as_fd(), FcntlArg::F_GETFL)?;
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
            fcntl(stream.as_fd(), FcntlArg::F_SETFL(flags))?;
        }
        Ok(Container {
            pid: Pid::from_raw(child.id() as i32),
            command: command.iter().map(|word| word.to_string()).collect(),
            input,
            streams: streams.into_iter().map(File::from).collect(),
            said: Default::default(),
            end: None,
        })
    }

    /// COMMAND's process, as soon as it is there and everything has come to
    /// rest. It is looked for among all processes and not below PREFIX, which
    /// may have started it by a server. Of several that look like it, it is the
    /// one in the deepest PID namespace.
    pub fn find(&mut self, outside: &Outside) -> Option<i32> {
        let mut found = None;
        outside.wait(START, || {
            let depth = |pid: &i32| {
                let all = outside.proc.status(*pid, "NSpid");
                all.unwrap_or_default().split_whitespace().count()
            };
            let strays = outside.strays();
            let its = strays.iter().filter(|pid| self.is(outside, **pid));
            found = its.max_by_key(|pid| depth(pid)).copied();
            found.is_some() || self.ended() && strays.is_empty()
        });
        let asleep = |pid: &i32| {
            let state = outside.proc.status(*pid, "State").unwrap_or_default();
            !state.starts_with(['R', 'D'])
        };
        let mut rested = 0;
        outside.wait(SOON, || {
            let all = outside.strays().iter().all(asleep);
            rested = if all { rested + 1 } else { 0 };
            rested == 2
        });
        self.ended();
        found
    }

    /// Whether this process is COMMAND. Its name may have become a path.
    fn is(&self, outside: &Outside, pid: i32) -> bool {
        let argv = outside.proc.argv(pid);
        let name = |word: &str| word.rsplit('/').next().map(String::from);
        argv.len() == self.command.len()
            && argv[1..] == self.command[1..]
            && name(&argv[0]) == name(&self.command[0])
    }

    /// Whether PREFIX has ended. Takes in what it has said so far.
    pub fn ended(&mut self) -> bool {
        for (pid, status) in reap() {
            if pid == self.pid {
                self.end = Some(status);
            }
        }
        for (stream, said) in self.streams.iter_mut().zip(&mut self.said) {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                // A container that never stops talking is not listened to.
                if said.len() < 10 * bytes.len() {
                    said.extend(&bytes[..n]);
                }
            }
        }
        self.end.is_some()
    }

    /// Sends a signal to PREFIX.
    pub fn signal(&self, signal: Signal) {
        if self.end.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Writes COMMAND's input, and closes it.
    pub fn feed(&mut self, text: &str) {
        if let Some(input) = self.input.take() {
            let _ = File::from(input).write_all(text.as_bytes());
        }
    }

    /// Closes its terminal.
    pub fn close(&mut self) {
        self.streams.clear();
    }

    /// What it has said, in one line.
    pub fn words(&self) -> String {
        let said = self.said.concat();
        let text = String::from_utf8_lossy(&said);
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().take(300).collect()
    }

    /// How PREFIX ended: `status 1`.
    pub fn told(&self) -> String {
        let Some(end) = self.end else { return "PREFIX does not end".into() };
        match (end.code(), end.signal()) {
            (Some(code), _) => format!("status {code}"),
            (_, number) => {
                let number = number.unwrap_or_default();
                match Signal::try_from(number) {
                    Ok(signal) => format!("killed by {signal}"),
                    Err(_) => format!("killed by signal {number}"),
                }
            }
        }
    }
}

/// Gives the program a session of its own, at the terminal that is its input.
#[expect(unsafe_code, reason = "the child takes its terminal before exec")]
fn take_terminal(start: &mut Command) -> &mut Command {
    // SAFETY: these are system calls only, safe between fork and exec.
    unsafe {
        start.pre_exec(|| {
            setsid()?;
            let done = libc::ioctl(0, libc::TIOCSCTTY, 0);
            Errno::result(done).map(drop).map_err(io::Error::from)
        })
    }
}

/// The children that have ended, orphans too. (nix's waitpid loses a child that
/// a real-time signal has killed.)
#[expect(unsafe_code, reason = "nix has no real-time signals")]
pub fn reap() -> Vec<(Pid, ExitStatus)> {
    let mut ended = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes the status, and nothing else.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return ended;
        }
        ended.push((Pid::from_raw(pid), ExitStatus::from_raw(status)));
    }
}

/// Makes a true fault: COMMAND goes on at an address where nothing is. A
/// SIGSEGV that is only sent from outside does nothing to PID 1.
#[expect(unsafe_code, reason = "nix sets registers with glibc only")]
pub fn fault(pid: i32) -> io::Result<()> {
    const NT_PRSTATUS: usize = 1;
    // Where struct user_regs_struct has the instruction pointer, in words.
    const POINTER: usize = if cfg!(target_arch = "aarch64") { 32 } else { 16 };
    let none = std::ptr::null_mut::<libc::c_void>();
    let request = |request, address: usize, data: *mut libc::c_void| {
        // SAFETY: the kernel reads and writes the data alone, which is none or
        // lives longer than the call.
        let done = unsafe { libc::ptrace(request, pid, address, data) };
        Errno::result(done).map_err(io::Error::from)
    };
    let registers = |call, words: &mut [u64; 64]| {
        let mut buffer = libc::iovec {
            iov_base: words.as_mut_ptr().cast(),
            iov_len: size_of_val(words),
        };
        request(call, NT_PRSTATUS, (&raw mut buffer).cast())
    };
    request(libc::PTRACE_SEIZE, 0, none)?;
    request(libc::PTRACE_INTERRUPT, 0, none)?;
    // SAFETY: nothing is written.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
    let mut words = [0; 64];
    registers(libc::PTRACE_GETREGSET, &mut words)?;
    words[POINTER] = 8;
    if cfg!(target_arch = "x86_64") {
        words[15] = u64::MAX; // orig_rax: no system call is to be restarted.
    }
    registers(libc::PTRACE_SETREGSET, &mut words)?;
    request(libc::PTRACE_DETACH, 0, none)?;
    Ok(())
}
