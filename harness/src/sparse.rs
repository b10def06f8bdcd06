//! Files with holes: parts of zeros that take no room.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Copies a file, and keeps its holes.
pub fn copy_sparse(from: &mut File, to: &mut File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    loop {
        let data = match lseek(&*from, at, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(()), // No more.
            data => data?,
        };
        at = lseek(&*from, data, Whence::SeekHole)?;
        from.seek(SeekFrom::Start(data as u64))?;
        to.seek(SeekFrom::Start(data as u64))?;
        io::copy(&mut from.take((at - data) as u64), to)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn copy_has_the_holes_of_its_source() {
        let mut from = tempfile::tempfile().expect("a file");
        let mut to = tempfile::tempfile().expect("a file");
        let part = vec![7; 64 * 1024];
        from.seek(SeekFrom::Start(1 << 20)).expect("seek");
        from.write_all(&part).expect("write");
        from.set_len(3 << 20).expect("a size");
        copy_sparse(&mut from, &mut to).expect("a copy");

        let mut bytes = Vec::new();
        to.rewind().expect("seek");
        to.read_to_end(&mut bytes).expect("read");
        let (before, rest) = bytes.split_at(1 << 20);
        let (data, after) = rest.split_at(part.len());
        assert_eq!((data, bytes.len()), (&*part, 3 << 20));
        assert!(before.iter().chain(after).all(|byte| *byte == 0));
        assert!(to.metadata().expect("a file").blocks() * 512 < 1 << 20);
    }
}
