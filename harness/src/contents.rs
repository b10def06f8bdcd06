//! What is in the machine besides the demos and the reader's own files: all of
//! it is said here. The packer reads this on the reader's machine, and the
//! guest's PID 1 reads it in the guest.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::env::on_path;
use crate::overlay;

/// The kernel's modules that go in: `dummy`, which the guest loads itself, and
/// those that the book's later chapters load by modprobe(8).
pub const MODULES: &[&str] = &["dummy", "veth", "bridge", "overlay", "loop"];

/// The directories that every guest has, and their modes. No file system is
/// mounted over /tmp, so files may be packed there.
pub const DIRECTORIES: &[(&str, u32)] = &[
    ("/etc", 0o755),
    ("/mnt", 0o755),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/var", 0o755),
];

/// Directories of the root that are links to those with the same name in /usr.
pub const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// What is mounted: source, target, type and options.
pub const MOUNTS: &[(&str, &str, &str, &str)] = &[
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    // As systemd mounts it: each process is in a control group of it.
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", "nsdelegate"),
    ("devtmpfs", "/dev", "devtmpfs", "mode=755"),
    // Terminals, for job control and ^C.
    ("devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"),
    // POSIX shared memory, which an IPC namespace does not isolate.
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    // POSIX message queues, which an IPC namespace isolates.
    ("mqueue", "/dev/mqueue", "mqueue", ""),
];

/// Links that are made after the mounts: link and target.
pub const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// The users' home directories: uid and gid, and mode.
pub const HOMES: &[(&str, u32, u32)] =
    &[("/root", 0, 0o700), ("/home/reader", 1000, 0o755)];

/// The tools that the book's chapters and the claims use, optional ones for the
/// laboratory, and the packages that hold them.
const TOOLS: &str = include_str!("../tools");

/// How many package managers have a column there.
const PACKAGERS: usize = 6;

/// Optional files: descriptions of terminals (terminfo), by `$TERM`. Without
/// them, and without the locale below, `tmux` does not start, and `pstree`
/// draws no lines.
const TERMINALS: &[&str] = &[
    "dumb",
    "linux",
    "vt100",
    "vt220",
    "xterm",
    "xterm-256color",
    "xterm-kitty",
    "xterm-ghostty",
    "alacritty",
    "foot",
    "rxvt-unicode-256color",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
];
const TERMINFO: &[&str] =
    &["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];

/// The UTF-8 locale, and the dynamic linker's cache: the guest has its
/// libraries at the same paths, and without the cache each is searched for in
/// eight folders.
const MORE: &[&str] = &["/usr/lib/locale/C.utf8/LC_CTYPE", "/etc/ld.so.cache"];

/// Where tools are looked for before `$PATH`. The last folder is NixOS's: there
/// `$PATH` begins with wrappers, which work on that machine only.
const PATH: &[&str] =
    &["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/run/current-system/sw/bin"];

/// The prompt of the laboratory's shell shows the user and the hostname, which
/// uts-demo changes.
const PROMPT: &str = "PS1='\\u@\\h:\\w\\$ '\n";

/// The guest's own files: path, mode and content.
pub const ETC: &[(&str, u32, &str)] = &[
    (
        "/etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\n\
         reader:x:1000:1000:reader:/home/reader:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    (
        "/etc/group",
        0o644,
        "root:x:0:\ntty:x:5:\nreader:x:1000:\nnogroup:x:65534:\n",
    ),
    // Only root may read it, as on every machine; root inside a user namespace
    // may not.
    ("/etc/shadow", 0o600, "root:*:::::::\nreader:*:::::::\n"),
    ("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/hostname", 0o644, "outside\n"),
    // For `ip -batch`, at boot.
    (
        "/etc/ip",
        0o644,
        "link set lo up\n\
         address add 192.0.2.1/24 dev dummy0\n\
         link set dummy0 up\n",
    ),
    // libc is loaded first, and so at the same address in all programs: then
    // TCG translates it only once (QEMU before 8 goes by virtual addresses).
    ("/etc/ld.so.preload", 0o644, "libc.so.6\n"),
    ("/root/.bashrc", 0o644, PROMPT),
    ("/home/reader/.bashrc", 0o644, PROMPT),
    ("/usr/local/bin/reader", 0o755, include_str!("../guest/reader")),
    ("/usr/local/bin/tour", 0o755, include_str!("../guest/tour")),
    ("/usr/local/share/tour/en", 0o644, include_str!("../TOUR.md")),
    ("/usr/local/share/tour/zh", 0o644, include_str!("../TOUR.zh-CN.md")),
    (
        "/etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
];

/// A line of the list [`TOOLS`]: where its programs are needed, Debian's
/// packages that hold them, and their names in the guest and here.
struct Line {
    kind: &'static str,
    packages: &'static str,
    programs: Vec<(&'static str, &'static str)>,
}

fn lines() -> impl Iterator<Item = Line> {
    let lines = TOOLS.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let packages = words.next().unwrap_or_default();
        let programs = words.skip(PACKAGERS - 1);
        let programs = programs
            .map(|tool| tool.split_once(':').unwrap_or((tool, tool)))
            .collect();
        Line { kind, packages, programs }
    })
}

/// What this machine has, and what it lacks.
#[derive(Default)]
pub struct Tools {
    /// The guest's tools: their paths there, and their paths here.
    pub found: Vec<(PathBuf, PathBuf)>,
    pub missing: Vec<&'static str>,
    /// Those of Debian's packages that hold them.
    pub packages: Vec<String>,
}

/// Looks for the guest's tools, and for QEMU if it has this name.
pub fn tools(qemu: &str) -> Tools {
    let mut tools = Tools::default();
    for Line { kind, packages, programs } in lines() {
        let before = tools.missing.len();
        for (name, program) in programs {
            let at = Path::new("/usr/bin").join(name);
            if kind == "here" {
                let is_needed = program == qemu;
                if is_needed && on_path(qemu.as_ref()).is_none() {
                    tools.missing.push(program);
                }
            } else if let Some(path) = find(program) {
                if !tools.found.iter().any(|(there, _)| *there == at) {
                    tools.found.push((at, path));
                }
            } else if kind == "guest" {
                tools.missing.push(program);
            }
        }
        tools.missing.dedup(); // A program may have two names in the guest.
        if tools.missing.len() > before {
            tools.packages.extend(packages.split(',').map(String::from));
        }
    }
    tools.packages.dedup();
    tools
}

/// A tool, by its name: this machine's, or else one that is unpacked.
pub fn find(name: &str) -> Option<PathBuf> {
    let mut paths = PATH.iter().map(|dir| Path::new(dir).join(name));
    let usual = paths.find(|path| path.is_file());
    let here = usual.or_else(|| on_path(OsStr::new(name)));
    here.or_else(|| overlay::find(name))
}

/// Those of [`TERMINALS`] and [`MORE`] that this machine has.
pub fn optional_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in TERMINALS {
        let mut paths = TERMINFO.iter().map(|dir| {
            let dir = Path::new(dir).join(&name[..1]);
            dir.join(name)
        });
        files.extend(paths.find(|path| path.is_file()));
    }
    let more = MORE.iter().map(PathBuf::from);
    files.extend(more.filter(|path| path.is_file()));
    files
}

/// The path with `..` resolved, so that it cannot leave the tree, and with
/// `/usr` in front of the directories that are links into it in the guest. A
/// file that is unpacked here is at its usual path there.
pub fn merged(path: &Path) -> PathBuf {
    let path = overlay::usual(path);
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    let inside = clean.strip_prefix("/").unwrap_or(&clean);
    let first = inside.iter().next().unwrap_or_default();
    match MERGED.iter().any(|dir| first == *dir) {
        true => Path::new("/usr").join(inside),
        false => clean,
    }
}

/// The file system of its own that the guest mounts here or above, and that
/// would cover a packed file.
pub fn cover(path: &Path) -> Option<&'static str> {
    let mut targets = MOUNTS.iter().map(|(_, target, ..)| *target);
    targets.find(|target| path.starts_with(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_tools_has_a_package_for_each_and_one_shell() {
        for line in TOOLS.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(["guest", "extra", "here"].contains(&words[0]), "{line}");
            assert!(words.len() > 1 + PACKAGERS, "{line}");
        }
        let needed = lines().filter(|line| line.kind == "guest");
        let programs = needed.flat_map(|line| line.programs);
        let (mut names, here): (Vec<_>, Vec<_>) = programs.unzip();
        let shell = names.iter().position(|name| *name == "sh");
        assert_eq!(here[shell.expect("a shell")], "dash");
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }

    #[test]
    fn path_in_the_guest_has_no_link_and_stays_inside() {
        for (path, wanted) in [
            ("/bin/sh", "/usr/bin/sh"),
            ("/lib64/ld.so", "/usr/lib64/ld.so"),
            ("/lib/../lib/x/./libc.so.6", "/usr/lib/x/libc.so.6"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/library/file", "/library/file"),
            ("/usr/bin/sh", "/usr/bin/sh"),
        ] {
            assert_eq!(merged(Path::new(path)), Path::new(wanted));
        }
    }

    #[test]
    fn lowest_mount_that_covers_a_path_is_named() {
        for (path, wanted) in [
            ("/dev/shm/file", Some("/dev")),
            ("/proc", Some("/proc")),
            ("/sys/fs/file", Some("/sys")),
            ("/device", None),
            ("/tmp/dev/file", None),
        ] {
            assert_eq!(cover(Path::new(path)), wanted, "{path}");
        }
    }
}
