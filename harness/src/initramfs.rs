//! The guest's files, as an initramfs: the demos, this machine's tools, and the
//! libraries they need. No other file of this machine goes in.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::contents::{DIRECTORIES, ETC, MERGED, find, merged};
use crate::failure::Failure;
use crate::kernel::{Kernel, Module};
use crate::libraries::{Elf, elf, in_parallel, libraries};

/// A file tree that becomes an initramfs.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
    /// The path in the guest of each packed program, by the device and inode
    /// that it has here.
    programs: BTreeMap<(u64, u64), PathBuf>,
    /// The ELF files whose libraries are not packed yet: the path that was
    /// named, and the file.
    elf: Vec<(PathBuf, PathBuf, Elf)>,
    /// Every file of this machine that was read for it.
    pub sources: Vec<PathBuf>,
}

#[derive(Debug)]
enum Entry {
    Directory(u32),
    Link(PathBuf),
    File(u32, Vec<u8>),
}

impl Tree {
    /// The directories and files that every guest has.
    pub fn new() -> Tree {
        let mut tree = Tree::default();
        for (dir, mode) in DIRECTORIES {
            tree.directory(Path::new(dir), *mode);
        }
        for dir in MERGED {
            let inside = Path::new("usr").join(dir);
            tree.directory(&Path::new("/").join(&inside), 0o755);
            tree.link(Path::new("/").join(dir), inside);
        }
        for (path, mode, text) in ETC {
            tree.file(Path::new(path), *mode, text.as_bytes().to_vec());
        }
        tree
    }

    /// A directory, and those above it.
    fn directory(&mut self, path: &Path, mode: u32) {
        self.above(path);
        self.entries.insert(path.into(), Entry::Directory(mode));
    }

    /// The directories above a path, where there are none yet.
    fn above(&mut self, path: &Path) {
        if let Some(above) = path.parent()
            && above != Path::new("/")
            && !self.entries.contains_key(above)
        {
            self.directory(above, 0o755);
        }
    }

    /// A link, and the directories above it.
    fn link(&mut self, path: PathBuf, target: PathBuf) {
        self.above(&path);
        self.entries.entry(path).or_insert(Entry::Link(target));
    }

    /// A file with these bytes.
    pub fn file(&mut self, path: &Path, mode: u32, bytes: Vec<u8>) {
        let path = merged(path);
        self.above(&path);
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
            self.link(at, fs::read_link(source).map_err(fail)?);
        } else {
            self.file(&at, mode, fs::read(source).map_err(fail)?);
        }
        self.sources.push(source.into());
        Ok(())
    }

    /// These modules of the kernel's, and the lists by which modprobe(8) and
    /// others know what is there and what is built in. depmod(8) makes them, if
    /// this machine has it, in the folder `scratch`.
    pub fn modules(
        &mut self,
        kernel: &Kernel,
        modules: Vec<Module>,
        scratch: &Path,
    ) -> Result<(), Failure> {
        let release = &kernel.release;
        let dir = Path::new("/lib/modules").join(release);
        let fail = |error| Failure::because("depmod", error);
        let there = scratch.join("lib/modules").join(release);
        // Programs that read the lists expect them below `kernel`.
        fs::create_dir_all(there.join("kernel")).map_err(fail)?;
        for name in ["modules.builtin", "modules.builtin.modinfo"] {
            let list = kernel.modules.as_ref().map(|dir| dir.join(name));
            if let Some(list) = list.filter(|list| list.exists()) {
                fs::copy(&list, there.join(name)).map_err(fail)?;
                self.sources.push(list);
            }
        }
        for module in modules {
            let name = format!("kernel/{}.ko", module.name);
            fs::write(there.join(&name), &module.bytes).map_err(fail)?;
            self.file(&dir.join(name), 0o644, module.bytes);
            self.sources.push(module.path);
        }
        let mut depmod = Command::new(match find("depmod") {
            Some(depmod) => depmod,
            None => return Ok(()),
        });
        let depmod = depmod.arg("-b").arg(scratch).arg(release);
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

    /// A program of this machine at a path in the guest, with the interpreter
    /// if it is a script. [`Tree::libraries`] adds what else it needs to run.
    pub fn program(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        self.runnable(at, source, 0o7777)
    }

    /// The same for a tool, which loses its set-user-ID bit: nobody in the guest
    /// gets a privilege that he has not made.
    pub fn tool(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        self.runnable(at, source, 0o755)
    }

    fn runnable(
        &mut self,
        at: &Path,
        source: &Path,
        bits: u32,
    ) -> Result<(), Failure> {
        let fail = |error: io::Error| packing(source, error);
        // In place of a symbolic link, its target is packed at the link's path.
        let real = source.canonicalize().map_err(fail)?;
        let found = fs::metadata(&real).map_err(fail)?;
        self.sources.push(real.clone());
        // A program may have many names, as uutils' coreutils does. The first
        // one is the file, and each further one a link to it.
        let id = (found.dev(), found.ino());
        let at = merged(at);
        if let Some(first) = self.programs.get(&id) {
            if *first != at {
                self.link(at, first.clone());
            }
            return Ok(());
        }
        // A file of the guest's own is not replaced.
        if self.has(&at) {
            return Ok(());
        }
        self.programs.insert(id, at.clone());
        let mode = found.permissions().mode() & bits;
        let bytes = fs::read(&real).map_err(fail)?;
        if let Some(kind) = elf(&bytes) {
            self.elf.push((source.into(), real, kind));
            self.file(&at, mode, bytes);
        } else if let Some(text) = bytes.strip_prefix(b"#!") {
            let line = text[..text.len().min(254)].split(|byte| *byte == b'\n');
            let line = line.into_iter().next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).into_owned();
            self.file(&at, mode, bytes);
            self.script(source, &line)?;
        } else {
            self.file(&at, mode, bytes);
        }
        Ok(())
    }

    /// The interpreter of the script `source`, whose first line is `#!` and
    /// this.
    fn script(&mut self, source: &Path, line: &str) -> Result<(), Failure> {
        // Only the first word is a program: the others are its arguments, and
        // files that they name do not go in. But env(1) runs the program that
        // its argument names.
        let mut words = line.split_whitespace();
        let Some(word) = words.next().filter(|it| it.starts_with('/')) else {
            return Ok(());
        };
        let path = Path::new(word);
        if !path.exists() {
            let why = format!("its interpreter {word} is missing");
            return Err(packing(source, why));
        }
        self.interpreter(path, path)?;
        if path.ends_with("env")
            && let Some(name) = words.find(|it| !it.starts_with('-'))
            && !self.has(&Path::new("/usr/bin").join(name))
            && let Some(path) = find(name)
        {
            let at = Path::new("/usr/local/bin").join(name);
            self.interpreter(&at, &path)?;
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
            false => self.tool(at, source),
        }
    }

    /// The libraries that the dynamic linkers load for the programs so far, at
    /// the paths where they find them.
    pub fn libraries(&mut self) -> Result<(), Failure> {
        let files = std::mem::take(&mut self.elf);
        let usual = files.iter().find_map(|(.., kind)| match kind {
            Elf::Program(linker) => Some(linker),
            _ => None,
        });
        let found = in_parallel(&files, |(source, real, kind)| {
            let linker = match kind {
                Elf::Program(linker) => Some(linker),
                Elf::Library => usual,
                Elf::Static => None,
            };
            let Some(linker) = linker else { return Ok(vec![]) };
            let mut paths = match libraries(linker, real) {
                // Not each file without a linker of its own is a library.
                Err(why)
                    if *kind == Elf::Library
                        && !why.starts_with("no library") =>
                {
                    return Ok(vec![]);
                }
                paths => paths.map_err(|why| packing(source, why))?,
            };
            paths.push(linker.clone());
            Ok(paths)
        });
        for paths in found {
            for path in paths? {
                self.library(&path).map_err(|error| packing(&path, error))?;
            }
        }
        Ok(())
    }

    fn library(&mut self, path: &Path) -> io::Result<()> {
        // libc is preloaded (see ETC). For a set-user-ID program, ld.so(8)
        // preloads only libraries that have this bit, too.
        let libc = path.ends_with("libc.so.6");
        if libc || !self.has(path) {
            let mode = if libc { 0o4755 } else { 0o755 };
            self.file(path, mode, fs::read(path)?);
            self.sources.push(path.canonicalize()?);
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

fn packing(source: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(format!("packing {}: {why}", source.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
