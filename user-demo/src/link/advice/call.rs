//! The calls that may fail. There is advice about some of them.

use std::ffi::OsString;
use std::fmt::{Display, Formatter, Result};

use nix::sched::CloneFlags;

/// A call that failed. It is printed as the error's first words.
#[derive(Debug)]
pub enum Call {
    /// unshare(2), with these flags.
    Unshare(CloneFlags),
    /// fork(2), and clone(2) without namespaces.
    Fork,
    /// execve(2) of a program of this name.
    Exec(OsString),
    /// A write of standard output.
    Stdout,
    /// sethostname(2)
    Sethostname,
    /// setdomainname(2)
    Setdomainname,
    /// mount(2), of a new file system at this place.
    Mount(String),
    /// mount(2), which makes all mounts private.
    Private,
    /// A write to this file of /proc/self: `uid_map`, `gid_map`, `setgroups`.
    Map(&'static str),
    /// Another use of a file in /proc: `read /proc/self/status`.
    Proc(String),
    /// Any other: there is no advice about it, but where the error says all.
    Other(String),
}

impl Display for Call {
    fn fmt(&self, to: &mut Formatter) -> Result {
        match self {
            Call::Unshare(flags) => {
                let names = flags.iter_names().map(|(name, _)| name);
                let names = names.collect::<Vec<_>>().join("|");
                write!(to, "unshare({names})")
            }
            Call::Fork => to.write_str("fork"),
            Call::Exec(name) => write!(to, "exec {}", name.display()),
            Call::Stdout => to.write_str("write standard output"),
            Call::Sethostname => to.write_str("sethostname"),
            Call::Setdomainname => to.write_str("setdomainname"),
            Call::Mount(at) => write!(to, "mount {at}"),
            Call::Private => to.write_str("mount / MS_REC|MS_PRIVATE"),
            Call::Map(file) => write!(to, "write /proc/self/{file}"),
            Call::Proc(name) | Call::Other(name) => to.write_str(name),
        }
    }
}

impl From<CloneFlags> for Call {
    fn from(flags: CloneFlags) -> Call {
        Call::Unshare(flags)
    }
}

impl From<&str> for Call {
    fn from(name: &str) -> Call {
        Call::Other(name.into())
    }
}

/// The type of namespace that the flag makes, as /proc names it.
pub fn kind(flag: CloneFlags) -> &'static str {
    match flag {
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWPID => "pid",
        CloneFlags::CLONE_NEWNS => "mnt",
        CloneFlags::CLONE_NEWNET => "net",
        _ => "",
    }
}
