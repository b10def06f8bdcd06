//! COMMAND: its user, directory and environment.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::spawn::PosixSpawnFlags;
use nix::unistd::{Gid, Pid, Uid, chdir, setresgid, setresuid};

use super::spawn::{Kind, Streams, spawn};
use crate::wire::{Request, User};

/// Sorted, as env(1) prints it.
const ROOTS: [&CStr; 5] =
    [c"HOME=/root", c"LOGNAME=root", PATH, c"SHELL=/bin/sh", c"USER=root"];
const READERS: [&CStr; 5] = [
    c"HOME=/home/reader",
    c"LOGNAME=reader",
    PATH,
    c"SHELL=/bin/sh",
    c"USER=reader",
];

/// Where COMMAND is looked for.
const PATH: &CStr = c"PATH=/usr/local/bin:/usr/bin:/usr/sbin";

/// PID 1 looks for COMMAND by its own `$PATH`.
#[expect(unsafe_code, reason = "std's set_var is unsafe, too")]
pub fn set_path() {
    // SAFETY: this process has one thread, and the string stays as it is.
    unsafe { libc::putenv(PATH.as_ptr().cast_mut()) };
}

/// Starts COMMAND as the request says: its user, directory and terminal.
///
/// # Errors
/// If a file or process cannot be made, or execve(2) fails.
pub fn start(request: &Request, input: bool) -> io::Result<(Pid, Streams)> {
    let (id, home, environment) = match request.user {
        User::Root => (0, "/root", ROOTS),
        User::Reader => (1000, "/home/reader", READERS),
    };
    let mut environment = environment.to_vec();
    let term;
    let kind = match &request.terminal {
        None => Kind::Pipes { input, closed: request.closed },
        Some((rows, columns, name)) => {
            term = CString::new(format!("TERM={name}"))?;
            // Only for a terminal: loading the locale is a quarter of `cat`'s
            // time.
            environment.extend([c"LC_CTYPE=C.UTF-8", &term]);
            environment.sort();
            Kind::Terminal(Uid::from_raw(id), *rows, *columns)
        }
    };
    let home = Path::new(home);
    let dir = request.dir.as_deref().map(OsStr::from_bytes);
    if let Some(dir) = dir {
        fs::create_dir_all(dir)?;
    }
    chdir(dir.map_or(home, Path::new))?;
    let start = |argv: &[CString]| {
        as_user(id, |ids| spawn(argv, &environment, kind, ids))
    };
    let started = match start(&request.argv) {
        // A script without `#!`: as execvp(3) does.
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            let sh = ["/bin/sh", "-c", r#"exec "$0" "$@""#];
            let sh = sh.map(|word| CString::new(word).unwrap_or_default());
            start(&[&sh[..], &request.argv].concat())
        }
        started => started,
    };
    chdir("/")?;
    started
}

/// Does this with the real ids of a user. This process stays root.
fn as_user<T>(
    id: u32,
    work: impl FnOnce(PosixSpawnFlags) -> io::Result<T>,
) -> io::Result<T> {
    if id == 0 {
        return work(PosixSpawnFlags::empty());
    }
    let real = |id: u32| -> Result<(), Errno> {
        let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
        let (root, roots) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(group, roots, roots)?;
        setresuid(user, root, root)
    };
    real(id)?;
    let done = work(PosixSpawnFlags::POSIX_SPAWN_RESETIDS);
    real(0)?;
    done
}
