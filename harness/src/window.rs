//! The window: a part of the guest's memory into which the harness writes a
//! command's input. It is memory of the guest's PID 1, which reports the page
//! frames. The harness writes to them in the memory of QEMU, its child.

use std::ffi::{c_long, c_void};
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::arch::Arch;
use crate::wire::{PAGE, WINDOW, sum};

/// The guest's side: pages that the kernel does not move.
#[derive(Debug)]
pub struct Window(NonNull<c_void>);

impl Window {
    /// Allocates the pages. They are never freed.
    #[expect(unsafe_code, reason = "mmap has no safe wrapper")]
    pub fn open() -> io::Result<Window> {
        // The kernel moves pages to make room for larger ones (compaction).
        // With this setting it leaves locked pages where they are:
        // Documentation/admin-guide/sysctl/vm.rst.
        let unevictable = "/proc/sys/vm/compact_unevictable_allowed";
        fs::write(unevictable, "0")?;
        let length = NonZeroUsize::new(WINDOW).expect("a size");
        let flags = MapFlags::MAP_PRIVATE
            | MapFlags::MAP_LOCKED
            | MapFlags::MAP_POPULATE;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses an address where nothing is mapped.
        let memory = unsafe { mmap_anonymous(None, length, access, flags)? };
        Ok(Window(memory))
    }

    /// The numbers of the page frames, in order: see proc_pid_pagemap(5).
    pub fn frames(&self) -> io::Result<Vec<u64>> {
        let pagemap = File::open("/proc/self/pagemap")?;
        let size = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(PAGE as c_long);
        let ours = (size as usize / PAGE) as u64;
        let first = (self.0.as_ptr() as usize / PAGE) as u64;
        (first..first + (WINDOW / PAGE) as u64)
            .map(|page| {
                frame(page, ours, |at| {
                    let mut entry = [0; 8];
                    pagemap.read_exact_at(&mut entry, at)?;
                    Ok(u64::from_ne_bytes(entry))
                })
            })
            .collect()
    }

    /// What the harness has written, if it is whole. It writes again when it
    /// has been told that this was taken.
    pub fn read(&self, length: u32, expected: u32) -> io::Result<&[u8]> {
        let bytes = self.bytes(length as usize);
        match sum(bytes) == expected {
            true => Ok(bytes),
            false => Err(io::Error::other("input was damaged on its way")),
        }
    }

    /// The same once more.
    #[expect(unsafe_code, reason = "another process writes this memory")]
    pub fn bytes(&self, length: usize) -> &[u8] {
        // SAFETY: the memory is mapped as long as this process runs, and the
        // harness does not write while this process reads: it has finished
        // before it sends its message, and then waits for the answer.
        unsafe { self.0.cast::<[u8; WINDOW]>().as_ref() }
            .get(..length)
            .unwrap_or_default()
    }
}

/// The page frame of a page. pagemap has an entry of 8 bytes for each of the
/// kernel's pages, each of which is `ours` pages of ours: on aarch64 it can be
/// larger.
fn frame(
    page: u64,
    ours: u64,
    entry: impl FnOnce(u64) -> io::Result<u64>,
) -> io::Result<u64> {
    // The upper bits say other things about the page.
    let frame = entry(page / ours * 8)? & ((1 << 55) - 1);
    Ok(frame * ours + page % ours)
}

/// The harness's side: where the pages are in QEMU's memory.
#[derive(Debug)]
pub struct View {
    memory: File,
    pages: Vec<usize>,
}

impl View {
    /// `None` if the guest's memory is not found in QEMU's, or if a process may
    /// not write to the memory of its children (EACCES:
    /// `kernel.yama.ptrace_scope` 2 and 3).
    pub fn new(qemu: Pid, frames: &[u64]) -> Option<View> {
        let maps = fs::read_to_string(format!("/proc/{qemu}/maps")).ok()?;
        let at = base(&maps)?;
        let start = Arch::here().ok()?.memory_start;
        let pages = frames.iter().map(|frame| {
            let offset = (frame * PAGE as u64).checked_sub(start)?;
            at.checked_add(usize::try_from(offset).ok()?)
        });
        let pages = pages.collect::<Option<Vec<_>>>()?;
        let memory = format!("/proc/{qemu}/mem");
        let memory = File::options().write(true).open(memory).ok()?;
        (pages.len() == WINDOW / PAGE).then_some(View { memory, pages })
    }

    /// Writes these bytes, at most [`WINDOW`].
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut pieces = bytes.chunks(PAGE).zip(&self.pages);
        pieces.try_for_each(|(piece, &at)| {
            self.memory.write_all_at(piece, at as u64)
        })
    }
}

/// The address in QEMU where the guest's memory begins, from QEMU's
/// /proc/PID/maps: proc_pid_maps(5).
fn base(maps: &str) -> Option<usize> {
    let mut lines = maps.lines();
    let line = lines.find(|line| line.ends_with("/memory"))?;
    let start = line.split('-').next()?;
    usize::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_found_where_the_kernels_pages_are_larger() {
        // Page 13 is the second of the four in the kernel's page 3.
        let entry = |at| {
            assert_eq!(at, 3 * 8);
            Ok(1 << 63 | 1 << 55 | 5)
        };
        assert_eq!(frame(13, 4, entry).expect("an entry"), 5 * 4 + 1);
    }

    #[test]
    fn guest_memory_is_found_in_the_maps_of_qemu() {
        let maps = "\
7f10aa000000-7f10aa021000 rw-p 00000000 00:00 0\n\
7f10b0000000-7f10c8000000 rw-p 00000000 08:01 9 /x/state-1/memory\n\
7f10d0000000-7f10d0001000 r--p 00000000 08:01 7 /usr/lib/libc.so.6\n";
        assert_eq!(base(maps), Some(0x7f10b0000000));
        assert_eq!(base(""), None);
    }
}
