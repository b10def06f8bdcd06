//! The laboratory: the reader's own container, the tour, the ordinary user.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;

use crate::target::{Reader, Root, fresh_machine};
use crate::vm::harness;

/// The source of a program that a reader might have.
fn source(name: &str) -> PathBuf {
    let claims = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/claims");
    claims.join("container").join(name)
}

/// V7: a reader's own program is a container in the machine.
#[test]
fn readers_own_container_runs_in_the_machine() {
    let dir = tempfile::tempdir().expect("a folder");
    let container = dir.path().join("container");
    // The compiler in the folder of the Cargo that runs this test.
    let cargo = env::var_os("CARGO").map(PathBuf::from);
    let beside = cargo.map(|cargo| cargo.with_file_name("rustc"));
    let rustc = beside.filter(|path| path.is_file());
    Command::new(rustc.unwrap_or("rustc".into()))
        .args(["--edition", "2024", "-A", "warnings", "-o"])
        .args([&container, &source("container.rs")])
        .assert()
        .success();
    let look = "hostname; echo $$; echo /proc/[0-9]*; ls /mnt; ls -d /etc";
    let run = |argv: &[&str]| {
        let mut machine = harness();
        machine.args(argv).current_dir(&dir);
        machine
    };
    run(&["./container", "sh", "-c", look])
        .assert()
        .success()
        .stdout("container\n1\n/proc/1\n/etc\n");
    // Without it the same commands see the outside.
    let outside = predicate::str::starts_with("outside\n")
        .and(predicate::str::contains(" /proc/2 "));
    run(&["sh", "-c", look]).assert().success().stdout(outside);

    // The harness does not need Go, but the book's readers have it.
    let go = dir.path().join("book");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&go, &source("book.go")])
        .env("GOCACHE", dir.path().join("cache"))
        .env("GO111MODULE", "off")
        .output();
    if let Err(error) = &built {
        println!("the Go program was not tried: go: {error}");
    }
    if let Ok(output) = built {
        output.assert().success();
        let pipe = "echo 'echo $$' | \"$1\"";
        let book = go.to_str().expect("text");
        let mut book = run(&["sh", "-c", pipe, "sh", book]);
        book.assert().success().stdout("1\n");
    }
}

/// V9: `reader` starts a command as the ordinary user, and ends with it.
#[test]
fn reader_is_a_command() {
    let machine = fresh_machine();
    let look = "id -un; id -u; id -G; pwd; echo $HOME
        grep CapEff /proc/self/status";
    let seen = machine.sh_with(Root, "reader sh -c \"$1\"; id -u", &[look]);
    assert_eq!(
        seen,
        "reader\n1000\n1000\n/home/reader\n/home/reader\nCapEff:\t0000000000000000\n0\n"
    );
    // It is the same user as the claims' `Reader`.
    machine.run(Reader, ["id", "-u"], b"").assert().stdout("1000\n");
    machine.root(["reader", "sh", "-c", "exit 7"]).assert().code(7);
}

/// V9: the tour is in the machine, in both languages, and can be started at
/// any step. The tests of the pages type its sessions.
#[test]
fn tour_is_taken_up_at_any_step() {
    let machine = fresh_machine();
    for (language, head) in [("en", "# The tour\n"), ("zh", "# 导览\n")] {
        let text = machine.sh_with(Root, "tour $1", &[language]);
        assert!(text.starts_with(head), "{text}");
        // Sessions are indented: no fences, no comments, no hashes.
        assert!(text.contains("\n    # hostname\n    outside\n"), "{text}");
        assert!(!text.contains("```") && !text.contains("<!--"), "{text}");
        let mut rest = &*text;
        for step in 1..=12 {
            let from = rest.find(&format!("\n## {step}. ")).expect("a step");
            rest = &rest[from + 1..];
            let tour = format!("tour $1 {step}");
            assert_eq!(machine.sh_with(Reader, &tour, &[language]), rest);
        }
        let next = format!("tour {language} 13");
        assert_eq!(machine.sh(Root, &next), "");
    }
    machine.root(["tour", "nowhere"]).assert().code(2);
}
