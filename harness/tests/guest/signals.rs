//! A COMMAND that does HOW with SIGNAL, for the claims about signals:
//!
//!     signals HOW SIGNAL SENDER WORD
//!
//! It says `ready`, sends itself the signal if SENDER is `itself`, or lets a
//! child send it if that is `child`, and then waits for the signal or for the
//! line WORD. Its status says how it ended. Built by rustc alone, so the C
//! library's functions are declared here.

use std::process::{Command, exit};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{env, io, ptr, thread};

unsafe extern "C" {
    fn _exit(status: i32) -> !;
    fn kill(pid: i32, signal: i32) -> i32;
    fn sigaction(signal: i32, new: *const Action, old: *mut Action) -> i32;
    fn sigpending(set: *mut Set) -> i32;
    fn sigprocmask(how: i32, new: *const Set, old: *mut Set) -> i32;
    fn sigwaitinfo(set: *const Set, info: *mut u8) -> i32;
}

/// One bit for each signal; as long as the C library's.
type Set = [u64; 16];

#[repr(C)]
struct Action {
    handler: usize,
    mask: Set,
    flags: i32,
    restorer: usize,
}

const DEFAULT: usize = 0;
const IGNORE: usize = 1;
const RESETHAND: i32 = 0x8000_0000_u32 as i32;
const USR2: i32 = 12;

/// The statuses.
const READ_WORD: i32 = 5;
const PENDING: i32 = 6;
const ONCE: i32 = 8;
const CAUGHT: i32 = 9;

static NOTED: AtomicU32 = AtomicU32::new(0);

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let [how, signal, sender, word] = &args[..] else { panic!("{args:?}") };
    let signal: i32 = signal.parse().expect("a number");
    set_action(signal, DEFAULT, 0);
    match &**how {
        "default" => {}
        "handler" => set_action(signal, end as *const () as usize, 0),
        "once" => set_action(signal, note as *const () as usize, RESETHAND),
        "counted" => set_action(signal, note as *const () as usize, 0),
        "ignored" => set_action(signal, IGNORE, 0),
        "blocked" | "awaited" | "thread" => block(signal),
        "other" => block(USR2),
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
        // SAFETY: two numbers.
        "itself" => unsafe { drop(kill(std::process::id() as i32, signal)) },
        "child" => {
            let kill = format!("kill -{signal} $PPID");
            let sent = Command::new("sh").args(["-c", &kill]).status();
            assert!(sent.expect("sh").success());
        }
        _ => {}
    }
    match &**how {
        "awaited" => await_one(signal),
        "other" => await_one(USR2),
        "thread" => drop(thread::spawn(move || await_one(signal)).join()),
        _ => {}
    }
    let mut line = String::new();
    while line.trim_end() != word {
        line.clear();
        assert!(io::stdin().read_line(&mut line).expect("a line") > 0);
    }
    let mut pending: Set = [0; 16];
    // SAFETY: the set lives as long as the call.
    unsafe { sigpending(&mut pending) };
    exit(match NOTED.load(Relaxed) {
        0 if pending[0] & set_of(signal)[0] != 0 => PENDING,
        0 => READ_WORD,
        1 => ONCE,
        _ => CAUGHT,
    })
}

extern "C" fn end(_: i32) {
    // SAFETY: it may be called in a handler.
    unsafe { _exit(CAUGHT) }
}

extern "C" fn note(_: i32) {
    NOTED.fetch_add(1, Relaxed);
}

fn set_of(signal: i32) -> Set {
    let mut set = [0; 16];
    set[0] = 1 << (signal - 1);
    set
}

fn set_action(signal: i32, handler: usize, flags: i32) {
    let action = Action { handler, mask: [0; 16], flags, restorer: 0 };
    // SAFETY: the handlers above call nothing that they must not call.
    assert_eq!(unsafe { sigaction(signal, &action, ptr::null_mut()) }, 0);
}

fn block(signal: i32) {
    // SAFETY: the set lives as long as the call. SIG_BLOCK is 0.
    let done = unsafe { sigprocmask(0, &set_of(signal), ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn await_one(signal: i32) {
    // SAFETY: the set lives as long as the call.
    while unsafe { sigwaitinfo(&set_of(signal), ptr::null_mut()) } != signal {}
    exit(CAUGHT)
}
