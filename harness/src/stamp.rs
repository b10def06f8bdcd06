//! Whether a file is still the same.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A file's identity: it changes whenever the file is written or replaced, and
/// with its mode.
#[derive(Debug, PartialEq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    inode: u64,
    mode: u32,
    length: u64,
    /// The time of its last change: seconds and nanoseconds since the epoch.
    modified: (i64, i64),
}

impl Stamp {
    pub fn of(path: &Path) -> Result<Stamp, Failure> {
        // If a link is broken, the link itself counts.
        let found = fs::metadata(path)
            .or_else(|_| fs::symlink_metadata(path))
            .map_err(|error| Failure::because(path.display(), error))?;
        Ok(Stamp {
            inode: found.ino(),
            mode: found.mode(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// A file's path and its stamp.
pub fn stamped(path: &Path) -> Result<(CString, Stamp), Failure> {
    Ok((bytes(path), Stamp::of(path)?))
}

/// A path, as a manifest has it: it may hold any byte but zero. A `Vec<u8>`
/// would be read byte by byte, which takes 2 ms.
pub fn bytes(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte")
}

/// The same path again.
pub fn path(bytes: &CStr) -> PathBuf {
    OsStr::from_bytes(bytes.to_bytes()).into()
}
