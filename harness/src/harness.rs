//! Machines, and everything that they are made of: found, packed, booted once,
//! saved, and started from the saved state.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::accelerator::{Accelerator, Accelerators};
use crate::arch::Arch;
use crate::cache::{self, Inputs, Manifest, Stamp, lock, prune, stamped};
use crate::contents;
use crate::env::{PATIENCE, patience, variable};
use crate::failure::Failure;
use crate::files::{self, Files};
use crate::initramfs::Tree;
use crate::kernel::Kernel;
use crate::machine::{Machine, Start};
use crate::programs;
use crate::progress::progress;
use crate::qemu::qemu;
use crate::vm::{RestoreError, Vm};

/// How long a boot may take, from QEMU's start to [`FromGuest::Ready`].
///
/// [`FromGuest::Ready`]: crate::wire::FromGuest::Ready
const BOOT: Duration = Duration::from_secs(60);

/// The same for KVM, which takes 1 s if it works.
const KVM_BOOT: Duration = Duration::from_secs(20);

/// Starts machines. Holds everything that they are made of.
#[derive(Debug)]
pub struct Harness {
    cache: PathBuf,
    /// The kernel's image.
    kernel: PathBuf,
    accelerators: Accelerators,
    init: PathBuf,
    /// This machine's tools, and the demos.
    tools: Files,
    /// The reader's own.
    own: Files,
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
        let demos = programs::build(init)?;
        let cache = match variable("HARNESS_CACHE") {
            Some(cache) => cache.into(),
            None => programs::cache(init)?,
        };
        let cache = fs::create_dir_all(&cache)
            .and_then(|()| cache.canonicalize())
            .map_err(|error| Failure::because(cache.display(), error))?;

        let named = |dir: &str, path: &Path| {
            Path::new(dir).join(path.file_name().unwrap_or_default())
        };
        let mut tools = Files::default();
        for demo in demos {
            tools.programs.push((named("/usr/local/bin", &demo), demo));
        }
        for (name, tool) in contents::tools()? {
            tools.programs.push((Path::new("/usr/bin").join(name), tool));
        }
        for file in contents::optional_files() {
            // A symbolic link's target is packed in its place.
            tools.files.extend(file.canonicalize().map(|it| (file, it)));
        }
        let wanted = variable("HARNESS_FILES").unwrap_or_default();
        let mut own = files::readers_files(&wanted)?;
        own.programs.extend(files::readers_own(argv, &tools.programs)?);
        let kernel = Kernel::find(&cache)?;
        let qemu = Stamp::of(&qemu()?)?;
        let accelerators = Accelerators::new(&cache, &format!("{qemu:?}"))?;
        let init = init.to_path_buf();
        let harness = Harness { cache, kernel, accelerators, init, tools, own };
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
        !(self.own.programs.is_empty() && self.own.files.is_empty())
    }

    /// Starts a machine from the saved state.
    pub fn start(&self) -> Result<Vm, Failure> {
        self.accelerators.with(|accelerator| self.restored(accelerator))
    }

    fn restored(&self, accelerator: Accelerator) -> Result<Vm, Failure> {
        let (state, frames) = self.state(accelerator)?;
        let tried = cache::last_made(&state);
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
        if cache::last_made(&state) == tried {
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
        if let Some(manifest) = cache::intact(&dir, &inputs) {
            cache::used(&dir);
            return Ok((dir, manifest.frames));
        }
        let _lock = lock(&self.cache)?;
        // Another process may have made it while we waited.
        let frames = match cache::intact(&dir, &inputs) {
            Some(manifest) => manifest.frames,
            None => self.make(&dir, inputs)?,
        };
        Ok((dir, frames))
    }

    /// Everything that the machine is made of.
    fn inputs(&self, accelerator: Accelerator) -> Result<Inputs, Failure> {
        let mut files = Vec::new();
        for path in [&qemu()?, &self.init, &self.kernel] {
            files.push(stamped(path)?);
        }
        let packed = [&self.tools, &self.own].into_iter();
        let packed = packed.flat_map(|it| it.programs.iter().chain(&it.files));
        for (_, source) in packed.clone() {
            files.push(stamped(source)?);
        }
        let places = packed.map(|(at, _)| cache::bytes(at)).collect();
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

        let manifest = Manifest::write(new, inputs, &sources, frames)?;
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
        for name in ["/init", "/usr/local/bin/check"] {
            tree.tool(Path::new(name), &self.init)?;
        }
        for (at, source) in &self.tools.programs {
            tree.tool(at, source)?;
        }
        for (at, source) in &self.own.programs {
            tree.program(at, source)?;
        }
        tree.libraries()?;
        for (at, path) in self.tools.files.iter().chain(&self.own.files) {
            tree.copy(at, path)?;
        }
        let modules = kernel.modules(contents::MODULES)?;
        let scratch = to.with_extension("depmod");
        tree.modules(kernel, modules, &scratch)?;
        fs::remove_dir_all(&scratch)
            .map_err(|error| Failure::because(scratch.display(), error))?;
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
