//! The saved machine: booted once, and kept as files in a folder that is named
//! after a hash of everything it was made of.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::accelerator::{Accelerator, Accelerators};
use crate::arch::Arch;
use crate::kernel::Kernel;
use crate::machine::{self, Machine, Start};
use crate::pack::{self, Tree};
use crate::progress::progress;
use crate::vm::{RestoreError, Vm};
use crate::{Failure, PATIENCE, patience, programs, variable};

/// How long a boot may take, from QEMU's start to [`FromGuest::Ready`].
///
/// [`FromGuest::Ready`]: crate::wire::FromGuest::Ready
const BOOT: Duration = Duration::from_secs(60);

/// The same for KVM, which takes 1 s if it works.
const KVM_BOOT: Duration = Duration::from_secs(20);

/// The kernel's modules that go in: `dummy`, which the guest loads itself, and
/// those that the book's later chapters load by modprobe(8).
const MODULES: &[&str] = &["dummy", "veth", "bridge", "overlay", "loop"];

/// How many saved states are kept, for different kernels and builds.
const STATES: usize = 4;

/// Starts machines. Holds everything that they are made of.
#[derive(Debug)]
pub struct Harness {
    cache: PathBuf,
    /// The kernel's image.
    kernel: PathBuf,
    accelerators: Accelerators,
    init: PathBuf,
    /// For each program the path in the guest and the path here.
    programs: Vec<(PathBuf, PathBuf)>,
    /// The same for folders and other files. Their libraries do not go in.
    files: Vec<(PathBuf, PathBuf)>,
    /// Whether anything of the reader's own is among them.
    readers_own: bool,
}

impl Harness {
    /// Builds the demos, finds the kernel, QEMU and the tools, and makes the
    /// saved machine if there is none yet. `init` is the `harness` program,
    /// which is also the guest's PID 1. Files that `argv` names go in, too.
    pub fn new(init: &Path, argv: &[OsString]) -> Result<Harness, Failure> {
        if let Err(failure) = &*PATIENCE {
            return Err(Failure::new(failure.first_line()));
        }
        Arch::here()?;
        let demos = programs::build()?;
        let cache = variable("HARNESS_CACHE").map(PathBuf::from);
        let cache = cache
            .unwrap_or_else(|| programs::target_dir().join("harness-cache"));
        let cache = fs::create_dir_all(&cache)
            .and_then(|()| cache.canonicalize())
            .map_err(|error| Failure::because(cache.display(), error))?;

        let named = |dir: &str, path: &Path| {
            Path::new(dir).join(path.file_name().unwrap_or_default())
        };
        let mut programs = Vec::new();
        for demo in demos {
            programs.push((named("/usr/local/bin", &demo), demo));
        }
        for (name, tool) in pack::tools()? {
            programs.push((Path::new("/usr/bin").join(name), tool));
        }
        let own = pack::readers_own(argv, &programs)?;
        let wanted = variable("HARNESS_FILES").unwrap_or_default();
        let mut files = pack::readers_files(&wanted)?;
        let readers_own = !own.is_empty() || !files.is_empty();
        programs.extend(own);
        for file in pack::optional_files() {
            // A symbolic link's target is packed in its place.
            files.extend(file.canonicalize().map(|it| (file, it)));
        }
        let kernel = Kernel::find(&cache)?;
        let qemu = Stamp::of(&machine::qemu()?)?;
        let accelerators = Accelerators::new(&cache, &format!("{qemu:?}"))?;
        let init = init.to_path_buf();
        let harness = Harness {
            cache,
            kernel,
            accelerators,
            init,
            programs,
            files,
            readers_own,
        };
        harness.accelerators.with(|it| harness.state(it).map(drop))?;
        Ok(harness)
    }

    /// The kernel's release and the accelerator, in words.
    pub fn describe(&self) -> String {
        let accelerator = self.accelerators.now().0.name();
        match self.read_kernel() {
            Ok(it) => format!("Linux {} under {accelerator}", it.release),
            Err(failure) => failure.to_string(),
        }
    }

    /// The kernel's image, as the distribution ships it.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    fn read_kernel(&self) -> Result<Kernel, Failure> {
        Kernel::at(self.kernel.clone(), Arch::here()?.name)
    }

    /// Whether files of the reader's own are in the machine, at the paths that
    /// they have here.
    pub fn has_readers_own(&self) -> bool {
        self.readers_own
    }

    /// Starts a machine from the saved state.
    pub fn start(&self) -> Result<Vm, Failure> {
        self.accelerators.with(|accelerator| self.restored(accelerator))
    }

    fn restored(&self, accelerator: Accelerator) -> Result<Vm, Failure> {
        let (state, frames) = self.state(accelerator)?;
        let tried = Stamp::of(&state.join(MANIFEST)).ok();
        let failure = match Vm::restore(&state, &frames, accelerator) {
            Ok(vm) => return Ok(vm),
            // A failure of QEMU itself says nothing about the state.
            Err(RestoreError::Qemu(failure)) => return Err(failure),
            Err(RestoreError::State(failure)) => failure,
        };
        // Every file is as it was written, but the machine does not run. The
        // old state is kept until a new one has been saved.
        eprintln!(
            "harness: the saved machine does not go on, and is made anew: \
             {failure}"
        );
        let lock = lock(&self.cache)?;
        // Another process may have made a new one meanwhile.
        if Stamp::of(&state.join(MANIFEST)).ok() == tried {
            self.make(&state, self.inputs(accelerator)?)?;
        }
        drop(lock);
        let (state, frames) = self.state(accelerator)?;
        Vm::restore(&state, &frames, accelerator)
            .map_err(RestoreError::into_failure)
    }

    /// The folder of the saved machine, and the page frames of its window. The
    /// machine is made if there is none.
    fn state(
        &self,
        accelerator: Accelerator,
    ) -> Result<(PathBuf, Vec<u64>), Failure> {
        let inputs = self.inputs(accelerator)?;
        let dir = self.cache.join(inputs.name());
        if let Some(manifest) = intact(&dir, &inputs) {
            // The time of its last use, for `prune`. Failure to set it is
            // harmless.
            let _ = File::open(&dir)
                .and_then(|dir| dir.set_modified(SystemTime::now()));
            return Ok((dir, manifest.frames));
        }
        let _lock = lock(&self.cache)?;
        // Another process may have made it while we waited.
        let frames = match intact(&dir, &inputs) {
            Some(manifest) => manifest.frames,
            None => self.make(&dir, inputs)?,
        };
        Ok((dir, frames))
    }

    /// Everything that the machine is made of.
    fn inputs(&self, accelerator: Accelerator) -> Result<Inputs, Failure> {
        let stamped = |path: &Path| Ok((bytes(path), Stamp::of(path)?));
        let mut files = Vec::new();
        for path in [&machine::qemu()?, &self.init, &self.kernel] {
            files.push(stamped(path)?);
        }
        let packed = self.programs.iter().chain(&self.files);
        for (_, source) in packed.clone() {
            files.push(stamped(source)?);
        }
        let places = packed.map(|(at, _)| bytes(at)).collect();
        let host = self.accelerators.host.clone();
        let accelerator = accelerator.name().to_string();
        Ok(Inputs { accelerator, host, files, places })
    }

    /// Boots a machine, and saves it in the folder `dir`, which is replaced.
    /// The caller must hold the lock.
    fn make(&self, dir: &Path, inputs: Inputs) -> Result<Vec<u64>, Failure> {
        let new = self.cache.join("new");
        let made = self.save(&new, inputs).and_then(|frames| {
            let _ = fs::remove_dir_all(dir);
            fs::rename(&new, dir)
                .map_err(|error| Failure::because(dir.display(), error))?;
            Ok(frames)
        });
        let _ = fs::remove_dir_all(&new);
        prune(&self.cache);
        made
    }

    fn save(&self, new: &Path, inputs: Inputs) -> Result<Vec<u64>, Failure> {
        let begun = Instant::now();
        let kernel = self.read_kernel()?;
        let release = &kernel.release;
        let (_, why) = self.accelerators.now();
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        let accelerator = &inputs.accelerator;
        progress(format_args!("booting Linux {release}, {accelerator}{why}"));
        let fail = |error: io::Error| Failure::because(new.display(), error);
        let _ = fs::remove_dir_all(new);
        fs::create_dir_all(new).map_err(fail)?;

        // In parallel: each takes a while.
        let (sources, unpacked) = thread::scope(|scope| {
            let unpacked = scope.spawn(|| unpack(&kernel, new));
            let sources = self.pack(&kernel, &new.join("initramfs"));
            (sources, unpacked.join().expect("no panic"))
        });
        let (sources, ()) = (sources?, unpacked.map_err(fail)?);

        let (accelerator, usual) = match &*inputs.accelerator {
            "kvm" => (Accelerator::Kvm, KVM_BOOT),
            _ => (Accelerator::Tcg, BOOT),
        };
        let machine = Machine::start(new, accelerator, Start::Boot)?;
        let (vm, frames) = Vm::boot(machine, patience(usual))?;
        vm.save(new)?;

        // Written last: a folder that has this file is complete.
        let mut manifest =
            Manifest { inputs, sources: vec![], made: vec![], frames };
        for source in sources {
            manifest.sources.push((bytes(&source), Stamp::of(&source)?));
        }
        for name in ["kernel", "initramfs", "memory", "state"] {
            let stamp = Stamp::of(&new.join(name))?;
            manifest.made.push((name.into(), stamp));
        }
        let bytes = postcard::to_stdvec(&manifest).expect("plain data");
        fs::write(new.join(MANIFEST), bytes).map_err(fail)?;
        progress(format_args!("saved after {:.1?}", begun.elapsed()));
        Ok(manifest.frames)
    }

    /// Writes the initramfs. Returns the paths of the files that went in.
    fn pack(
        &self,
        kernel: &Kernel,
        to: &Path,
    ) -> Result<Vec<PathBuf>, Failure> {
        let mut tree = Tree::new();
        tree.program(Path::new("/init"), &self.init)?;
        for (at, source) in &self.programs {
            tree.program(at, source)?;
        }
        for (at, path) in &self.files {
            tree.copy(at, path)?;
        }
        tree.modules(&kernel.release, kernel.modules(MODULES)?)?;
        if let Some(config) = &kernel.config {
            let at = format!("/boot/config-{}", kernel.release);
            tree.copy(Path::new(&at), config)?;
        }
        File::create(to)
            .and_then(|file| tree.write(BufWriter::new(file)))
            .map_err(|error| Failure::because(to.display(), error))?;
        Ok(tree.sources)
    }
}

/// Writes the kernel, unpacked if possible.
fn unpack(kernel: &Kernel, dir: &Path) -> io::Result<()> {
    let to = dir.join("kernel");
    match kernel.unpacked()? {
        Some(unpacked) => fs::write(to, unpacked),
        None => fs::copy(&kernel.image, to).map(drop),
    }
}

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
struct Manifest {
    inputs: Inputs,
    /// Every file that was packed, by its path.
    sources: Vec<(Vec<u8>, Stamp)>,
    /// The saved machine's files, by their names in the folder.
    made: Vec<(String, Stamp)>,
    /// The page frames of the guest's window.
    frames: Vec<u64>,
}

/// What decides which saved machine is the right one.
#[derive(Debug, PartialEq, Hash, Serialize, Deserialize)]
struct Inputs {
    accelerator: String,
    /// The processor and the kernel of this machine.
    host: String,
    /// QEMU, kernel, programs, by their paths.
    files: Vec<(Vec<u8>, Stamp)>,
    /// The paths of the programs and files in the guest.
    places: Vec<Vec<u8>>,
}

impl Inputs {
    /// The name of the saved machine's folder.
    fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("state-{:016x}", hasher.finish())
    }
}

/// A file's identity: it changes whenever the file is written or replaced.
#[derive(Debug, PartialEq, Hash, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    length: u64,
    /// The time of its last change: seconds and nanoseconds since the epoch.
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Result<Stamp, Failure> {
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

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The manifest of a saved machine, if that is complete and nothing has changed
/// since.
fn intact(dir: &Path, inputs: &Inputs) -> Option<Manifest> {
    let manifest = fs::read(dir.join(MANIFEST)).ok()?;
    let manifest: Manifest = postcard::from_bytes(&manifest).ok()?;
    let is_unchanged = |path: &Path, then: &Stamp| {
        Stamp::of(path).is_ok_and(|now| now == *then)
    };
    let mut sources = manifest.sources.iter();
    let mut made = manifest.made.iter();
    let same = manifest.inputs == *inputs
        && sources.all(|(path, then)| {
            let path = std::ffi::OsStr::from_bytes(path);
            is_unchanged(Path::new(path), then)
        })
        && made.all(|(name, then)| is_unchanged(&dir.join(name), then));
    same.then_some(manifest)
}

/// Removes the least recently used states, down to [`STATES`].
fn prune(cache: &Path) {
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
        let [source, memory] = [dir.join("a\nb"), dir.join("memory")];
        fs::create_dir(&dir).expect("a folder");
        for path in [&source, &memory] {
            fs::write(path, "1234").expect("a file");
        }
        let of = |path: &Path| Stamp::of(path).expect("a stamp");
        let save = || {
            let manifest = Manifest {
                inputs: inputs("tcg"),
                sources: vec![(bytes(&source), of(&source))],
                made: vec![("memory".into(), of(&memory))],
                frames: vec![],
            };
            let manifest = postcard::to_stdvec(&manifest).expect("plain data");
            fs::write(dir.join(MANIFEST), manifest).expect("a file");
        };
        save();
        assert!(intact(&dir, &inputs("tcg")).is_some());
        assert!(intact(&dir, &inputs("kvm")).is_none());

        for path in [&source, &memory] {
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
