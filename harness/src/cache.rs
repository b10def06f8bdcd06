//! The cache: each saved machine is a folder that is named after a hash of
//! everything it was made of, with a manifest that says whether that has
//! changed. One process at a time writes here.

use std::collections::hash_map::DefaultHasher;
use std::ffi::CString;
use std::fmt;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::accelerator::Accelerator;
use crate::failure::Failure;
use crate::initramfs::Below;
use crate::room::MACHINES;
use crate::sparse::copy_sparse;
use crate::stamp::{Stamp, path};

/// How many saved states are kept, for different kernels and builds.
const STATES: usize = 2;

/// The lock of the cache. Who gets it removes what a process that was killed
/// has left.
pub fn lock(cache: &Path) -> Result<Flock<File>, Failure> {
    let lock = MACHINES.lock(cache)?;
    tidy(cache);
    Ok(lock)
}

/// Removes what a process that was killed has left, if no other one is at work.
pub fn tidy_up(cache: &Path) {
    if [NEW, OLD].iter().any(|name| cache.join(name).exists())
        && let Ok(lock) = File::open(cache.join("lock"))
        && let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
    {
        tidy(cache);
    }
}

fn tidy(cache: &Path) {
    for name in [NEW, OLD] {
        let _ = fs::remove_dir_all(cache.join(name));
    }
}

/// The folders of a state that is not complete yet, and of one that is being
/// removed.
pub const NEW: &str = "new";
const OLD: &str = "old";

/// The new state gets the name `name`, in place of the state that has it. The
/// caller must hold the lock.
pub fn install(
    cache: &Path,
    name: &str,
    manifest: Manifest,
) -> Result<Saved, Failure> {
    remove(cache, name);
    let dir = cache.join(name);
    fs::rename(cache.join(NEW), &dir)
        .map_err(|error| Failure::because(dir.display(), error))?;
    let stamp = Stamp::of(&dir.join(MANIFEST))?;
    Ok(Saved { dir, manifest, stamp })
}

/// A copy of another user's machine, in a cache of one's own. QEMU writes nothing
/// to a saved memory, but opens it for writing. `None` if the machine was
/// replaced meanwhile. The caller must hold the lock.
pub fn adopt(cache: &Path, theirs: Saved) -> Result<Option<Saved>, Failure> {
    let new = cache.join(NEW);
    let fail = |error| Failure::because(new.display(), error);
    fs::create_dir(&new).map_err(fail)?;
    for (name, _) in &theirs.manifest.made {
        let from = File::open(theirs.dir.join(name)).map_err(fail)?;
        let to = File::create(new.join(name)).map_err(fail)?;
        copy_sparse(&from, &to).map_err(fail)?;
    }
    if !theirs.is_there() {
        return Ok(None);
    }
    let name = theirs.manifest.inputs.name();
    let manifest = Manifest { made: made(&new)?, ..theirs.manifest };
    manifest.write(&new)?;
    install(cache, &name, manifest).map(Some)
}

/// Whoever has just opened the state's files sees at once that it is gone.
fn remove(cache: &Path, name: impl AsRef<Path>) {
    let old = cache.join(OLD);
    let _ = fs::rename(cache.join(name), &old);
    let _ = fs::remove_dir_all(old);
}

/// The file that lists what a saved machine was made of, and its files.
const MANIFEST: &str = "manifest";

/// How a manifest begins. Another version's states are of no use.
const FORMAT: &[u8] = b"namespace-demos 3\n";

/// What a saved machine is made of.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub inputs: Inputs,
    /// Every file of the distribution's that was packed, by its path.
    pub sources: Vec<(CString, Stamp)>,
    /// The demos in it, as they were then.
    pub demos: Vec<(CString, Stamp)>,
    /// The files that are in it.
    pub below: Below,
    /// The saved machine's files, by their names in the folder.
    pub made: Vec<(String, Stamp)>,
    /// The size of its memory in MiB.
    pub memory: u64,
    /// The page frames of the guest's window.
    pub frames: Vec<u64>,
}

/// A saved machine.
#[derive(Debug)]
pub struct Saved {
    pub dir: PathBuf,
    pub manifest: Manifest,
    /// The manifest's.
    stamp: Stamp,
}

impl Saved {
    /// The machine in this folder, if it is complete and what it was made of
    /// has not changed since. Demos may have.
    pub fn intact(dir: PathBuf, inputs: &Inputs) -> Option<Saved> {
        let stamp = Stamp::of(&dir.join(MANIFEST)).ok()?;
        let bytes = fs::read(dir.join(MANIFEST)).ok()?;
        let bytes = bytes.strip_prefix(FORMAT)?;
        let manifest: Manifest = postcard::from_bytes(bytes).ok()?;
        let is_unchanged = |path: &Path, then: &Stamp| {
            Stamp::of(path).is_ok_and(|now| now == *then)
        };
        let mut sources = manifest.sources.iter();
        let mut made = manifest.made.iter();
        let same = manifest.inputs == *inputs
            && sources.all(|(source, then)| is_unchanged(&path(source), then))
            && made.all(|(name, then)| is_unchanged(&dir.join(name), then));
        same.then_some(Saved { dir, manifest, stamp })
    }

    /// Whether this is still the machine in its folder. Then what was opened
    /// there meanwhile is of this machine, too.
    pub fn is_there(&self) -> bool {
        let now = Stamp::of(&self.dir.join(MANIFEST));
        now.is_ok_and(|now| now == self.stamp)
    }

    /// Sets the time of the machine's last use, for [`prune`]. Failure to set
    /// it is harmless.
    pub fn used(&self) {
        let dir = File::open(&self.dir);
        let _ = dir.and_then(|dir| dir.set_modified(SystemTime::now()));
    }
}

impl Manifest {
    /// Writes it into the folder of a machine that was saved. It is written
    /// last: a folder that has this file is complete.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        let mut bytes = FORMAT.to_vec();
        bytes.extend(postcard::to_stdvec(self).expect("plain data"));
        fs::write(dir.join(MANIFEST), bytes)
            .map_err(|error| Failure::because(dir.display(), error))
    }
}

/// The files of a machine that was saved in this folder.
pub fn made(dir: &Path) -> Result<Vec<(String, Stamp)>, Failure> {
    let made = ["memory", "state"].map(|name| {
        Stamp::of(&dir.join(name)).map(|stamp| (name.to_string(), stamp))
    });
    made.into_iter().collect()
}

/// What decides which saved machine is the right one.
#[derive(Debug, PartialEq, Hash, Serialize, Deserialize)]
pub struct Inputs {
    pub accelerator: Accelerator,
    /// The processor and the kernel of this machine.
    pub host: String,
    /// QEMU, kernel, programs, by their paths.
    pub files: Vec<(CString, Stamp)>,
    /// The paths of the programs and files in the guest.
    pub places: Vec<CString>,
}

impl Inputs {
    pub fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("state-{:016x}", hasher.finish())
    }
}

/// Removes the states of other versions, and the least recently used ones, down
/// to [`STATES`]. The caller must hold the lock.
pub fn prune(cache: &Path) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut states: Vec<_> = entries
        .filter(|e| e.file_name().as_bytes().starts_with(b"state-"))
        .filter_map(|e| {
            let used = e.metadata().ok()?.modified().ok()?;
            let manifest = fs::read(e.path().join(MANIFEST));
            let ours = manifest.is_ok_and(|it| it.starts_with(FORMAT));
            Some((ours, used, e.file_name()))
        })
        .collect();
    states.sort();
    let ours = states.iter().filter(|(ours, ..)| *ours).count();
    let surplus = states.len() - ours.min(STATES);
    for (.., name) in &states[..surplus] {
        remove(cache, name);
    }
}

/// The file that says that something of this kind was found out. With another
/// key it may be different.
pub fn note(cache: &Path, kind: &str, key: impl Hash) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    cache.join(format!("{kind}-{:016x}", hasher.finish()))
}

/// Writes such a file, in place of those of its kind. Failure is harmless: it is
/// found out again.
pub fn remember(file: &Path, why: impl fmt::Display) {
    let (dir, name) = (file.parent(), file.file_name().unwrap_or_default());
    let name = name.as_bytes();
    let kind = name.iter().rposition(|byte| *byte == b'-');
    let kind = &name[..kind.unwrap_or(name.len())];
    let entries = dir.map(fs::read_dir).into_iter().flatten().flatten();
    for entry in entries.flatten() {
        if entry.file_name().as_bytes().starts_with(kind) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::write(file, format!("{why}\n"));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::accelerator::Accelerator::{Kvm, Tcg};
    use crate::stamp::stamped;

    fn inputs(accelerator: Accelerator) -> Inputs {
        let host = String::new();
        Inputs { accelerator, host, files: vec![], places: vec![] }
    }

    /// The files of a machine, of what it was made of, and of a demo. A path may
    /// hold any byte, also a newline.
    const FILES: [&str; 4] = ["memory", "state", "a\nb", "demo"];

    fn save(dir: &Path) {
        let stamp = |name: &str| vec![stamped(&dir.join(name)).expect("it")];
        let manifest = Manifest {
            inputs: inputs(Tcg),
            sources: stamp(FILES[2]),
            demos: stamp(FILES[3]),
            below: Below::default(),
            made: made(dir).expect("stamps"),
            memory: 1,
            frames: vec![],
        };
        manifest.write(dir).expect("written");
    }

    fn intact(dir: &Path, accelerator: Accelerator) -> Option<Saved> {
        Saved::intact(dir.to_path_buf(), &inputs(accelerator))
    }

    /// A folder with these files, in which a machine is saved.
    fn saved() -> TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for name in FILES {
            fs::write(dir.path().join(name), "1234").expect("a file");
        }
        save(dir.path());
        dir
    }

    #[test]
    fn changed_file_makes_a_saved_state_invalid() {
        let dir = saved();
        let dir = dir.path();
        for path in FILES[..3].iter().map(|name| dir.join(name)) {
            fs::write(&path, "123").expect("a file");
            assert!(intact(dir, Tcg).is_none());
            save(dir);
            let mode = PermissionsExt::from_mode(0o600);
            fs::set_permissions(&path, mode).expect("chmod");
            assert!(intact(dir, Tcg).is_none());
            save(dir);
            assert!(intact(dir, Tcg).is_some());
            fs::remove_file(&path).expect("a file");
            assert!(intact(dir, Tcg).is_none());
            fs::write(&path, "1234").expect("a file");
            save(dir);
        }
        // A demo that has changed is delivered.
        fs::write(dir.join(FILES[3]), "12345").expect("a file");
        assert!(intact(dir, Tcg).is_some());
    }

    #[test]
    fn manifest_must_be_whole_and_the_same() {
        let dir = saved();
        let dir = dir.path();
        let manifest = dir.join(MANIFEST);
        assert!(intact(dir, Kvm).is_none());
        let first = intact(dir, Tcg).expect("it is intact");
        assert!(first.is_there());
        // The same again is another one.
        fs::remove_file(&manifest).expect("a file");
        assert!(!first.is_there());
        save(dir);
        assert!(!first.is_there());
        let whole = fs::read(&manifest).expect("a file");
        for damaged in [b"rubbish", &whole[1..], &whole[..whole.len() - 1]] {
            fs::write(&manifest, damaged).expect("a file");
            assert!(intact(dir, Tcg).is_none());
        }
    }

    #[test]
    fn machine_saved_on_another_processor_is_another_one() {
        let here = Inputs { host: "EPYC 6.1".into(), ..inputs(Kvm) };
        let there = Inputs { host: "Xeon 6.1".into(), ..inputs(Kvm) };
        assert_ne!(here.name(), there.name());
    }

    #[test]
    fn states_of_this_version_that_were_used_last_are_kept() {
        let cache = tempfile::tempdir().expect("a folder");
        let cache = cache.path();
        for (name, age, format) in [
            ("1", 50, FORMAT),
            ("2", 10, FORMAT),
            ("3", 30, FORMAT),
            ("4", 5, b"tcg"),
        ] {
            let dir = cache.join(format!("state-{name}"));
            fs::create_dir_all(dir.join("below")).expect("a folder");
            fs::write(dir.join(MANIFEST), format).expect("a file");
            File::open(dir)
                .and_then(|dir| {
                    let age = Duration::from_secs(age);
                    dir.set_modified(SystemTime::now() - age)
                })
                .expect("a folder");
        }
        fs::create_dir(cache.join("state-5")).expect("a folder");
        fs::create_dir(cache.join("package")).expect("a folder");
        prune(cache);
        let left = fs::read_dir(cache).expect("a folder").flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["package", "state-2", "state-3"]);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_unless_one_is_at_work() {
        let cache = tempfile::tempdir().expect("a folder");
        let cache = cache.path();
        let left = [NEW, OLD].map(|name| cache.join(name));
        let make = || {
            for dir in &left {
                fs::create_dir_all(dir.join("below")).expect("a folder");
            }
        };
        let held = lock(cache).expect("a lock");
        make();
        tidy_up(cache);
        assert!(left.iter().all(|dir| dir.exists()));
        drop(held);
        tidy_up(cache);
        assert!(!left.iter().any(|dir| dir.exists()));
        make();
        let _held = lock(cache).expect("a lock");
        assert!(!left.iter().any(|dir| dir.exists()));
    }
}
