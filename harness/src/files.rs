//! The reader's own files that go into the machine: those that the command line
//! names, and those that `$HARNESS_FILES` names.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::contents::{ETC, cover, merged};
use crate::env::on_path;
use crate::failure::Failure;

/// The guest's own file systems would cover packed files.
fn uncovered(path: &Path) -> Result<(), Failure> {
    match cover(path) {
        Some(dir) => Err(Failure::new(format!(
            "{}: the machine has its own {dir}: copy it to another folder",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Files that go into the machine: for each its path there, and its path here.
#[derive(Debug, Default)]
pub struct Files {
    /// With what they need to run: libraries, or a script's interpreter.
    pub programs: Vec<(PathBuf, PathBuf)>,
    /// As they are: folders, and what is in them.
    pub files: Vec<(PathBuf, PathBuf)>,
}

impl Files {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &(PathBuf, PathBuf)> + Clone {
        self.programs.iter().chain(&self.files)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.files.is_empty()
    }

    /// Their length in bytes. A file that cannot be read has none: that is an
    /// error later.
    pub fn length(&self) -> u64 {
        let found =
            self.all().filter_map(|(_, path)| path.symlink_metadata().ok());
        found.filter(|found| !found.is_dir()).map(|found| found.len()).sum()
    }
}

/// What `$HARNESS_FILES` names, separated by `:`. A file that is named goes in
/// as a program does, and in place of a link its target. A folder goes in as it
/// is, with everything in it: it may be the root of another system, whose links
/// and programs mean its own files.
pub fn readers_files(list: &OsStr) -> Result<Files, Failure> {
    let mut own = Files::default();
    for path in env::split_paths(list).filter(|it| !it.as_os_str().is_empty()) {
        let fail = |error| Failure::because(path.display(), error);
        let path = std::path::absolute(&path).map_err(fail)?;
        uncovered(&path)?;
        let real = path.canonicalize().map_err(fail)?;
        match () {
            _ if real.is_dir() => {
                add_folder(path, real, &mut own.files).map_err(fail)?;
            }
            _ if real.is_file() => own.programs.push((path, real)),
            _ => {
                let path = path.display();
                let why =
                    format!("{path}: this is neither a file nor a folder");
                return Err(Failure::new(why));
            }
        }
    }
    Ok(own)
}

/// The folder, and then all that is below it. Sockets, FIFOs and devices are
/// left out: they belong to this machine.
fn add_folder(
    at: PathBuf,
    folder: PathBuf,
    files: &mut Vec<(PathBuf, PathBuf)>,
) -> io::Result<()> {
    files.push((at.clone(), folder.clone()));
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let below = at.join(entry.file_name());
        if kind.is_dir() {
            add_folder(below, entry.path(), files)?;
        } else if kind.is_file() || kind.is_symlink() {
            files.push((below, entry.path()));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_a_folder_goes_in_but_no_socket() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        fs::create_dir(dir.join("below")).expect("a folder");
        fs::write(dir.join("below/file"), "").expect("a file");
        std::os::unix::fs::symlink("nosuch", dir.join("link")).expect("link");
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("s"))
            .expect("a socket");
        let own = readers_files(dir.as_os_str()).expect("files");
        assert_eq!(own.programs, []);
        assert!(own.files.iter().all(|(there, here)| there == here));
        let mut names: Vec<_> = own.files.into_iter().map(|it| it.0).collect();
        assert_eq!(names[0], dir.join(""), "a folder before what is in it");
        names.sort();
        let wanted = ["", "below", "below/file", "link"];
        assert_eq!(names, wanted.map(|name| dir.join(name)));
        // By its own name it is no file, and to read a FIFO would not end.
        let socket = readers_files(dir.join("s").as_os_str());
        assert!(socket.is_err());
    }
}
