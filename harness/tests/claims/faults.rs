//! V3: a failure of the machine is reported by one clear line, in bounded time,
//! and never taken for a claim that failed.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use assert_cmd::assert::OutputAssertExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use predicates::prelude::*;

use crate::common;
use crate::readers::{Running, executable, harness, typed};
use crate::target::{Root, patience, until};

/// V3: each fault has one clear line, in bounded time, and status 125. They are
/// tried at the same time, because one of them waits for some seconds.
#[test]
fn fault_is_told_apart_from_a_failed_claim() {
    // Programs in place of QEMU: one never answers, one ends at once.
    let dir = tempfile::tempdir().expect("a folder");
    let [silent, ended] = ["silent", "ended"].map(|it| dir.path().join(it));
    executable(&silent, "#!/bin/sh\nexec sleep 1000\n");
    executable(&ended, "#!/bin/sh\nexit 1\n");

    let kernel = common::harness().kernel();
    let name = thread::current().name().unwrap_or_default().to_string();
    thread::scope(|scope| {
        for (variable, value, message) in [
            ("HARNESS_QEMU", &*silent, "QEMU says nothing for "),
            ("HARNESS_QEMU", Path::new("/nosuch/qemu"), "no /nosuch/qemu"),
            ("HARNESS_QEMU", &*ended, "QEMU ended"),
            ("HARNESS_KERNEL", Path::new("/nosuch/vmlinuz"), "/nosuch/vmlinuz"),
            ("HARNESS_KERNEL", Path::new("/etc/passwd"), "not a Linux kernel"),
            ("HARNESS_ACCEL", Path::new("abacus"), "kvm or tcg"),
        ] {
            let message = predicate::str::starts_with("harness: ")
                .and(predicate::str::contains(message));
            let fault = move || {
                let mut command = typed(&["false"]);
                command.env("HARNESS_KERNEL", kernel).env(variable, value);
                command.assert().code(125).stdout("").stderr(message);
            };
            // A failure is reported under the name of this test.
            let thread = thread::Builder::new().name(name.clone());
            thread.spawn_scoped(scope, fault).expect("a thread");
        }
    });
}

/// V3: where a saved machine cannot be written, one line names the folder, and
/// the variable for another one. Nobody may make a folder in /sys.
#[test]
fn folder_that_cannot_be_written_is_named() {
    let message = predicate::str::is_match(
        "^harness: /sys/nosuch: [^\n]*: a new machine needs 250 MB there, or in \
         another folder: HARNESS_CACHE=/another/folder\n$",
    );
    let mut command = typed(&["true"]);
    let end = command.env("HARNESS_CACHE", "/sys/nosuch").assert();
    end.code(125).stdout("").stderr(message.expect("an expression"));
}

/// V3
#[test]
fn panic_of_the_kernel_is_the_machines_failure() {
    let crash = "echo c > /proc/sysrq-trigger; sleep 1000";
    typed(&["sh", "-c", crash]).assert().code(125).stderr(
        predicate::str::starts_with("harness: the machine has ended")
            .and(predicate::str::contains("Kernel panic - not syncing: sysrq")),
    );
}

/// V3: what the console printed is shown, with its control characters
/// escaped.
#[test]
fn words_of_the_guest_are_harmless_to_the_readers_terminal() {
    let mut vm = common::harness().start().expect("a machine");
    let words = "\x1b[31mKernel panic in \x1b[7m";
    // More than a socket holds comes first, and the kernel's own words do not
    // wait for it.
    let numbers = vm.output(
        Root,
        ["sh", "-c", "seq 1000 > /dev/console"],
        b"",
        patience(),
    );
    numbers.expect("a verdict").assert().success();
    until(|| vm.console(), || vm.console().contains("\n1000\r\n"));
    let script = "printf '<0>%s\n' \"$1\" > /dev/kmsg";
    let kmsg = ["sh", "-c", script, "sh", words];
    let printed = vm.output(Root, kmsg, b"", patience()).expect("a verdict");
    printed.assert().success();
    // On Linux 7 a kernel thread prints them, perhaps some time later.
    let said = format!("{words}\r\n");
    until(|| vm.console(), || vm.console().contains(&said));

    let rubbish = format!(r"{WIRE} printf '\0rubbish\0' > $wire; sleep 1000");
    let rubbish = ["sh", "-c", &rubbish];
    let failure = vm.output(Root, rubbish, b"", patience());
    let text = failure.expect_err("no verdict").to_string();
    let first = "the guest sends rubbish: Kernel panic in \\u{1b}[7m\n";
    assert!(text.starts_with(first), "{text:?}");
    assert!(text.contains("\\u{1b}[31mKernel panic in"), "{text:?}");
    assert!(!text.contains('\x1b'), "{text:?}");
}

/// For scripts: the serial port over which requests and output travel. PID 1
/// has it open.
const WIRE: &str = "
    for it in /proc/1/fd/*; do
        case $(readlink $it) in /dev/ttyS*) wire=$(readlink $it) ;; esac
    done
";

/// V3: a command that does not end, and a guest that sends bytes that are no
/// messages.
#[test]
fn guest_without_a_verdict_is_the_machines_failure() {
    let rubbish = r"printf '\0rubbish\0' > $wire; sleep 1000";
    for (script, patience, message) in [
        ("sleep 1000", 200, "no verdict: no end after 200ms"),
        (rubbish, 60_000, "the guest sends rubbish"),
        ("exec yes > $wire", 400, "no verdict: no end after 400ms"),
    ] {
        let mut vm = common::harness().start().expect("a machine");
        let patience = Duration::from_millis(patience);
        let begun = Instant::now();
        let argv = ["sh", "-c", &format!("{WIRE}{script}")];
        let failure = vm.output(Root, argv, b"", patience);
        assert!(begun.elapsed() < patience + Duration::from_secs(60));
        let text = failure.expect_err("no verdict").to_string();
        assert!(text.starts_with(message), "{script}: {text}");
    }
}

/// V3
#[test]
fn killed_qemu_is_the_machines_failure() {
    let script = "echo ready; sleep 1000";
    let mut child = Running::start(harness().args(["sh", "-c", script]));
    child.wait_for_a_line();
    let pid = child.0.id();
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for qemu in children.expect("a process").split_whitespace() {
        let qemu = Pid::from_raw(qemu.parse().expect("a PID"));
        kill(qemu, Signal::SIGKILL).expect("kill");
    }
    let message = io::read_to_string(child.0.stderr.take().expect("a pipe"));
    let message = message.expect("text");
    assert!(message.starts_with("harness: the machine has ended"), "{message}");
    assert_eq!(child.0.wait().expect("an end").code(), Some(125));
}
