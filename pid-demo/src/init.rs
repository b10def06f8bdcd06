//! PID 1 of the new namespace, and what its supervisor does with a signal.
//!
//! The kernel drops a signal to PID 1 if that has the default action: it
//! neither ends nor stops PID 1. Where that is certain, it is made up for here:
//!
//! ```text
//! a signal that pid-demo gets     COMMAND handles,   COMMAND has the default
//!                                 ignores, blocks    action, and does not
//!                                 or awaits it, or   block or await it: the
//!                                 it is unknown      kernel drops the signal
//!
//! from a process outside
//!   TERM, HUP, USR1, 34, ...      sent on            SIGKILL; status 128+N
//!   TSTP, TTIN, TTOU              sent on (a)        both stop
//!   CONT, WINCH, URG              sent on            sent on: does nothing
//! from the terminal, whose whole foreground process group gets it
//!   INT (^C), QUIT (^\), WINCH    nothing            nothing (b)
//!   TSTP (^Z), TTIN, TTOU         nothing (a)        both stop (d)
//!   HUP (it is closed)            nothing (c)        SIGKILL; 128+1 (d)
//! from inside, by COMMAND to its process group, which is ours too
//!   TSTP, TTIN, TTOU              both stop          both stop
//!   any other                     as from outside: it comes to COMMAND twice
//!
//! SIGKILL and SIGSTOP never come here: the kernel ends pid-demo, and COMMAND
//! with it; or it stops pid-demo alone.
//!
//! (a) If COMMAND is itself a pid-demo, it stops its own COMMAND. But PID 1
//!     cannot stop itself: so this process stops.
//! (b) COMMAND has its own copy, and may have set the default action because
//!     of it. Nothing is certain, so COMMAND alone decides.
//! (c) Sent on if this process is the session leader, which alone gets it.
//! (d) Also if it has set the default action because of its own copy, and this
//!     process looks after that. If it were left alone, a COMMAND that always
//!     had the default action could not be stopped, and would outlive its
//!     terminal.
//! ```

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::fcntl::{OFlag, openat};
use nix::libc::{self, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT};
use nix::libc::{SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, getsid};

pub struct Init {
    pub pid: Pid,
    /// Its folder /proc/PID, which stays its own if another /proc is mounted.
    pub proc: Option<OwnedFd>,
    /// The signal for which it was killed.
    pub ended: Option<i32>,
}

/// What it does with a signal.
#[derive(PartialEq)]
enum Takes {
    /// It blocks it or waits for it, and reads it, as this supervisor does.
    Reads,
    /// It has a handler, or ignores it, or nobody knows.
    Own,
    /// Nothing, for certain: the kernel drops it.
    Default,
}

/// rt_sigtimedwait(2), which sigwait(3) and sigwaitinfo(2) call, too: its
/// number here, and in a 32-bit program: for i386, arm and x32.
const WAITS: [i64; 4] = [libc::SYS_rt_sigtimedwait, 177, 421, 0x4000_020b];

/// How often a COMMAND that changes meanwhile is looked at again.
const LOOKS: u32 = 100;

impl Init {
    /// Does with a signal that has come what the table says. `sender` is the
    /// number in its siginfo.
    pub fn forward(&mut self, signal: i32, by_kernel: bool, sender: i32) {
        let stops = matches!(signal, SIGTSTP | SIGTTIN | SIGTTOU);
        let keys = matches!(signal, SIGINT | SIGQUIT | SIGWINCH);
        if signal == SIGCHLD || by_kernel && keys {
            return;
        }
        let own = stops && !by_kernel && self.sent(sender);
        // When a terminal is closed, the kernel tells only the session leader.
        let lost = signal == SIGHUP && getsid(None) != Ok(getpid());
        let got = own || by_kernel && (stops || lost);
        let takes = match signal {
            SIGCONT | SIGURG | SIGWINCH => Takes::Own, // By default ignored.
            _ => self.takes(signal),
        };
        if !got && takes != Takes::Default {
            self.send(signal);
        }
        match takes {
            Takes::Default if stops => self.stop(signal, true),
            Takes::Reads if stops && self.is_pid_demo() => {
                self.stop(signal, false);
            }
            // An editor sends it to its process group, with the default action
            // just for that moment.
            Takes::Own if own => self.stop(signal, true),
            Takes::Default => {
                self.ended = Some(signal);
                self.send(SIGKILL);
            }
            _ => {}
        }
    }

    /// Whether it has sent a signal: to its process group, as it cannot name
    /// this process. Since Linux 7.3 the sender's number is the one that it
    /// has in our namespace. Before, it is the one in its own: 1, which is also
    /// the number of our namespace's PID 1. If that is a shell, its jobs are in
    /// its session; if not, it manages services, which have no terminal.
    fn sent(&self, sender: i32) -> bool {
        let first = Pid::from_raw(1);
        let not_ours = || {
            let other = getsid(Some(first)) != getsid(None);
            getpid() == first || other && File::open("/dev/tty").is_ok()
        };
        sender == self.pid.as_raw() || sender == 1 && not_ours()
    }

    /// Whether it runs the same program as this process.
    fn is_pid_demo(&self) -> bool {
        let file = |found: Metadata| (found.dev(), found.ino());
        let its = self.open("exe").and_then(|it| it.metadata().ok());
        let own = fs::metadata("/proc/self/exe").ok();
        its.is_some() && its.map(file) == own.map(file)
    }

    /// Stops this process, and PID 1 with it; later lets both continue.
    fn stop(&self, signal: i32, init_too: bool) {
        if init_too {
            self.send(SIGSTOP);
        }
        // If this process is itself PID 1 of a namespace, its supervisor stops
        // instead, and later passes SIGCONT on.
        let Ok(signal) = Signal::try_from(signal) else { return };
        if getpid().as_raw() == 1 {
            return;
        }
        let one = SigSet::from_iter([signal]);
        let _ = raise(signal);
        let _ = one.thread_unblock(); // Here it stops.
        let _ = one.thread_block();
        self.send(SIGCONT);
    }

    #[expect(unsafe_code, reason = "nix has no real-time signals")]
    fn send(&self, signal: i32) {
        // It has not been waited for, so the PID is still its own.
        // SAFETY: two numbers.
        unsafe { libc::kill(self.pid.as_raw(), signal) };
    }

    /// What it does with a signal; of several threads, what the first does,
    /// since kill(2) asks that one.
    ///
    /// While a process waits in rt_sigtimedwait(2), /proc does not show that it
    /// blocks what it waits for. So what /proc shows is certain only if the
    /// process is seen in another call, and has not run meanwhile. If it runs,
    /// the signal is sent already here: if it were awaited, it would now be
    /// pending, or the process would have run.
    fn takes(&self, signal: i32) -> Takes {
        for _ in 0..LOOKS {
            let look = self.look();
            match default(&look, signal) {
                Some(true) => {}
                Some(false) => return Takes::Reads,
                None => return Takes::Own,
            }
            let call = self.read("syscall");
            let mut words = call.split_whitespace();
            let number = words.next().unwrap_or_default();
            let runs = look.starts_with("State:\tR");
            if number == "running" {
                if runs && !self.ends(&look) {
                    self.send(signal);
                    if (0..3).all(|_| self.look() == look) {
                        return Takes::Default;
                    }
                }
                continue;
            }
            // Without the right to trace it there is no number.
            let Ok(number) = number.parse() else { return Takes::Own };
            if self.ends(&look) {
                return Takes::Own;
            }
            if WAITS.contains(&number) {
                let awaits = words.next().is_none_or(|set| {
                    self.set_at(set).is_none_or(|set| has(set, signal))
                });
                if awaits {
                    return Takes::Reads;
                }
            }
            if !runs && self.look() == look {
                return Takes::Default;
            }
        }
        Takes::Own
    }

    /// Its first thread has ended: the others may take a signal or not.
    fn ends(&self, look: &str) -> bool {
        look.starts_with("State:\tZ") || look.starts_with("State:\tX")
    }

    /// What matters in /proc/PID/status: what it does with signals, and how
    /// often it has been put to sleep, so that one sees whether it has run.
    fn look(&self) -> String {
        let names = ["State", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"];
        let mut look = String::new();
        for line in self.read("status").lines() {
            let name = line.split(':').next().unwrap_or_default();
            if names.contains(&name) || name.ends_with("_ctxt_switches") {
                look += line;
                look.push('\n');
            }
        }
        look
    }

    /// A set of signals in its memory, at this address.
    fn set_at(&self, address: &str) -> Option<u64> {
        let address = address.strip_prefix("0x")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let mut set = [0; 8];
        self.open("mem")?.read_exact_at(&mut set, address).ok()?;
        Some(u64::from_ne_bytes(set))
    }

    /// The text of a file of /proc/PID; empty where it cannot be read.
    fn read(&self, file: &str) -> String {
        let mut bytes = Vec::new();
        if let Some(mut file) = self.open(file) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn open(&self, file: &str) -> Option<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(self.proc.as_ref()?, file, flags, Mode::empty());
        Some(File::from(fd.ok()?))
    }
}

/// Whether a signal has the default action and is not blocked; `Some(false)` if
/// it is blocked or pending. `None` if it is handled, ignored, or unknown.
fn default(look: &str, signal: i32) -> Option<bool> {
    let set = |name: &str| {
        let line = look.lines().find_map(|line| line.strip_prefix(name))?;
        let set = u64::from_str_radix(line.strip_prefix(":\t")?, 16).ok()?;
        Some(has(set, signal))
    };
    if set("SigCgt")? || set("SigIgn")? {
        return None;
    }
    Some(!(set("SigBlk")? || set("SigPnd")? || set("ShdPnd")?))
}

fn has(set: u64, signal: i32) -> bool {
    set >> (signal - 1) & 1 == 1
}
