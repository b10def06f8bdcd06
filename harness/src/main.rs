//! Run COMMAND in a throw-away virtual machine: the outermost link of a
//! chain.
//!
//!     usage: harness [COMMAND [ARG]...]
//!            harness check [reader] PREFIX [ARG]...
//!
//! Without COMMAND: a root shell in the machine, to try out what would damage
//! this one. The machine ends with COMMAND, and nothing is left of it.

use std::env;
use std::ffi::{CString, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use harness::{
    End, Failure, Harness, Io, Request, Terminal, User, guest, streams,
};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, raise, signal};

const USAGE: &str = "usage: harness [COMMAND [ARG]...]\n       \
                     harness check [reader] PREFIX [ARG]...\n";
const VERSION: &str = concat!("harness ", env!("CARGO_PKG_VERSION"), "\n");

fn main() -> ExitCode {
    // The same program is the guest's PID 1: the kernel starts it as /init.
    if std::process::id() == 1 && env::args_os().next() == Some("/init".into())
    {
        let Err(error) = guest::serve();
        return fail(125, error);
    }
    // And it is `check` there.
    let name = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if name.file_name() == Some("check".as_ref()) {
        return guest::check::main(env::args_os().skip(1).collect());
    }
    let mut args = env::args_os().skip(1);
    let mut command = args.next();
    match command.as_deref().map(OsStrExt::as_bytes) {
        Some(b"-h" | b"--help") => return print(USAGE),
        Some(b"-V" | b"--version") => return print(VERSION),
        Some(b"--") => command = args.next(),
        Some([b'-', ..]) => return fail(125, USAGE.trim_end()),
        _ => {}
    }
    let argv: Vec<OsString> = match command {
        Some(command) => std::iter::once(command).chain(args).collect(),
        None => vec!["bash".into()],
    };
    // If the caller ignores it, we inherit that, and the kernel discards the
    // status of our children: wait(2).
    by_default(Signal::SIGCHLD);
    match run(argv) {
        Ok(status) => status,
        Err(failure) => fail(125, failure),
    }
}

fn run(argv: Vec<OsString>) -> Result<ExitCode, Failure> {
    let this = env::current_exe()
        .map_err(|error| Failure::because("current_exe", error))?;
    let harness = Harness::new(&this, &argv)?;
    let mut vm = harness.start()?;

    // Like `docker run -it`, but without an option: COMMAND gets a terminal if
    // all three streams here are one.
    let streams =
        [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()]
            .map(|fd| fd.try_clone_to_owned());
    let [Ok(input), Ok(output), Ok(errors)] = streams else {
        return Err(Failure::because("standard streams", "closed"));
    };
    let are_terminals = [&input, &output, &errors].map(IsTerminal::is_terminal);
    let terminal = match are_terminals == [true; 3] {
        true => Some(
            Terminal::take(input.as_fd())
                .map_err(|error| Failure::because("terminal", error))?,
        ),
        false => None,
    };
    let request = Request {
        // In this directory a relative path names what was packed.
        dir: harness
            .has_readers_own()
            .then(|| env::current_dir().ok())
            .flatten()
            .map(|dir| dir.into_os_string().into_vec()),
        argv: patient(&argv),
        user: User::Root,
        terminal: terminal.as_ref().map(|terminal| {
            let (rows, columns) = terminal.size();
            let name = env::var("TERM").unwrap_or("dumb".into());
            (rows, columns, name)
        }),
        closed: streams::closed(),
    };
    let io = Io {
        input: Some(input.as_fd()),
        output: &mut File::from(output),
        errors: &mut File::from(errors),
        patience: None,
        terminal: terminal.as_ref(),
    };
    let end = vm.run(&request, io);
    drop((terminal, vm));
    match end {
        Err(failure) if failure.broken_pipe => Ok(end_by_sigpipe()),
        Err(failure) => Err(failure),
        Ok(end @ End::NotStarted(errno)) => {
            let (errno, name) = (Errno::from_raw(errno), argv[0].display());
            Ok(fail(end.status(), format!("exec {name}: {errno}")))
        }
        Ok(end) => Ok(ExitCode::from(end.status())),
    }
}

/// The words of the command. `check` has deadlines of its own in the guest,
/// which are longer if these are.
fn patient(argv: &[OsString]) -> Vec<CString> {
    let mut words: Vec<OsString> = Vec::new();
    if argv[0] == "check"
        && let Some(patience) = env::var_os("HARNESS_PATIENCE")
    {
        let mut setting = OsString::from("HARNESS_PATIENCE=");
        setting.push(patience);
        words.extend(["env".into(), setting]);
    }
    words.extend_from_slice(argv);
    let word = |it: OsString| CString::new(it.into_vec()).expect("no zero");
    words.into_iter().map(word).collect()
}

#[expect(unsafe_code, reason = "signal has no safe wrapper")]
fn by_default(which: Signal) {
    // SAFETY: the default action calls no handler.
    let _ = unsafe { signal(which, SigHandler::SigDfl) };
}

/// Ends as `yes | head -n 1` does: killed by SIGPIPE, which Rust ignores.
fn end_by_sigpipe() -> ExitCode {
    by_default(Signal::SIGPIPE);
    let _ = raise(Signal::SIGPIPE);
    ExitCode::from(128 + Signal::SIGPIPE as u8)
}

fn print(text: &str) -> ExitCode {
    match streams::print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(125, format!("write to standard output: {error}")),
    }
}

fn fail(status: u8, why: impl Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "harness: {why}");
    ExitCode::from(status)
}
