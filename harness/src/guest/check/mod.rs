//! `check PREFIX...`: does PREFIX COMMAND isolate COMMAND?
//!
//! It starts `PREFIX sleep N` and looks at it from outside: it finds that
//! process, enters its namespaces, and asks the kernel there. Then it ends the
//! container in all ways that there are. Each row of its output has a heading
//! on the page, harness/CHECK.md.

mod container;
mod ends;
mod inside;
mod looks;
mod outside;
mod proc;
mod tap;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use container::Container;
use inside::Inside;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use outside::Outside;
use tap::{Tap, Verdict};

type Look = fn(&Inside) -> io::Result<Verdict>;

/// The rows about a running container, in the chapter's order, each with the
/// namespace without which it is skipped, if there is one.
const LOOKS: [(&str, &str, Look); 19] = [
    ("UTS: a hostname of its own", "", looks::hostname),
    ("IPC: queues of its own, also in /dev/mqueue", "ipc", looks::queues),
    ("PID: COMMAND, or an init above it, is PID 1", "", looks::pid_1),
    ("mount: /proc inside shows the inside", "", looks::proc_inside),
    ("mount: /proc outside is whole while it runs", "", looks::proc_outside),
    ("mount: a mount inside is not seen outside", "mnt", looks::mounts_inside),
    ("root: a root of its own, with no way out", "", looks::root),
    ("root: the outside's root is not inside it", "", looks::old_root),
    ("user: uids of its own", "user", looks::uids),
    ("user: root's files outside cannot be written", "", looks::roots_files),
    ("user: the kernel's switches cannot be written", "", looks::switches),
    ("net: interfaces and ports of its own", "", looks::network),
    ("net: lo is up", "net", looks::lo),
    ("net: /sys shows its own network", "net", looks::sys),
    ("cgroup: a memory limit that is set holds", "", looks::memory_limit),
    ("call: /dev/null works", "", looks::dev_null),
    ("call: no descriptor is open but 0, 1, 2", "", looks::descriptors),
    ("call: no signal is ignored or blocked", "", looks::signals),
    ("end: orphans inside are reaped", "pid", looks::orphans),
];

type End = fn(&mut Check) -> io::Result<Vec<Verdict>>;

/// The rows about its starts and ends. Each function has a container of its
/// own, but for the first one and the last one.
const ENDS: [(&[&str], End); 8] = [
    (
        &[
            "end: SIGTERM to PREFIX ends all",
            "end: SIGTERM to PREFIX leaves nothing",
        ],
        Check::sigterm,
    ),
    (&["end: SIGTERM reaches a COMMAND that handles it"], Check::handler),
    (
        &[
            "end: two can run side by side",
            "end: SIGKILL to PREFIX leaves no process",
            "end: SIGKILL to PREFIX leaves nothing else",
        ],
        Check::two,
    ),
    (&["end: a closed terminal ends all"], Check::terminal),
    (&["end: what COMMAND leaves running ends too"], Check::background),
    (
        &[
            "end: COMMAND's own end leaves nothing",
            "call: COMMAND's status passes (exit 7)",
            "call: input, output, errors pass",
        ],
        Check::status_and_streams,
    ),
    (&["call: a COMMAND that is not there is told"], Check::missing),
    (&["call: COMMAND's death is told (SIGSEGV)"], Check::sigsegv),
];

/// The texts of all rows, in their order.
pub fn rows() -> Vec<&'static str> {
    let ends = ENDS.iter().flat_map(|(rows, _)| rows.iter().copied());
    LOOKS.iter().map(|(row, ..)| *row).chain(ends).collect()
}

/// The deadline of all, times `$HARNESS_PATIENCE`.
const ALL: Duration = Duration::from_secs(60);

/// Runs it, with these arguments, to its exit status: 0 if no row is not ok; 1;
/// 2 if rows are missing, because COMMAND could not be started; 125.
pub fn main(prefix: Vec<OsString>) -> ExitCode {
    let is_reader = prefix.first().is_some_and(|it| it == "reader");
    let program = prefix.get(usize::from(is_reader));
    if program.is_none_or(|it| it.as_encoded_bytes().starts_with(b"-")) {
        eprintln!("usage: check [reader] PREFIX [ARG]...");
        return ExitCode::from(125);
    }
    watched(|| {
        let mut tap = Tap::default();
        match check(prefix, &mut tap) {
            Ok(()) if tap.failed == 0 => 0,
            Ok(()) => 1,
            Err(error) => {
                let reason = match tap.rows {
                    0 => "nothing is known",
                    _ => "no more is known than the rows above",
                };
                bail_out(reason, &error.to_string())
            }
        }
    })
}

/// This deadline, times `$HARNESS_PATIENCE`.
fn patience(deadline: Duration) -> Duration {
    let patience = std::env::var("HARNESS_PATIENCE").unwrap_or_default();
    deadline * patience.parse().unwrap_or(1)
}

/// Says that no row follows. Returns the status: 2, but 125 where nobody was
/// told.
fn bail_out(reason: &str, more: &str) -> u8 {
    match tap::bail_out(reason, more) {
        Ok(()) => 2,
        Err(error) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                eprintln!("check: write to standard output: {error}");
            }
            125
        }
    }
}

/// Runs this in a child, to the deadline of all.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
fn watched(work: impl FnOnce() -> u8) -> ExitCode {
    let Ok((running, ends)) = io::pipe() else { return ExitCode::from(125) };
    // SAFETY: this program has one thread.
    let Ok(forked) = (unsafe { fork() }) else { return ExitCode::from(125) };
    let ForkResult::Parent { child } = forked else {
        drop(running);
        let status = work();
        drop(ends);
        return ExitCode::from(status);
    };
    drop(ends);
    let all = patience(ALL);
    let timeout = PollTimeout::try_from(all).unwrap_or(PollTimeout::MAX);
    let mut ended = [PollFd::new(running.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ended, timeout) == Ok(0) {
        let _ = kill(child, Signal::SIGKILL);
        let reason = format!("no end after {} s", all.as_secs());
        return ExitCode::from(bail_out(&reason, ""));
    }
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, status)) => ExitCode::from(status as u8),
        _ => ExitCode::from(bail_out("check itself has ended", "")),
    }
}

struct Check {
    prefix: Vec<OsString>,
    outside: Outside,
    /// Before the name of a COMMAND: nothing, or `/bin/` where PREFIX takes
    /// paths only.
    folder: &'static str,
    running: Option<Container>,
    /// What a container told of COMMAND's death.
    death: Option<Verdict>,
}

fn check(prefix: Vec<OsString>, tap: &mut Tap) -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    let mut check = Check {
        prefix,
        outside: Outside::new()?,
        folder: "",
        running: None,
        death: None,
    };
    let words: Vec<String> =
        check.prefix.iter().map(|it| it.to_string_lossy().into()).collect();
    tap.begin(&words, rows().len())?;
    let command = check.first()?;
    {
        let inside = Inside::of(command, &check.outside)?;
        for (text, namespace, look) in LOOKS {
            let verdict = match namespace.is_empty() || inside.has(namespace) {
                true => look(&inside)?,
                false => Verdict::Skip(looks::SHARED.into()),
            };
            tap.row(text, &verdict)?;
        }
    }
    for (texts, end) in ENDS {
        for (text, verdict) in texts.iter().zip(end(&mut check)?) {
            tap.row(text, &verdict)?;
        }
        check.outside.put_back()?;
    }
    tap.end()
}

impl Check {
    /// Starts the container that the rows look at. Returns COMMAND's process.
    fn first(&mut self) -> io::Result<i32> {
        let mut said = String::new();
        for folder in ["", "/bin/"] {
            self.folder = folder;
            let mut container = self.start(&["sleep", "987654001"])?;
            let found = container.find(&self.outside);
            if let Some(pid) = found {
                self.running = Some(container);
                return Ok(pid);
            }
            said = format!("{}: {}", container.told(), container.words());
            self.outside.put_back()?;
        }
        Err(io::Error::other(format!("COMMAND does not start: {said}")))
    }
}
