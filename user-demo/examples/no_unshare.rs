//! Run COMMAND as in a container: under a seccomp filter that refuses
//! unshare(2).
//!
//!     cargo run -p user-demo --example no_unshare [COMMAND [ARG]...]
//!
//! "EPERM, although I am root" is what readers meet most in containers. This
//! shows where it comes from, without a container: no capability is missing,
//! the call never gets as far as to be checked for one. Man page: seccomp(2).

use std::process::{Command, ExitCode};

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use user_demo::{Failure, failed, link};

fn main() -> ExitCode {
    link::run("no_unshare", |command| {
        enter()?;
        let command = command.unwrap_or_else(|| {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "true"]);
            unshare
        });
        Err(link::exec(command))
    })
}

/// There is no way back from here, for COMMAND and all its children.
#[expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]
fn enter() -> Result<(), Failure> {
    // Without privilege a filter is allowed to who promises never to gain
    // any: a set-user-ID program must not meet system calls that lie.
    set_no_new_privs().map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;

    // A program for each system call, run by the kernel: load the call's
    // number; is it unshare? Then EPERM. Else let it pass.
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
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which lives as long as the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &program,
        )
    };
    Errno::result(done).map_err(failed("seccomp"))?;
    Ok(())
}
