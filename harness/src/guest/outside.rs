//! The "outside" of the guest, as realistic as the claims need it.
//!
//! The outside matters. A claim that something is *not* seen proves nothing if
//! it could not be seen anyway. So mounts are shared, as systemd(1) makes
//! them, and there is a network from which a namespace is isolated.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chown, chroot, sethostname};

use crate::contents::{HOMES, LINKS, MOUNTS};

/// Sets the machine up as the claims expect it.
pub fn prepare() -> Result<(), String> {
    leave_rootfs().map_err(because("the root"))?;
    // The kernel's own limit is half of the memory.
    let room = Some("size=80%");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REMOUNT, room)
        .map_err(because("mount / size=80%"))?;
    for (source, target, kind, options) in MOUNTS {
        fs::create_dir_all(target).map_err(because(target))?;
        let (source, kind) = (Some(*source), Some(*kind));
        mount(source, *target, kind, MsFlags::empty(), Some(*options))
            .map_err(because(target))?;
    }
    // As systemd does at boot. Since Linux 6.14 each PID namespace has its own
    // limit, and a new one begins with this value: without it the columns of
    // ps would be wider inside than outside. A kernel for small machines
    // refuses the value, and then only the columns' width differs.
    let _ = fs::write("/proc/sys/kernel/pid_max", "4194304");
    // With this program the kernel loads what is asked for, as the driver of
    // `ip link add type veth`; by default it is in /sbin. A kernel without
    // modules has no such file.
    let _ = fs::write("/proc/sys/kernel/modprobe", "/usr/bin/modprobe");
    // As systemd does at boot. The kernel's default is private, and private
    // mounts never propagate: no claim about propagation could fail.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>)
        .map_err(because("mount / MS_SHARED"))?;

    for (link, to) in LINKS {
        symlink(to, link).map_err(because(link))?;
    }
    for (home, id, _) in HOMES {
        chown(*home, Some((*id).into()), Some((*id).into()))
            .map_err(because(home))?;
    }
    sethostname("outside").map_err(because("sethostname"))?;
    network()
}

/// An error, as PID 1 reports it.
fn because<E: Into<io::Error>>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {}", error.into())
}

/// A claim "only loopback inside" needs another interface outside. Loading the
/// module makes dummy0; a kernel with a built-in driver has it already.
fn network() -> Result<(), String> {
    let release = nix::sys::utsname::uname().map_err(|e| e.to_string())?;
    let modules = Path::new("/lib/modules").join(release.release());
    if let Ok(module) = File::open(modules.join("kernel/dummy.ko")) {
        finit_module(&module, c"", ModuleInitFlags::empty())
            .map_err(because("dummy.ko"))?;
    }
    let ip = Command::new("/usr/bin/ip").args(["-batch", "/etc/ip"]).output();
    let ip = ip.map_err(because("ip"))?;
    if !ip.status.success() {
        let why = String::from_utf8_lossy(&ip.stderr);
        return Err(format!("ip: {}", why.trim()));
    }
    Ok(())
}

/// Makes the root an ordinary mount. The initramfs is unpacked into rootfs,
/// the lowest mount, and there pivot_root(2) always fails with EINVAL. So the
/// same files are mounted once more, over it.
fn leave_rootfs() -> io::Result<()> {
    let none = None::<&str>;
    mount(Some("/"), "/mnt", none, MsFlags::MS_BIND, none)?;
    chdir("/mnt")?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    chroot(".")?;
    Ok(())
}
