//! What the harness keeps: saved machines and packages, each in a folder that
//! a variable can name. Where that cannot be written, one line says so.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use crate::failure::Failure;

/// A kind of what is kept.
#[derive(Debug)]
pub struct Room {
    /// What, and how much of it.
    needs: &'static str,
    /// The variable that names its folder.
    variable: &'static str,
}

pub const MACHINES: Room =
    Room { needs: "a new machine needs 250 MB", variable: "HARNESS_CACHE" };

pub const PACKAGES: Room =
    Room { needs: "packages need 300 MB", variable: "HARNESS_PACKAGES" };

impl Room {
    /// Waits for the lock of a folder, which is a file in it: one process at a
    /// time writes there.
    ///
    /// # Errors
    /// As flock(2), and if the file cannot be made.
    pub fn lock(&self, dir: &Path) -> Result<Flock<File>, Failure> {
        let path = dir.join("lock");
        let fail = |error| Failure::new(self.error(&path, &error));
        let lock = File::create(&path).map_err(fail)?;
        Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| fail(errno.into()))
    }

    /// What to say of an error in this folder.
    pub fn error(&self, dir: &Path, error: &io::Error) -> String {
        let Room { needs, variable } = self;
        let dir = dir.display();
        match is_the_folders(error) {
            true => format!(
                "{dir}: {error}: {needs} there, or in another folder: \
                 {variable}=/another/folder"
            ),
            false => format!("{dir}: {error}"),
        }
    }

    /// After a failure: if it is the folder's that nothing can be written there,
    /// what to say instead. Those who could not write, as QEMU, dpkg and apt,
    /// say it in many ways, so this tries more than what may be left.
    pub fn refusal(&self, dir: &Path) -> Option<String> {
        let probe = dir.join("probe");
        let error = fs::write(&probe, vec![1; 1 << 20]).err();
        let _ = fs::remove_file(&probe);
        error.filter(is_the_folders).map(|error| self.error(dir, &error))
    }
}

/// Whether another folder would do: on another disk, or one of the caller's.
fn is_the_folders(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn what_another_folder_would_mend_names_the_variable() {
        use Errno::*;
        let mended =
            [ENOSPC, EDQUOT, EROFS, EACCES, EPERM].map(|it| (it, true));
        let others = [EIO, ENOENT].map(|it| (it, false));
        for (errno, mends) in mended.into_iter().chain(others) {
            let text = MACHINES.error(Path::new("/full"), &errno.into());
            assert!(text.starts_with("/full: "), "{text}");
            assert_eq!(text.contains("HARNESS_CACHE="), mends, "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn full_disk_is_told_from_another_failure() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        assert_eq!(PACKAGES.refusal(dir), None);
        assert_eq!(PACKAGES.refusal(&dir.join("nosuch")), None);
        assert!(!dir.join("probe").exists());
        symlink("/dev/full", dir.join("probe")).expect("a link");
        let text = PACKAGES.refusal(dir).expect("it is full");
        assert!(text.contains("No space left on device"), "{text}");
        assert!(text.contains("HARNESS_PACKAGES="), "{text}");
    }
}
