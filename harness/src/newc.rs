//! The format that the kernel unpacks at boot: cpio, "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cpio::newc::ModeFileType;

/// A file, folder or link.
#[derive(Debug)]
pub struct Entry {
    /// Without the bits that say what it is.
    pub mode: u32,
    /// The time of its last change, in seconds since the epoch.
    pub time: u32,
    pub node: Node,
}

/// What it is.
#[derive(Debug)]
pub enum Node {
    Directory,
    Link(PathBuf),
    File(Vec<u8>),
    Console,
}

/// Writes these, by their paths: a folder comes before what is in it.
///
/// # Errors
/// If they cannot be written, or a path is not UTF-8.
pub fn write(
    entries: &BTreeMap<PathBuf, Entry>,
    mut to: impl Write,
) -> io::Result<()> {
    for (number, (path, entry)) in entries.iter().enumerate() {
        let name = path.strip_prefix("/").unwrap_or(path);
        let name = name.to_str().ok_or_else(|| {
            io::Error::other(format!("not UTF-8: {}", path.display()))
        })?;
        let (kind, bytes) = match &entry.node {
            Node::Directory => (ModeFileType::Directory, &[][..]),
            Node::Link(it) => {
                (ModeFileType::Symlink, it.as_os_str().as_bytes())
            }
            Node::File(bytes) => (ModeFileType::Regular, &bytes[..]),
            Node::Console => (ModeFileType::Char, &[][..]),
        };
        let mut builder = cpio::newc::Builder::new(name)
            .ino(number as u32 + 10)
            .mode(entry.mode)
            .mtime(entry.time)
            .set_mode_file_type(kind);
        if let Node::Console = entry.node {
            builder = builder.rdev_major(5).rdev_minor(1);
        }
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut file = builder.write(&mut to, size);
        file.write_all(bytes)?;
        file.finish()?;
    }
    cpio::newc::trailer(to)?;
    Ok(())
}
