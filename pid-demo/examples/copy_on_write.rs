//! fork(2) copies no memory: parent and child share each page until one of
//! them writes to it. Only then does the kernel copy that page.
//!
//!     cargo run -p pid-demo --example copy_on_write
//!
//! Each copy is a page fault of the process that writes: getrusage(2). Man
//! page: fork(2), NOTES. Book: chapter 2, 1.2.

use std::{hint::black_box, process::ExitCode};

use nix::sched::CloneFlags;
use nix::sys::prctl::set_thp_disable;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use user_demo::link::example::{self, learned, process};
use user_demo::{Failure, failed};

const PAGES: usize = 1000;

fn main() -> ExitCode {
    example::run("copy_on_write", run)
}

fn run() -> Result<u8, Failure> {
    // Pages of the usual size: not one huge page of 2 MiB in place of 512.
    set_thp_disable(true).map_err(failed("prctl(PR_SET_THP_DISABLE)"))?;
    let size = sysconf(SysconfVar::PAGE_SIZE).map_err(failed("sysconf"))?;
    let size = size.unwrap_or(4096) as usize;
    // Written to, so that all of them exist before the fork.
    let mut memory = vec![1_u8; PAGES * size];
    black_box(&mut memory);

    println!("{PAGES} pages, the child  its page faults");
    let nothing = faults("does nothing", &mut memory, |_| {})?;
    let read = faults("reads each", &mut memory, |memory| {
        for byte in memory.iter().step_by(size) {
            black_box(*byte);
        }
    })?;
    let written = faults("writes to each", &mut memory, |memory| {
        for byte in memory.iter_mut().step_by(size) {
            *black_box(byte) = 2;
        }
    })?;
    let held = nothing && read && !written;
    Ok(learned(held, "fork copies a page when it is written to."))
}

/// A row of the table, printed by the child that it is about. True if there
/// were few page faults: fewer than one for ten pages.
fn faults(
    what: &str,
    memory: &mut [u8],
    touch: impl Fn(&mut [u8]),
) -> Result<bool, Failure> {
    let count = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF);
        usage.map_or(0, |it| it.minor_page_faults())
    };
    let child = || {
        touch(&mut []); // The page faults for the code are not counted.
        count();
        let before = count();
        touch(memory);
        let faults = count() - before;
        println!("{what:21}  {faults}");
        Ok(u8::from(faults >= (PAGES / 10) as i64))
    };
    // Without flags clone(2) does what fork(2) does.
    Ok(process(CloneFlags::empty(), child)? == 0)
}
