//! COMMAND: its user, directory, terminal and streams.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, fchown, setsid};

use crate::wire::{FromGuest, OUTPUT, Request, User};

/// Our ends of COMMAND's standard streams.
pub struct Streams {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
}

impl Streams {
    /// Passes on all that COMMAND has written so far.
    pub fn carry(
        &mut self,
        mut send: impl FnMut(&FromGuest) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut bytes = [0; OUTPUT];
        for (stream, message) in [
            (&mut self.output, FromGuest::Out as fn(_) -> _),
            (&mut self.errors, FromGuest::Err as fn(_) -> _),
        ] {
            while let Some(open) = &stream {
                match nix::unistd::read(open, &mut bytes) {
                    Err(Errno::EAGAIN) => break,
                    // EIO: no process has the terminal open any more.
                    Ok(0) | Err(_) => *stream = None,
                    Ok(n) => send(&message(bytes[..n].to_vec()))?,
                }
            }
        }
        Ok(())
    }

    /// COMMAND reads EOF next.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Sets the size of COMMAND's terminal, if it has one.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        match &self.output {
            Some(terminal) => resize(terminal.as_fd(), rows, columns),
            None => Ok(()),
        }
    }

    /// What to wait for: output, and room for `pending` input.
    pub fn awaited(&self, pending: &[u8]) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let outputs = [&self.output, &self.errors].into_iter().flatten();
        let mut awaited: Vec<_> =
            outputs.map(|it| (it.as_fd(), PollFlags::POLLIN)).collect();
        if let Some(input) = &self.input
            && !pending.is_empty()
        {
            awaited.push((input.as_fd(), PollFlags::POLLOUT));
        }
        awaited
    }

    /// Writes to COMMAND as much as its pipe takes. True when all is written.
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

/// Starts COMMAND as the request says: its user, directory and terminal.
///
/// # Errors
/// If a file or process cannot be made, or execve(2) fails.
pub fn start(request: &Request, input: bool) -> io::Result<(Pid, Streams)> {
    let (id, home, user) = match request.user {
        User::Root => (0, "/root", "root"),
        User::Reader => (1000, "/home/reader", "reader"),
    };
    let dir = match &request.dir {
        Some(dir) => OsString::from_vec(dir.clone()),
        None => home.into(),
    };
    fs::create_dir_all(&dir)?;

    let mut argv = request.argv.iter().map(|arg| OsStr::from_bytes(arg));
    let mut command = Command::new(argv.next().unwrap_or_default());
    command
        .args(argv)
        .uid(id)
        .gid(id)
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin")
        .env("HOME", home)
        .env("USER", user)
        .env("LOGNAME", user)
        .env("SHELL", "/bin/sh");
    lead_a_session(&mut command);
    match &request.terminal {
        None => {
            close(&mut command, request.closed);
            with_pipes(command, input)
        }
        Some((rows, columns, term)) => {
            let OpenptyResult { master, slave } = openpty(None, None)?;
            for fd in [&master, &slave] {
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            }
            fchown(&slave, Some(id.into()), None)?;
            resize(master.as_fd(), *rows, *columns)?;
            command.env("TERM", term);
            at_terminal(command, master, slave)
        }
    }
}

#[expect(unsafe_code, reason = "what the child does before exec")]
fn lead_a_session(command: &mut Command) {
    // SAFETY: these are system calls only, safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty().thread_set_mask()?;
            setsid()?;
            Ok(())
        });
    }
}

/// What the caller has closed is closed for COMMAND, too: it is told then that
/// its output is lost.
#[expect(unsafe_code, reason = "what the child does before exec")]
fn close(command: &mut Command, closed: [bool; 3]) {
    let close = move || {
        for (fd, _) in (0..).zip(closed).filter(|(_, closed)| *closed) {
            // SAFETY: what has this number is COMMAND's alone.
            unsafe { libc::close(fd) };
        }
        Ok(())
    };
    // SAFETY: these are system calls only, safe between fork and exec.
    unsafe { command.pre_exec(close) };
}

fn with_pipes(mut command: Command, input: bool) -> io::Result<(Pid, Streams)> {
    let input = if input { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let streams = Streams {
        input: child.stdin.take().map(OwnedFd::from),
        output: child.stdout.take().map(OwnedFd::from),
        errors: child.stderr.take().map(OwnedFd::from),
    };
    let pipes = [&streams.input, &streams.output, &streams.errors];
    for pipe in pipes.into_iter().flatten() {
        nonblocking(pipe.as_fd())?;
    }
    Ok((Pid::from_raw(child.id() as i32), streams))
}

#[expect(unsafe_code, reason = "the child takes its terminal before exec")]
fn at_terminal(
    mut command: Command,
    master: OwnedFd,
    slave: OwnedFd,
) -> io::Result<(Pid, Streams)> {
    // SAFETY: a system call, safe between fork and exec; standard input is the
    // terminal by then.
    unsafe {
        command.pre_exec(|| {
            let done = libc::ioctl(0, libc::TIOCSCTTY, 0);
            Errno::result(done).map(drop).map_err(io::Error::from)
        });
    }
    let child = command
        // Only for a terminal: loading the locale is a quarter of `cat`'s time.
        .env("LC_CTYPE", "C.UTF-8")
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave)
        .spawn()?;
    nonblocking(master.as_fd())?;
    let streams = Streams {
        input: Some(master.try_clone()?),
        output: Some(master),
        errors: None,
    };
    Ok((Pid::from_raw(child.id() as i32), streams))
}

fn nonblocking(fd: BorrowedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[expect(unsafe_code, reason = "nix has no wrapper for TIOCSWINSZ")]
fn resize(terminal: BorrowedFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads the size, which lives as long as the call.
    let done =
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    Errno::result(done)?;
    Ok(())
}
