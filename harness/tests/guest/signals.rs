//! A COMMAND that does HOW with SIGNAL, for the claims about signals:
//!
//!     signals HOW SIGNAL SENDER WORD
//!
//! It says `ready`, sends itself the signal if SENDER is `itself`, or lets a
//! child send it if that is `child`, and then waits for the signal or for the
//! line WORD. Its status says how it ended.

use std::process::{Command, exit};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{io, mem, ptr, thread};

use libc::{SA_RESETHAND, SIG_DFL, SIG_IGN, SIGUSR2, c_int, sigset_t};

/// The statuses.
const READ_WORD: u8 = 5;
const PENDING: u8 = 6;
const ONCE: u8 = 8;
const CAUGHT: u8 = 9;

static NOTED: AtomicU32 = AtomicU32::new(0);

pub fn main(args: &[String]) -> u8 {
    let [how, signal, sender, word] = args else { panic!("{args:?}") };
    let signal: c_int = signal.parse().expect("a number");
    set_action(signal, SIG_DFL, 0);
    match &**how {
        "default" => {}
        "handler" => set_action(signal, end as *const () as usize, 0),
        "once" => set_action(signal, note as *const () as usize, SA_RESETHAND),
        "counted" => set_action(signal, note as *const () as usize, 0),
        "ignored" => set_action(signal, SIG_IGN, 0),
        "blocked" | "awaited" | "thread" => block(signal),
        "other" => block(SIGUSR2),
        "loose" => {
            thread::spawn(move || {
                block(signal);
                await_one(signal)
            });
        }
        _ => panic!("{how}"),
    }
    println!("ready");
    match &**sender {
        "itself" => {
            // SAFETY: two numbers.
            unsafe { libc::kill(libc::getpid(), signal) };
        }
        "child" => {
            let kill = format!("kill -{signal} $PPID");
            let sent = Command::new("sh").args(["-c", &kill]).status();
            assert!(sent.expect("sh").success());
        }
        _ => {}
    }
    match &**how {
        "awaited" => await_one(signal),
        "other" => await_one(SIGUSR2),
        "thread" => drop(thread::spawn(move || await_one(signal)).join()),
        _ => {}
    }
    let mut line = String::new();
    while line.trim_end() != word {
        line.clear();
        assert!(io::stdin().read_line(&mut line).expect("a line") > 0);
    }
    // SAFETY: the sets live as long as the calls.
    let pending = unsafe {
        let mut pending = mem::zeroed();
        libc::sigpending(&mut pending);
        libc::sigismember(&pending, signal) == 1
    };
    match NOTED.load(Relaxed) {
        0 if pending => PENDING,
        0 => READ_WORD,
        1 => ONCE,
        _ => CAUGHT,
    }
}

extern "C" fn end(_: c_int) {
    // SAFETY: it may be called in a handler.
    unsafe { libc::_exit(CAUGHT.into()) }
}

extern "C" fn note(_: c_int) {
    NOTED.fetch_add(1, Relaxed);
}

fn set_of(signal: c_int) -> sigset_t {
    // SAFETY: all zero is the empty set.
    unsafe {
        let mut set = mem::zeroed();
        assert_eq!(libc::sigaddset(&mut set, signal), 0);
        set
    }
}

fn set_action(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: the handlers above call nothing that they must not call.
    let done = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(signal, &action, ptr::null_mut())
    };
    assert_eq!(done, 0);
}

fn block(signal: c_int) {
    let set = set_of(signal);
    // SAFETY: the set lives as long as the call.
    let done =
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn await_one(signal: c_int) {
    let set = set_of(signal);
    // SAFETY: the set lives as long as the call.
    while unsafe { libc::sigwaitinfo(&set, ptr::null_mut()) } != signal {}
    exit(CAUGHT.into())
}
