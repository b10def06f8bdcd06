//! V: properties of the machine on which the other claims rely.

use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use assert_cmd::assert::OutputAssertExt;
use nix::sys::signal::Signal;
use nix::sys::termios::tcgetattr;
use predicates::prelude::*;

use crate::common;
use crate::readers::{
    Running, harness, kills, read_until, start_at_terminal, typed,
};
use crate::target::{Reader, Root, fresh_machine, until};

/// V1
#[test]
fn verdict_is_the_commands_own() {
    let machine = fresh_machine();
    for (script, code, signal) in [
        ("true", Some(0), None),
        ("exit 7", Some(7), None),
        ("exit 255", Some(255), None),
        // Without input there is nothing to read.
        ("readlink /proc/$$/fd/0 | grep -x /dev/null", Some(0), None),
        ("read it || exit 3", Some(3), None),
        ("kill -9 $$", None, Some(9)),
        ("kill -SEGV $$", None, Some(11)), // Dumps core.
    ] {
        let status = machine.root(["sh", "-c", script]).status;
        let verdict = (status.code(), status.signal());
        assert_eq!(verdict, (code, signal), "{script}");
    }
    // A command that cannot be run has the status that a shell reports.
    machine
        .root(["nosuch"])
        .assert()
        .code(127)
        .stderr(predicate::str::starts_with("exec: No such file or directory"));
    machine.root(["/etc/passwd"]).assert().code(126);
}

/// V1
#[test]
fn harness_passes_status_and_streams_through() {
    let input = &b"in\0\xff"[..];
    typed(&["--", "sh", "-c", "cat; echo err >&2; exit 7"])
        .write_stdin(input)
        .assert()
        .code(7)
        .stdout(input)
        .stderr("err\n");
    typed(&["sh", "-c", "kill -TERM $$"]).assert().code(128 + 15);
    typed(&["nosuch"])
        .assert()
        .code(127)
        .stderr("harness: exec nosuch: ENOENT: No such file or directory\n");
}

/// V1
#[test]
fn a_mebibyte_that_is_no_text_comes_back_whole() {
    let machine = fresh_machine();
    let size = "head -c 1048576 /dev/zero | tr '\\0' '\\377'";
    let output = machine.root(["sh", "-c", size]);
    assert_eq!(output.stdout.len(), 1 << 20);
    assert!(output.stdout.iter().all(|byte| *byte == 0xff));

    // In both directions: more than a pipe holds, and bytes that cannot be
    // compressed.
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    let noise = (0..66 * 1024).map(|n: u32| hasher.hash_one(n) as u8);
    let noise: Vec<u8> = noise.collect();
    let output = machine.run(Root, ["cat"], &noise);
    assert!(output.stdout == noise, "other bytes came back");
    // More than the guest's window holds.
    let output = machine.run(Root, ["wc", "-c"], &[b'.'; 600_000]);
    output.assert().success().stdout("600000\n");
}

/// V1: this is so even if the command leaves a process behind that holds the
/// streams open.
#[test]
fn command_has_ended_when_it_has_ended() {
    let machine = fresh_machine();
    let begun = Instant::now();
    let output = machine.root(["sh", "-c", "sleep 1000 & echo done"]);
    output.assert().success().stdout("done\n");
    assert!(begun.elapsed() < Duration::from_secs(60));
    machine.root(["ps", "-C", "sleep"]).assert().success();
}

/// V3: what is printed when a claim fails.
#[test]
fn failed_claim_is_a_complete_bug_report() {
    let machine = fresh_machine();
    let release = machine.sh(Root, "uname -r");
    let fails = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    machine.run(Reader, fails, b"");
    machine.root(["sh", "-c", "seq 2000; printf '\\33[7m' >&2"]);
    machine.root(["sh", "-c", "echo last words > /dev/console"]);
    // The console is another serial port, and its text may come a little later.
    let report = || machine.bug_report();
    until(report, || report().contains("\nlast words\n"));
    let report = report();
    let machine = format!("on Linux {} under ", release.trim_end());
    for part in [
        &machine,
        "\nreader: sh -c echo out; echo err >&2; exit 7\n  exit status: 7\n  \
         stdout: out\n\n  stderr: err\n",
        // Long output is cut, and control characters are escaped.
        "\n1020\n1021\n10... (8893 bytes in all)\n  stderr: \\u{1b}[7m\n",
        "\nthe console's end:\n",
        "\na shell in such a machine: cargo run -p harness",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

/// V2
#[test]
fn fresh_machine_knows_nothing_of_the_last_one() {
    let mark = "echo was here > /root/mark; hostname marked; ipcmk -Q";
    let look = "ls -A /root; hostname; cat /proc/sysvipc/msg";
    let first = fresh_machine();
    let fresh = first.root(["sh", "-c", look]);
    first.sh(Root, mark);
    let marked = first.root(["sh", "-c", look]);
    assert_ne!(marked.stdout, fresh.stdout);
    assert_eq!(fresh_machine().root(["sh", "-c", look]).stdout, fresh.stdout);
}

/// V4: when a signal ends the laboratory, it restores the settings of the
/// reader's terminal.
#[test]
fn laboratory_that_is_ended_gives_the_terminal_back() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let (mut child, mut shown, before) = start_at_terminal(harness());
        read_until(&mut shown, b"# ");
        // While the laboratory runs, the terminal is in raw mode.
        assert_ne!(tcgetattr(&shown).expect("a terminal"), before);
        child.send(signal);
        let status = child.0.wait().expect("an end");
        assert_eq!(status.code(), Some(125), "{signal}");
        assert_eq!(tcgetattr(&shown).expect("a terminal"), before);
    }
}

/// V1: the size of the terminal inside follows that of the terminal outside.
#[test]
fn terminal_inside_has_the_size_of_the_one_outside() {
    // bash sets LINES and COLUMNS after each program that it has run. `exit`
    // needs a status: in a trap bash 5.3 would use that of the interrupted
    // `wait`.
    let script = "trap 'id > /dev/null; echo $LINES $COLUMNS; exit 0' WINCH; \
                  id > /dev/null; echo $LINES $COLUMNS; sleep 30 & wait";
    let first = "stty rows 31 columns 101; exec \"$0\" bash -c \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", first]).arg(harness().get_program()).arg(script);
    let (mut child, mut shown, _) = start_at_terminal(command);
    read_until(&mut shown, b"31 101\r\n");
    Command::new("stty")
        .args(["rows", "17", "columns", "67"])
        .stdin(shown.try_clone().expect("a terminal"))
        .assert()
        .success();
    // The kernel sends the signal to the terminal's foreground process group,
    // and this terminal has none.
    child.send(Signal::SIGWINCH);
    read_until(&mut shown, b"17 67\r\n");
    assert!(child.0.wait().expect("an end").success());
}

/// V4
#[test]
fn qemu_ends_with_its_machine() {
    let mine = || fs::read_to_string("/proc/thread-self/children");
    let mine = || mine().expect("/proc").split_whitespace().count();
    let vm = common::harness().start();
    assert_eq!(mine(), 1);
    drop(vm.expect("a machine"));
    assert_eq!(mine(), 0);
}

/// V4: killed at any moment, `HARNESS_KILLS` times, and once when it has printed
/// a line: the control, since harness and QEMU are found then.
#[test]
fn harness_killed_at_any_moment_leaves_nothing() {
    let kills = kills().unwrap_or(4);
    for round in 0..=kills {
        // No other run of the suite on this machine has this mark.
        let mark = format!("{}, round {round}", std::process::id());
        let mut command = harness();
        command.args(["sh", "-c", "echo ready; sleep 1000"]);
        let mut child = Running::start(command.env("KILLED", &mark));
        // From the harness's start until some time after the command's.
        thread::sleep(Duration::from_millis(500) * round / kills);
        if round == kills {
            child.wait_for_a_line();
            assert_eq!(marked(&mark).len(), 2, "harness and QEMU");
        }
        child.0.kill().expect("kill");
        child.0.wait().expect("wait");
        let who = || format!("{mark}: {:?} still run", marked(&mark));
        until(who, || marked(&mark).is_empty());
    }
    typed(&["true"]).assert().success().stderr("");
}

/// The processes that have this mark in their environment.
fn marked(mark: &str) -> Vec<PathBuf> {
    let mark = format!("KILLED={mark}\0");
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .map(|process| process.path())
        .filter(|process| {
            // The environment of a process that has ended, or that is another
            // user's, cannot be read.
            let environ = fs::read(process.join("environ"));
            let environ = environ.unwrap_or_default();
            memchr::memmem::find(&environ, mark.as_bytes()).is_some()
        })
        .collect()
}

/// V5
#[test]
fn guest_has_no_file_of_this_machine_but_what_was_packed() {
    let machine = fresh_machine();
    let here = fs::canonicalize(common::package()).expect("here");
    let here = here.to_str().expect("text");
    machine.root(["ls", here]).assert().failure();
    machine.root(["ls", "/usr/local/bin/uts-demo"]).assert().success();
    let kinds = machine.sh(Root, "findmnt -n -o FSTYPE | sort -u");
    let kinds: Vec<&str> = kinds.split_whitespace().collect();
    let own = [
        "cgroup2", "devpts", "devtmpfs", "mqueue", "proc", "rootfs", "sysfs",
        "tmpfs",
    ];
    assert_eq!(kinds, own);
}

/// V5
#[test]
fn guest_has_no_network_card() {
    let machine = fresh_machine();
    // A microvm's QEMU names each card in the kernel's command line, also one
    // for which the kernel has no driver.
    let cmdline = machine.sh(Root, "cat /proc/cmdline");
    assert!(!cmdline.contains("virtio_mmio"), "{cmdline}");
    let devices = machine.sh(Root, "ls -l /sys/class/net");
    let cards = devices.lines().filter(|line| line.contains("->"));
    let cards: Vec<&str> =
        cards.filter(|card| !card.contains("/virtual/")).collect();
    assert!(cards.is_empty(), "{cards:?}");
    assert!(devices.contains("/virtual/net/dummy0"), "{devices}");
}

/// V5: properties of the outside on which the other claims rely.
#[test]
fn outside_is_realistic() {
    let machine = fresh_machine();
    let shared = machine.sh(Root, "findmnt -n -o PROPAGATION | sort -u");
    assert_eq!(shared, "shared\n");
    // As on a machine with systemd, also in a new PID namespace.
    let pid_max = ["cat", "/proc/sys/kernel/pid_max"];
    machine.root(pid_max).assert().success().stdout("4194304\n");
    let inside = [&["pid-demo", "mount-demo"], &pid_max[..]].concat();
    machine.root(inside).assert().success().stdout("4194304\n");
    assert_eq!(machine.sh(Root, "hostname"), "outside\n");
    let up = machine.sh(Root, "ip -o -4 address | cut -d' ' -f2");
    assert_eq!(up, "lo\ndummy0\n");
    // The clock, which was stopped while the machine was saved, is right.
    let now = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after 1970").as_secs()
    };
    let before = now();
    let time = machine.sh(Root, "date +%s");
    let time: u64 = time.trim_end().parse().expect("seconds");
    assert!((before - 2..now() + 2).contains(&time), "{before}, {time}");
    // The interrupts of a timer, which a busy machine loses, are no clock.
    let clock = "cat /sys/devices/system/clocksource/*/current_clocksource";
    let clock = machine.sh(Root, clock);
    // The kernel goes from tsc-early to tsc a second after its start, which may
    // be after the save; both read the same counter.
    let clocks = ["tsc\n", "tsc-early\n", "kvm-clock\n", "arch_sys_counter\n"];
    assert!(clocks.contains(&&*clock), "{clock}");
    let id = machine.sh(Reader, "id");
    assert_eq!(id, "uid=1000(reader) gid=1000(reader) groups=1000(reader)\n");
    machine.run(Reader, ["cat", "/etc/shadow"], b"").assert().failure();
    // PID 1 is where it was, and no mount is in use by it.
    assert_eq!(machine.sh(Root, "readlink /proc/1/cwd"), "/\n");
}
