//! QEMU: where it is, and its command line.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::accelerator::Accelerator;
use crate::arch::Arch;
use crate::env::{on_path, variable};
use crate::failure::Failure;
use crate::overlay;

/// The guest's memory in MiB, for an initramfs of this many bytes. Its files
/// are there twice, since the initramfs stays. They may take four fifths of the
/// rest (`guest/outside.rs`), and half of it while the kernel unpacks them; and
/// a file of 300 MB has room. Memory that the guest never touches takes no room
/// on this machine.
pub fn memory_for(initramfs: u64) -> u64 {
    (416 + 3 * (initramfs >> 20)).next_multiple_of(64)
}

/// The kernel's command line, in addition to the architecture's.
///
/// - `panic=-1`: a panic ends the machine at once.
/// - `cryptomgr.notests`: the kernel does not test its ciphers at boot.
/// - `fb_tunnels=none`: tunnel drivers put no devices into a new network
///   namespace, which would not be "only loopback".
/// - `norandmaps`: with fixed addresses TCG translates a library once, and not
///   for each process, and a command takes half the time.
/// - `lsm=landlock,capability psi=0`: security modules without a policy, and
///   statistics that nobody reads, would still cost time at each call. Landlock
///   costs only who uses it: a container may.
/// - `retain_initrd`: the initramfs stays where it was, and nobody uses it. So
///   it can be left out of the saved machine. Else the kernel would overwrite
///   it, and the saved machine would be larger by as much.
const APPEND: &str = "quiet panic=-1 cryptomgr.notests fb_tunnels=none \
                      norandmaps lsm=landlock,capability psi=0 \
                      retain_initrd rdinit=/init";

/// The path of `$HARNESS_QEMU`, or else of this architecture's QEMU: this
/// machine's, or else the program that starts one that is unpacked.
pub fn qemu() -> Result<PathBuf, Failure> {
    let name = match variable("HARNESS_QEMU") {
        Some(name) => name,
        None => Arch::here()?.qemu.into(),
    };
    let path = match name.as_bytes().contains(&b'/') {
        true => Some(PathBuf::from(&name)).filter(|path| path.is_file()),
        false => on_path(&name).or_else(|| overlay::start(name.to_str()?)),
    };
    path.and_then(|path| std::path::absolute(path).ok()).ok_or_else(|| {
        let name = name.display();
        Failure::new(format!("no {name} on this machine: run harness/setup"))
    })
}

/// What decides how a machine's QEMU is called.
#[derive(Debug)]
pub struct Process {
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// The size of the guest's memory in MiB.
    pub size: u64,
    /// The descriptor of the first serial port.
    pub console: RawFd,
    /// The descriptor of QEMU's monitor.
    pub monitor: RawFd,
    /// The descriptor of the memory, if the machine is to boot. The memory of
    /// a saved machine is a file, which stays as it is.
    pub memory: Option<RawFd>,
    /// What this machine adds to the kernel's command line.
    pub append: String,
}

/// QEMU's arguments. It is started in the folder of the machine's files.
pub fn arguments(arch: &Arch, process: &Process) -> Vec<String> {
    let Process { accelerator, size, console, monitor, memory, append } =
        process;
    let cpu = match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => arch.cpu,
    };
    let (path, share) = match memory {
        Some(fd) => (format!("/proc/self/fd/{fd}"), "on"),
        None => ("memory".into(), "off"),
    };
    let (machine, name) = (arch.machine, accelerator.name());
    let wire = arch.wire_device;
    let line = format!(
        "-nodefaults -no-user-config -no-reboot \
         -M {machine},memory-backend=memory -accel {name} -cpu {cpu} \
         -m {size}M -object memory-backend-file,id=memory,size={size}M,\
         mem-path={path},share={share} -display none -nic none \
         -chardev socket,id=console,fd={console} -serial chardev:console \
         -chardev stdio,id=wire,signal=off -device {wire} \
         -chardev socket,id=monitor,fd={monitor} -qmp chardev:monitor"
    );
    let mut arguments: Vec<_> = line.split(' ').map(String::from).collect();
    match memory {
        Some(_) => {
            let files = ["-kernel", "kernel", "-initrd", "initramfs"];
            arguments.extend(files.map(String::from));
            let append = format!("{} {append} {APPEND}", arch.append);
            arguments.extend(["-append".into(), append]);
        }
        None => arguments.extend(["-incoming", "defer"].map(String::from)),
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(memory: Option<RawFd>) -> Process {
        Process {
            accelerator: Accelerator::Tcg,
            size: 256,
            console: 5,
            monitor: 6,
            memory,
            append: "clock=right".into(),
        }
    }

    /// Arguments of the machine of an architecture, as a shell would have them.
    fn line(process: &Process) -> String {
        let arch = Arch::of("aarch64").expect("a known one");
        arguments(arch, process).join(" ")
    }

    /// A machine that boots has its memory where it can be saved.
    #[test]
    fn machine_is_the_one_of_its_architecture() {
        let booted = line(&process(Some(7)));
        let wanted = "\
            -nodefaults -no-user-config -no-reboot -M virt,acpi=off,\
            gic-version=max,its=off,highmem=off,memory-backend=memory \
            -accel tcg -cpu neoverse-n1 -m 256M \
            -object memory-backend-file,id=memory,size=256M,\
            mem-path=/proc/self/fd/7,share=on -display none -nic none \
            -chardev socket,id=console,fd=5 -serial chardev:console \
            -chardev stdio,id=wire,signal=off -device pci-serial,\
            chardev=wire -chardev socket,id=monitor,fd=6 \
            -qmp chardev:monitor -kernel kernel -initrd initramfs \
            -append console=ttyAMA0 8250.nr_uarts=1 clock=right quiet ";
        assert!(booted.starts_with(wanted), "{booted}");
        assert!(booted.ends_with(" rdinit=/init"), "{booted}");
    }

    /// The file of its memory stays as it is. Under KVM its processor is the
    /// host's.
    #[test]
    fn saved_machine_gets_its_state() {
        let accelerator = Accelerator::Kvm;
        let saved = line(&Process { accelerator, ..process(None) });
        assert!(saved.contains("-accel kvm -cpu host "), "{saved}");
        assert!(saved.contains("mem-path=memory,share=off "), "{saved}");
        assert!(saved.ends_with("chardev:monitor -incoming defer"), "{saved}");
    }

    #[test]
    fn guest_has_room_for_its_files_twice_and_for_one_more() {
        for mib in 1..3000 {
            // The kernel takes 44 MiB, and 1/64 describes the pages.
            let memory = memory_for(mib << 20);
            let rest = memory - memory / 64 - 50 - mib;
            assert!(rest / 2 >= mib && rest * 4 / 5 >= mib + 287, "{mib}");
        }
    }
}
