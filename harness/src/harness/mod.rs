//! Machines, and everything that they are made of: found, packed, booted once,
//! saved, and started from the saved state.

mod make;

use std::ffi::{CString, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::getuid;

use crate::accelerator::{Accelerator, Accelerators};
use crate::arch::Arch;
use crate::cache::{self, Manifest, Saved};
use crate::contents;
use crate::env::{PATIENCE, all_known, variable};
use crate::failure::Failure;
use crate::files::{self, Files};
use crate::initramfs::{Below, Tree};
use crate::kernel::Kernel;
use crate::overlay;
use crate::packages;
use crate::programs;
use crate::qemu::qemu;
use crate::room::MACHINES;
use crate::stamp::{self, Stamp, stamped};
use crate::vm::{RestoreError, SHORT, Vm};

/// What is delivered to a machine after each start, and is not saved with it,
/// costs time at each start. So there are limits, in bytes: for what
/// `$HARNESS_FILES` names (8 MB take as long as three quarters of `true`), ...
const FILES: u64 = 8 << 20;

/// ... for a program that the command line names, which changes more often, ...
const PROGRAMS: u64 = 32 << 20;

/// ... and for demos that have changed since the machine was saved. Beyond it,
/// the machine is made anew, ...
const DEMOS: u64 = 2 << 20;

/// ... and also when they have changed so long ago that nobody works on them any
/// more.
const WORK: Duration = Duration::from_secs(60 * 60);

/// Starts machines. Holds everything that they are made of.
#[derive(Debug)]
pub struct Harness {
    cache: PathBuf,
    /// The cache of the checkout's owner, if that is another user.
    owners: Option<PathBuf>,
    packages: PathBuf,
    kernel: PathBuf,
    accelerators: Accelerators,
    init: PathBuf,
    tools: Files,
    /// What Cargo has built: for each demo its path there, and its path here.
    demos: Vec<(PathBuf, PathBuf)>,
    /// What `$HARNESS_FILES` names.
    wanted: Files,
    /// What the command line names.
    named: Files,
    /// How many bytes can be delivered: few if the guest's memory cannot be
    /// written.
    room: AtomicU64,
    /// This file exists if it cannot.
    no_window: PathBuf,
}

impl Harness {
    /// Builds the demos, and finds the kernel, QEMU and the tools. `init` is the
    /// `harness` program, which is also the guest's PID 1. Files that `argv`
    /// names go in, too.
    ///
    /// # Errors
    /// What is missing on this machine or wrong in a variable, or what could
    /// not be built.
    pub fn new(init: &Path, argv: &[OsString]) -> Result<Harness, Failure> {
        all_known()?;
        if let Err(failure) = &*PATIENCE {
            return Err(Failure::new(failure.first_line()));
        }
        Arch::here()?;
        let built = programs::build(init)?;
        let (cache, owners) = match variable("HARNESS_CACHE") {
            Some(cache) => (cache.into(), None),
            None => programs::caches(init)?,
        };
        let cache = fs::create_dir_all(&cache)
            .and_then(|()| cache.canonicalize())
            .map_err(|error| Failure::new(MACHINES.error(&cache, &error)))?;
        cache::tidy_up(&cache);

        let packages = packages::store(&cache);
        let theirs = owners.as_ref().map(|owners| packages::store(owners));
        let theirs = theirs.as_deref();
        let demos: Vec<_> = built
            .into_iter()
            .map(|demo| {
                let name = demo.file_name().unwrap_or_default();
                (Path::new("/usr/local/bin").join(name), demo)
            })
            .collect();
        let tools = tools(&packages, theirs)?;
        let wanted = variable("HARNESS_FILES").unwrap_or_default();
        let wanted = files::readers_files(&wanted)?;
        let known = [&demos[..], &tools.programs].concat();
        let programs = files::readers_own(argv, &known)?;
        let named = Files { programs, files: Vec::new() };
        let kernel = Kernel::find(&packages, theirs)?;
        let qemu = format!("{:?}", Stamp::of(&qemu()?)?);
        let accelerators = Accelerators::new(&cache, &qemu)?;
        let no_window =
            cache::note(&cache, "no-window", (&qemu, getuid().as_raw()));
        let room = room(!no_window.exists()).into();
        Ok(Harness {
            cache,
            owners,
            packages,
            kernel,
            accelerators,
            init: init.to_path_buf(),
            tools,
            demos,
            wanted,
            named,
            room,
            no_window,
        })
    }

    /// The kernel's release and the accelerator, in words.
    pub fn describe(&self) -> String {
        let accelerator = self.accelerators.now().0.name();
        match self.read_kernel() {
            Ok(it) => format!("Linux {} under {accelerator}", it.release),
            Err(failure) => failure.to_string(),
        }
    }

    /// The program that starts QEMU.
    ///
    /// # Errors
    /// If there is none.
    pub fn qemu(&self) -> Result<PathBuf, Failure> {
        qemu()
    }

    /// The folder in which packages are unpacked.
    pub fn packages(&self) -> &Path {
        &self.packages
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
        !(self.wanted.is_empty() && self.named.is_empty())
    }

    /// The reader's own files, in layers: those that are saved with the machine,
    /// and those that are delivered.
    fn own(&self) -> (Vec<&Files>, Vec<&Files>) {
        let room = self.room.load(Ordering::Relaxed);
        let layers = [(&self.wanted, FILES), (&self.named, PROGRAMS)];
        let saved = layers
            .iter()
            .rposition(|(layer, limit)| layer.length() >= room.min(*limit));
        let layers = layers.map(|(layer, _)| layer);
        let (saved, delivered) = layers.split_at(saved.map_or(0, |it| it + 1));
        (saved.to_vec(), delivered.to_vec())
    }

    /// Starts a machine from the saved state, and delivers what is not in it. If
    /// there is no such state yet, a machine is booted and saved first.
    ///
    /// # Errors
    /// If it does not come up, or cannot take what is delivered.
    pub fn start(&self) -> Result<Vm, Failure> {
        self.accelerators.with(|accelerator| self.restored(accelerator))
    }

    fn restored(&self, accelerator: Accelerator) -> Result<Vm, Failure> {
        let mut is_new = false;
        loop {
            let saved = self.state(accelerator)?;
            let Some(demos) = self.changed_demos(&saved.manifest) else {
                continue; // They have changed since.
            };
            let archive = self.archive(&saved.manifest.below, &demos)?;
            if archive.len() as u64 > self.room.load(Ordering::Relaxed) {
                // Libraries make it too long for the serial port.
                self.room.store(0, Ordering::Relaxed);
                continue;
            }
            let restored = Vm::restore(&saved, accelerator);
            if !saved.is_there() {
                // It was replaced meanwhile, and the archive is for the old one.
                continue;
            }
            let failure = match restored {
                Ok(mut vm) => {
                    self.note_window(&vm);
                    if archive.len() as u64 > SHORT && !vm.has_window() {
                        continue;
                    }
                    if !archive.is_empty() {
                        vm.unpack(&archive)?;
                    }
                    return Ok(vm);
                }
                // A failure of QEMU itself says nothing about the state.
                Err(RestoreError::Qemu(failure)) => return Err(failure),
                Err(RestoreError::State(failure)) if is_new => {
                    return Err(failure);
                }
                Err(RestoreError::State(failure)) => failure,
            };
            // Every file is as it was written, but the machine does not run.
            // The old state is kept until a new one has been saved.
            eprintln!(
                "harness: the saved machine does not go on, and is made anew: \
                 {failure}"
            );
            is_new = true;
            let _lock = cache::lock(&self.cache)?;
            // Another process may have made a new one meanwhile.
            if saved.is_there() {
                self.make(self.inputs(accelerator)?)?;
            }
        }
    }

    /// Remembers whether the guest's memory can be written.
    fn note_window(&self, vm: &Vm) {
        match (vm.has_window(), self.no_window.exists()) {
            (true, true) => drop(fs::remove_file(&self.no_window)),
            (false, false) => cache::remember(
                &self.no_window,
                "QEMU's memory cannot be written: files are saved with the \
                 machine",
            ),
            _ => {}
        }
        self.room.store(room(vm.has_window()), Ordering::Relaxed);
    }

    /// The demos that are not in the saved machine as they are here. `None` if
    /// it is to be made anew.
    fn changed_demos(
        &self,
        saved: &Manifest,
    ) -> Option<Vec<&(PathBuf, PathBuf)>> {
        let is_here = |there: &CString| {
            let path = stamp::path(there);
            self.demos.iter().any(|(_, here)| *here == path)
        };
        if !saved.demos.iter().all(|(path, _)| is_here(path)) {
            return None;
        }
        let mut changed = Vec::new();
        let mut length = 0;
        for demo in &self.demos {
            if saved.demos.contains(&stamped(&demo.1).ok()?) {
                continue;
            }
            let found = fs::metadata(&demo.1).ok()?;
            length += found.len();
            let age = found.modified().ok()?.elapsed().unwrap_or_default();
            if age > WORK {
                return None;
            }
            changed.push(demo);
        }
        let room = self.room.load(Ordering::Relaxed);
        (length <= room.min(DEMOS)).then_some(changed)
    }

    /// What is not in the saved machine: an archive, empty if there is nothing.
    fn archive(
        &self,
        below: &Below,
        demos: &[&(PathBuf, PathBuf)],
    ) -> Result<Vec<u8>, Failure> {
        let (saved, delivered) = self.own();
        let mut tree = Tree::over(below.clone());
        for (at, source) in demos {
            // Not over a file of the reader's own.
            let mut own = saved.iter().flat_map(|files| files.all());
            if !own.any(|(there, _)| there == at) {
                tree.replace(at, source)?;
            }
        }
        tree.libraries()?;
        for files in delivered {
            tree.add(files)?;
        }
        let mut archive = Vec::new();
        if !tree.is_empty() {
            tree.write(&mut archive)
                .map_err(|error| Failure::because("packing", error))?;
        }
        Ok(archive)
    }

    /// The saved machine. It is made if there is none.
    fn state(&self, accelerator: Accelerator) -> Result<Saved, Failure> {
        let inputs = self.inputs(accelerator)?;
        let name = inputs.name();
        let find = |cache: &Path| {
            let saved = Saved::intact(cache.join(&name), &inputs)?;
            self.changed_demos(&saved.manifest).is_some().then_some(saved)
        };
        if let Some(saved) = find(&self.cache) {
            saved.used();
            return Ok(saved);
        }
        let _lock = cache::lock(&self.cache)?;
        // Another process may have made it while we waited.
        if let Some(saved) = find(&self.cache) {
            return Ok(saved);
        }
        let theirs = self.owners.as_deref().and_then(find);
        let adopted = theirs.map(|it| cache::adopt(&self.cache, it));
        match adopted.transpose().map_err(|why| self.refused(why))? {
            Some(Some(saved)) => Ok(saved),
            _ => self.make(inputs),
        }
    }

    /// This failure, unless the reason is that nothing can be written here.
    fn refused(&self, why: Failure) -> Failure {
        MACHINES.refusal(&self.cache).map_or(why, Failure::new)
    }
}

/// This machine's tools, and the files that they need. What it lacks, QEMU too,
/// is unpacked where apt is here and knows it.
fn tools(packages: &Path, theirs: Option<&Path>) -> Result<Files, Failure> {
    let qemu = match variable("HARNESS_QEMU") {
        Some(_) => "",
        None => Arch::here()?.qemu,
    };
    let mut tools = contents::tools(qemu);
    if !tools.missing.is_empty() {
        let failed = |missing: &[&str], why: &str| {
            let missing = missing.join(", ");
            Failure::new(format!(
                "missing on this machine: {missing}: run harness/setup{why}"
            ))
        };
        overlay::unpack(packages, theirs, &tools).map_err(|why| {
            let why = format!("; they could not be unpacked instead: {why}");
            failed(&tools.missing, &why)
        })?;
        tools = contents::tools("");
        if !tools.missing.is_empty() {
            return Err(failed(&tools.missing, ""));
        }
    }
    // A symbolic link's target is packed in its place.
    let files = contents::optional_files().into_iter();
    let files =
        files.filter_map(|it| Some((it.clone(), it.canonicalize().ok()?)));
    Ok(Files { programs: tools.found, files: files.collect() })
}

/// How many bytes can be delivered.
fn room(has_window: bool) -> u64 {
    if has_window { u64::MAX } else { SHORT }
}
