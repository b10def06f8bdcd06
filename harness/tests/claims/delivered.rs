//! V12: what Cargo or the reader has changed is delivered to the saved machine,
//! which is not booted anew for it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;

use crate::checkout::Checkout;
use crate::common;
use crate::readers::{BY_A_SHELL, REAL, Watched, apart, executable, kills};

/// V12: a program, a file and a demo are edited, and the next command sees what
/// they are now, whether they were written anew or replaced, with the same
/// length and in the same second. No edit costs a boot.
#[test]
fn next_command_sees_the_last_edit_and_no_boot() {
    let checkout = Checkout::new();
    let qemu = Watched::new(REAL);
    let [own, file] = ["own", "file"].map(|name| qemu.at(name));
    let write = |path: &Path, text: &str, replace: bool| {
        if replace {
            let new = path.with_extension("new");
            executable(&new, text);
            fs::rename(new, path).expect("a file");
        } else {
            executable(path, text);
        }
    };
    let run =
        || qemu.run(checkout.plain().arg(&own).env("HARNESS_FILES", &file));
    let rounds = kills().unwrap_or(20);
    // Each is edited in the first round.
    for round in 102..102 + rounds {
        let script = format!(
            "#!/bin/sh\necho own {round}; cat {}; uts-demo\n",
            file.display()
        );
        let demo = format!("#!/bin/sh\necho demo {round}\n");
        // One, two or three of them.
        write(&own, &script, round % 2 == 0);
        if round % 3 != 1 {
            write(&file, &format!("file {round}\n"), round % 4 < 2);
        }
        if round % 5 != 1 {
            write(&checkout.uts_demo(), &demo, round % 4 == 1);
        }
        let then = |number, rest| round - u32::from(round % number == rest);
        let (file, demo) = (then(3, 1), then(5, 1));
        let shown = format!("own {round}\nfile {file}\ndemo {demo}\n");
        assert_eq!(run(), shown, "round {round}");
    }
    let starts = qemu.starts();
    assert_eq!(
        starts,
        "booted ".to_string() + &"restored ".repeat(rounds as usize)
    );
    // A demo that is new is delivered, too.
    let copies = checkout.at("target/debug/examples/copies");
    fs::copy(&copies, copies.with_file_name("other")).expect("a copy");
    write(&own, "#!/bin/sh\nother\n", true);
    assert_eq!(run(), "its example\n");
    assert_eq!(qemu.starts(), "restored ");
    // The controls: one that is gone, and those that would cost each command
    // too much: one that is long, and one that nobody works on any more.
    fs::remove_file(copies.with_file_name("other")).expect("a file");
    write(&own, "#!/bin/sh\nother || uts-demo\n", true);
    let control = |text: &str| {
        write(&checkout.uts_demo(), text, true);
    };
    control("#!/bin/sh\necho gone\n");
    fs::remove_file(copies).expect("a file");
    assert_eq!(run(), "gone\n");
    assert_eq!(qemu.starts(), "booted restored ");
    control(&format!("#!/bin/sh\necho long\n#{}\n", " ".repeat(3 << 20)));
    assert_eq!(run(), "long\n");
    assert_eq!(qemu.starts(), "booted restored ");
    control("#!/bin/sh\necho old\n");
    let old = SystemTime::now() - Duration::from_secs(2 * 60 * 60);
    File::open(checkout.uts_demo())
        .and_then(|file| file.set_modified(old))
        .expect("a time");
    assert_eq!(run(), "old\n");
    assert_eq!(qemu.starts(), "booted restored ");
}

/// V12: file by file the machine is the same, whether the reader's files are
/// delivered or saved with it. They are saved where QEMU's memory cannot be
/// written, here because the harness's child is a shell; that is remembered,
/// and then an edit costs one boot.
#[test]
fn what_is_delivered_is_what_would_be_saved() {
    let cache = common::scratch();
    let real = Watched::new(REAL);
    let shell = Watched::new(BY_A_SHELL);
    let dir = tempfile::tempdir().expect("a folder");
    let make = "
        mkdir -p tree/secret tree/empty tree/sub; cd tree
        cp $1 program; printf secret/key > secret/key; printf sub/text > sub/text
        chmod 755 .; chmod 700 secret; chmod 1777 empty; chmod 711 sub
        chmod 4755 program; chmod 600 secret/key; chmod 640 sub/text
        ln -s text sub/link; ln -s no dangling; ln -s sub in; ln program ../same
        touch -d @981158400 sub/text sub empty";
    let program = common::program().with_file_name("uts-demo");
    let mut sh = Command::new("sh");
    sh.args(["-euc", make, "sh"]).arg(program).current_dir(&dir);
    sh.assert().success();
    let tree = dir.path().join("tree").display().to_string();
    let same = dir.path().join("same").display().to_string();
    // Also what the machine has of its own, at the same paths. All is short:
    // with true(1) of uutils it would be 12 MB, and saved.
    let more = ["/etc/hosts", "/bin/sh", "/etc/alternatives"];
    let more = more.into_iter().filter(|path| Path::new(path).exists());
    let files: Vec<&str> = [&*tree, &same].into_iter().chain(more).collect();
    let files = files.join(":");

    let script = "cd /
        {
            find . \\( -path ./proc -o -path ./sys -o -path ./dev \\) -prune \
                -o -printf '%p %m %U %G %s %l %y\\n'
            find $1 -printf '%p %T@\\n'
            find $1 /etc /usr/local -type f -exec md5sum {} +
        } | sort";
    let list = |qemu: &Watched, files: &str| {
        let mut command = apart(cache.path());
        command.args(["sh", "-c", script, "sh", &tree]);
        qemu.run(command.env("HARNESS_FILES", files))
    };
    let delivered = list(&real, &files);
    assert_eq!(real.starts(), "booted restored ");
    assert!(delivered.contains("/secret 700 0 0 "), "{delivered}");
    assert!(delivered.contains("/sub/text 640 0 0 "), "{delivered}");
    assert!(delivered.contains("/sub/text 981158400."), "{delivered}");

    let saved = list(&shell, &files);
    assert_eq!(shell.starts(), "booted restored booted restored ");
    for (delivered, saved) in delivered.lines().zip(saved.lines()) {
        assert_eq!(delivered, saved);
    }
    assert_eq!(delivered.len(), saved.len());
    // Little goes over the serial port.
    let text = dir.path().join("tree/sub/text");
    let cat = shell.run(apart(cache.path()).arg("cat").arg(&text));
    assert_eq!(cat, "sub/text");
    assert_eq!(shell.starts(), "restored ");
    fs::write(text, "edited").expect("a file");
    assert_ne!(list(&shell, &files), saved);
    assert_eq!(shell.starts(), "booted restored ");
}

/// V12: what is long is saved with the machine; a program that the command line
/// names is delivered also then, with what it needs.
#[test]
fn long_files_are_saved_and_a_program_is_delivered_over_them() {
    let cache = common::scratch();
    let qemu = Watched::new(REAL);
    let tree = qemu.at("tree");
    fs::create_dir(&tree).expect("a folder");
    fs::write(tree.join("long"), vec![b'x'; 9 << 20]).expect("a file");
    let interpreter = qemu.at("interpreter");
    let script = tree.join("script");
    let run = |word: &str| {
        executable(
            &interpreter,
            &format!("#!/bin/sh\necho {word}; wc -c $2\n"),
        );
        let long = tree.join("long");
        let mut command = apart(cache.path());
        let command = command.args([&script, &long]);
        let shown = format!("{word}\n{} {}\n", 9 << 20, long.display());
        assert_eq!(qemu.run(command.env("HARNESS_FILES", &tree)), shown);
    };
    executable(&script, &format!("#!{}\n", interpreter.display()));
    run("one");
    assert_eq!(qemu.starts(), "booted restored ");
    run("two");
    assert_eq!(qemu.starts(), "restored ");
    // The control: a file that is saved is edited.
    fs::write(tree.join("short"), "short").expect("a file");
    run("three");
    assert_eq!(qemu.starts(), "booted restored ");
    // The reader's files are for him alone.
    for state in fs::read_dir(cache.path()).expect("a folder").flatten() {
        let mode = state.metadata().expect("a folder").permissions().mode();
        assert!(state.path().is_file() || mode & 0o077 == 0, "{mode:o}");
    }
}

/// V6: a machine that is replaced while one starts from it is not used: what
/// was to be delivered was for the old one.
#[test]
fn machine_that_is_replaced_meanwhile_is_not_used() {
    let cache = common::scratch();
    let qemu = Watched::new(
        "rm \"${0%qemu}replace\" 2>/dev/null && mv \"$PWD\" \"$PWD.old\"
        exec $qemu \"$@\"",
    );
    let run = || qemu.run(apart(cache.path()).args(["uts-demo", "hostname"]));
    assert_eq!(run(), "bird\n");
    assert_eq!(qemu.starts(), "booted restored ");
    fs::write(qemu.at("replace"), "").expect("a file");
    assert_eq!(run(), "bird\n");
    assert_eq!(qemu.starts(), "restored booted restored ");
    // The control.
    assert_eq!(run(), "bird\n");
    assert_eq!(qemu.starts(), "restored ");
}

/// V3, V7, V12: an error in a program of the reader's own is told before a boot, and
/// so is a disk that is full.
#[test]
fn error_in_the_readers_program_is_told_before_a_boot() {
    let cache = common::scratch();
    let qemu = Watched::new(REAL);
    let script = qemu.at("script");
    let run = |file: &Path| {
        let mut command = apart(cache.path());
        command.arg("true").arg(file).env("HARNESS_QEMU", &qemu.qemu).assert()
    };
    executable(&script, "#!/nosuch/interpreter\n");
    let message = "its interpreter /nosuch/interpreter is missing\n";
    run(&script).code(125).stderr(predicate::str::ends_with(message));
    assert_eq!(qemu.starts(), "");

    let mut full = Command::new("bash");
    let limit = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" true";
    full.args(["-c", limit]).arg(common::program());
    full.env("HARNESS_CACHE", cache.path()).env("HARNESS_QEMU", &qemu.qemu);
    full.env("HARNESS_PACKAGES", common::harness().packages());
    let message = predicate::str::contains("File too large");
    full.assert().code(125).stderr(message);
    assert_eq!(qemu.starts(), "");
    let left = fs::read_dir(cache.path()).expect("a folder").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lock"]);

    // The control.
    executable(&script, "#!/bin/sh\n");
    run(&script).success();
    assert_eq!(qemu.starts(), "booted restored ");
}

/// V12: in a class, the machine that the checkout's owner has saved is everyone
/// else's, too: they copy it, and boot nothing as long as it is the right one.
#[test]
fn owners_machine_serves_a_class() {
    let checkout = Checkout::new();
    let qemu = Watched::new(REAL);
    let own = qemu.at("own");
    let run = || qemu.run(checkout.plain().arg(&own));
    executable(&own, "#!/bin/sh\nuts-demo; echo owner\n");
    assert_eq!(run(), "the copy\nowner\n");
    assert_eq!(qemu.starts(), "booted restored ");

    let target = checkout.at("target");
    let closed = checkout.give_target_away();
    let states = |cache: PathBuf| {
        let entries = fs::read_dir(cache).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        names.filter(|name| name.starts_with("state-")).count()
    };
    let at_home = || states(checkout.at("home/.cache/namespace-demos"));
    for student in ["first", "second"] {
        let script = format!("#!/bin/sh\nuts-demo; echo {student}\n");
        executable(&own, &script);
        assert_eq!(run(), format!("the copy\n{student}\n"));
        assert_eq!(qemu.starts(), "restored ");
        assert_eq!(at_home(), 1);
    }
    // The control: where it is not the right one, one is booted.
    let example = checkout.at("target/debug/examples/copies");
    fs::remove_file(example).expect("a file");
    assert_eq!(run(), "the copy\nsecond\n");
    assert_eq!(qemu.starts(), "booted restored ");
    assert_eq!((at_home(), states(target.join("harness-cache"))), (1, 1));
    closed(0o755).expect("chmod");
}
