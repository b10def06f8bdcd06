//! The guest's kernel: one that is installed here, or else the distribution's
//! package, fetched and unpacked without root, and not installed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arch::Arch;
use crate::progress::progress;
use crate::saved::lock;
use crate::{Failure, variable};

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
    /// else that of the distribution's package, unpacked below `cache`.
    pub fn find(cache: &Path) -> Result<PathBuf, Failure> {
        if let Some(image) = variable("HARNESS_KERNEL") {
            return Ok(image.into());
        }
        let mut here = installed(Path::new("/"));
        here.retain(|image| File::open(image).is_ok());
        here.pop().map_or_else(|| fetch(cache), Ok)
    }

    /// Reads this file, which must be a kernel for `arch`. That takes a while
    /// if it has to be decompressed.
    pub fn at(image: PathBuf, arch: &str) -> Result<Kernel, Failure> {
        let release = fs::read(&image)
            .map_err(|error| error.to_string())
            .and_then(|bytes| release(&bytes, arch))
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

    /// The kernel itself, which the image may hold compressed: a guest that
    /// does not have to unpack it starts seconds sooner. `None` if that is not
    /// possible: then the guest unpacks it.
    pub fn unpacked(&self) -> io::Result<Option<Vec<u8>>> {
        let image = fs::read(&self.image)?;
        if !is_bzimage(&image) {
            return Ok(arm64(&image).map(Cow::into_owned));
        }
        // Documentation/arch/x86/boot.rst: setup_sects, payload_offset and
        // payload_length, the latter two since protocol 2.08.
        let sectors = usize::from(image[0x1f1]).max(4);
        let payload = le32(&image, 0x248)
            .map(|offset| (sectors + 1) * 512 + offset)
            .and_then(|start| part(&image, start, le32(&image, 0x24c)?));
        let Some(Ok(kernel)) = payload.map(decompress) else { return Ok(None) };
        // QEMU can only enter an ELF kernel that has this note: Xen's
        // PHYS32_ENTRY, "PVH".
        let pvh = memchr::memmem::find(&kernel, b"\x12\0\0\0Xen\0");
        Ok(pvh.map(|_| kernel))
    }

    /// These modules and those that they need, by their names, unpacked.
    /// Each comes after what it needs. A module that this kernel lacks is
    /// left out: it may be built in.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>, Failure> {
        let mut files = BTreeMap::new();
        if let Some(dir) = &self.modules {
            list_modules(&dir.join("kernel"), &mut files);
        }
        let mut found = Vec::new();
        for name in names {
            add_module(name, &files, &mut found)?;
        }
        Ok(found)
    }
}

/// A kernel module.
#[derive(Debug, PartialEq)]
pub struct Module {
    /// As lsmod(8) has it: with `_` where the file may have `-`.
    pub name: String,
    /// The file on this machine, perhaps compressed.
    pub path: PathBuf,
    /// What the kernel loads: an ELF file.
    pub bytes: Vec<u8>,
    /// The names of the modules that it needs directly.
    pub needs: Vec<String>,
}

/// All modules below `dir`, by name.
fn list_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_modules(&path, files);
        } else if let Some((name, _)) =
            entry.file_name().to_string_lossy().split_once(".ko")
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
}

fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    found: &mut Vec<Module>,
) -> Result<(), Failure> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if found.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let bytes = fs::read(path).and_then(|bytes| match bytes.get(..4) {
        Some(b"\x7fELF") => Ok(bytes),
        _ => decompress(&bytes),
    });
    let bytes = bytes.map_err(|error| {
        Failure::new(format!("module {}: {error}", path.display()))
    })?;
    let needs = needs(&bytes);
    for name in &needs {
        add_module(name, files, found)?;
    }
    let (name, path) = (name.to_string(), path.clone());
    found.push(Module { name, path, bytes, needs });
    Ok(())
}

/// The modules that a module needs: `depends=` in its section `.modinfo`,
/// a list of zero-terminated strings (include/linux/module.h).
fn needs(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = memchr::memmem::find(module, key) else { return vec![] };
    let list = &module[at + key.len()..];
    let end = list.iter().position(|byte| *byte == 0).unwrap_or(0);
    let list = String::from_utf8_lossy(&list[..end]);
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
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

/// The release that the image names, if it is a kernel for `arch`.
fn release(image: &[u8], arch: &str) -> Result<String, String> {
    let kernel = arm64(image);
    let (its_arch, text) = match &kernel {
        _ if is_bzimage(image) => {
            let at = le32(image, 0x20e).unwrap_or(0) & 0xffff;
            ("x86_64", image.get(at + 0x200..))
        }
        Some(kernel) => {
            // The banner. In similar strings, `%s` follows.
            let key = b"Linux version ";
            let found = memchr::memmem::find_iter(kernel, key);
            let mut texts = found.map(|at| &kernel[at + key.len()..]);
            let is_banner =
                |text: &&[u8]| text.first().is_some_and(u8::is_ascii_digit);
            ("aarch64", texts.find(is_banner))
        }
        None => return Err(format!("not a Linux kernel for {arch}")),
    };
    if its_arch != arch {
        return Err(format!(
            "a Linux kernel for {its_arch}, and not for {arch}"
        ));
    }
    let text = text.unwrap_or_default();
    let end = text.iter().position(|byte| b" \0".contains(byte)).unwrap_or(0);
    String::from_utf8(text[..end].to_vec())
        .ok()
        .filter(|release| !release.is_empty())
        .ok_or("a kernel without a version".into())
}

fn is_bzimage(image: &[u8]) -> bool {
    image.get(0x202..0x206) == Some(b"HdrS")
}

/// The arm64 kernel in this image, which is one of three: an Image
/// (Documentation/arch/arm64/booting.rst); a compressed Image; or an EFI
/// program that holds a compressed Image
/// (drivers/firmware/efi/libstub/zboot-header.S).
fn arm64(image: &[u8]) -> Option<Cow<'_, [u8]>> {
    let kernel = match image {
        [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => {
            part(image, le32(image, 8)?, le32(image, 12)?)?
        }
        _ => image,
    };
    let is_image = |kernel: &[u8]| kernel.get(0x38..0x3c) == Some(b"ARM\x64");
    if is_image(kernel) {
        return Some(kernel.into());
    }
    decompress(kernel).ok().filter(|it| is_image(it)).map(Cow::Owned)
}

/// Fetches the kernel's packages and unpacks them below `cache`.
fn fetch(cache: &Path) -> Result<PathBuf, Failure> {
    let dir = cache.join("package");
    if let Some(image) = installed(&dir).pop() {
        return Ok(image);
    }
    let _lock = lock(cache)?;
    // Another process may have fetched it while we waited.
    if let Some(image) = installed(&dir).pop() {
        return Ok(image);
    }
    let missing = "no readable kernel in /boot or /usr/lib/modules";
    let meta = Arch::here()?.kernel_packages;
    let found = meta.into_iter().find_map(packages).ok_or_else(|| {
        Failure::new(format!(
            "{missing}, and apt has none: run harness/setup, \
             or set HARNESS_KERNEL=/path/to/vmlinuz"
        ))
    })?;
    let names = found.join(", ");
    progress(format_args!("fetching {names}"));
    let fail = |why: String| {
        Failure::new(format!("{missing}, and fetching {names} failed: {why}"))
    };

    // In a temporary folder, which is renamed when it is complete.
    let new = cache.join("package.new");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).map_err(|error| fail(error.to_string()))?;
    let unpacked = (|| {
        // If root calls it, apt fetches as the user `_apt`. That user cannot
        // write here, so apt prints a warning and fetches as root.
        let mut apt = command("apt-get");
        output(apt.args(["-q", "download"]).args(&found).current_dir(&new))?;
        let debs = fs::read_dir(&new).into_iter().flatten().flatten();
        for deb in debs.map(|entry| entry.path()) {
            if deb.extension().is_some_and(|end| end == "deb") {
                output(command("dpkg").arg("-x").arg(&deb).arg(&new))?;
                fs::remove_file(deb).map_err(|error| error.to_string())?;
            }
        }
        if installed(&new).is_empty() {
            return Err("the packages hold no kernel".into());
        }
        // An older folder holds no kernel: otherwise it would have been used.
        let _ = fs::remove_dir_all(&dir);
        fs::rename(&new, &dir).map_err(|error| error.to_string())
    })();
    let _ = fs::remove_dir_all(&new);
    unpacked.map_err(fail)?;
    let missing = || fail(format!("no kernel is left in {}", dir.display()));
    installed(&dir).pop().ok_or_else(missing)
}

/// The packages with the kernel and the modules on which a meta package
/// depends today.
fn packages(meta: &str) -> Option<Vec<String>> {
    let mut apt = command("apt-cache");
    let apt = apt.args(["depends", "--recurse", "--important", meta]);
    kernel_packages(&output(apt).ok()?)
}

/// The same, from apt's output.
fn kernel_packages(names: &str) -> Option<Vec<String>> {
    // Dependencies are indented below each package's own line.
    let names: Vec<&str> =
        names.lines().filter(|name| !name.starts_with(' ')).collect();
    let release = names.iter().find_map(|name| {
        let release = name.strip_prefix("linux-image-")?;
        release.starts_with(|c: char| c.is_ascii_digit()).then_some(release)
    })?;
    // Ubuntu has the modules in a package of their own. Debian's kernels from
    // 7.0 on have three: for the modules, the image and the build options.
    let wanted = ["image", "binary", "modules", "base"]
        .map(|part| format!("linux-{part}-{release}"));
    let found = names.iter().filter(|name| wanted.iter().any(|it| it == *name));
    Some(found.map(|name| name.to_string()).collect())
}

/// A program whose output is parsed, and so must be in English.
fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C");
    command
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = OsString::from(command.get_program());
    let name = name.display();
    let output =
        command.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let last = why.trim().lines().last().unwrap_or("no reason given");
        return Err(format!("{name}: {last}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Decompresses these bytes. The magic number at their start says how.
fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let source = Cursor::new(bytes);
    match bytes {
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(source).read_to_end(&mut out)?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            // Only one stream is read. The kernel's size follows it, which is
            // not another stream.
            lzma_rust2::XzReader::new(source, false).read_to_end(&mut out)?;
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ruzstd::decoding::StreamingDecoder::new(source)
                .map_err(io::Error::other)?
                .read_to_end(&mut out)?;
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            lz4_legacy(bytes, &mut out)?;
        }
        _ => return Err(io::Error::other("an unknown compression")),
    }
    Ok(out)
}

/// The format of `lz4 -l`: blocks of up to 8 MiB, each after its length. In a
/// kernel four more bytes follow the last block: the kernel's size.
fn lz4_legacy(bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = &bytes[4..];
    while rest.len() > 4 {
        let length = le32(rest, 0).unwrap_or(0);
        let Some(block) = part(rest, 4, length) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.extend(
            lz4_flex::block::decompress(block, 8 << 20)
                .map_err(io::Error::other)?,
        );
        rest = &rest[4 + length..];
    }
    Ok(())
}

fn le32(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(four.try_into().ok()?) as usize)
}

fn part(bytes: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    bytes.get(start..)?.get(..length)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rstest::rstest;

    use super::*;

    /// Made with `printf 'kernel kernel kernel kernel\n'` and each of `gzip`,
    /// `xz --check=crc32`, `zstd`, `lz4 -l`.
    #[rstest]
    #[case::gzip(
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\x4e\x2d\xca\x4b\xcd\
          \x51\xc8\xc6\x42\x71\x01\x00\x4f\x32\x23\x18\x1c\x00\x00\x00"
    )]
    #[case::xz(
        b"\xfd\x37\x7a\x58\x5a\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\
          \x1c\x00\x00\x00\x10\xcf\x58\xcc\xe0\x00\x1b\x00\x0f\x5d\x00\x35\
          \x99\x4a\xab\xa2\xe2\xaf\x22\x83\xd1\xc9\xef\x48\x00\x00\x00\x00\
          \x4f\x32\x23\x18\x00\x01\x27\x1c\x01\x5b\x42\xee\x90\x42\x99\x0d\
          \x01\x00\x00\x00\x00\x01\x59\x5a"
    )]
    #[case::zstd(
        b"\x28\xb5\x2f\xfd\x04\x68\x75\x00\x00\x40\x6b\x65\x72\x6e\x65\x6c\
          \x20\x0a\x01\x00\xa2\x8b\x11\xde\x7c\x70\x5c"
    )]
    #[case::lz4(
        b"\x02\x21\x4c\x18\x10\x00\x00\x00\x7c\x6b\x65\x72\x6e\x65\x6c\x20\
          \x07\x00\x50\x72\x6e\x65\x6c\x0a"
    )]
    fn each_compression_of_kernels_is_undone(#[case] bytes: &[u8]) {
        let text = b"kernel kernel kernel kernel\n";
        assert_eq!(decompress(bytes).expect("decompressed"), text);
        // A kernel's size follows.
        let sized = [bytes, &28_u32.to_le_bytes()].concat();
        assert_eq!(decompress(&sized).expect("decompressed"), text);
        // Half of the bytes are an error.
        let half = decompress(&bytes[..bytes.len() / 2]);
        assert!(half.is_err(), "{half:?}");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
        io::Write::write_all(&mut gzip, bytes).expect("memory");
        gzip.finish().expect("memory")
    }

    /// The part of a bzImage that is read.
    fn bzimage(version: &str) -> Vec<u8> {
        let mut image = vec![0; 0x202];
        image.extend(b"HdrS\0\0\0\0\0\0\0\0");
        image.extend(0x1234_u16.to_le_bytes());
        image.resize(0x1234 + 0x200, b'.');
        image.extend(version.as_bytes());
        image
    }

    /// The part of an arm64 kernel that is read.
    fn arm64_image(version: &str) -> Vec<u8> {
        let mut image = b"MZ".to_vec();
        image.resize(0x38, 0);
        image.extend(b"ARM\x64.Linux version %s.");
        image.extend(format!("Linux version {version} (me@here)").bytes());
        image
    }

    /// An EFI program that holds this payload.
    fn zboot(payload: &[u8]) -> Vec<u8> {
        let mut image = b"MZ\0\0zimg".to_vec();
        image.extend(0x1000_u32.to_le_bytes());
        image.extend((payload.len() as u32).to_le_bytes());
        image.resize(0x1000, b'.');
        image.extend(payload);
        image.extend(b"what follows");
        image
    }

    fn file(path: PathBuf, bytes: &[u8]) -> PathBuf {
        let dir = path.parent().expect("a folder");
        fs::create_dir_all(dir).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// The part of a module that is read: the modules that it needs.
    fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=it\0");
        [&b"\x7fELF .modinfo\0"[..], info.as_bytes()].concat()
    }

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

    #[test]
    fn modules_come_after_those_that_they_need() {
        let root = tempfile::tempdir().expect("a folder");
        let kernel = Kernel {
            image: "vmlinuz".into(),
            release: "6.1".into(),
            modules: Some(root.path().into()),
            config: None,
        };
        let net = root.path().join("kernel/net");
        file(net.join("bridge/bridge.ko"), &module("stp,x-llc"));
        file(net.join("stp.ko"), &module("x-llc"));
        file(net.join("x-llc.ko"), &module(""));
        file(net.join("other.ko"), &module("bridge"));
        let found = kernel.modules(&["bridge", "stp"]).expect("read");
        let names: Vec<&str> = found.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["x_llc", "stp", "bridge"]);
        assert_eq!(found[2].needs, ["stp", "x_llc"]);
        let twice = kernel.modules(&["x_llc", "x_llc"]).expect("read");
        assert_eq!(twice.len(), 1);

        file(net.join("stp.ko"), b"rubbish");
        assert!(kernel.modules(&["bridge"]).is_err());
    }

    #[test]
    fn compressed_module_is_unpacked() {
        let root = tempfile::tempdir().expect("a folder");
        let kernel = Kernel {
            image: "vmlinuz".into(),
            release: "6.1".into(),
            modules: Some(root.path().into()),
            config: None,
        };
        // The first bytes decide, and not the end of the file's name.
        let path = root.path().join("kernel/dummy.ko.xz");
        file(path, &gzip(&module("")));
        let found = kernel.modules(&["dummy"]).expect("read");
        assert_eq!(found[0].bytes, module(""));
    }

    /// The part of an answer of `apt-cache depends --recurse --important` that
    /// is about the kernel.
    #[rstest]
    #[case::debian_13(
        "linux-image-cloud-amd64
  Depends: linux-image-6.12.9+deb13-cloud-amd64
linux-image-6.12.9+deb13-cloud-amd64
  Depends: kmod
kmod",
        "linux-image-6.12.9+deb13-cloud-amd64"
    )]
    #[case::sid(
        "linux-image-cloud-amd64
  Depends: linux-base-cloud-amd64
linux-base-cloud-amd64
linux-image-7.2.1-cloud-amd64
linux-base-7.2.1-cloud-amd64
linux-binary-7.2.1-cloud-amd64
linux-modules-7.2.1-cloud-amd64
linux-base",
        "linux-image-7.2.1-cloud-amd64 linux-base-7.2.1-cloud-amd64 \
         linux-binary-7.2.1-cloud-amd64 linux-modules-7.2.1-cloud-amd64"
    )]
    #[case::ubuntu(
        "linux-image-virtual
linux-image-6.8.0-31-generic
 |Depends: wireless-regdb
linux-modules-6.8.0-31-generic
linux-image-unsigned-6.8.0-31-generic",
        "linux-image-6.8.0-31-generic linux-modules-6.8.0-31-generic"
    )]
    #[case::none("linux-image-virtual\nlinux-base", "")]
    fn kernel_is_in_these_packages(#[case] apt: &str, #[case] wanted: &str) {
        assert_eq!(kernel_packages(apt).unwrap_or_default().join(" "), wanted);
    }

    /// The number of setup sectors (0 means 4), and where the kernel's 32-bit
    /// code begins, from which the payload's offset counts.
    #[rstest]
    #[case::four(0, 5 * 512, true)]
    #[case::many(39, 40 * 512, true)]
    #[case::without_the_note(39, 40 * 512, false)]
    fn kernel_in_the_image_is_unpacked(
        #[case] sectors: u8,
        #[case] start: usize,
        #[case] enterable: bool,
    ) {
        let note = if enterable { "\x12\0\0\0Xen\0" } else { "none" };
        let kernel = format!("kernel {note} kernel").into_bytes();
        let payload = gzip(&kernel);

        let mut bytes = bzimage("6.1\0");
        bytes[0x1f1] = sectors;
        bytes[0x248..0x24c].copy_from_slice(&0x1000_u32.to_le_bytes());
        let length = payload.len() as u32;
        bytes[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        bytes.resize(start + 0x1000, 0);
        bytes.extend(payload);
        bytes.extend(b"what follows");
        let dir = tempfile::tempdir().expect("a folder");
        let path = file(dir.path().join("vmlinuz"), &bytes);
        let found = Kernel::at(path, "x86_64").expect("a kernel");
        let unpacked = found.unpacked().expect("a file");
        assert_eq!(unpacked, enterable.then_some(kernel));
    }

    /// `arm64_image("6.1")`, compressed by `zstd`.
    const ZSTD: &[u8] =
        b"\x28\xb5\x2f\xfd\x24\x69\x7d\x01\x00\x54\x02\x4d\x5a\x00\x41\
          \x52\x4d\x64\x2e\x4c\x69\x6e\x75\x78\x20\x76\x65\x72\x73\x69\
          \x6f\x6e\x20\x25\x73\x36\x2e\x31\x20\x28\x6d\x65\x40\x68\x65\
          \x72\x65\x29\x02\x00\x69\x76\x4c\x27\x18\x02\xdf\xc1\x0e\xd3";

    #[rstest]
    #[case::as_it_is(arm64_image("6.1"))]
    #[case::compressed(gzip(&arm64_image("6.1")))]
    #[case::zboot_by_gzip(zboot(&gzip(&arm64_image("6.1"))))]
    #[case::zboot_by_zstd(zboot(ZSTD))]
    fn arm64_kernel_is_unpacked(#[case] bytes: Vec<u8>) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = file(dir.path().join("vmlinuz"), &bytes);
        let found = Kernel::at(path, "aarch64").expect("a kernel");
        assert_eq!(found.release, "6.1");
        let unpacked = found.unpacked().expect("a file");
        assert_eq!(unpacked, Some(arm64_image("6.1")));
    }

    #[rstest]
    #[case::text(b"root:x:0:0:root:/root:/bin/bash".to_vec(), "not a Linux")]
    #[case::cut_off(bzimage("6.1")[..0x300].to_vec(), "without a version")]
    #[case::nameless(bzimage("\0"), "without a version")]
    #[case::other(arm64_image("6.1"), "for aarch64, and not for x86_64")]
    fn file_without_kernel_is_refused(
        #[case] bytes: Vec<u8>,
        #[case] why: &str,
    ) {
        assert_refused(&bytes, "x86_64", why);
    }

    #[rstest]
    #[case::other(bzimage("6.1\0"), "for x86_64, and not for aarch64")]
    #[case::nameless(arm64_image(""), "without a version")]
    #[case::compressed_text(gzip(b"text"), "not a Linux kernel for aarch64")]
    #[case::cut_off(zboot(b"")[..14].to_vec(), "not a Linux")]
    #[case::half(zboot(&arm64_image("6.1"))[..0x1010].to_vec(), "not a Linux")]
    fn file_without_an_arm64_kernel_is_refused(
        #[case] bytes: Vec<u8>,
        #[case] why: &str,
    ) {
        assert_refused(&bytes, "aarch64", why);
    }

    fn assert_refused(bytes: &[u8], arch: &str, why: &str) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = file(dir.path().join("vmlinuz"), bytes);
        let error = Kernel::at(path, arch).expect_err("no kernel").to_string();
        assert!(error.contains(why), "{error}");
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
