//! Files that are delivered to a machine that runs already: an archive, like
//! the initramfs, which comes as input does.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::Wire;
use crate::wire::{FromGuest, ToGuest};

/// An archive that comes over the wire, piece by piece. A piece is taken when
/// the next one is needed.
pub struct Archive<'a> {
    wire: &'a mut Wire,
    piece: Piece,
    /// How much of the piece has been read.
    read: usize,
    /// The times of folders in which something was changed. They are set at the
    /// end.
    folders: BTreeMap<PathBuf, TimeSpec>,
}

/// A part of the archive.
enum Piece {
    /// There is none yet.
    None,
    /// The bytes of a message.
    Message(Vec<u8>),
    /// So many bytes of the window.
    Window(usize),
}

impl Archive<'_> {
    /// The archive that comes next.
    pub fn of(wire: &mut Wire) -> Archive<'_> {
        let folders = BTreeMap::new();
        Archive { wire, piece: Piece::None, read: 0, folders }
    }

    /// Unpacks it over the files that are there, as the kernel unpacks an
    /// initramfs.
    ///
    /// # Errors
    /// Names the file that could not be made. The machine is of no use then.
    pub fn unpack(mut self) -> io::Result<()> {
        loop {
            let header = cpio::newc::Reader::new(&mut self)?;
            let entry = header.entry().clone();
            if entry.is_trailer() {
                break;
            }
            let path = Path::new("/").join(entry.name());
            self.file(&path, &entry).map_err(|error| {
                io::Error::other(format!("{}: {error}", path.display()))
            })?;
        }
        for (folder, time) in &self.folders {
            set_time(folder, time)?;
        }
        Ok(())
    }

    /// Makes a file, folder or link, in place of what has this path.
    fn file(
        &mut self,
        path: &Path,
        entry: &cpio::newc::Entry,
    ) -> io::Result<()> {
        let size = entry.file_size() as usize;
        let mode = PermissionsExt::from_mode(entry.mode() & 0o7777);
        let time = TimeSpec::new(entry.mtime().into(), 0);
        let above = path.parent().unwrap_or(path);
        if !self.folders.contains_key(above) {
            let found = fs::metadata(above)?;
            let then = TimeSpec::new(found.mtime(), found.mtime_nsec());
            self.folders.insert(above.into(), then);
        }
        if entry.mode() & libc::S_IFMT == libc::S_IFDIR {
            if !path.is_dir() {
                fs::create_dir(path)?;
            }
            fs::set_permissions(path, mode)?;
            self.folders.insert(path.into(), time);
            return Ok(());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            _ => {}
        }
        if entry.mode() & libc::S_IFMT == libc::S_IFLNK {
            let mut target = Vec::new();
            self.copy(size, &mut target)?;
            symlink(OsStr::from_bytes(&target), path)?;
        } else {
            let mut file = File::create(path)?;
            self.copy(size, &mut file)?;
            file.set_permissions(mode)?;
        }
        set_time(path, &time)
    }

    /// Copies the content of a file, and reads what it is padded with.
    fn copy(&mut self, size: usize, to: &mut impl Write) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let part = self.part()?;
            let part = &part[..part.len().min(left)];
            to.write_all(part)?;
            let written = part.len();
            self.read += written;
            left -= written;
        }
        let padding = size.next_multiple_of(4) - size;
        self.read_exact(&mut [0; 4][..padding])
    }

    /// What has come and has not been read; waits for more if there is none.
    fn part(&mut self) -> io::Result<&[u8]> {
        while self.came().len() == self.read {
            if !matches!(self.piece, Piece::None) {
                self.wire.send(&FromGuest::Taken)?;
            }
            self.read = 0;
            self.piece = match self.wire.receive()? {
                ToGuest::Input(bytes) => Piece::Message(bytes),
                ToGuest::Window { length, sum } => {
                    Piece::Window(self.wire.window.read(length, sum)?.len())
                }
                _ => return Err(Errno::EBADMSG.into()),
            };
        }
        Ok(&self.came()[self.read..])
    }

    fn came(&self) -> &[u8] {
        match &self.piece {
            Piece::None => &[],
            Piece::Message(bytes) => bytes,
            Piece::Window(length) => self.wire.window.bytes(*length),
        }
    }
}

impl Read for Archive<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let part = self.part()?;
        let length = part.len().min(to.len());
        to[..length].copy_from_slice(&part[..length]);
        self.read += length;
        Ok(length)
    }
}

/// Sets the time of a file, folder or link.
fn set_time(path: &Path, time: &TimeSpec) -> io::Result<()> {
    let itself = UtimensatFlags::NoFollowSymlink;
    utimensat(AT_FDCWD, path, time, time, itself)?;
    Ok(())
}
