//! Files with holes: parts of zeros that take no room.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

/// Makes a hole where the whole pages of `part` are in the file, at the last
/// place where they are.
pub fn cut_out(file: &File, part: &[u8]) -> io::Result<()> {
    let length = part.len() / PAGE * PAGE;
    let last = file.metadata()?.len() as usize - length;
    let mut page = [0; PAGE];
    for at in (0..last + 1).step_by(PAGE).rev() {
        let mut same = 0;
        for expected in part.chunks_exact(PAGE) {
            file.read_exact_at(&mut page, (at + same) as u64)?;
            if page != expected {
                break;
            }
            same += PAGE;
        }
        if same == length {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE
                | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            return Ok(fallocate(file, hole, at as i64, length as i64)?);
        }
    }
    Ok(())
}

/// How much is read at once, and in what parts it is looked at.
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;

/// Copies a file. Its holes stay holes, and pages of zeros become holes.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let data = match lseek(from, at, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(()), // No more.
            data => data?,
        };
        at = lseek(from, data, Whence::SeekHole)?;
        for start in (data..at).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min((at - start) as usize)];
            from.read_exact_at(piece, start as u64)?;
            write_pages(piece, to, start as u64)?;
        }
    }
}

/// Writes what is not zero, each run of pages at once.
fn write_pages(piece: &[u8], to: &File, start: u64) -> io::Result<()> {
    let zero = |page: &&[u8]| **page == [0; PAGE][..page.len()];
    let pages: Vec<&[u8]> = piece.chunks(PAGE).collect();
    let mut at = 0;
    for run in pages.chunk_by(|one, next| zero(one) == zero(next)) {
        let length = run.iter().map(|page| page.len()).sum::<usize>();
        if !zero(&run[0]) {
            to.write_all_at(&piece[at..at + length], start + at as u64)?;
        }
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn copy_has_the_holes_of_its_source() {
        let mut from = tempfile::tempfile().expect("a file");
        let mut to = tempfile::tempfile().expect("a file");
        // Zeros that take room, and a last byte of the page that is none.
        let mut part = vec![7; 64 * 1024];
        part.resize(2 << 20, 0);
        part[(1 << 20) - 1] = 7;
        from.seek(SeekFrom::Start(1 << 20)).expect("seek");
        from.write_all(&part).expect("write");
        from.set_len(4 << 20).expect("a size");
        copy_sparse(&from, &to).expect("a copy");

        let mut bytes = Vec::new();
        to.rewind().expect("seek");
        to.read_to_end(&mut bytes).expect("read");
        let (before, rest) = bytes.split_at(1 << 20);
        let (data, after) = rest.split_at(part.len());
        assert_eq!((data, bytes.len()), (&*part, 4 << 20));
        assert!(before.iter().chain(after).all(|byte| *byte == 0));
        let [source, copy] = [from, to]
            .map(|file| file.metadata().expect("a file").blocks() * 512);
        assert!(source >= 2 << 20, "{source}");
        assert!((68 * 1024..100 * 1024).contains(&copy), "{copy}");
    }

    #[test]
    fn only_the_whole_part_is_cut_out() {
        let file = tempfile::tempfile().expect("a file");
        let byte = |n: usize| (n / 1000 % 251) as u8;
        let bytes: Vec<u8> = (0..PIECE + PAGE + 100).map(byte).collect();
        // The second begins as the part does, but is another one.
        let mut other = bytes.clone();
        other[PIECE + 10] ^= 1;
        file.set_len(10 * PIECE as u64).expect("a size");
        file.write_all_at(&bytes, PAGE as u64).expect("write");
        file.write_all_at(&other, 5 * PIECE as u64).expect("write");
        cut_out(&file, &bytes).expect("cut out");

        let mut rest = vec![0; bytes.len()];
        file.read_exact_at(&mut rest, PAGE as u64).expect("read");
        let cut = PIECE + PAGE;
        assert!(rest[..cut].iter().all(|byte| *byte == 0));
        assert_eq!(rest[cut..], bytes[cut..]);
        file.read_exact_at(&mut rest, 5 * PIECE as u64).expect("read");
        assert_eq!(rest, other);
    }
}
