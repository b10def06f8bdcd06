//! What the claims and the pages have in common: the saved machine that they
//! start from, and its users.

use std::path::Path;
use std::sync::{LazyLock, Once};
use std::{panic, thread};

pub use harness::User::{Reader, Root};
use harness::{Failure, Harness};

/// One for all tests of this process.
static HARNESS: LazyLock<Result<Harness, Failure>> = LazyLock::new(|| {
    name_broken_claims();
    Harness::new(Path::new(env!("CARGO_BIN_EXE_harness")), &[])
});

/// Starts machines. Makes the saved machine first, if there is none.
///
/// # Panics
/// If it cannot be made: then no claim has a verdict.
#[track_caller]
pub fn harness() -> &'static Harness {
    match &*HARNESS {
        Ok(harness) => harness,
        Err(failure) => panic!("{NO_VERDICT}{failure}"),
    }
}

/// The start of a panic's message if the machine failed, and not the claim.
pub const NO_VERDICT: &str = "the VM failed: ";

/// From now on a failure first prints one line, before the backtrace: which
/// claim is broken, and how.
pub fn name_broken_claims() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let message = payload.downcast_ref::<String>().map(String::as_str);
            let message = message.or(payload.downcast_ref::<&str>().copied());
            let message = message.unwrap_or_default();
            // libtest names each thread after its test.
            let thread = thread::current();
            let name = thread.name().unwrap_or("a thread of a claim");
            let at = info.location().map(|at| format!(" ({at})"));
            eprintln!("{}", one_line(name, &at.unwrap_or_default(), message));
            next(info);
        }));
    });
}

fn one_line(name: &str, at: &str, message: &str) -> String {
    let (what, message) = match message.strip_prefix(NO_VERDICT) {
        Some(why) => ("no verdict, the machine failed", why),
        None => ("broken", message),
    };
    let lines = message.lines().map(str::trim).filter(|it| !it.is_empty());
    let how = lines.collect::<Vec<_>>().join(" | ");
    let short: String = how.chars().take(300).collect();
    let rest = if short.len() < how.len() { "..." } else { "" };
    format!("{what}: {name}{at}: {short}{rest}")
}

#[test]
fn failure_is_reported_in_one_line() {
    let how =
        "assertion `left == right` failed: reader\n  left: 1\n right: 2\n";
    assert_eq!(
        one_line("uts::names", " (uts.rs:7:5)", how),
        "broken: uts::names (uts.rs:7:5): assertion `left == right` failed: \
         reader | left: 1 | right: 2"
    );
    assert_eq!(
        one_line("uts::names", "", "the VM failed: it has ended\n  | oops"),
        "no verdict, the machine failed: uts::names: it has ended | | oops"
    );
    let long = one_line("uts::names", "", &"x".repeat(1000));
    assert!(long.ends_with("xxx...") && long.len() < 350, "{long}");
}
