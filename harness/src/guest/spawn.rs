//! The start of a program, at pipes or at a terminal of its own. As in vfork(2)
//! nothing of this process's memory is copied: fork(2) takes longer.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::pty::{posix_openpt, ptsname_r, unlockpt};
use nix::spawn::{
    PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp,
};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Uid, chown, pipe2};

use crate::wire::OUTPUT;

/// What a program has as its standard streams.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Pipes, but those that are closed, and `/dev/null` if there is no input.
    Pipes { input: bool, closed: [bool; 3] },
    /// This user's terminal, of so many rows and columns.
    Terminal(Uid, u16, u16),
}

/// Our ends of a program's standard streams.
#[derive(Default)]
pub struct Streams {
    pub input: Option<OwnedFd>,
    /// Output and errors; a terminal shows both.
    outputs: [Option<OwnedFd>; 2],
}

/// Starts a program in a session of its own. Like execvp(3), it is looked for in
/// `$PATH`. With `RESETIDS` it gets this process's real ids.
///
/// # Errors
/// If a stream cannot be made, or execve(2) fails.
pub fn spawn(
    argv: &[impl AsRef<CStr>],
    environment: &[impl AsRef<CStr>],
    kind: Kind,
    ids: PosixSpawnFlags,
) -> io::Result<(Pid, Streams)> {
    let mut actions = PosixSpawnFileActions::init()?;
    // Their ends, which are closed when the program has its own.
    let mut theirs = Vec::new();
    let streams = match kind {
        Kind::Terminal(user, rows, columns) => {
            terminal(&mut actions, user, rows, columns)?
        }
        Kind::Pipes { input, closed } => {
            let mut pipe = |fd: RawFd, closed: bool| -> io::Result<_> {
                if closed {
                    actions.add_close(fd)?;
                    return Ok(None);
                }
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                let (its, ours) =
                    if fd == 0 { (read, write) } else { (write, read) };
                fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                actions.add_dup2(its.as_raw_fd(), fd)?;
                theirs.push(its);
                Ok(Some(ours))
            };
            let outputs = [pipe(1, closed[1])?, pipe(2, closed[2])?];
            if input || closed[0] {
                Streams { input: pipe(0, closed[0])?, outputs }
            } else {
                let (read, mode) = (OFlag::O_RDONLY, Mode::empty());
                actions.add_open(0, "/dev/null", read, mode)?;
                Streams { input: None, outputs }
            }
        }
    };
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into())
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | ids,
    )?;
    attributes.set_sigdefault(&every_signal())?;
    attributes.set_sigmask(&SigSet::empty())?;
    let name = argv[0].as_ref();
    let pid = posix_spawnp(name, &actions, &attributes, argv, environment)?;
    Ok((pid, streams))
}

/// A terminal, which the program opens.
fn terminal(
    actions: &mut PosixSpawnFileActions,
    user: Uid,
    rows: u16,
    columns: u16,
) -> io::Result<Streams> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let terminal = posix_openpt(flags | OFlag::O_NONBLOCK)?;
    unlockpt(&terminal)?;
    let name = ptsname_r(&terminal)?;
    chown(&*name, Some(user), None)?;
    // The first terminal that the leader of a session opens is its controlling
    // one.
    actions.add_open(0, &*name, OFlag::O_RDWR, Mode::empty())?;
    actions.add_dup2(0, 1)?;
    actions.add_dup2(0, 2)?;
    let [input, output] =
        [terminal.as_fd(); 2].map(|it| it.try_clone_to_owned());
    let streams =
        Streams { input: Some(input?), outputs: [Some(output?), None] };
    streams.resize(rows, columns)?;
    Ok(streams)
}

/// Also SIGPIPE, which Rust ignores, and the two of the C library's own, which
/// posix_spawn(3) would leave ignored. sigfillset(3) leaves them out.
#[expect(unsafe_code, reason = "a set of signals that have no name")]
fn every_signal() -> SigSet {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is nothing but bits, and each may be set.
    unsafe {
        set.as_mut_ptr().write_bytes(u8::MAX, 1);
        SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

impl Streams {
    /// Passes on all that the program has written so far, each with the number
    /// of the output: 0, or 1 for errors.
    pub fn carry(
        &mut self,
        mut to: impl FnMut(usize, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut bytes = [0; OUTPUT];
        for (number, stream) in self.outputs.iter_mut().enumerate() {
            while let Some(open) = stream {
                match nix::unistd::read(open, &mut bytes) {
                    Err(Errno::EAGAIN) => break,
                    // EIO: no process has the terminal open any more.
                    Ok(0) | Err(_) => *stream = None,
                    Ok(n) => to(number, &bytes[..n])?,
                }
            }
        }
        Ok(())
    }

    /// Sets the size of the program's terminal, if it has one.
    #[expect(unsafe_code, reason = "nix has no wrapper for TIOCSWINSZ")]
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let Some(terminal) = &self.outputs[0] else { return Ok(()) };
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the kernel reads the size, which lives as long as the call.
        let done = unsafe {
            libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size)
        };
        Errno::result(done)?;
        Ok(())
    }

    /// What to wait for: output, and room for `pending` input.
    pub fn awaited(&self, pending: &[u8]) -> Vec<PollFd<'_>> {
        let mut awaited = Vec::with_capacity(5);
        for output in self.outputs.iter().flatten() {
            awaited.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        if let Some(input) = &self.input
            && !pending.is_empty()
        {
            awaited.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
        awaited
    }

    /// Writes to the program as much as its pipe takes. True when all is
    /// written.
    pub fn feed(&mut self, pending: &mut Vec<u8>) -> bool {
        let Some(input) = &self.input else {
            pending.clear();
            return true;
        };
        match nix::unistd::write(input, pending) {
            Ok(n) => drop(pending.drain(..n)),
            Err(Errno::EAGAIN) => {}
            // No process reads the input any more: what is left is dropped.
            Err(_) => {
                pending.clear();
                self.input = None;
            }
        }
        pending.is_empty()
    }
}

/// The children that have ended, orphans too. (nix's waitpid loses a child that
/// a real-time signal has killed.)
#[expect(unsafe_code, reason = "nix has no real-time signals")]
pub fn reap() -> Vec<(Pid, ExitStatus)> {
    let mut ended = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes the status, and nothing else.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            return ended;
        }
        ended.push((Pid::from_raw(pid), ExitStatus::from_raw(status)));
    }
}
