//! What to do about a call that failed. One errno has many possible reasons,
//! above all with user namespaces. So the kernel is asked about each reason
//! before it is named.

mod call;
mod einval;
mod eperm;
mod exec;

use std::env;
use std::path::Path;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sched::CloneFlags;

pub use call::Call;

use super::kernel::{NEW_PID_NAMESPACE, namespace};

/// What to do about a call that failed, on this machine: one line.
pub fn advice(call: &Call, errno: Errno) -> String {
    let advice = match (call, errno) {
        (Call::Exec(name), _) => return exec::advice(name, errno).into(),
        (Call::Stdout, Errno::ENOSPC) => return "The disk is full".into(),
        (Call::Stdout, Errno::EPIPE) => return "Its reader has gone".into(),
        (Call::Stdout, _) => return "Is it open for writing?".into(),
        (_, Errno::EPERM | Errno::EACCES | Errno::ENOSYS)
            if eperm::filtered(call) =>
        {
            Some(
                "A seccomp filter forbids it (is this a container?): leave \
                 it, or start it with `--security-opt seccomp=unconfined`"
                    .into(),
            )
        }
        (Call::Fork, Errno::ENOMEM) if pid_1_is_dead() => {
            Some("PID 1 of the namespace is dead: nothing starts there".into())
        }
        (Call::Fork, Errno::EAGAIN) => Some(
            "There are too many processes: see `ulimit -u`, and pids.max of \
             the cgroup"
                .into(),
        ),
        (Call::Unshare(CloneFlags::CLONE_NEWPID), Errno::EINVAL)
            if namespace("pid_for_children") != namespace("pid") =>
        {
            Some("`unshare --pid` goes with --fork, before this demo".into())
        }
        (Call::Unshare(flags), Errno::EINVAL | Errno::ENOSYS) => {
            einval::missing(*flags)
        }
        (Call::Unshare(flags), Errno::ENOSPC) => einval::exhausted(*flags),
        (Call::Mount(_) | Call::Private, Errno::ENOSPC) => {
            einval::no_mount_left()
        }
        (Call::Private, Errno::EINVAL) if eperm::chrooted() => {
            Some("No mount is at / in this chroot: leave it".into())
        }
        (Call::Map(_) | Call::Proc(_), Errno::EROFS) => einval::read_only(),
        (Call::Map(_) | Call::Proc(_), Errno::ENOENT) => {
            Some(einval::proc_without().into())
        }
        (Call::Mount(at), Errno::EPERM) if at == "/proc" => {
            eperm::unmountable().map(String::from)
        }
        (_, Errno::EPERM | Errno::EACCES) => eperm::forbidden(call, errno),
        _ => None,
    };
    let advice = advice.unwrap_or_else(|| unknown(errno).into());
    let this = env::args_os().next().unwrap_or_default();
    let name = Path::new(&this).file_name().unwrap_or_default();
    let vm = format!("cargo run -p harness -- {}", name.display());
    format!("{advice}; the VM always works: {vm}")
}

/// Where nothing fits.
fn unknown(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "Its reason cannot be seen from here (a security module, a \
             chroot?): see user_namespaces(7), and `dmesg`"
        }
        Errno::ENOSPC => "A limit of this machine is reached",
        _ => "See the man page of the call",
    }
}

/// Would the next child be in a PID namespace whose PID 1 has ended?
fn pid_1_is_dead() -> bool {
    let next = namespace("pid_for_children");
    !NEW_PID_NAMESPACE.load(Ordering::Relaxed)
        && next.is_some_and(|next| Some(next) != namespace("pid"))
}
