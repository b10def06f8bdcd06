//! A kernel's image: the formats in which distributions ship it.

use std::borrow::Cow;
use std::io::{self, Cursor, Read};

/// The kernel in this image, which may hold it compressed: a guest that does
/// not have to unpack it starts seconds sooner. `None` if that is not possible:
/// then the guest unpacks it.
pub fn unpacked(image: &[u8]) -> Option<Vec<u8>> {
    if !is_bzimage(image) {
        return arm64(image).map(Cow::into_owned);
    }
    // Documentation/arch/x86/boot.rst: setup_sects, payload_offset and
    // payload_length, the latter two since protocol 2.08.
    let sectors = usize::from(image[0x1f1]).max(4);
    let start = (sectors + 1) * 512 + le32(image, 0x248)?;
    let payload = part(image, start, le32(image, 0x24c)?)?;
    let kernel = decompress(payload).ok()?;
    // QEMU can only enter an ELF kernel that has this note: Xen's
    // PHYS32_ENTRY, "PVH".
    let pvh = memchr::memmem::find(&kernel, b"\x12\0\0\0Xen\0");
    pvh.map(|_| kernel)
}

/// The release that the image names, if it is a kernel for `arch`.
pub fn release(image: &[u8], arch: &str) -> Result<String, String> {
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

/// Decompresses these bytes. The magic number at their start says how.
pub fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
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
pub mod tests {
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

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
        io::Write::write_all(&mut gzip, bytes).expect("memory");
        gzip.finish().expect("memory")
    }

    /// The part of a bzImage that is read.
    pub fn bzimage(version: &str) -> Vec<u8> {
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
        assert_eq!(unpacked(&bytes), enterable.then_some(kernel));
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
        assert_eq!(release(&bytes, "aarch64").as_deref(), Ok("6.1"));
        assert_eq!(unpacked(&bytes), Some(arm64_image("6.1")));
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
        let error = release(bytes, arch).expect_err("no kernel");
        assert!(error.contains(why), "{error}");
    }
}
