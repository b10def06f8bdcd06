//! V7: the reader's own files that go into the machine: those that the command
//! line names, and those that `$HARNESS_FILES` names.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use assert_cmd::assert::OutputAssertExt;
use nix::sys::signal::Signal;
use predicates::prelude::*;
use tempfile::TempDir;

use crate::common;
use crate::readers::{
    BY_A_SHELL, Watched, apart, executable, harness, in_time,
    start_at_terminal, typed,
};
use crate::target::{Reader, Root, fresh_machine, patience};

/// A folder with an executable script `own`, and a cache of its own.
struct Readers {
    dir: TempDir,
    cache: TempDir,
}

impl Readers {
    fn new(script: &str) -> Readers {
        let cache = common::scratch();
        let dir = tempfile::tempdir().expect("a folder");
        let readers = Readers { dir, cache };
        readers.file("own", script);
        readers
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        executable(&path, text);
        path
    }

    /// The harness, with a cache of its own.
    fn apart(&self, argv: &[&str]) -> assert_cmd::Command {
        let mut command = in_time(apart(self.cache.path()));
        command.current_dir(&self.dir).args(argv);
        command
    }
}

/// V7: what goes in: COMMAND by its name, a script behind other links, the
/// script's interpreter, and a file that is no program.
#[test]
fn readers_program_goes_in_wherever_the_line_names_it() {
    let readers = Readers::new("#!/usr/bin/env -S interpreter\n");
    readers.file("bin/tool", "#!/bin/sh\necho by name; exec \"$@\"\n");
    let interpreter = "#!/bin/sh\necho \"interpreter: $1\"; cat \"$2\"\n";
    let interpreter = readers.file("bin/interpreter", interpreter);
    let text = readers.file("text", "a text\n");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o644))
        .expect("chmod");
    let text = text.to_str().expect("text");
    readers.file("plain", "echo \"without an interpreter: $1\"\n");
    let said = "without an interpreter: a b\n";
    let mut plain = typed(&["./plain", "a b"]);
    plain.current_dir(&readers.dir).assert().success().stdout(said);
    let path = std::env::var("PATH").expect("PATH");
    let path = format!("{}/bin:{path}", readers.dir.path().display());
    typed(&["tool", "pid-demo", "env", "A=b", "./own", text])
        .current_dir(&readers.dir)
        .env("PATH", &path)
        .assert()
        .success()
        .stdout("by name\ninterpreter: ./own\na text\n")
        .stderr("");
    // The control: a file that no word names does not go in, and neither does
    // one that the guest has. Without files of the reader's, there is no
    // directory of his either.
    let elsewhere = format!("pwd; cat {}", interpreter.display());
    let mut control = harness();
    control.args(["sh", "-c", &elsewhere, "/bin/sh", "/etc/passwd"]);
    control.args(["/nosuch", "/proc/self/status", "tool"]);
    control.current_dir(&readers.dir).env("PATH", &path);
    control.assert().failure().stdout("/root\n");
}

/// V6, V7: what is named goes in with what it needs, and in place of a link its
/// target; a folder goes in as it is. The machine is made only once, also if a
/// path has a newline in it.
#[test]
fn readers_files_go_in_where_the_variable_names_them() {
    let readers = Readers::new("");
    let script = "#!/bin/sh
        cd new; . lib/part; cat link; part; ./tool
        stat -c %a lib lib/empty; readlink lib/inside; ls linked
    ";
    let script = readers.file("new/a\nb", script);
    let make = r#"
        mkdir -p new/lib/empty elsewhere; echo text > elsewhere/text
        printf 'part() { echo part; }' > new/lib/part
        printf '#!/bin/sh\necho interpreter\n' > needed
        printf '#!%s\n' "$PWD/needed" > new/tool; chmod +x needed new/tool
        chmod 1777 new/lib/empty; chmod 710 new/lib
        ln -s ../elsewhere/text new/link; ln -s part new/lib/inside
        ln -s ../elsewhere new/linked"#;
    let mut sh = Command::new("sh");
    sh.args(["-euc", make]).current_dir(&readers.dir).assert().success();
    let script = script.to_str().expect("text");
    let run = |files: &str| {
        readers.apart(&[script]).env("HARNESS_FILES", files).assert()
    };
    let states = || {
        let entries = fs::read_dir(readers.cache.path()).expect("a folder");
        let names = entries.flatten().map(|it| it.path().join("state"));
        let made = names.filter_map(|path| fs::metadata(path).ok());
        made.map(|it| it.modified().expect("a time")).collect::<Vec<_>>()
    };
    // The file in the folder first: what is above it is made before.
    let files = "new/lib/part:new/lib:new/link:new/tool:new/linked";
    let shown = "text\npart\ninterpreter\n710\n1777\npart\ntext\n";
    run(files).success().stdout(shown).stderr("");
    let first = states();
    assert_eq!(first.len(), 1);
    run(files).success().stdout(shown).stderr("");
    assert_eq!(states(), first);
    let message = predicate::str::contains("nosuch: No such file or directory");
    run("new/lib:nosuch").code(125).stderr(message);
    // The control: without the variable none of it is there.
    let link = readers.dir.path().join("new/link");
    let cat = format!("cat {}", link.display());
    harness().args(["sh", "-c", &cat]).assert().failure().stdout("");
}

/// V7: below /dev the machine has its own files.
#[test]
fn program_that_would_be_covered_is_refused() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let program = dir.path().join("program");
    fs::copy(common::program(), &program).expect("a copy");
    let message = format!(
        "harness: {}: the machine has its own /dev: copy it to another \
         folder\n",
        program.display()
    );
    harness().arg(&program).assert().code(125).stdout("").stderr(message);
}

/// V8: the harness does not depend on the reader's current directory, nor on
/// Cargo's settings there.
#[test]
fn readers_folder_is_none_of_cargos() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join(".cargo")).expect("a folder");
    fs::write(dir.path().join(".cargo/config.toml"), "rubbish")
        .expect("a file");
    fs::write(dir.path().join("rust-toolchain"), "nosuch").expect("a file");
    let mut here = harness();
    here.arg("true").current_dir(&dir).env("CARGO_TARGET_DIR", "relative");
    here.env_remove("RUSTUP_TOOLCHAIN").assert().success().stderr("");
    assert!(!dir.path().join("relative").exists());

    // In a directory that was removed.
    let gone = "mkdir gone; cd gone; rmdir ../gone; exec \"$0\" true";
    let mut shell = Command::new("sh");
    shell.args(["-c", gone]).arg(common::program()).current_dir(&dir);
    shell.assert().success().stderr("");
}

/// V8: the harness works if its caller ignores SIGCHLD.
#[test]
fn ignored_sigchld_does_no_harm() {
    let script = "trap '' CHLD; exec \"$0\" sh -c 'exit 7'";
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).arg(common::program());
    shell.assert().code(7).stderr("");
}

/// V8: an empty variable counts as not set, and a path may be relative.
#[test]
fn variables_may_be_empty_or_relative_paths() {
    let kernel = common::harness().kernel();
    let (dir, name) =
        (kernel.parent().expect("a folder"), kernel.file_name().expect("name"));
    let mut here = harness();
    here.args(["cat", "/proc/sys/kernel/hostname"]).current_dir(dir);
    here.env("HARNESS_KERNEL", Path::new(".").join(name));
    for name in ["HARNESS_QEMU", "HARNESS_ACCEL", "HARNESS_PATIENCE"] {
        here.env(name, "");
    }
    here.assert().success().stdout("outside\n").stderr("");

    let dir = tempfile::tempdir().expect("a folder");
    executable(&dir.path().join("q"), "#!/bin/sh\nexit 1\n");
    for (name, value, message) in [
        ("HARNESS_QEMU", "./q", "harness: QEMU ended at its start"),
        ("HARNESS_PATIENCE", "soon", "a number from 1"),
    ] {
        let message = predicate::str::contains(message);
        let mut wrong = harness();
        wrong.arg("true").env(name, value).current_dir(&dir);
        wrong.assert().code(125).stderr(message);
    }
}

/// V8: a variable that is misspelt is named, and so are those that there are,
/// which are those of the page.
#[test]
fn misspelt_variable_is_refused() {
    let page = common::package().join("README.md");
    let page = fs::read_to_string(page).expect("the page");
    let rows = page.lines().filter_map(|it| it.strip_prefix("| `HARNESS_"));
    let names = rows.filter_map(|row| Some(row.split_once('=')?.0));
    let names: Vec<String> = names.map(|it| format!("HARNESS_{it}")).collect();
    let names = names.join(" ");
    let message =
        format!("harness: no variable is called HARNESS_KERNAL, but {names}\n");
    let run =
        |value| harness().arg("true").env("HARNESS_KERNAL", value).assert();
    run("/nosuch").code(125).stdout("").stderr(message);
    // The control: an empty one counts as not set.
    run("").success().stderr("");
}

/// V8: if nobody reads its output any more, it ends as `yes | head -n 1` does.
#[test]
fn harness_ends_quietly_when_nobody_reads_its_output() {
    for stream in ["yes", "sh -c 'yes >&2'"] {
        let mut child =
            harness().args(["sh", "-c", stream]).spawn().expect("harness");
        let output = Box::new(child.stdout.take().expect("a pipe"));
        let errors = Box::new(child.stderr.take().expect("a pipe"));
        let mut streams: [Box<dyn Read>; 2] = [output, errors];
        if stream != "yes" {
            streams.reverse();
        }
        let [mut read, rest] = streams;
        read.read_exact(&mut [0; 2]).expect("a line");
        drop(read);
        let other = std::io::read_to_string(rest).expect("text");
        let status = child.wait().expect("an end");
        assert_eq!((status.signal(), &*other), (Some(libc::SIGPIPE), ""));
    }
}

/// V8: a stream that its caller has closed is closed for COMMAND, too, and
/// output that cannot be written is an error: none is lost silently.
#[test]
fn closed_stream_is_closed_for_command_and_no_output_is_lost() {
    let run = |script: &str, status: i32, said: &str| {
        let mut shell = Command::new("bash");
        // Saved or not, a machine is there by now.
        common::harness();
        let script = format!("exec \"$0\" {script}");
        shell.args(["-c", &script]).arg(common::program());
        shell.stdin(Stdio::null());
        let said = predicate::str::diff(said.to_string());
        shell
            .assert()
            .append_context("script", script)
            .code(status)
            .stderr(said);
    };
    // A bit for each descriptor that is closed.
    let look = "sh -c 'closed=0; for fd in 0 1 2; do
        [ -e /proc/self/fd/$fd ] || closed=$((closed + (1 << fd)))
        done; exit $closed'";
    for (streams, closed) in
        [("", 0), ("<&-", 1), (">&-", 2), ("2>&-", 4), ("<&- >&- 2>&-", 7)]
    {
        run(&format!("{look} {streams}"), closed, "");
    }
    let lost = |why| format!("harness: write to standard output: {why}\n");
    let [closed, full] = [
        "Bad file descriptor (os error 9)",
        "No space left on device (os error 28)",
    ]
    .map(lost);
    for command in ["echo hi", "--help"] {
        run(&format!("{command} > /dev/full"), 125, &full);
        // It is open, for reading.
        run(&format!("{command} 1< /dev/null"), 125, &closed);
        run(&format!("{command} > /dev/null"), 0, "");
    }
    run("--help >&-", 125, &closed);
    run("sh -c 'echo hi >&2' 2> /dev/full", 125, "");
}

/// V5: the root is an ordinary mount, so pivot_root(2) works, and a container
/// as in the book's chapter 4. The kernel's modules can be loaded.
#[test]
fn container_of_a_later_chapter_runs_in_the_machine() {
    let container = "
        mkdir -p /tmp/lower /tmp/upper /tmp/work /tmp/root
        mount -t overlay -o lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work \
            overlay /tmp/root
        unshare --mount --pid --uts --fork sh -euc '
            cd /tmp/root
            mount -t proc proc proc
            pivot_root . mnt
            umount -l /mnt
            echo inside > /made; ls /mnt; echo $$; cat /made'
        cat /tmp/upper/made; ls /made 2> /dev/null || echo not outside";
    let machine = fresh_machine();
    let release = machine.sh(Root, "uname -r");
    let modules = "modprobe overlay; modprobe veth; modprobe bridge
        modprobe loop; cd /sys/module; ls -d overlay veth bridge loop";
    assert_eq!(machine.sh(Root, modules), "bridge\nloop\noverlay\nveth\n");
    assert_eq!(machine.sh(Root, container), "1\ninside\ninside\nnot outside\n");
    // The control: pivot_root is refused if the new root is no mount point.
    let no_mount = "mkdir -p /tmp/none/old; cd /tmp/none; pivot_root . old";
    machine.root(["sh", "-euc", no_mount]).assert().failure();
    // The kernel's build options are in the machine, too.
    let config = format!("grep -c ^CONFIG_NAMESPACES=y /boot/config-{release}");
    assert_eq!(machine.sh(Root, &config), "1\n");
}

/// V5: the dynamic linker prints no warning when it loads a set-user-ID
/// program, although libc is preloaded.
#[test]
fn program_with_other_ids_is_loaded_without_complaint() {
    let machine = fresh_machine();
    machine.sh(Root, "cp /usr/bin/id /tmp/id; chmod u+s /tmp/id");
    let output = machine.run(Reader, ["/tmp/id", "-u"], b"");
    output.assert().success().stdout("0\n").stderr("");
    machine.run(Reader, ["id", "-u"], b"").assert().stdout("1000\n");
}

/// V1: input goes through QEMU's memory, or over the serial port if that
/// memory cannot be written.
#[test]
fn input_is_whole_by_either_way() {
    let readers = Readers::new("");
    let qemu = Watched::new(BY_A_SHELL);
    let input: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
    let run = |mut command: assert_cmd::Command, input: &[u8]| {
        let run = command.write_stdin(input).output().expect("an end");
        let [text, errors] = [&run.stdout, &run.stderr]
            .map(|stream| String::from_utf8_lossy(stream).into_owned());
        assert!(run.status.success(), "{errors}");
        let (sum, count) = text.split_once('\n').expect("a sum");
        let count: u32 = count.trim_end().parse().expect("a count");
        (sum.to_string(), count, errors)
    };

    // The checksum, and the serial ports' interrupts: see proc_interrupts(5).
    let script = "md5sum
        awk '/ttyS/ { count += $2 } END { print count }' /proc/interrupts";
    let command = ["sh", "-c", script];
    let (sum, few, errors) = run(typed(&command), &input);
    assert_eq!(errors, "");

    let other = || {
        let mut other = readers.apart(&command);
        other.env("HARNESS_QEMU", &qemu.qemu);
        other
    };
    let (nothing, ..) = run(other(), b""); // It makes the machine.
    let (other, many, _) = run(other(), &input);
    assert_eq!(other, sum);
    assert_ne!(nothing, sum);
    // On the serial port some bytes of the input at a time are an interrupt.
    assert!(few > 0 && few * 8 < many, "{few} and {many} interrupts");
}

/// V4: while the machine boots there are no terminal settings to restore, and
/// a signal ends the harness at once, as it ends any program.
#[test]
fn harness_that_boots_ends_with_a_signal() {
    let readers = Readers::new("");
    let cache = readers.cache.path();
    let mut command = apart(cache);
    command.arg("true");
    let (mut child, _shown, _) = start_at_terminal(command);
    // This folder exists while the harness packs and boots.
    while !cache.join("new").exists() {
        assert_eq!(child.0.try_wait().expect("a child"), None);
        std::thread::yield_now();
    }
    let begun = Instant::now();
    child.send(Signal::SIGTERM);
    let status = child.0.wait().expect("an end");
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    assert!(begun.elapsed() < patience());
}
