//! The guest's files, as an archive: the demos, this machine's tools, and the
//! libraries they need; or what goes over them. No other file of this machine
//! goes in.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::contents::{DIRECTORIES, ETC, HOMES, MERGED, find, merged};
use crate::elf::{Elf, elf};
use crate::failure::Failure;
use crate::files::Files;
use crate::kernel::{Kernel, Module};
use crate::libraries::{in_parallel, libraries};
use crate::newc::{self, Entry, Node};
use crate::overlay;
use crate::stamp::{self, Stamp, path, stamped};

/// A tool loses its set-user-ID bit: nobody in the guest gets a privilege that
/// he has not made.
pub const TOOL: u32 = 0o755;

/// A file tree: an initramfs, or what is unpacked over the files of a machine.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
    below: Below,
    /// The path in the guest of each packed program, by the device and inode
    /// that it has here.
    programs: BTreeMap<(u64, u64), PathBuf>,
    /// The ELF files whose libraries are not packed yet: the path that was
    /// named, and the file.
    elf: Vec<(PathBuf, PathBuf, Elf)>,
    /// Every file of this machine that was read for it, as it was before that.
    pub sources: Vec<(CString, Stamp)>,
}

/// What matters of the files that are in a machine already.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Below {
    paths: BTreeSet<CString>,
    /// The dynamic linker of a library that names none.
    linker: Option<CString>,
}

impl Tree {
    /// The directories and files that every guest has.
    pub fn new() -> Tree {
        let mut tree = Tree::default();
        for (dir, mode) in DIRECTORIES {
            tree.directory(Path::new(dir), *mode, 0);
        }
        for (dir, _, mode) in HOMES {
            tree.directory(Path::new(dir), *mode, 0);
        }
        for dir in MERGED {
            let inside = Path::new("usr").join(dir);
            tree.directory(&Path::new("/").join(&inside), 0o755, 0);
            tree.link(Path::new("/").join(dir), inside, 0);
        }
        for (path, mode, text) in ETC {
            tree.file(Path::new(path), *mode, text.as_bytes().to_vec());
        }
        tree.insert("/dev/console".into(), 0o600, 0, Node::Console);
        tree
    }

    /// What is to be unpacked over these files.
    pub fn over(below: Below) -> Tree {
        Tree { below, ..Tree::default() }
    }

    /// What a tree that is unpacked over this one has to know.
    pub fn below(&self) -> Below {
        let mut below = self.below.clone();
        below.paths.extend(self.entries.keys().map(|path| stamp::bytes(path)));
        below
    }

    /// The reader's own files. They come in layers: each is the same whether it
    /// is saved with the ones before it or unpacked over them.
    pub fn add(&mut self, files: &Files) -> Result<(), Failure> {
        self.programs.clear();
        for (at, source) in &files.programs {
            self.program(at, source, 0o7777)?;
        }
        self.libraries()?;
        files.files.iter().try_for_each(|(at, path)| self.copy(at, path))
    }

    /// A demo, in place of the one that is in the machine.
    pub fn replace(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        self.below.paths.remove(&stamp::bytes(&merged(at)));
        self.program(at, source, TOOL)
    }

    /// Also the directories above it, where there are none yet.
    fn insert(&mut self, at: PathBuf, mode: u32, time: u32, node: Node) {
        if let Some(above) = at.parent()
            && above != Path::new("/")
            && !self.is_taken(above)
        {
            self.directory(above, 0o755, 0);
        }
        self.entries.insert(at, Entry { mode, time, node });
    }

    fn directory(&mut self, path: &Path, mode: u32, time: u32) {
        self.insert(path.into(), mode, time, Node::Directory);
    }

    /// A link, unless there is something.
    fn link(&mut self, path: PathBuf, target: PathBuf, time: u32) {
        if !self.is_taken(&path) {
            self.insert(path, 0o777, time, Node::Link(target));
        }
    }

    /// A file of the guest's own with these bytes.
    fn file(&mut self, path: &Path, mode: u32, bytes: Vec<u8>) {
        self.insert(merged(path), mode, 0, Node::File(bytes));
    }

    fn read(&mut self, source: &Path) -> Result<Vec<u8>, Failure> {
        self.sources.push(stamped(source)?);
        fs::read(source)
            .map_err(|error| Failure::because(source.display(), error))
    }

    /// A file, folder or link of this machine, as it is, at a path in the
    /// guest.
    pub fn copy(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        let fail = |error| Failure::because(source.display(), error);
        let found = fs::symlink_metadata(source).map_err(fail)?;
        let mode = found.permissions().mode() & 0o7777;
        let (at, time) = (merged(at), time(&found));
        if found.is_dir() {
            self.directory(&at, mode, time);
        } else if found.is_symlink() {
            self.link(at, fs::read_link(source).map_err(fail)?, time);
        } else {
            let bytes = self.read(source)?;
            self.insert(at, mode, time, Node::File(bytes));
            return Ok(());
        }
        self.sources.push(stamped(source)?);
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
                let list = self.read(&list)?;
                fs::write(there.join(name), list).map_err(fail)?;
            }
        }
        for module in modules {
            let name = format!("kernel/{}.ko", module.name);
            fs::write(there.join(&name), &module.bytes).map_err(fail)?;
            self.file(&dir.join(name), 0o644, module.bytes);
            self.sources.push(stamped(&module.path)?);
        }
        let mut depmod = Command::new(
            match overlay::start("depmod").or_else(|| find("depmod")) {
                Some(depmod) => depmod,
                None => return Ok(()),
            },
        );
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
    /// if it is a script, and with these bits of its mode.
    /// [`Tree::libraries`] adds what else it needs to run.
    pub fn program(
        &mut self,
        at: &Path,
        source: &Path,
        bits: u32,
    ) -> Result<(), Failure> {
        let fail = |error: io::Error| packing(source, error);
        // In place of a symbolic link, its target is packed at the link's path.
        let real = source.canonicalize().map_err(fail)?;
        let found = fs::metadata(&real).map_err(fail)?;
        // A program may have many names, as uutils' coreutils does. The first
        // one is the file, and each further one a link to it.
        let id = (found.dev(), found.ino());
        let at = merged(at);
        let (mode, time) = (found.permissions().mode() & bits, time(&found));
        if let Some(first) = self.programs.get(&id).cloned() {
            self.link(at, first, time);
            return Ok(());
        }
        let bytes = self.read(&real)?;
        let mut interpreter = None;
        if let Some(kind) = elf(&bytes) {
            if let Elf::Program(linker) = &kind {
                let linker = || stamp::bytes(linker);
                self.below.linker.get_or_insert_with(linker);
            }
            self.elf.push((source.into(), real, kind));
        } else if let Some(text) = bytes.strip_prefix(b"#!") {
            let line = text[..text.len().min(254)].split(|byte| *byte == b'\n');
            let line = line.into_iter().next().unwrap_or_default();
            interpreter = Some(String::from_utf8_lossy(line).into_owned());
        }
        // A file of the guest's own is not replaced. One of the reader's folders
        // is this one already, but nothing else that it needs is there.
        if !self.has(&at) {
            self.programs.insert(id, at.clone());
            self.insert(at, mode, time, Node::File(bytes));
        }
        interpreter.map_or(Ok(()), |line| self.script(source, &line))
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
        self.is_taken(&merged(at))
    }

    /// The same, for a path in the guest.
    fn is_taken(&self, at: &Path) -> bool {
        let below = &self.below.paths;
        self.entries.contains_key(at) || below.contains(&stamp::bytes(at))
    }

    /// The interpreter of a script, unless the guest has it already.
    fn interpreter(&mut self, at: &Path, source: &Path) -> Result<(), Failure> {
        match self.has(at) {
            true => Ok(()),
            false => self.program(at, source, TOOL),
        }
    }

    /// The libraries that the dynamic linkers load for the programs so far, at
    /// the paths where they find them.
    pub fn libraries(&mut self) -> Result<(), Failure> {
        let files = std::mem::take(&mut self.elf);
        let usual = self.below.linker.as_ref().map(|linker| path(linker));
        let found = in_parallel(&files, |(source, real, kind)| {
            let linker = match kind {
                Elf::Program(linker) => Some(linker),
                Elf::Library => usual.as_ref(),
                Elf::Static => None,
            };
            let Some(linker) = linker else { return Ok(vec![]) };
            match libraries(linker, real) {
                // Not each file without a linker of its own is a library.
                Err(why)
                    if *kind == Elf::Library
                        && !why.starts_with("no library") =>
                {
                    Ok(vec![])
                }
                paths => paths.map_err(|why| packing(source, why)),
            }
        });
        for paths in found {
            for path in paths? {
                self.library(&path)?;
            }
        }
        Ok(())
    }

    fn library(&mut self, path: &Path) -> Result<(), Failure> {
        if self.has(path) {
            return Ok(());
        }
        let real = path.canonicalize().map_err(|it| packing(path, it))?;
        let found = fs::metadata(&real).map_err(|it| packing(path, it))?;
        // libc is preloaded (see ETC). For a set-user-ID program, ld.so(8)
        // preloads only libraries that have this bit, too.
        let libc = path.ends_with("libc.so.6");
        let mode = if libc { 0o4755 } else { 0o755 };
        let bytes = Node::File(self.read(&real)?);
        self.insert(merged(path), mode, time(&found), bytes);
        Ok(())
    }

    /// Writes the tree as an archive.
    ///
    /// # Errors
    /// If it cannot be written, or a path is not UTF-8.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        newc::write(&self.entries, to)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// When a file was last changed, as an archive has it.
fn time(found: &fs::Metadata) -> u32 {
    u32::try_from(found.mtime().max(0)).unwrap_or(u32::MAX)
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
        tree.program(&link, &link, TOOL).expect("packed");
        let file = |path: &Path| match &tree.entries.get(path)?.node {
            Node::File(bytes) => Some(&bytes[..]),
            _ => None,
        };
        assert_eq!(file(&link), Some(text.as_bytes()));
        assert!(file(Path::new("/usr/bin/sh")).is_some());
        assert_eq!([file(&script), file(&secret)], [None; 2]);
    }
}
