//! The guest's kernel: one that is installed here, or else the distribution's
//! package, fetched and unpacked without root, and not installed.

mod image;
mod modules;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use self::modules::Module;
use crate::arch::Arch;
use crate::env::variable;
use crate::failure::Failure;
use crate::packages::{Wanted, unpacked};

/// A kernel image and its modules.
#[derive(Debug)]
pub struct Kernel {
    /// As the distribution ships it.
    pub image: PathBuf,
    /// What `uname -r` will print.
    pub release: String,
    /// The folder of its modules, if there is one.
    pub modules: Option<PathBuf>,
    /// The file of its build options, if the distribution has one.
    pub config: Option<PathBuf>,
}

impl Kernel {
    /// The image of `$HARNESS_KERNEL`; else the newest that is readable here;
    /// else that of the distribution's package, unpacked below `packages`, or
    /// below the folder of another user, `theirs`.
    pub fn find(
        packages: &Path,
        theirs: Option<&Path>,
    ) -> Result<PathBuf, Failure> {
        if let Some(image) = variable("HARNESS_KERNEL") {
            let image = PathBuf::from(image);
            return Ok(std::path::absolute(&image).unwrap_or(image));
        }
        let mut here = installed(Path::new("/"));
        here.retain(|image| File::open(image).is_ok());
        let theirs = || installed(&theirs?.join(NAME)).pop();
        here.pop().or_else(theirs).map_or_else(|| fetch(packages), Ok)
    }

    /// Reads this file, which must be a kernel for `arch`. That takes a while
    /// if it has to be decompressed.
    pub fn at(image: PathBuf, arch: &str) -> Result<Kernel, Failure> {
        let release = fs::read(&image)
            .map_err(|error| error.to_string())
            .and_then(|bytes| image::release(&bytes, arch))
            .map_err(|why| {
                Failure::new(format!("kernel {}: {why}", image.display()))
            })?;
        // .../boot/vmlinuz-6.1, .../usr/lib/modules/6.1/vmlinuz: the modules
        // are below one of its parent directories, `/` or an unpacked package.
        let image = std::path::absolute(&image).unwrap_or(image);
        let modules = image.ancestors().skip(1).find_map(|above| {
            MODULES
                .map(|dir| above.join(dir).join(&release))
                .into_iter()
                .find(|dir| dir.join("kernel").is_dir())
        });
        let config = format!("config-{release}");
        let beside = [Some(image.with_file_name(config))].into_iter();
        let config = beside
            .chain([modules.as_ref().map(|dir| dir.join("config"))])
            .flatten()
            .find(|path| File::open(path).is_ok());
        Ok(Kernel { image, release, modules, config })
    }

    /// The kernel itself, if the image holds it in a form that QEMU can enter.
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn unpacked(&self) -> io::Result<Option<Vec<u8>>> {
        fs::read(&self.image).map(|image| image::unpacked(&image))
    }

    /// These modules and those that they need, by their names, unpacked.
    /// Each comes after what it needs. A module that this kernel lacks is
    /// left out: it may be built in.
    ///
    /// # Errors
    /// If the file of one cannot be read or unpacked.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>, Failure> {
        let dir = self.modules.as_ref().map(|dir| dir.join("kernel"));
        dir.map_or(Ok(vec![]), |dir| modules::find(&dir, names))
    }
}

/// The folders of modules, below `/` or in a package: packages have them below
/// `usr` since Debian 13 and Ubuntu 26.04.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// All kernels of the system below `root`, the newest last.
fn installed(root: &Path) -> Vec<PathBuf> {
    let list = |dir: &str| {
        let dir = fs::read_dir(root.join(dir));
        let entries = dir.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut kernels = list("boot");
    kernels.retain(|path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(b"vmlinuz-")
            && !name.windows(6).any(|part| part == b"rescue")
    });
    let modules = MODULES.into_iter().flat_map(list);
    kernels.extend(modules.map(|dir| dir.join("vmlinuz")));
    kernels.retain(|path| path.is_file());
    kernels.sort_by_key(|path| {
        fs::metadata(path).and_then(|found| found.modified()).ok()
    });
    kernels
}

/// The folder of the unpacked kernel.
const NAME: &str = "kernel";

/// Fetches the kernel's packages and unpacks them below `packages`.
fn fetch(packages: &Path) -> Result<PathBuf, Failure> {
    let missing = "no readable kernel in /boot or /usr/lib/modules";
    let meta = Arch::here()?.kernel_packages;
    let kernel = Wanted {
        name: NAME,
        plan: &|lists| {
            let mut why = Vec::new();
            for name in meta {
                match lists.needed(name) {
                    Ok(names) => {
                        return kernel_packages(&names)
                            .ok_or_else(|| format!("{name} has no kernel"));
                    }
                    Err(reason) => why.push(reason),
                }
            }
            Err(why.join("\n"))
        },
        has: &|dir| !installed(dir).is_empty(),
        finish: &|_| Ok(()),
    };
    unpacked(packages, &kernel)
        .and_then(|dir| {
            installed(&dir).pop().ok_or_else(|| "it is gone again".into())
        })
        .map_err(|why| {
            Failure::new(format!(
                "{missing}, and none could be fetched: run harness/setup, or \
                 set HARNESS_KERNEL=/path/to/vmlinuz: {why}"
            ))
        })
}

/// Those of these packages that hold a kernel, its modules and its options.
fn kernel_packages(names: &[String]) -> Option<Vec<String>> {
    let release = names.iter().find_map(|name| {
        let release = name.strip_prefix("linux-image-")?;
        release.starts_with(|c: char| c.is_ascii_digit()).then_some(release)
    })?;
    // Ubuntu has the modules in a package of their own. Debian's kernels from
    // 7.0 on have three: for the modules, the image and the build options.
    let wanted = ["image", "binary", "modules", "base"]
        .map(|part| format!("linux-{part}-{release}"));
    Some(names.iter().filter(|name| wanted.contains(name)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rstest::rstest;

    use super::image::tests::bzimage;
    use super::modules::tests::{file, module};
    use super::*;

    #[rstest]
    #[case::debian("boot/vmlinuz-6.1", "lib/modules/6.1")]
    #[case::debian_13("boot/vmlinuz-6.1", "usr/lib/modules/6.1")]
    #[case::fedora("lib/modules/6.1/vmlinuz", "lib/modules/6.1")]
    #[case::arch("usr/lib/modules/6.1/vmlinuz", "usr/lib/modules/6.1")]
    fn kernels_modules_are_found(#[case] kernel: &str, #[case] modules: &str) {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        let image = file(root.join(kernel), &bzimage("6.1 (me@here) #1\0"));
        let found = Kernel::at(image.clone(), "x86_64").expect("a kernel");
        assert_eq!((&*found.release, &found.modules), ("6.1", &None));
        assert_eq!(found.modules(&["dummy"]).expect("none"), []);

        let modules = root.join(modules);
        let dummy = modules.join("kernel/drivers/net/dummy.ko");
        file(dummy.clone(), &module(""));
        let found = Kernel::at(image, "x86_64").expect("a kernel");
        assert_eq!(found.modules, Some(modules));
        let [found] = &found.modules(&["dummy", "none"]).expect("read")[..]
        else {
            panic!("one module")
        };
        assert_eq!((&*found.name, &found.path), ("dummy", &dummy));
        assert_eq!(found.bytes, module(""));
    }

    #[rstest]
    #[case::debian_13(
        "linux-image-cloud-amd64 linux-image-6.12.9+deb13-cloud-amd64 kmod",
        "linux-image-6.12.9+deb13-cloud-amd64"
    )]
    #[case::sid(
        "linux-image-cloud-amd64 linux-base-cloud-amd64 \
         linux-image-7.2.1-cloud-amd64 linux-base-7.2.1-cloud-amd64 \
         linux-binary-7.2.1-cloud-amd64 linux-modules-7.2.1-cloud-amd64 \
         linux-base",
        "linux-image-7.2.1-cloud-amd64 linux-base-7.2.1-cloud-amd64 \
         linux-binary-7.2.1-cloud-amd64 linux-modules-7.2.1-cloud-amd64"
    )]
    #[case::ubuntu(
        "linux-image-virtual linux-image-6.8.0-31-generic \
         linux-modules-6.8.0-31-generic linux-image-unsigned-6.8.0-31-generic",
        "linux-image-6.8.0-31-generic linux-modules-6.8.0-31-generic"
    )]
    #[case::none("linux-image-virtual linux-base", "")]
    fn kernel_is_in_these_packages(#[case] names: &str, #[case] wanted: &str) {
        let names: Vec<_> = names.split(' ').map(String::from).collect();
        let found = kernel_packages(&names).unwrap_or_default();
        assert_eq!(found.join(" "), wanted);
    }

    #[test]
    fn newest_kernel_is_last_and_a_rescue_image_is_left_out() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        fs::create_dir_all(root.join("usr/lib/modules/none"))
            .expect("a folder");
        let kernels = [
            ("boot/vmlinuz-old", 30),
            ("usr/lib/modules/new/vmlinuz", 10),
            ("boot/vmlinuz-middle", 20),
            ("boot/vmlinuz-0-rescue-1234", 5),
            ("boot/initrd.img-old", 5),
        ]
        .map(|(path, age)| {
            let path = file(root.join(path), b"");
            let time = SystemTime::now() - Duration::from_secs(age);
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(time))
                .expect("a file");
            path
        });
        let [old, new, middle, ..] = kernels;
        assert_eq!(installed(root), [old, middle, new]);
    }
}
