//! Run COMMAND as in a container: under a seccomp filter that refuses
//! unshare(2).
//!
//!     cargo run -p user-demo --example no_unshare [COMMAND [ARG]...]
//!
//! "EPERM, although I am root" is the most common error in containers. No
//! capability is missing: the filter refuses the call before the kernel checks
//! for one. Without COMMAND: a table that shows it. Man page: seccomp(2).

use std::{fs, process::ExitCode};

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use nix::sched::{CloneFlags, unshare};
use nix::{errno::Errno, sys::prctl::set_no_new_privs};
use user_demo::link::example::learned;
use user_demo::link::{self};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    link::run("no_unshare", |command| {
        if let Some(command) = command {
            enter()?;
            return Err(link::exec(command));
        }
        user_demo::enter()?; // With all capabilities from now on.
        println!("{:18}  capabilities      unshare(CLONE_NEWUTS)", "");
        let without = row("without a filter");
        enter()?;
        let held =
            without.is_ok() && row("under the filter") == Err(Errno::EPERM);
        Ok(learned(held, "EPERM may be a filter's, whoever one is.").into())
    })
}

/// Tries unshare(2), and prints what happens.
fn row(when: &str) -> nix::Result<()> {
    let done = unshare(CloneFlags::CLONE_NEWUTS);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let set = lines.find_map(|line| line.strip_prefix("CapEff:\t"));
    let end = done.map_or_else(|e| format!("{e:?}"), |()| "done".into());
    println!("{when:18}  {}  {end}", set.unwrap_or_default());
    done
}

/// Installs the filter. COMMAND and all its children cannot remove it.
#[expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]
fn enter() -> Result<(), Failure> {
    // Without privilege a process may set a filter only if it can never gain
    // privilege: a set-user-ID program must not run under its caller's filter.
    set_no_new_privs().map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;

    // A program that the kernel runs for each system call: load the call's
    // number; if it is unshare, return EPERM; otherwise allow the call.
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: u8::from(code & BPF_JMP != 0), // Not equal: one step further.
        k,
    };
    let mut filter = [
        step(BPF_LD | BPF_W | BPF_ABS, 0), // seccomp_data.nr
        step(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_unshare as u32),
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let (len, filter) = (filter.len() as u16, filter.as_mut_ptr());
    let program = libc::sock_fprog { len, filter };
    let (call, mode) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER);
    // SAFETY: the kernel copies the program, which lives as long as the call.
    let done = unsafe { libc::syscall(call, mode, 0, &program) };
    Errno::result(done).map(drop).map_err(failed("seccomp"))
}
