//! A link of a chain: the contract that the six programs share with env(1),
//! nice(1) and chroot(1). A link changes one thing about its process, then
//! becomes COMMAND, and adds nothing to its output.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::{ffi::OsStrExt, process::CommandExt};
use std::process::{self, Command, ExitCode};
use std::{env, fmt::Display, panic, sync::OnceLock};

use nix::{errno::Errno, libc};

pub mod child;
pub mod example;
pub mod report;

mod advice;
mod inherited;
pub(crate) mod kernel;

pub use advice::Call;

/// Runs a program of this name. Its first argument is COMMAND, and all that
/// follow are COMMAND's own. Without COMMAND `program` gets `None`.
///
/// Its status is COMMAND's; 125 where the link failed, 126 where COMMAND
/// cannot be run, 127 where there is none of that name.
pub fn run(
    name: &'static str,
    program: impl FnOnce(Option<Command>) -> Result<ExitCode, Failure>,
) -> ExitCode {
    begin(name);
    let usage = format!("usage: {name} [COMMAND [ARG]...]");
    let version = format!("{name} {}", env!("CARGO_PKG_VERSION"));

    let mut args = env::args_os().skip(1);
    let mut command = args.next();
    let done = match command.as_deref().map(OsStrExt::as_bytes) {
        Some(b"-h" | b"--help") => print(&usage),
        Some(b"-V" | b"--version") => print(&version),
        Some([b'-', rest @ ..]) if rest != b"-" => {
            Err(Failure::new(125, usage))
        }
        first => {
            if first == Some(b"--") {
                command = args.next();
            }
            program(command.map(|command| {
                let mut command = Command::new(command);
                command.args(args);
                command
            }))
        }
    };
    done.unwrap_or_else(|failure| failure.print().into())
}

/// The program's name, with which its messages begin.
static NAME: OnceLock<&str> = OnceLock::new();

/// What Rust's runtime does otherwise than other programs.
#[expect(clippy::disallowed_methods, reason = "a panic ends it in any case")]
fn begin(name: &'static str) {
    let _ = NAME.set(name);
    inherited::restore_sigpipe();
    // `println!` panics where standard output cannot be written.
    panic::set_hook(Box::new(move |panic| {
        let why = panic.payload().downcast_ref::<String>().cloned();
        let why = why.unwrap_or_else(|| panic.to_string());
        let _ = writeln!(io::stderr(), "{name}: {why}");
        process::exit(125)
    }));
}

/// Becomes COMMAND: this process goes on as another program. Returns only
/// where that fails.
#[expect(unsafe_code, reason = "Command::exec sets SIGPIPE to its default")]
pub fn exec(mut command: Command) -> Failure {
    let restore = || {
        inherited::restore_all();
        Ok(())
    };
    // SAFETY: it only calls signal(2), and there is one thread only.
    let error = unsafe { command.pre_exec(restore) }.exec();
    let missing = error.kind() == ErrorKind::NotFound;
    let failure = failed(Call::Exec(command.get_program().into()))(error);
    Failure { status: if missing { 127 } else { 126 }, ..failure }
}

/// Writes a line to standard output.
///
/// # Errors
/// As write(2): a full disk is a failure like any other.
pub fn print(line: impl Display) -> Result<ExitCode, Failure> {
    // Not `io::stdout()`, which hides that standard output is closed.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    stdout
        .and_then(|mut stdout| stdout.write_all(format!("{line}\n").as_bytes()))
        .map_err(failed(Call::Stdout))?;
    Ok(ExitCode::SUCCESS)
}

/// The text of a file in /proc.
///
/// # Errors
/// As open(2) and read(2).
pub fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(failed(Call::Proc(format!("read {path}"))))
}

/// Where a symbolic link in /proc points to.
///
/// # Errors
/// As readlink(2).
pub fn read_link(path: &str) -> Result<String, Failure> {
    let link = fs::read_link(path)
        .map_err(failed(Call::Proc(format!("readlink {path}"))))?;
    Ok(link.display().to_string())
}

/// What /proc/self/status says behind `name`, with single spaces.
///
/// # Errors
/// As [`read`].
pub fn proc_status(name: &str) -> Result<String, Failure> {
    Ok(kernel::words(&read("/proc/self/status")?, name).join(" "))
}

/// setdomainname(2), which nix lacks.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, EINVAL for more than 64 bytes.
#[expect(unsafe_code, reason = "nix has no setdomainname")]
pub fn setdomainname(name: &str) -> nix::Result<()> {
    // SAFETY: the kernel reads this many bytes and keeps no pointer.
    let done = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    Errno::result(done).map(drop)
}

/// How a call ended, for a table: `done`, or the name of its error.
pub fn end<T, E: Into<io::Error>>(call: Result<T, E>, done: &str) -> String {
    match call {
        Ok(_) => done.into(),
        Err(error) => format!("{:?}", errno(error)),
    }
}

/// The error's number. One that std has made itself has none: EIO.
fn errno(error: impl Into<io::Error>) -> Errno {
    Errno::try_from(error.into()).unwrap_or(Errno::EIO)
}

/// What a program says on standard error before it ends, and its status then.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    /// Each begins with the program's name when it is printed.
    messages: Vec<String>,
}

/// For `map_err`: names the call that failed. Below the call and its error
/// stands a line of advice, which depends on this machine: so it is looked
/// for at once, while the process still is where the call failed.
pub fn failed<E: Into<io::Error>>(
    call: impl Into<Call>,
) -> impl FnOnce(E) -> Failure {
    |error| {
        let (call, errno) = (call.into(), errno(error));
        let advice = advice::advice(&call, errno);
        Failure::new(125, format!("{call}: {errno}\n{advice}"))
    }
}

impl Failure {
    /// Says it on standard error, and returns the status to end with. In a
    /// chain, the name in front says which link it was.
    pub fn print(self) -> u8 {
        let name = NAME.get().copied().unwrap_or_default();
        for message in self.messages {
            // Where nobody reads it, the status still says it.
            let _ = writeln!(io::stderr(), "{name}: {message}");
        }
        self.status
    }

    fn new(status: u8, message: String) -> Failure {
        Failure { status, messages: vec![message] }
    }
}
