//! The guest's kernel: the reader's own, or else the distribution's, fetched
//! and unpacked without root. Nothing of it is installed.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;

/// A kernel image and the one module that the guest wants.
#[derive(Debug)]
pub struct Kernel {
    /// As the distribution ships it: a bzImage.
    pub image: PathBuf,
    /// What `uname -r` will say.
    pub release: String,
    /// `dummy.ko`, perhaps compressed; `None` where it is built in.
    pub dummy: Option<PathBuf>,
}

impl Kernel {
    /// `$HARNESS_KERNEL`; else the newest that is readable here; else the
    /// distribution's package, unpacked below `cache`.
    pub fn find(cache: &Path) -> Result<Kernel, Failure> {
        if let Some(image) = env::var_os("HARNESS_KERNEL") {
            return Kernel::at(image.into());
        }
        let mut here = installed(Path::new("/"));
        here.retain(|image| File::open(image).is_ok());
        match here.pop() {
            Some(image) => Kernel::at(image),
            None => Kernel::at(fetch(cache)?),
        }
    }

    fn at(image: PathBuf) -> Result<Kernel, Failure> {
        let release = release(&image).map_err(|why| {
            Failure::new(format!("kernel {}: {why}", image.display()))
        })?;
        // .../boot/vmlinuz-6.1, .../lib/modules/6.1/vmlinuz: in both, the
        // modules are in lib/modules of some directory above.
        let dummy = image.ancestors().skip(1).find_map(|above| {
            let net = format!("lib/modules/{release}/kernel/drivers/net");
            ["", ".xz", ".zst", ".gz"]
                .map(|end| above.join(&net).join(format!("dummy.ko{end}")))
                .into_iter()
                .find(|module| module.exists())
        });
        Ok(Kernel { image, release, dummy })
    }

    /// The kernel proper, which a bzImage holds compressed: a guest that
    /// need not unpack it starts seconds sooner. `None` where that cannot be
    /// done: then the guest unpacks it.
    pub fn unpacked(&self) -> io::Result<Option<Vec<u8>>> {
        let image = fs::read(&self.image)?;
        // Documentation/arch/x86/boot.rst: setup_sects, payload_offset and
        // payload_length, the latter two since protocol 2.08.
        let sectors = usize::from(image[0x1f1]).max(4);
        let field = |at| le32(&image, at).unwrap_or(0) as usize;
        let start = (sectors + 1) * 512 + field(0x248);
        let Some(payload) = image.get(start..start + field(0x24c)) else {
            return Ok(None);
        };
        let Ok(kernel) = decompress(payload) else { return Ok(None) };
        // QEMU enters an ELF kernel through this note (Xen's
        // PHYS32_ENTRY, "PVH"), or not at all.
        let pvh = memchr::memmem::find(&kernel, b"\x12\0\0\0Xen\0");
        Ok(pvh.map(|_| kernel))
    }

    /// The module's bytes.
    pub fn module(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(path) = &self.dummy else { return Ok(None) };
        let module = fs::read(path).and_then(|bytes| match bytes.get(..4) {
            Some(b"\x7fELF") => Ok(bytes),
            _ => decompress(&bytes),
        });
        module.map(Some).map_err(|error| {
            Failure::new(format!("module {}: {error}", path.display()))
        })
    }
}

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
    let modules = list("usr/lib/modules").into_iter();
    kernels.extend(modules.map(|dir| dir.join("vmlinuz")));
    kernels.retain(|path| path.is_file());
    kernels.sort_by_key(|path| {
        fs::metadata(path).and_then(|found| found.modified()).ok()
    });
    kernels
}

/// What the image calls itself.
fn release(image: &Path) -> Result<String, String> {
    let mut head = Vec::new();
    File::open(image)
        .and_then(|file| file.take(64 * 1024).read_to_end(&mut head))
        .map_err(|error| error.to_string())?;
    if head.get(0x202..0x206) != Some(b"HdrS") {
        return Err("not a Linux kernel for x86 (a bzImage)".into());
    }
    let at = head[0x20e] as usize + ((head[0x20f] as usize) << 8) + 0x200;
    let text = head.get(at..).unwrap_or_default();
    let end = text.iter().position(|byte| b" \0".contains(byte)).unwrap_or(0);
    String::from_utf8(text[..end].to_vec())
        .ok()
        .filter(|release| !release.is_empty())
        .ok_or("a kernel without a version".into())
}

/// Fetches the kernel's package and unpacks it below `cache`.
fn fetch(cache: &Path) -> Result<PathBuf, Failure> {
    let dir = cache.join("package");
    if let Some(image) = image_in(&dir) {
        return Ok(image);
    }
    let missing = "no readable kernel in /boot or /usr/lib/modules";
    // Debian's cloud kernel is the smallest; Ubuntu's is called virtual.
    let package = ["linux-image-cloud-amd64", "linux-image-virtual"]
        .into_iter()
        .find_map(depends)
        .ok_or_else(|| {
            Failure::new(format!(
                "{missing}, and apt knows none: run harness/setup, \
                 or set HARNESS_KERNEL=/path/to/vmlinuz"
            ))
        })?;
    crate::say(format_args!("fetching the package {package}"));
    let fail = |why: String| {
        Failure::new(format!("{missing}, and fetching {package} failed: {why}"))
    };

    // All in a folder of its own, which gets its name when it is whole.
    let new = cache.join(format!("package.{}", std::process::id()));
    fs::create_dir_all(&new).map_err(|error| fail(error.to_string()))?;
    let unpacked = (|| {
        apt_get_download(&new, &package)?;
        // Ubuntu has the modules in a package of their own.
        if let Some(release) = package.strip_prefix("linux-image-") {
            let _ = apt_get_download(&new, &format!("linux-modules-{release}"));
        }
        let debs = fs::read_dir(&new).into_iter().flatten().flatten();
        for deb in debs.map(|entry| entry.path()) {
            if deb.extension().is_some_and(|end| end == "deb") {
                let (deb, new) = (deb.as_os_str(), new.as_os_str());
                output(Command::new("dpkg").arg("-x").arg(deb).arg(new))?;
                fs::remove_file(deb).map_err(|error| error.to_string())?;
            }
        }
        match fs::rename(&new, &dir) {
            // Somebody else was faster.
            Err(_) if image_in(&dir).is_some() => Ok(()),
            done => done.map_err(|error| error.to_string()),
        }
    })();
    let _ = fs::remove_dir_all(&new);
    unpacked.map_err(fail)?;
    image_in(&dir)
        .ok_or_else(|| fail("there is no /boot/vmlinuz-* in it".into()))
}

fn image_in(package: &Path) -> Option<PathBuf> {
    let boot = fs::read_dir(package.join("boot")).ok()?;
    boot.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| {
            name.as_encoded_bytes().starts_with(b"vmlinuz-")
        })
    })
}

/// The package that a meta package stands for today.
fn depends(meta: &str) -> Option<String> {
    let found =
        output(Command::new("apt-cache").args(["depends", meta])).ok()?;
    found
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(String::from)
}

/// As root, apt fetches as its own user, who cannot write here; it says so
/// and does it as root then.
fn apt_get_download(dir: &Path, package: &str) -> Result<(), String> {
    let mut apt = Command::new("apt-get");
    output(apt.args(["-q", "download", package]).current_dir(dir)).map(drop)
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

/// By the magic number in front.
fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let source = Cursor::new(bytes);
    match bytes {
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(source).read_to_end(&mut out)?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            // The kernel's size follows its payload: more than one stream
            // would be taken for rubbish, so one it is.
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

/// The format of `lz4 -l`: blocks of up to 8 MiB, each with its length in
/// front, to the end. In a kernel four bytes more follow: its size.
fn lz4_legacy(bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = &bytes[4..];
    while rest.len() > 4 {
        let length = le32(rest, 0).unwrap_or(0) as usize;
        let Some(block) = rest.get(4..4 + length) else {
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

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
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
        assert_eq!(decompress(bytes).expect("whole"), text);
        // A kernel's size follows.
        let sized = [bytes, &28_u32.to_le_bytes()].concat();
        assert_eq!(decompress(&sized).expect("whole"), text);
        // Half of it is none.
        let half = decompress(&bytes[..bytes.len() / 2]);
        assert!(half.is_err(), "{half:?}");
    }

    /// The head of a bzImage, as far as it is read.
    fn image(version: &str) -> Vec<u8> {
        let mut image = vec![0; 0x202];
        image.extend(b"HdrS\0\0\0\0\0\0\0\0");
        image.extend(0x1234_u16.to_le_bytes());
        image.resize(0x1234 + 0x200, b'.');
        image.extend(version.as_bytes());
        image
    }

    fn file(path: PathBuf, bytes: &[u8]) -> PathBuf {
        let dir = path.parent().expect("a folder");
        fs::create_dir_all(dir).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    }

    #[rstest]
    #[case::debian("boot/vmlinuz-6.1", "lib/modules/6.1", ".ko")]
    #[case::fedora("lib/modules/6.1/vmlinuz", "lib/modules/6.1", ".ko.xz")]
    #[case::ubuntu("boot/vmlinuz-6.1", "lib/modules/6.1", ".ko.zst")]
    #[case::arch(
        "usr/lib/modules/6.1/vmlinuz",
        "usr/lib/modules/6.1",
        ".ko.gz"
    )]
    fn kernels_module_is_beside_it(
        #[case] kernel: &str,
        #[case] modules: &str,
        #[case] end: &str,
    ) {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        let image = file(root.join(kernel), &image("6.1 (me@here) #1\0"));
        let found = Kernel::at(image.clone()).expect("a kernel");
        assert_eq!((&*found.release, found.dummy), ("6.1", None));

        let net = root.join(modules).join("kernel/drivers/net");
        let dummy = file(net.join(format!("dummy{end}")), b"");
        let found = Kernel::at(image).expect("a kernel");
        assert_eq!(found.dummy, Some(dummy));
    }

    /// Setup sectors (0 means 4), then what they hold, some way in.
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
        let level = flate2::Compression::default();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
        io::Write::write_all(&mut gzip, &kernel).expect("memory");
        let payload = gzip.finish().expect("memory");

        let mut bytes = image("6.1\0");
        bytes[0x1f1] = sectors;
        bytes[0x248..0x24c].copy_from_slice(&0x1000_u32.to_le_bytes());
        let length = payload.len() as u32;
        bytes[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        bytes.resize(start + 0x1000, 0);
        bytes.extend(payload);
        bytes.extend(b"what follows");
        let dir = tempfile::tempdir().expect("a folder");
        let found = Kernel::at(file(dir.path().join("vmlinuz"), &bytes));
        let unpacked = found.expect("a kernel").unpacked().expect("a file");
        assert_eq!(unpacked, enterable.then_some(kernel));
    }

    #[test]
    fn module_that_is_not_compressed_is_taken_as_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut found = Kernel {
            image: "vmlinuz".into(),
            release: "6.1".into(),
            dummy: None,
        };
        assert_eq!(found.module().expect("none"), None);
        let path = dir.path().join("dummy.ko");
        found.dummy = Some(file(path.clone(), b"\x7fELF module"));
        let module = found.module().expect("whole");
        assert_eq!(module.as_deref(), Some(&b"\x7fELF module"[..]));
        file(path, b"rubbish");
        assert!(found.module().is_err());
    }

    #[rstest]
    #[case::text(b"root:x:0:0:root:/root:/bin/bash".to_vec(), "not a Linux")]
    #[case::cut_off(image("6.1")[..0x300].to_vec(), "without a version")]
    #[case::nameless(image("\0"), "without a version")]
    fn what_is_no_kernel_is_told(#[case] bytes: Vec<u8>, #[case] why: &str) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = file(dir.path().join("vmlinuz"), &bytes);
        let told = Kernel::at(path).expect_err("no kernel").to_string();
        assert!(told.contains(why), "{told}");
    }

    #[test]
    fn newest_kernel_is_the_last_and_a_rescue_image_is_none() {
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
