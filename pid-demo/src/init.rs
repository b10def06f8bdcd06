//! PID 1 of the new namespace, for its supervisor: what it does with a signal,
//! and so what must be done with one that is for it.

use std::fs::File;
use std::io::{Read, Seek};

use nix::libc::{self, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT};
use nix::libc::{SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{Pid, getpid, getsid};

pub struct Init {
    pub pid: Pid,
    /// Its /proc/PID/status.
    pub status: Option<File>,
    /// The signal for which it was killed.
    pub ended: Option<i32>,
}

/// What it does with a signal.
#[derive(PartialEq)]
enum Takes {
    /// It has a handler, or ignores it.
    Own,
    /// It blocks it, and reads it later, as this supervisor does.
    Blocked,
    /// Nothing: the kernel drops it. Another process would end or stop.
    Default,
}

impl Init {
    /// Forwards every signal that is sent to this process, as tini and
    /// dumb-init do. A terminal sends its signals to the whole foreground
    /// process group, to which PID 1 belongs: those are not sent again, and
    /// PID 1 alone decides on ^C and ^\. Any other signal that it does not
    /// handle ends or stops it, as it would without the namespace.
    pub fn forward(&mut self, signal: i32, by_kernel: bool, by_pid_1: bool) {
        let stops = matches!(signal, SIGTSTP | SIGTTIN | SIGTTOU);
        let keys = matches!(signal, SIGINT | SIGQUIT | SIGWINCH);
        if signal == SIGCHLD || by_kernel && keys {
            return;
        }
        let mut takes = self.takes(signal);
        // When a terminal is closed, the kernel tells only the session leader.
        let lost = signal == SIGHUP && getsid(None) != Ok(getpid());
        let got = stops && (by_kernel || by_pid_1) || by_kernel && lost;
        if !got && (takes != Takes::Default || signal == SIGCONT) {
            self.send(signal);
            takes = self.takes(signal); // It may have changed meanwhile.
        }
        match (signal, takes) {
            (SIGCONT | SIGURG | SIGWINCH, _) => {} // By default ignored.
            (_, Takes::Default) if stops => self.stop(signal, true),
            (_, Takes::Blocked) if stops => self.stop(signal, false),
            // An editor sends it to its process group, with the default action
            // just for that moment.
            (_, Takes::Own) if stops && by_pid_1 => self.stop(signal, true),
            (_, Takes::Default) => {
                self.ended = Some(signal);
                self.send(SIGKILL);
            }
            _ => {}
        }
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

    /// Without /proc it is unknown: then the signal is forwarded, and nothing
    /// else is done.
    fn takes(&mut self, signal: i32) -> Takes {
        let mut text = String::new();
        if let Some(file) = &mut self.status {
            let _ = file.rewind();
            let _ = file.read_to_string(&mut text);
        }
        let has = |set: &str| {
            let mut lines = text.lines();
            let bits = lines.find_map(|line| line.strip_prefix(set))?;
            let bits = u64::from_str_radix(bits.trim(), 16).ok()?;
            Some(bits >> (signal - 1) & 1 == 1)
        };
        match ["SigCgt:", "SigIgn:", "SigBlk:"].map(has) {
            [Some(false), Some(false), Some(true)] => Takes::Blocked,
            [Some(false), Some(false), Some(false)] => Takes::Default,
            _ => Takes::Own,
        }
    }
}
