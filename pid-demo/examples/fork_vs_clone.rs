//! fork(2) does one of the things that clone(2) can do.
//!
//!     cargo run -p pid-demo --example fork_vs_clone
//!
//! clone's flags say whether memory is copied or shared, and whose child the
//! new process is. Man page: clone(2). Book: chapter 2, 1.2.

use std::process::ExitCode;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

use nix::libc::SIGCHLD;
use nix::sched::{CloneFlags, clone};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use user_demo::link::example::{self, learned};
use user_demo::{Failure, failed};

/// What a child writes to.
static MEMORY: AtomicIsize = AtomicIsize::new(0);

fn main() -> ExitCode {
    example::run("fork_vs_clone", run)
}

fn run() -> Result<u8, Failure> {
    println!("flags            the child writes  the parent reads");
    // As with fork each has its own memory. See the example copy_on_write.
    let copied = memory("none", CloneFlags::empty())? == [1, 0];
    // CLONE_VFORK: the parent waits until the child ends. If both ran at once,
    // they would use the same thread-local variables.
    let vm = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    let shared = memory("CLONE_VM", vm)? == [1, 1];

    println!("\nmade with flags  PID     its parent");
    show("(this process)");
    let child = start(CloneFlags::empty(), family)?;
    // Only a parent can wait for a process. So the sibling is our child, too.
    let ends = [Some(child), None].map(|process| waitpid(process, None));
    let well = |end| matches!(end, Ok(WaitStatus::Exited(_, 0)));
    let held = copied && shared && ends.into_iter().all(well);
    Ok(learned(held, "the flags of clone(2) say what is shared."))
}

/// A row of the first table: what the child has after writing, and the parent.
fn memory(name: &str, flags: CloneFlags) -> Result<[isize; 2], Failure> {
    MEMORY.store(0, Relaxed);
    let child = start(flags, || MEMORY.fetch_add(1, Relaxed) + 1)?;
    let end = waitpid(child, None).map_err(failed("waitpid"))?;
    let WaitStatus::Exited(_, wrote) = end else { return Ok([0; 2]) };
    let read = MEMORY.load(Relaxed);
    println!("{name:15}  {wrote:<16}  {read}");
    Ok([wrote as isize, read])
}

/// A row of the second table, printed by the process that it is about.
fn show(name: &str) -> isize {
    println!("{name:15}  {:<6}  {}", getpid(), getppid());
    0
}

/// The child, and the two that it starts.
fn family() -> isize {
    show("none");
    let own = start(CloneFlags::empty(), || show("none"));
    let _ = own.map(|child| waitpid(child, None));
    let sibling = start(CloneFlags::CLONE_PARENT, || show("CLONE_PARENT"));
    isize::from(sibling.is_err())
}

/// Starts a process that runs this function, and ends with what it returns.
#[expect(unsafe_code, reason = "the new process runs on a stack of ours")]
fn start(flags: CloneFlags, f: impl FnMut() -> isize) -> Result<Pid, Failure> {
    let mut stack = vec![0; 64 * 1024];
    // SAFETY: the child has a copy of the stack, or with CLONE_VFORK no longer
    // uses it when this call returns. There is one thread only.
    unsafe { clone(Box::new(f), &mut stack, flags, Some(SIGCHLD)) }
        .map_err(failed("clone"))
}
