//! The kind of an ELF file: elf(5).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// An ELF file, as far as it matters to its loading: elf(5).
#[derive(Debug, PartialEq)]
pub enum Elf {
    /// A program that names its dynamic linker (PT_INTERP).
    Program(PathBuf),
    /// It has libraries, or could have, but names no dynamic linker: a library,
    /// or a static program that may be loaded at any address.
    Library,
    /// A static program.
    Static,
}

/// What kind of ELF file these bytes are. `None` if they are none.
pub fn elf(bytes: &[u8]) -> Option<Elf> {
    const PT_DYNAMIC: u64 = 2;
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| {
        let mut number = [0; 8];
        number[..length].copy_from_slice(bytes.get(at..)?.get(..length)?);
        usize::try_from(u64::from_le_bytes(number)).ok()
    };
    // Where the program headers are, and in each the offset and the length of
    // what it describes. All have a width of 4 or 8 bytes.
    let (width, headers, size, offset, length) = match bytes.get(..6)? {
        b"\x7fELF\x01\x01" => (4, 28, 42, 4, 16),
        b"\x7fELF\x02\x01" => (8, 32, 54, 8, 32),
        _ => return None,
    };
    let (start, step) = (number(headers, width)?, number(size, 2)?);
    let mut kind = Elf::Static;
    for header in 0..number(size + 2, 2)? {
        let at = start.checked_add(header * step)?;
        match number(at, 4)? as u64 {
            PT_INTERP => {
                let path = bytes.get(number(at + offset, width)?..)?;
                let path = path.get(..number(at + length, width)?)?;
                let path = path.strip_suffix(b"\0").unwrap_or(path);
                return Some(Elf::Program(OsStr::from_bytes(path).into()));
            }
            PT_DYNAMIC => kind = Elf::Library,
            _ => {}
        }
    }
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elf_file_names_its_dynamic_linker_or_is_static() {
        // A 32-bit file with one program header, of this type.
        let file = |kind: u8| {
            let mut file = b"\x7fELF\x01\x01".to_vec();
            file.resize(84, 0);
            file[28] = 52; // Where the headers are,
            file[42] = 32; // how long each is,
            file[44] = 1; // and how many.
            file[52] = kind;
            file[56] = 84; // Where its part of the file is,
            file[68] = 7; // and how long.
            file.extend(b"/ld.so\0rest");
            file
        };
        let linker = Some(Elf::Program("/ld.so".into()));
        let kinds = [3, 2, 1].map(|kind| elf(&file(kind)));
        assert_eq!(kinds, [linker, Some(Elf::Library), Some(Elf::Static)]);
        let others = [&file(3)[..70], b"#!/bin/sh\n", b""].map(elf);
        assert_eq!(others, [None, None, None]);
    }
}
