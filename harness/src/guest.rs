//! The guest's PID 1: makes a realistic "outside", then runs the commands that
//! the harness requests over the serial port.
//!
//! The outside matters. A claim that something is *not* seen proves nothing if
//! it could not be seen anyway. So mounts are shared, as systemd(1) makes
//! them, and there is a network from which a namespace is isolated.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::window::Window;
use crate::wire::{
    self, Decoder, End, FromGuest, OUTPUT, Request, ToGuest, User,
};
use crate::wire_port;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{
    BaudRate, SetArg, cfmakeraw, cfsetspeed, tcgetattr, tcsetattr,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::{Pid, chdir, chown, chroot, sethostname, setsid};

/// Serves until the machine is switched off.
///
/// # Errors
/// If the wire to the harness is broken, or input was damaged on its way. Then
/// PID 1 ends, the kernel panics, and the machine ends, as it should.
pub fn serve() -> io::Result<Infallible> {
    let prepared = prepare();
    let mut wire = Wire::open()?;
    wire.send(&match prepared {
        Ok(()) => FromGuest::Ready(wire.window.frames()?),
        Err(why) => FromGuest::Unfit(why),
    })?;
    let mut request = Vec::new();
    loop {
        match wire.receive()? {
            ToGuest::Part(part) => {
                request.extend(part);
                wire.send(&FromGuest::Taken)?;
            }
            ToGuest::Run { part, input } => {
                request.extend(part);
                let started = postcard::from_bytes(&request)
                    .map_err(|_| Errno::EBADMSG.into())
                    .and_then(|request| start(&request, input));
                let end = match started {
                    Ok((command, streams)) => run(&mut wire, command, streams)?,
                    Err(error) => {
                        let errno = error.raw_os_error();
                        End::NotStarted(errno.unwrap_or(libc::EIO))
                    }
                };
                request.clear();
                wire.send(&FromGuest::End(end))?;
            }
            // Input of a command that has ended in the meantime.
            ToGuest::Input(_) | ToGuest::Window { .. } => {
                wire.send(&FromGuest::Taken)?;
            }
            ToGuest::Resize(..) | ToGuest::Hello { .. } => {}
        }
    }
}

/// What is mounted: source, target, type and options.
const MOUNTS: &[(&str, &str, &str, &str)] = &[
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", "mode=755"),
    // Terminals, for job control and ^C.
    ("devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"),
    // POSIX shared memory, which an IPC namespace does not isolate.
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    // POSIX message queues, which an IPC namespace isolates.
    ("mqueue", "/dev/mqueue", "mqueue", ""),
];

/// Sets the machine up as the claims expect it.
fn prepare() -> Result<(), String> {
    let because = |what: &str| {
        let what = what.to_string();
        move |error: io::Error| format!("{what}: {error}")
    };
    leave_rootfs().map_err(because("the root"))?;
    for (source, target, kind, options) in MOUNTS {
        fs::create_dir_all(target).map_err(because(target))?;
        let (source, kind) = (Some(*source), Some(*kind));
        mount(source, *target, kind, MsFlags::empty(), Some(*options))
            .map_err(|error| because(target)(error.into()))?;
    }
    // As systemd does at boot. Since Linux 6.14 each PID namespace has its own
    // limit, and a new one begins with this value: without it the columns of
    // ps would be wider inside than outside. A kernel for small machines
    // refuses the value, and then only the columns' width differs.
    let _ = fs::write("/proc/sys/kernel/pid_max", "4194304");
    // As systemd does at boot. The kernel's default is private, and private
    // mounts never propagate: no claim about propagation could fail.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>)
        .map_err(|error| because("mount / MS_SHARED")(error.into()))?;

    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, link).map_err(because(link))?;
    }
    for (home, id, mode) in [("/root", 0, 0o700), ("/home/reader", 1000, 0o755)]
    {
        fs::create_dir_all(home).map_err(because(home))?;
        fs::set_permissions(home, Permissions::from_mode(mode))
            .map_err(because(home))?;
        chown(home, Some(id.into()), Some(id.into()))
            .map_err(|error| because(home)(error.into()))?;
    }
    sethostname("outside").map_err(|e| because("sethostname")(e.into()))?;

    // A claim "only loopback inside" needs another interface outside. Loading
    // the module makes dummy0; a kernel with a built-in driver has it already.
    let release = nix::sys::utsname::uname().map_err(|e| e.to_string())?;
    let modules = Path::new("/lib/modules").join(release.release());
    if let Ok(module) = File::open(modules.join("dummy.ko")) {
        nix::kmod::finit_module(
            &module,
            c"",
            nix::kmod::ModuleInitFlags::empty(),
        )
        .map_err(|error| because("dummy.ko")(error.into()))?;
    }
    let ip = Command::new("/usr/bin/ip").args(["-batch", "/etc/ip"]).output();
    let ip = ip.map_err(because("ip"))?;
    if !ip.status.success() {
        let why = String::from_utf8_lossy(&ip.stderr);
        return Err(format!("ip: {}", why.trim()));
    }
    Ok(())
}

/// Makes the root an ordinary mount. The initramfs is unpacked into rootfs,
/// the lowest mount, and there pivot_root(2) always fails with EINVAL. So the
/// same files are mounted once more, over it.
fn leave_rootfs() -> io::Result<()> {
    let none = None::<&str>;
    mount(Some("/"), "/mnt", none, MsFlags::MS_BIND, none)?;
    chdir("/mnt")?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    chroot(".")?;
    Ok(())
}

/// The serial port to the harness, and SIGCHLD as a descriptor.
struct Wire {
    port: File,
    children: SignalFd,
    decoder: Decoder,
    inbox: Vec<u8>,
    window: Window,
}

impl Wire {
    fn open() -> io::Result<Wire> {
        let name = wire_port().map_err(io::Error::other)?;
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/{name}"))?;
        let mut raw = tcgetattr(&port)?;
        cfmakeraw(&mut raw);
        // Before a UART interrupts for less than its trigger level, it waits
        // for the time of four characters: 4 ms at its initial 9600 baud.
        cfsetspeed(&mut raw, BaudRate::B115200)?;
        tcsetattr(&port, SetArg::TCSANOW, &raw)?;
        // Interrupts when 14 of its 16 bytes are full, instead of at 8 bytes:
        // input takes a quarter less time.
        let _ = fs::write(format!("/sys/class/tty/{name}/rx_trig_bytes"), "14");
        let signals = SigSet::from(Signal::SIGCHLD);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let children = SignalFd::with_flags(&signals, flags)?;
        let decoder = Decoder::default();
        Ok(Wire {
            port,
            children,
            decoder,
            inbox: Vec::new(),
            window: Window::open()?,
        })
    }

    fn send(&mut self, message: &FromGuest) -> io::Result<()> {
        self.port.write_all(&wire::encode(message))
    }

    /// Waits for the next message, and reaps orphans in the meantime.
    fn receive(&mut self) -> io::Result<ToGuest> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(message);
            }
            if self.wait(&[])? {
                self.read()?;
            }
            self.reap(Pid::this())?;
        }
    }

    /// Waits for the port, for the end of a child, or for one of these. True
    /// if the port is readable.
    fn wait(&self, more: &[(BorrowedFd, PollFlags)]) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::new(self.port.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(more.iter().map(|(fd, what)| PollFd::new(*fd, *what)));
        poll(&mut fds, PollTimeout::NONE)?;
        Ok(fds[0].any().unwrap_or_default())
    }

    /// Reaps all children that have ended, and returns how COMMAND ended if it
    /// is one of them.
    #[expect(unsafe_code, reason = "nix has no real-time signals")]
    fn reap(&self, command: Pid) -> io::Result<Option<End>> {
        while self.children.read_signal()?.is_some() {}
        let mut end = None;
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes the status, and nothing else.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            match Errno::result(pid) {
                Ok(0) | Err(Errno::ECHILD) => return Ok(end),
                Ok(pid) if pid == command.as_raw() => {
                    let status = ExitStatus::from_raw(status);
                    end = status.code().map(|code| End::Exited(code as u8));
                    end = end.or(status.signal().map(|n| End::Killed(n as u8)));
                }
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what has arrived at the port; blocks if there is nothing.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let n = self.port.read(&mut bytes)?;
        self.inbox.extend(&bytes[..n]);
        Ok(())
    }

    /// The next message among the bytes that were read. Frames that are no
    /// message are skipped: they can only be noise on the line after a restore.
    fn next(&mut self) -> io::Result<Option<ToGuest>> {
        let mut bytes = std::mem::take(&mut self.inbox).into_iter();
        while let Some(byte) = bytes.next() {
            match self.decoder.push(byte) {
                Some(Ok(ToGuest::Hello { nonce, time })) => {
                    clock_settime(
                        ClockId::CLOCK_REALTIME,
                        TimeSpec::from_duration(time),
                    )?;
                    self.send(&FromGuest::Hello(nonce))?;
                }
                Some(Ok(message)) => {
                    self.inbox = bytes.collect();
                    return Ok(Some(message));
                }
                Some(Err(_)) | None => {}
            }
        }
        Ok(None)
    }
}

/// Our ends of COMMAND's standard streams.
struct Streams {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
}

/// Runs a command to its end, and passes its input and output on.
fn run(wire: &mut Wire, command: Pid, mut streams: Streams) -> io::Result<End> {
    let mut pending = Vec::new(); // Input that COMMAND has no room for yet.
    let mut closing = false;

    loop {
        // Before the first wait: input may have arrived with the request.
        while let Some(message) = wire.next()? {
            match message {
                ToGuest::Input(bytes) => {
                    closing = bytes.is_empty();
                    pending = bytes;
                }
                ToGuest::Window { length, sum } => {
                    pending = wire.window.read(length, sum)?;
                }
                ToGuest::Resize(rows, columns) => {
                    if let Some(terminal) = &streams.output {
                        resize(terminal.as_fd(), rows, columns)?;
                    }
                }
                ToGuest::Part(_)
                | ToGuest::Run { .. }
                | ToGuest::Hello { .. } => {}
            }
        }
        if closing {
            closing = false;
            streams.input = None;
            wire.send(&FromGuest::Taken)?;
        }
        if !pending.is_empty() && streams.feed(&mut pending) {
            wire.send(&FromGuest::Taken)?;
        }

        let ended = wire.reap(command)?;
        // COMMAND was reaped before this read, so all of its output is in the
        // pipes by now. A process that it left behind may hold them open: what
        // that writes later is no output of COMMAND.
        streams.carry(wire)?;
        if let Some(end) = ended {
            return Ok(end);
        }

        let mut more = Vec::new();
        for stream in [&streams.output, &streams.errors].into_iter().flatten() {
            more.push((stream.as_fd(), PollFlags::POLLIN));
        }
        if let Some(input) = &streams.input
            && !pending.is_empty()
        {
            more.push((input.as_fd(), PollFlags::POLLOUT));
        }
        if wire.wait(&more)? {
            wire.read()?;
        }
    }
}

impl Streams {
    /// Sends all that COMMAND has written so far.
    fn carry(&mut self, wire: &mut Wire) -> io::Result<()> {
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
                    Ok(n) => wire.send(&message(bytes[..n].to_vec()))?,
                }
            }
        }
        Ok(())
    }

    /// Writes to COMMAND as much as its pipe takes. True when all is written.
    fn feed(&mut self, pending: &mut Vec<u8>) -> bool {
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
#[expect(unsafe_code, reason = "the child takes its terminal before exec")]
fn start(request: &Request, input: bool) -> io::Result<(Pid, Streams)> {
    let mut argv = request.argv.iter().map(|arg| OsStr::from_bytes(arg));
    let name = argv.next().unwrap_or_default();
    let (id, home, user) = match request.user {
        User::Root => (0, "/root", "root"),
        User::Reader => (1000, "/home/reader", "reader"),
    };
    let dir = match &request.dir {
        Some(dir) => OsString::from_vec(dir.clone()),
        None => home.into(),
    };
    fs::create_dir_all(&dir)?;

    let mut command = Command::new(name);
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
    // SAFETY: these are system calls only, safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty().thread_set_mask()?;
            setsid()?;
            Ok(())
        });
    }
    let Some((rows, columns, term)) = &request.terminal else {
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
        return Ok((Pid::from_raw(child.id() as i32), streams));
    };

    let OpenptyResult { master, slave } = openpty(None, None)?;
    for fd in [&master, &slave] {
        fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    nix::unistd::fchown(&slave, Some(id.into()), None)?;
    resize(master.as_fd(), *rows, *columns)?;
    // SAFETY: as above; standard input is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            let done = libc::ioctl(0, libc::TIOCSCTTY, 0);
            Errno::result(done).map(drop).map_err(io::Error::from)
        });
    }
    let child = command
        // Only for a terminal: loading the locale is a quarter of `cat`'s time.
        .env("LC_CTYPE", "C.UTF-8")
        .env("TERM", term)
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
