//! The lock of a folder: one process at a time writes there.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use crate::failure::Failure;
use crate::room::Room;

/// Waits for the lock, which is a file in the folder, and says what is kept
/// there if that fails.
///
/// # Errors
/// As flock(2), and if the file cannot be made.
pub fn lock(dir: &Path, of: &Room) -> Result<Flock<File>, Failure> {
    let path = dir.join("lock");
    let fail = |error| Failure::new(of.error(&path, &error));
    let lock = File::create(&path).map_err(fail)?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| fail(errno.into()))
}
