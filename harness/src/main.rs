//! Run COMMAND in a throw-away virtual machine: the outermost link of a
//! chain.
//!
//!     usage: harness [COMMAND [ARG]...]
//!
//! Without COMMAND: a root shell in the machine, to try out what would wreck
//! this one. The machine ends with COMMAND, and nothing of it is left.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use harness::{End, Failure, Harness, Input, Io, Request, User, guest};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

const USAGE: &str = "usage: harness [COMMAND [ARG]...]\n";
const VERSION: &str = concat!("harness ", env!("CARGO_PKG_VERSION"), "\n");

fn main() -> ExitCode {
    // The same program is the guest's PID 1, where the kernel calls it so.
    if std::process::id() == 1 && env::args_os().next() == Some("/init".into())
    {
        let Err(error) = guest::serve();
        return fail(125, error);
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
    match run(argv) {
        Ok(status) => status,
        Err(failure) => fail(125, failure),
    }
}

fn run(argv: Vec<OsString>) -> Result<ExitCode, Failure> {
    let name = argv[0].clone();
    let this = env::current_exe()
        .map_err(|error| Failure::because("current_exe", error))?;
    let seated = io::stdin().is_terminal()
        && io::stdout().is_terminal()
        && io::stderr().is_terminal();
    if seated {
        // Before there is a second thread: that one would be killed by them,
        // and nobody would set the terminal right again.
        Terminal::signals()
            .thread_block()
            .map_err(|error| Failure::because("sigprocmask", error))?;
    }
    let packed = packed(&name);
    let harness = Harness::new(&this, packed.as_deref())?;
    let mut vm = harness.start()?;

    // Like `docker run -it`, but without the letters: who sits at a terminal
    // gets one inside.
    let streams =
        [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()]
            .map(|fd| fd.try_clone_to_owned());
    let [Ok(input), Ok(output), Ok(errors)] = streams else {
        return Err(Failure::because("standard streams", "closed"));
    };
    let terminal = match seated {
        true => Some(
            Terminal::take(input.as_fd())
                .map_err(|error| Failure::because("terminal", error))?,
        ),
        false => None,
    };
    let request = Request {
        argv: argv.into_iter().map(OsString::into_vec).collect(),
        user: User::Root,
        // Where a relative path leads to the program that was packed.
        dir: packed
            .and_then(|_| env::current_dir().ok())
            .map(|dir| dir.into_os_string().into_vec()),
        terminal: terminal.as_ref().map(|terminal| {
            let (rows, columns) = terminal.size();
            let name = env::var("TERM").unwrap_or("dumb".into());
            (rows, columns, name)
        }),
    };
    let mut resized = || terminal.as_ref().and_then(Terminal::event);
    let io = Io {
        input: Input::Stream(input.as_fd()),
        output: &mut File::from(output),
        errors: &mut File::from(errors),
        patience: None,
        events: terminal
            .as_ref()
            .map(|terminal| (terminal.events.as_fd(), &mut resized as &mut _)),
    };
    let end = vm.run(&request, io)?;
    drop(terminal);
    Ok(match end {
        End::NotStarted(errno) => {
            let errno = Errno::from_raw(errno);
            fail(end.status(), format!("exec {}: {errno}", name.display()))
        }
        _ => ExitCode::from(end.status()),
    })
}

/// The reader's own program, where COMMAND is the path of one.
fn packed(command: &OsStr) -> Option<PathBuf> {
    let path = Path::new(command);
    let here = command.as_bytes().contains(&b'/') && path.is_file();
    here.then(|| std::path::absolute(path).ok()).flatten()
}

/// The reader's terminal: each key goes into the machine as it is, until
/// this is dropped and the terminal is what it was.
struct Terminal {
    fd: OwnedFd,
    before: Termios,
    events: SignalFd,
}

impl Terminal {
    fn take(fd: BorrowedFd) -> io::Result<Terminal> {
        let flags = SfdFlags::SFD_CLOEXEC;
        let events = SignalFd::with_flags(&Terminal::signals(), flags)?;
        let before = tcgetattr(fd)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(fd, SetArg::TCSADRAIN, &raw)?;
        Ok(Terminal { fd: fd.try_clone_to_owned()?, before, events })
    }

    /// What it wants to hear of, to follow it or to end in good order.
    fn signals() -> SigSet {
        [Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect()
    }

    /// What a signal says: the new size, or `None`: it is time to go.
    fn event(&self) -> Option<(u16, u16)> {
        let signal = self.events.read_signal().ok()??;
        (signal.ssi_signo == Signal::SIGWINCH as u32).then(|| self.size())
    }

    /// Rows and columns.
    #[expect(unsafe_code, reason = "nix has no wrapper for TIOCGWINSZ")]
    fn size(&self) -> (u16, u16) {
        let mut size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the kernel writes the size, which lives as long as that.
        unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size)
        };
        (size.ws_row, size.ws_col)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.fd, SetArg::TCSADRAIN, &self.before);
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(125, error),
    }
}

fn fail(status: u8, why: impl Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "harness: {why}");
    ExitCode::from(status)
}
