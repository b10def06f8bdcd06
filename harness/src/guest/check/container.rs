//! A container that is started: `PREFIX COMMAND`.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::spawn::PosixSpawnFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::outside::Outside;
use crate::guest::spawn::{Kind, Streams, reap, spawn};

/// How long a container may take to start COMMAND, or to end after it.
pub const START: Duration = Duration::from_secs(10);
/// How long it may take to end when it must, or to leave nothing behind. A good
/// one needs a hundredth of this.
pub const SOON: Duration = Duration::from_secs(2);

/// How much is kept of what it says, in bytes.
const LONGEST: usize = 40 * 1024;

pub struct Container {
    pub pid: Pid,
    command: Vec<String>,
    pub streams: Streams,
    /// What came from them.
    pub said: [Vec<u8>; 2],
    pub end: Option<ExitStatus>,
}

impl Container {
    pub fn start(
        prefix: &[OsString],
        command: &[&str],
        kind: Kind,
    ) -> io::Result<Container> {
        let words = command.iter().map(OsString::from);
        let argv = prefix.iter().cloned().chain(words);
        let environment = std::env::vars_os().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        });
        let text = |it: OsString| CString::new(it.into_vec());
        let argv = argv.map(text).collect::<Result<Vec<_>, _>>()?;
        let environment =
            environment.map(text).collect::<Result<Vec<_>, _>>()?;
        let ids = PosixSpawnFlags::empty();
        let (pid, streams) =
            spawn(&argv, &environment, kind, ids).map_err(|error| {
                let name = prefix[0].to_string_lossy();
                io::Error::other(format!("exec {name}: {error}"))
            })?;
        Ok(Container {
            pid,
            command: command.iter().map(|word| word.to_string()).collect(),
            streams,
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
        let _ = self.streams.carry(|number, bytes| {
            let said = &mut self.said[number];
            // A container that never stops talking is not listened to.
            if said.len() < LONGEST {
                said.extend(bytes);
            }
            Ok(())
        });
        self.end.is_some()
    }

    pub fn signal(&self, signal: Signal) {
        if self.end.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Writes COMMAND's input, and closes it.
    pub fn feed(&mut self, text: &str) {
        if let Some(input) = self.streams.input.take() {
            let _ = File::from(input).write_all(text.as_bytes());
        }
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
