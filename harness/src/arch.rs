//! Everything that depends on the processor's architecture: one [`Arch`] for
//! each that the harness supports.

use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// The machine of an architecture, with the names that QEMU and the guest use.
#[derive(Debug)]
pub struct Arch {
    /// As `uname -m` prints it.
    pub name: &'static str,
    /// QEMU's program.
    pub qemu: &'static str,
    /// `-M`.
    pub machine: &'static str,
    /// `-cpu` under TCG. Under KVM it is `host`.
    pub cpu: &'static str,
    /// `-device`: the serial port over which requests and output travel.
    pub wire_device: &'static str,
    /// The guest's name of it, below `/dev`.
    pub wire: &'static str,
    /// The kernel's command line: its console, how many serial ports it has,
    /// and how it resets the machine.
    pub append: &'static str,
    /// What is added to that under TCG.
    pub tcg_append: fn() -> String,
    /// The physical address at which the guest's memory begins.
    pub memory_start: u64,
    /// Flags of /proc/cpuinfo, one of which is needed for KVM. Empty if the
    /// file does not show it.
    pub kvm_flags: &'static [&'static str],
    /// The lines of /proc/cpuinfo that tell one processor from another.
    pub cpuinfo: &'static [&'static str],
    /// The meta packages of the newest kernel: Debian's for the cloud, its
    /// smallest, and Ubuntu's for virtual machines.
    pub kernel_packages: [&'static str; 2],
}

/// A microvm: no firmware, no disk, two ISA serial ports. ACPI is off: with it
/// every third boot of a microvm under TCG hangs while the kernel calibrates
/// its clock.
const X86_64: Arch = Arch {
    name: "x86_64",
    qemu: "qemu-system-x86_64",
    // Under KVM a microvm has a real-time clock only with `rtc=on`. The kernel
    // looks for one: under nested KVM that took 3.1 s without it, and 0.02 s
    // with it.
    machine: "microvm,acpi=off,rtc=on",
    // `rep movsb` copies fast in a real processor, but slowly under TCG.
    // Without these flags the kernel and libc copy in another way.
    cpu: "max,-erms,-fsrm",
    wire_device: "isa-serial,iobase=0x2f8,irq=3,chardev=wire",
    wire: "ttyS1",
    // `reboot=t`: a panic ends the machine by a triple fault at once. The
    // default tries a keyboard controller for two seconds first.
    append: "console=ttyS0 8250.nr_uarts=2 reboot=t",
    // The kernel does not use the local APIC's timer here, and need not spend
    // 0.2 s on measuring it. It cannot measure the time stamp counter, because
    // a microvm has no other clock to compare it with: so its frequency is
    // given. Without the counter the kernel counts the timer's interrupts, of
    // which a busy machine loses many, and its clock falls minutes behind.
    tcg_append: || {
        let khz = time_stamp_khz();
        format!("nolapic_timer tsc=reliable tsc_early_khz={khz}")
    },
    memory_start: 0,
    kvm_flags: &["svm", "vmx"],
    cpuinfo: &[
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "microcode",
        "flags",
    ],
    kernel_packages: ["linux-image-cloud-amd64", "linux-image-virtual"],
};

/// QEMU's board `virt`. Its second serial port is on the PCI bus: all of
/// Debian's kernels have the driver built in.
const AARCH64: Arch = Arch {
    name: "aarch64",
    qemu: "qemu-system-aarch64",
    // Under KVM the interrupt controller must have the host's version, and
    // `max` takes it: a fixed 2 fails on servers, a fixed 3 on a Raspberry Pi.
    // No device here sends interrupts as messages (`its`). With `highmem=off`
    // all addresses are below 4 GiB, which every processor can address.
    machine: "virt,acpi=off,gic-version=max,its=off,highmem=off",
    // This processor has no pointer authentication, with which a boot takes
    // three times as long under TCG.
    cpu: "neoverse-n1",
    wire_device: "pci-serial,chardev=wire",
    wire: "ttyS0",
    append: "console=ttyAMA0 8250.nr_uarts=1",
    tcg_append: String::new,
    memory_start: 0x4000_0000,
    // There is a /dev/kvm only where the kernel was started as a hypervisor.
    kvm_flags: &[],
    cpuinfo: &[
        "CPU implementer",
        "CPU architecture",
        "CPU variant",
        "CPU part",
        "CPU revision",
        "Features",
    ],
    kernel_packages: ["linux-image-cloud-arm64", "linux-image-virtual"],
};

/// The frequency of this machine's time stamp counter, in kHz. Under TCG a
/// guest of the same architecture reads this counter itself.
fn time_stamp_khz() -> u64 {
    // The clock is read before and after the counter. Of ten readings the
    // fastest is used: another process may get the processor in between.
    let read = || {
        let readings = (0..10).map(|_| {
            let before = Instant::now();
            let counter = time_stamp();
            (before.elapsed(), before, counter)
        });
        readings.min_by_key(|reading| reading.0).expect("ten")
    };
    let (_, begun, first) = read();
    thread::sleep(Duration::from_millis(50));
    let (_, ended, last) = read();
    let micros = (ended - begun).as_micros() as u64;
    (last - first) * 1000 / micros
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "an instruction of the processor")]
fn time_stamp() -> u64 {
    // SAFETY: every x86-64 processor has this instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn time_stamp() -> u64 {
    unreachable!("only x86-64 has this counter")
}

impl Arch {
    /// This machine's architecture.
    ///
    /// # Errors
    /// If the harness does not support it. The demos run on any.
    pub fn here() -> Result<&'static Arch, Failure> {
        Arch::of(std::env::consts::ARCH)
    }

    /// The architecture with this name, as `uname -m` prints it.
    pub fn of(name: &str) -> Result<&'static Arch, Failure> {
        let mut known = [&X86_64, &AARCH64].into_iter();
        known.find(|arch| arch.name == name).ok_or_else(|| {
            Failure::new(format!(
                "there is no machine for {name} yet, only for x86_64 and \
                 aarch64: the demos run without it"
            ))
        })
    }

    /// Whether KVM should work. That `/dev/kvm` can be opened proves nothing:
    /// on some machines it can be opened although the processor lacks the
    /// flag, and then no guest ever starts.
    pub fn may_have_kvm(&self, cpuinfo: &str) -> bool {
        let mut words = cpuinfo.split_whitespace();
        self.kvm_flags.is_empty()
            || words.any(|word| self.kvm_flags.contains(&word))
    }

    /// The lines about the processor that matter to a machine saved on it.
    pub fn processor(&self, cpuinfo: &str) -> String {
        let first = cpuinfo.split("\n\n").next().unwrap_or_default();
        let lines = first.lines().filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            self.cpuinfo.contains(&name.trim_end())
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::intel(X86_64, "flags : fpu vmx sse", true)]
    #[case::amd(X86_64, "flags : fpu svm sse", true)]
    #[case::neither(X86_64, "flags : fpu svme sse", false)]
    #[case::arm_has_no_such_flag(AARCH64, "Features : fp asimd", true)]
    fn kvm_should_work(
        #[case] arch: Arch,
        #[case] cpuinfo: &str,
        #[case] able: bool,
    ) {
        assert_eq!(arch.may_have_kvm(cpuinfo), able);
    }

    #[test]
    fn unknown_architecture_is_named() {
        assert_eq!(
            Arch::of("aarch64").expect("a known one").name,
            AARCH64.name
        );
        let error = Arch::of("riscv64").expect_err("none").to_string();
        let message = "there is no machine for riscv64";
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn processor_is_the_lines_that_matter_to_a_saved_machine() {
        let first = "processor\t: 0\nvendor_id\t: AuthenticAMD\n\
                     model name\t: EPYC\ncpu MHz\t\t: 2445.4\nflags\t\t: svm";
        let cpuinfo = format!("{first}\n\n{first}");
        assert_eq!(
            X86_64.processor(&cpuinfo),
            "vendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nflags\t\t: svm"
        );

        let first = "processor\t: 0\nBogoMIPS\t: 50.00\n\
                     Features\t: fp asimd\nCPU part\t: 0xd0c";
        let cpuinfo = format!("{first}\n\n{first}");
        assert_eq!(
            AARCH64.processor(&cpuinfo),
            "Features\t: fp asimd\nCPU part\t: 0xd0c"
        );
    }
}
