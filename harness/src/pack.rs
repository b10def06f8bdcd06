//! The guest's files: an initramfs of the demos, this machine's tools, and the
//! libraries they need. No other file of this machine goes in.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::kernel::Module;
use crate::{Failure, on_path};

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
const ETC: &[(&str, u32, &str)] = &[
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

/// A file tree that becomes an initramfs.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
    /// The path in the guest of each packed program, by the device and inode
    /// that it has here.
    programs: BTreeMap<(u64, u64), PathBuf>,
    /// Every file of this machine that was read for it.
    pub sources: Vec<PathBuf>,
}

#[derive(Debug)]
enum Entry {
    Directory(u32),
    Link(PathBuf),
    File(u32, Vec<u8>),
}

/// The guest's tools: their names, and their paths on this machine.
///
/// # Errors
/// Names the missing tools, and `harness/setup`, which installs them.
pub fn tools() -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let mut missing = Vec::new();
    for line in TOOLS.lines() {
        let mut words = line.split_whitespace();
        let kind = words.next();
        if !matches!(kind, Some("guest" | "extra")) {
            continue;
        }
        for tool in words.skip(PACKAGERS) {
            let (name, program) = tool.split_once(':').unwrap_or((tool, tool));
            match find(program) {
                _ if found.iter().any(|(there, _)| there == name) => {}
                Some(path) => found.push((name.into(), path)),
                None if kind == Some("guest") => missing.push(program),
                None => {}
            }
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Failure::new(format!(
            "missing on this machine: {missing}: run harness/setup"
        )));
    }
    Ok(found)
}

/// A tool of this machine, by its name.
fn find(name: &str) -> Option<PathBuf> {
    let mut paths = PATH.iter().map(|dir| Path::new(dir).join(name));
    let usual = paths.find(|path| path.is_file());
    usual.or_else(|| on_path(OsStr::new(name)))
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

/// The guest mounts its own file systems here, which would cover packed files.
const COVERED: [&str; 3] = ["/dev", "/proc", "/sys"];

fn uncovered(path: &Path) -> Result<(), Failure> {
    match COVERED.iter().find(|dir| path.starts_with(dir)) {
        Some(dir) => Err(Failure::new(format!(
            "{}: the machine has its own {dir}: copy it to another folder",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// The files that `$HARNESS_FILES` names, separated by `:`, and for a folder
/// everything in it. Each has its path in the guest and its path here.
pub fn readers_files(list: &OsStr) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let mut files = Vec::new();
    for path in env::split_paths(list).filter(|it| !it.as_os_str().is_empty()) {
        let fail = |error| Failure::because(path.display(), error);
        let path = std::path::absolute(&path).map_err(fail)?;
        uncovered(&path)?;
        add_files(path.clone(), &mut files).map_err(fail)?;
    }
    Ok(files)
}

/// The path and, for a folder, all paths below it. Sockets, FIFOs and devices
/// are left out: they belong to this machine.
fn add_files(
    path: PathBuf,
    files: &mut Vec<(PathBuf, PathBuf)>,
) -> io::Result<()> {
    let kind = fs::symlink_metadata(&path)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(&path)? {
            add_files(entry?.path(), files)?;
        }
    } else if !kind.is_file() && !kind.is_symlink() {
        return Ok(());
    }
    files.push((path.clone(), path));
    Ok(())
}

/// The reader's own files that go in, each as its path in the guest and its
/// path here. These are the words of the command line that are the path of a
/// file here and not of one of the guest's; and the command itself, if it is
/// found on PATH and is not one of the guest's `programs`.
pub fn readers_own(
    argv: &[OsString],
    programs: &[(PathBuf, PathBuf)],
) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let mut own = Vec::new();
    for word in argv.iter().filter(|word| word.as_bytes().contains(&b'/')) {
        let Ok(path) = std::path::absolute(word) else { continue };
        let at = merged(&path);
        // Files that every guest has already.
        let is_guests = at.starts_with("/proc")
            || at.starts_with("/sys")
            || programs.iter().any(|(there, _)| *there == at)
            || ETC.iter().any(|(there, ..)| at.starts_with(there));
        if path.is_file() && !is_guests {
            uncovered(&at)?;
            own.push((path.clone(), path));
        }
    }
    let Some(name) = argv.first() else { return Ok(own) };
    let known =
        programs.iter().any(|(at, _)| at.file_name() == Some(name.as_os_str()));
    if !known
        && !name.as_bytes().contains(&b'/')
        && let Some(path) = on_path(name)
    {
        own.push((Path::new("/usr/local/bin").join(name), path));
    }
    Ok(own)
}

impl Tree {
    /// The directories and files that every guest has.
    pub fn new() -> Tree {
        let mut tree = Tree::default();
        // No file system is mounted over /tmp, so files may be packed there.
        for (dir, mode) in [
            ("/etc", 0o755),
            ("/mnt", 0o755),
            ("/run", 0o755),
            ("/tmp", 0o1777),
            ("/var", 0o755),
        ] {
            tree.directory(Path::new(dir), mode);
        }
        for (old, new) in [
            ("/bin", "usr/bin"),
            ("/sbin", "usr/sbin"),
            ("/lib", "usr/lib"),
            ("/lib64", "usr/lib64"),
        ] {
            tree.directory(&Path::new("/").join(new), 0o755);
            tree.entries.insert(old.into(), Entry::Link(new.into()));
        }
        for (path, mode, text) in ETC {
            tree.file(Path::new(path), *mode, text.as_bytes().to_vec());
        }
        tree
    }

    /// A directory, and those above it.
    fn directory(&mut self, path: &Path, mode: u32) {
        if let Some(above) = path.parent()
            && above != Path::new("/")
        {
            self.directory(above, 0o755);
        }
        self.entries.entry(path.into()).or_insert(Entry::Directory(mode));
    }

    /// A file with these bytes.
    pub fn file(&mut self, path: &Path, mode: u32, bytes: Vec<u8>) {
        let path = merged(path);
        self.directory(path.parent().unwrap_or(Path::new("/")), 0o755);
        self.entries.insert(path, Entry::File(mode, bytes));
    }

    /// A file, folder or link of this machine, as it is, at a path in the
    /// guest.
    pub fn copy(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        let fail = |error| Failure::because(source.display(), error);
        let found = fs::symlink_metadata(source).map_err(fail)?;
        let mode = found.permissions().mode() & 0o7777;
        let at = merged(at);
        if found.is_dir() {
            self.directory(&at, mode);
        } else if found.is_symlink() {
            let link = fs::read_link(source).map_err(fail)?;
            self.directory(at.parent().unwrap_or(Path::new("/")), 0o755);
            self.entries.entry(at).or_insert(Entry::Link(link));
        } else {
            self.file(&at, mode, fs::read(source).map_err(fail)?);
        }
        self.sources.push(source.into());
        Ok(())
    }

    /// The kernel's modules, and the indexes by which modprobe(8) finds them,
    /// if this machine has depmod(8).
    pub fn modules(
        &mut self,
        release: &str,
        modules: Vec<Module>,
    ) -> Result<(), Failure> {
        let dir = Path::new("/lib/modules").join(release);
        let fail = |error| Failure::because("depmod", error);
        let here = tempfile::tempdir().map_err(fail)?;
        let there = here.path().join("lib/modules").join(release);
        fs::create_dir_all(&there).map_err(fail)?;
        for module in modules {
            let name = format!("{}.ko", module.name);
            fs::write(there.join(&name), &module.bytes).map_err(fail)?;
            self.file(&dir.join(name), 0o644, module.bytes);
            self.sources.push(module.path);
        }
        let mut depmod = Command::new(match find("depmod") {
            Some(depmod) => depmod,
            None => return Ok(()),
        });
        let depmod = depmod.arg("-b").arg(here.path()).arg(release);
        let depmod = depmod.stderr(Stdio::null()).status().map_err(fail)?;
        if !depmod.success() {
            return Err(Failure::because("depmod", depmod));
        }
        for entry in fs::read_dir(&there).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let name = path.file_name().unwrap_or_default();
            if name.as_bytes().starts_with(b"modules.") {
                let bytes = fs::read(&path).map_err(fail)?;
                self.file(&dir.join(name), 0o644, bytes);
            }
        }
        Ok(())
    }

    /// A program of this machine at a path in the guest, with everything it
    /// needs to run: libraries, dynamic linker, the interpreter of a script.
    pub fn program(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        let fail = |error: &dyn std::fmt::Display| {
            Failure::new(format!("packing {}: {error}", source.display()))
        };
        // In place of a symbolic link, its target is packed at the link's path.
        let real = source.canonicalize().map_err(|error| fail(&error))?;
        let found = fs::metadata(&real).map_err(|error| fail(&error))?;
        self.sources.push(real.clone());
        // A program may have many names, as uutils' coreutils does. The first
        // one is the file, and each further one a link to it.
        let id = (found.dev(), found.ino());
        let at = merged(at);
        if let Some(first) = self.programs.get(&id) {
            if *first != at {
                let link = Entry::Link(first.clone());
                self.directory(at.parent().unwrap_or(Path::new("/")), 0o755);
                self.entries.insert(at, link);
            }
            return Ok(());
        }
        // A file of the guest's own is not replaced.
        if self.has(&at) {
            return Ok(());
        }
        self.programs.insert(id, at.clone());
        let mode = found.permissions().mode() & 0o755;
        let bytes = fs::read(&real).map_err(|error| fail(&error))?;
        let head =
            bytes.get(..bytes.len().min(256)).unwrap_or_default().to_vec();
        self.file(&at, mode, bytes);

        if head.starts_with(b"\x7fELF") {
            self.libraries(&real).map_err(|error| fail(&error))?;
        } else if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
            let line = String::from_utf8_lossy(line);
            // Only the first word is a program: the others are its arguments,
            // and files that they name do not go in. But env(1) runs the
            // program that its argument names.
            let mut words = line.split_whitespace();
            let Some(word) = words.next().filter(|it| it.starts_with('/'))
            else {
                return Ok(());
            };
            if !Path::new(word).exists() {
                return Err(fail(&format!(
                    "its interpreter {word} is missing"
                )));
            }
            self.interpreter(Path::new(word), Path::new(word))?;
            if Path::new(word).ends_with("env")
                && let Some(name) = words.find(|it| !it.starts_with('-'))
                && !self.has(&Path::new("/usr/bin").join(name))
                && let Some(path) = find(name)
            {
                self.interpreter(
                    &Path::new("/usr/local/bin").join(name),
                    &path,
                )?;
            }
        }
        Ok(())
    }

    fn has(&self, at: &Path) -> bool {
        self.entries.contains_key(&merged(at))
    }

    /// The interpreter of a script, unless the guest has it already.
    fn interpreter(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        match self.has(at) {
            true => Ok(()),
            false => self.program(at, source),
        }
    }

    /// The libraries that the dynamic linker loads for this program, at the
    /// paths where it finds them.
    fn libraries(&mut self, program: &Path) -> io::Result<()> {
        let found = lddtree::DependencyAnalyzer::new(PathBuf::from("/"))
            .analyze(program)
            .map_err(io::Error::other)?;
        let mut paths = Vec::from_iter(found.interpreter.map(PathBuf::from));
        for library in found.libraries.into_values() {
            if library.realpath.is_none() {
                let name = library.name;
                return Err(io::Error::other(format!("no library {name}")));
            }
            paths.push(library.path);
        }
        for path in paths {
            if !self.has(&path) {
                // libc is preloaded (see ETC). For a set-user-ID program,
                // ld.so(8) preloads only libraries that have this bit, too.
                let libc = path.ends_with("libc.so.6");
                let mode = if libc { 0o4755 } else { 0o755 };
                self.file(&path, mode, fs::read(&path)?);
                self.sources.push(path.canonicalize()?);
            }
        }
        Ok(())
    }

    /// The tree in the format that the kernel unpacks at boot: cpio, "newc"
    /// (Documentation/driver-api/early-userspace/buffer-format.rst).
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let console = cpio::newc::Builder::new("dev/console")
            .mode(0o600)
            .rdev_major(5)
            .rdev_minor(1)
            .set_mode_file_type(cpio::newc::ModeFileType::Char);
        let dev = cpio::newc::Builder::new("dev")
            .mode(0o755)
            .set_mode_file_type(cpio::newc::ModeFileType::Directory);
        dev.write(&mut to, 0).finish()?;
        console.write(&mut to, 0).finish()?;

        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let name = path.strip_prefix("/").unwrap_or(path);
            let name = name.to_str().ok_or_else(|| {
                io::Error::other(format!("not UTF-8: {}", path.display()))
            })?;
            let (kind, mode, bytes) = match entry {
                Entry::Directory(mode) => {
                    (cpio::newc::ModeFileType::Directory, *mode, &[][..])
                }
                Entry::Link(target) => (
                    cpio::newc::ModeFileType::Symlink,
                    0o777,
                    target.as_os_str().as_bytes(),
                ),
                Entry::File(mode, bytes) => {
                    (cpio::newc::ModeFileType::Regular, *mode, &bytes[..])
                }
            };
            let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            let mut file = cpio::newc::Builder::new(name)
                .ino(number as u32 + 10)
                .mode(mode)
                .set_mode_file_type(kind)
                .write(&mut to, size);
            file.write_all(bytes)?;
            file.finish()?;
        }
        cpio::newc::trailer(to)?;
        Ok(())
    }
}

/// The path with `..` resolved, so that it cannot leave the tree, and with
/// `/usr` in front of the directories that are links into it in the guest.
fn merged(path: &Path) -> PathBuf {
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
    match first.to_str() {
        Some("bin" | "sbin" | "lib" | "lib64") => {
            Path::new("/usr").join(inside)
        }
        _ => clean,
    }
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
        let tools = tools().expect("what harness/setup installs");
        let mut names: Vec<&str> =
            tools.iter().map(|(name, _)| &**name).collect();
        let shell = tools.iter().find(|(name, _)| name == "sh");
        assert!(shell.expect("a shell").1.ends_with("dash"));
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }

    #[test]
    fn only_what_was_asked_for_is_packed() {
        let dir = tempfile::tempdir().expect("a folder");
        let [script, link, secret] =
            ["script", "link", "secret"].map(|name| dir.path().join(name));
        fs::write(&secret, "not for the guest").expect("a file");
        let text = format!("#!/bin/sh {}\n", secret.display());
        fs::write(&script, &text).expect("a file");
        std::os::unix::fs::symlink("script", &link).expect("a link");

        let mut tree = Tree::default();
        tree.program(&link, &link).expect("packed");
        let file = |path: &Path| match tree.entries.get(path) {
            Some(Entry::File(_, bytes)) => Some(&bytes[..]),
            _ => None,
        };
        assert_eq!(file(&link), Some(text.as_bytes()));
        assert!(file(Path::new("/usr/bin/sh")).is_some());
        assert_eq!([file(&script), file(&secret)], [None; 2]);
    }
}
