//! Makes a saved machine: packs what is in it, boots it once, and saves it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Harness;
use crate::accelerator::Accelerator;
use crate::cache::{self, Inputs, Manifest, Saved};
use crate::contents;
use crate::env::patience;
use crate::failure::Failure;
use crate::files::Files;
use crate::initramfs::{TOOL, Tree};
use crate::kernel::Kernel;
use crate::machine::{Machine, Start};
use crate::progress::progress;
use crate::qemu::{memory_for, qemu};
use crate::stamp::{self, stamped};
use crate::vm::Vm;

/// How long a boot may take, from QEMU's start to [`FromGuest::Ready`].
///
/// [`FromGuest::Ready`]: crate::wire::FromGuest::Ready
const BOOT: Duration = Duration::from_secs(60);

/// The same for KVM, which takes 1 s if it works.
const KVM_BOOT: Duration = Duration::from_secs(20);

impl Harness {
    /// What decides which saved machine is the right one. Neither the demos nor
    /// what is delivered are among it.
    pub(super) fn inputs(
        &self,
        accelerator: Accelerator,
    ) -> Result<Inputs, Failure> {
        let mut files = Vec::new();
        for path in [&qemu()?, &self.init, &self.kernel] {
            files.push(stamped(path)?);
        }
        let (saved, _) = self.own();
        let mut places = Vec::new();
        for (at, source) in
            [&self.tools].into_iter().chain(saved).flat_map(Files::all)
        {
            files.push(stamped(source)?);
            places.push(stamp::bytes(at));
        }
        let host = self.accelerators.host.clone();
        Ok(Inputs { accelerator, host, files, places })
    }

    /// Boots a machine, and saves it. The caller must hold the lock.
    pub(super) fn make(&self, inputs: Inputs) -> Result<Saved, Failure> {
        let name = inputs.name();
        let new = self.cache.join(cache::NEW);
        let made = self
            .save(&new, inputs)
            .and_then(|manifest| cache::install(&self.cache, &name, manifest))
            .map_err(|why| self.refused(why));
        let _ = fs::remove_dir_all(&new);
        cache::prune(&self.cache);
        made
    }

    fn save(&self, new: &Path, inputs: Inputs) -> Result<Manifest, Failure> {
        let begun = Instant::now();
        let kernel = self.read_kernel()?;
        let release = &kernel.release;
        let (_, why) = self.accelerators.now();
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        let accelerator = inputs.accelerator;
        let name = accelerator.name();
        progress(format_args!("booting Linux {release}, {name}{why}"));
        let fail = |error: io::Error| Failure::because(new.display(), error);
        // Files of the reader's own may be for him alone.
        let has_own = self.own().0.iter().any(|files| !files.is_empty());
        let mode = if has_own { 0o700 } else { 0o755 };
        DirBuilder::new().mode(mode).create(new).map_err(fail)?;

        // In parallel: each takes a while.
        let demos = self.demos.iter().map(|(_, demo)| stamped(demo));
        let demos = demos.collect::<Result<_, _>>()?;
        let initramfs = new.join("initramfs");
        let (tree, unpacked) = thread::scope(|scope| {
            let unpacked = scope.spawn(|| unpack(&kernel, new));
            let tree = self.pack(&kernel, &initramfs);
            (tree, unpacked.join().expect("no panic"))
        });
        let (tree, ()) = (tree?, unpacked.map_err(fail)?);
        let below = tree.below();
        // An error in the other files is told before the boot.
        self.archive(&below, &[])?;
        let size = fs::metadata(&initramfs).map_err(fail)?.len();
        let memory = memory_for(size);

        let usual = match accelerator {
            Accelerator::Kvm => KVM_BOOT,
            Accelerator::Tcg => BOOT,
        };
        let machine = Machine::start(new, memory, accelerator, Start::Boot)?;
        let (vm, frames) = Vm::boot(machine, patience(usual))?;
        vm.save(new)?;
        // Only a boot needs these.
        for name in ["kernel", "initramfs"] {
            fs::remove_file(new.join(name)).map_err(fail)?;
        }
        let (sources, made) = (tree.sources, cache::made(new)?);
        let manifest =
            Manifest { inputs, sources, demos, below, made, memory, frames };
        manifest.write(new)?;
        progress(format_args!("saved after {:.1?}", begun.elapsed()));
        Ok(manifest)
    }

    /// Writes the initramfs. Returns what went in.
    fn pack(&self, kernel: &Kernel, to: &Path) -> Result<Tree, Failure> {
        let mut tree = Tree::new();
        for name in ["/init", "/usr/local/bin/check"] {
            tree.program(Path::new(name), &self.init, TOOL)?;
        }
        for (at, source) in &self.tools.programs {
            tree.program(at, source, TOOL)?;
        }
        // The demos are no sources: those that change are delivered.
        let sources = tree.sources.len();
        for (at, source) in &self.demos {
            tree.program(at, source, TOOL)?;
        }
        tree.sources.truncate(sources);
        tree.libraries()?;
        for (at, path) in &self.tools.files {
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
        for files in self.own().0 {
            tree.add(files)?;
        }
        File::create(to)
            .and_then(|file| tree.write(BufWriter::new(file)))
            .map_err(|error| Failure::because(to.display(), error))?;
        Ok(tree)
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
