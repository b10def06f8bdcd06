//! The cache: each saved machine is a folder that is named after a hash of
//! everything it was made of, with a manifest that says whether that has
//! changed. One process at a time writes here.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// How many saved states are kept, for different kernels and builds.
const STATES: usize = 4;

/// The lock of the cache: one process at a time writes to it.
pub fn lock(cache: &Path) -> Result<Flock<File>, Failure> {
    let path = cache.join("lock");
    let fail = |error| Failure::because(path.display(), error);
    let lock = File::create(&path).map_err(fail)?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| fail(errno.into()))
}

/// The file that lists what a saved machine was made of, and its files.
const MANIFEST: &str = "manifest";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub inputs: Inputs,
    /// Every file that was packed, by its path.
    pub sources: Vec<(Vec<u8>, Stamp)>,
    /// The saved machine's files, by their names in the folder.
    pub made: Vec<(String, Stamp)>,
    /// The page frames of the guest's window.
    pub frames: Vec<u64>,
}

impl Manifest {
    /// Writes the manifest of a machine that was saved in the folder `dir`,
    /// from these `sources`. It is written last: a folder that has this file
    /// is complete.
    pub fn write(
        dir: &Path,
        inputs: Inputs,
        sources: &[PathBuf],
        frames: Vec<u64>,
    ) -> Result<Manifest, Failure> {
        let sources = sources.iter().map(|source| stamped(source));
        let made = ["kernel", "initramfs", "memory", "state"].map(|name| {
            Stamp::of(&dir.join(name)).map(|stamp| (name.to_string(), stamp))
        });
        let manifest = Manifest {
            inputs,
            sources: sources.collect::<Result<_, _>>()?,
            made: made.into_iter().collect::<Result<_, _>>()?,
            frames,
        };
        let bytes = postcard::to_stdvec(&manifest).expect("plain data");
        fs::write(dir.join(MANIFEST), bytes)
            .map_err(|error| Failure::because(dir.display(), error))?;
        Ok(manifest)
    }
}

/// What decides which saved machine is the right one.
#[derive(Debug, PartialEq, Hash, Serialize, Deserialize)]
pub struct Inputs {
    pub accelerator: String,
    /// The processor and the kernel of this machine.
    pub host: String,
    /// QEMU, kernel, programs, by their paths.
    pub files: Vec<(Vec<u8>, Stamp)>,
    /// The paths of the programs and files in the guest.
    pub places: Vec<Vec<u8>>,
}

impl Inputs {
    /// The name of the saved machine's folder.
    pub fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("state-{:016x}", hasher.finish())
    }
}

/// A file's identity: it changes whenever the file is written or replaced.
#[derive(Debug, PartialEq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    inode: u64,
    length: u64,
    /// The time of its last change: seconds and nanoseconds since the epoch.
    modified: (i64, i64),
}

impl Stamp {
    pub fn of(path: &Path) -> Result<Stamp, Failure> {
        let found = fs::symlink_metadata(path)
            .and_then(|link| match link.is_symlink() {
                // If the link is broken, the link itself counts.
                true => fs::metadata(path).or(Ok(link)),
                false => Ok(link),
            })
            .map_err(|error| Failure::because(path.display(), error))?;
        Ok(Stamp {
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// A file's path and its stamp.
pub fn stamped(path: &Path) -> Result<(Vec<u8>, Stamp), Failure> {
    Ok((bytes(path), Stamp::of(path)?))
}

/// A path, as a manifest has it: it may hold any byte.
pub fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The manifest of a saved machine, if that is complete and nothing has changed
/// since.
pub fn intact(dir: &Path, inputs: &Inputs) -> Option<Manifest> {
    let manifest = fs::read(dir.join(MANIFEST)).ok()?;
    let manifest: Manifest = postcard::from_bytes(&manifest).ok()?;
    let is_unchanged = |path: &Path, then: &Stamp| {
        Stamp::of(path).is_ok_and(|now| now == *then)
    };
    let mut sources = manifest.sources.iter();
    let mut made = manifest.made.iter();
    let same = manifest.inputs == *inputs
        && sources.all(|(path, then)| {
            let path = OsStr::from_bytes(path);
            is_unchanged(Path::new(path), then)
        })
        && made.all(|(name, then)| is_unchanged(&dir.join(name), then));
    same.then_some(manifest)
}

/// When the machine in this folder was made.
pub fn last_made(dir: &Path) -> Option<Stamp> {
    Stamp::of(&dir.join(MANIFEST)).ok()
}

/// Sets the time of the machine's last use, for [`prune`]. Failure to set it is
/// harmless.
pub fn used(dir: &Path) {
    let _ = File::open(dir).and_then(|dir| dir.set_modified(SystemTime::now()));
}

/// Removes the least recently used states, down to [`STATES`].
pub fn prune(cache: &Path) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut states: Vec<_> = entries
        .filter(|e| e.file_name().as_bytes().starts_with(b"state-"))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    states.sort();
    let surplus = states.len().saturating_sub(STATES);
    for (_, path) in &states[..surplus] {
        let _ = fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn inputs(accelerator: &str) -> Inputs {
        let (accelerator, host) = (accelerator.into(), String::new());
        Inputs { accelerator, host, files: vec![], places: vec![] }
    }

    #[test]
    fn changed_file_makes_a_saved_state_invalid() {
        // A path may hold any byte, also a newline.
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().join("new");
        let source = dir.join("a\nb");
        let made = ["kernel", "initramfs", "memory", "state"];
        let mut files = made.map(|name| dir.join(name)).to_vec();
        files.push(source.clone());
        fs::create_dir(&dir).expect("a folder");
        for path in &files {
            fs::write(path, "1234").expect("a file");
        }
        let save = || {
            let sources = [source.clone()];
            Manifest::write(&dir, inputs("tcg"), &sources, vec![])
                .expect("written");
        };
        save();
        assert!(intact(&dir, &inputs("tcg")).is_some());
        assert!(intact(&dir, &inputs("kvm")).is_none());

        for path in &files {
            File::options()
                .write(true)
                .open(path)
                .and_then(|file| file.set_len(3))
                .expect("a file");
            assert!(intact(&dir, &inputs("tcg")).is_none());
            save();
            assert!(intact(&dir, &inputs("tcg")).is_some());
            fs::remove_file(path).expect("a file");
            assert!(intact(&dir, &inputs("tcg")).is_none());
            fs::write(path, "1234").expect("a file");
            save();
        }
        fs::write(dir.join(MANIFEST), "rubbish").expect("a file");
        assert!(intact(&dir, &inputs("tcg")).is_none());
        fs::remove_file(dir.join(MANIFEST)).expect("a file");
        assert!(intact(&dir, &inputs("tcg")).is_none());
    }

    #[test]
    fn machine_saved_on_another_processor_is_another_one() {
        let here = Inputs { host: "EPYC 6.1".into(), ..inputs("kvm") };
        let there = Inputs { host: "Xeon 6.1".into(), ..inputs("kvm") };
        assert_ne!(here.name(), there.name());
    }

    #[test]
    fn least_recently_used_state_is_removed() {
        let cache = tempfile::tempdir().expect("a folder");
        let cache = cache.path();
        for (name, age) in
            [("1", 50), ("2", 10), ("3", 30), ("4", 40), ("5", 20)]
        {
            let dir = cache.join(format!("state-{name}"));
            fs::create_dir_all(dir.join("below")).expect("a folder");
            File::open(dir)
                .and_then(|dir| {
                    let age = Duration::from_secs(age);
                    dir.set_modified(SystemTime::now() - age)
                })
                .expect("a folder");
        }
        fs::create_dir(cache.join("package")).expect("a folder");
        prune(cache);
        let left = fs::read_dir(cache).expect("a folder").flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["package", "state-2", "state-3", "state-4", "state-5"]
        );
    }
}
