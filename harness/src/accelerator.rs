//! What executes the guest's instructions: the processor (KVM), or QEMU (TCG).

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::cache::{note, remember};
use crate::env::variable;
use crate::failure::Failure;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, by its Tiny Code Generator.
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// The accelerators of this machine, and what decides between them.
#[derive(Debug)]
pub struct Accelerators {
    /// `$HARNESS_ACCEL`.
    requested: Option<Accelerator>,
    /// `/dev/kvm`.
    device: PathBuf,
    /// Whether the processor says that it can run guests.
    able: bool,
    /// The processor and this machine's kernel. A machine that was saved
    /// under KVM can be restored only if both are the same; under TCG its
    /// clock is right only then.
    pub host: String,
    /// This file exists if KVM has failed since this machine was booted, with
    /// the same processor, kernel and QEMU.
    failed: PathBuf,
}

impl Accelerators {
    /// A failure of KVM with this `qemu` is remembered in the folder `cache`.
    pub fn new(cache: &Path, qemu: &str) -> Result<Accelerators, Failure> {
        let requested = match variable("HARNESS_ACCEL") {
            None => None,
            Some(name) => match name.as_bytes() {
                b"kvm" => Some(Accelerator::Kvm),
                b"tcg" => Some(Accelerator::Tcg),
                name => {
                    let name = name.escape_ascii();
                    let what = format!("HARNESS_ACCEL is {name}: kvm or tcg?");
                    return Err(Failure::new(what));
                }
            },
        };
        let arch = Arch::here()?;
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let kernel = nix::sys::utsname::uname()
            .map_err(|error| Failure::because("uname", error))?;
        let host = format!(
            "{}\n{} {}",
            arch.processor(&cpuinfo),
            kernel.release().display(),
            kernel.version().display(),
        );
        let start = read("/proc/sys/kernel/random/boot_id");
        let failed = note(cache, "no-kvm", (&host, qemu, start));
        let able = arch.may_have_kvm(&cpuinfo);
        let device = "/dev/kvm".into();
        Ok(Accelerators { requested, device, able, host, failed })
    }

    /// The accelerator to use now; and, if it is TCG and `$HARNESS_ACCEL` does
    /// not ask for it, the reason.
    pub fn now(&self) -> (Accelerator, Option<String>) {
        if let Some(accelerator) = self.requested {
            return (accelerator, None);
        }
        match self.why_not() {
            None => (Accelerator::Kvm, None),
            why => (Accelerator::Tcg, why),
        }
    }

    fn why_not(&self) -> Option<String> {
        let open = File::options().read(true).write(true).open(&self.device);
        if let Err(error) = open {
            return Some(format!("{}: {error}", self.device.display()));
        }
        if !self.able {
            return Some("the processor has no flag svm or vmx".into());
        }
        let failed = self.failed.exists().then(|| self.failed.display());
        failed.map(|file| format!("KVM failed before: see {file}"))
    }

    /// Does the work with the current accelerator. If it fails under KVM, and
    /// `$HARNESS_ACCEL` did not ask for KVM, TCG is tried. If that succeeds,
    /// KVM was at fault, and this is remembered.
    pub fn with<T>(
        &self,
        work: impl Fn(Accelerator) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (accelerator, _) = self.now();
        let failure = match work(accelerator) {
            Err(failure)
                if accelerator == Accelerator::Kvm
                    && self.requested.is_none() =>
            {
                failure
            }
            end => return end,
        };
        let done = work(Accelerator::Tcg)?;
        // That /dev/kvm can no longer be opened need not be remembered: the
        // next start notices it anyway.
        if self.now().0 == Accelerator::Kvm {
            self.remember(&failure);
        }
        Ok(done)
    }

    fn remember(&self, failure: &Failure) {
        let file = self.failed.display();
        eprintln!(
            "harness: KVM failed, and QEMU computes the processor: {}\n    \
             until this machine is started anew, or `rm {file}`",
            failure.first_line(),
        );
        remember(&self.failed, failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which KVM should work.
    fn kvm(dir: &Path, requested: Option<Accelerator>) -> Accelerators {
        let (device, failed) = (dir.join("kvm"), dir.join("no-kvm-1"));
        fs::write(&device, "").expect("a file");
        let host = String::new();
        Accelerators { requested, device, able: true, host, failed }
    }

    #[test]
    fn reason_not_to_use_kvm_is_given() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut mine = kvm(dir.path(), None);
        assert_eq!(mine.now(), (Accelerator::Kvm, None));

        fs::write(&mine.failed, "why").expect("a file");
        let (accelerator, why) = mine.now();
        assert_eq!(accelerator, Accelerator::Tcg);
        assert!(why.expect("why").starts_with("KVM failed before: see /"));
        fs::remove_file(&mine.failed).expect("a file");

        mine.able = false;
        let why = mine.now().1.expect("why");
        assert!(why.starts_with("the processor has no flag"), "{why}");
        mine.able = true;

        fs::remove_file(&mine.device).expect("a file");
        let (accelerator, why) = mine.now();
        assert_eq!(accelerator, Accelerator::Tcg);
        assert!(why.expect("why").ends_with("(os error 2)"));

        mine.requested = Some(Accelerator::Kvm);
        assert_eq!(mine.now(), (Accelerator::Kvm, None));
    }

    #[test]
    fn failure_of_kvm_alone_is_remembered() {
        let dir = tempfile::tempdir().expect("a folder");
        let fail = |what: &str| Err::<(), _>(Failure::new(what));
        let wanted = kvm(dir.path(), Some(Accelerator::Kvm));
        let end = wanted.with(|it| fail(it.name()));
        assert_eq!(end.expect_err("no other is tried").to_string(), "kvm");

        // What fails under both is not KVM's fault.
        let mine = kvm(dir.path(), None);
        let end = mine.with(|it| fail(it.name()));
        assert_eq!(end.expect_err("a failure").to_string(), "tcg");
        assert_eq!(mine.now().0, Accelerator::Kvm);

        let without_kvm = |it| match it {
            Accelerator::Kvm => Err(Failure::new("no guest starts")),
            Accelerator::Tcg => Ok("done"),
        };
        // If /dev/kvm can no longer be opened, there is nothing to remember.
        let end = mine.with(|it| {
            let _ = fs::remove_file(&mine.device);
            without_kvm(it)
        });
        assert_eq!(end.expect("done without KVM"), "done");
        assert!(!mine.failed.exists());

        let mine = kvm(dir.path(), None);
        fs::write(dir.path().join("no-kvm-0"), "older").expect("a file");
        assert_eq!(mine.with(without_kvm).expect("done without KVM"), "done");
        assert_eq!(mine.now().0, Accelerator::Tcg);
        let why = fs::read_to_string(&mine.failed).expect("a file");
        assert_eq!(why, "no guest starts\n");
        assert!(!dir.path().join("no-kvm-0").exists());
    }
}
