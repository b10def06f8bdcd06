//! V13: what this machine lacks is unpacked. Scripts stand in for apt and dpkg,
//! since what they do is not asked here, but what is made of it.

use std::env::{join_paths, var_os};
use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;

use crate::common;
use crate::readers::{executable, without_cargo};

/// V13
#[test]
fn qemu_that_is_missing_is_fetched_and_unpacked_once() {
    let harness = common::harness();
    let dir = common::scratch();
    let [bin, here, store, log, works, broken] =
        ["bin", "here", "store", "log", "works", "broken"]
            .map(|it| dir.path().join(it));
    let path = var_os("PATH").expect("PATH");
    // All programs of this machine but QEMU, apt and dpkg. Of two with the same
    // name the first counts.
    let links = "mkdir bin here; IFS=:
        for dir in $PATH; do ln -s $dir/* here 2> /dev/null || :; done
        rm -f here/qemu-system-* here/apt-* here/dpkg*";
    let mut sh = Command::new("sh");
    sh.args(["-euc", links]).current_dir(&dir).assert().success();
    let script = |name: &str, text: String| {
        let text = format!("#!/bin/sh\nPATH={}\n{text}", path.display());
        executable(&bin.join(name), &text);
    };
    let shown = Path::display;
    script(
        "apt-get",
        format!(
            r#"case " $* " in
            *' -s '*) echo asked >>{log}; [ ! -e {broken} ] || exit 100
                echo 'Remv z [1]'; echo 'Inst q [0] (1:1 x [y]) []'
                echo 'Conf q (1:1 x [y])' ;;
            *' --print-uris '*) echo "'http://x/q' q_1%3a1_all.deb 1000 MD5:0" ;;
            *' download q=1:1 '*) [ -e q_1%3a1_all.deb ] || echo fetched >>{log}
                touch q_1%3a1_all.deb ;;
            *) exit 100 ;;
            esac
            "#,
            log = shown(&log),
            broken = shown(&broken)
        ),
    );
    // In a machine that has none of the tools, they are in the package, too.
    script(
        "dpkg",
        format!(
            r#"[ -e {works} ] || {{ echo one; echo two; exit 2; }} >&2
            ! [ -d {tools} ] || cp -a {tools}/. "$3"
            rm -rf "$3/run" "$3/usr/bin/qemu-system-"*
            mkdir -p "$3/usr/bin"
            cp {here}/true "$3/usr/bin/qemu-system-$(uname -m)"
            "#,
            works = shown(&works),
            here = shown(&here),
            tools = shown(&harness.packages().join("tools"))
        ),
    );
    let run = || {
        without_cargo(common::program())
            .arg("true")
            .env("PATH", join_paths([&bin, &here]).expect("PATH"))
            .env("HARNESS_CACHE", dir.path().join("cache"))
            .env("HARNESS_PACKAGES", &store)
            .env("HARNESS_KERNEL", harness.kernel())
            .assert()
            .code(125)
    };
    let log = || fs::read_to_string(&log).unwrap_or_default();

    run().stderr(
        predicate::str::starts_with("harness: missing on this machine: ")
            .and(predicate::str::contains("dpkg: one\n    two\n")),
    );
    assert_eq!(log(), "asked\nfetched\n");
    assert!(!store.join("tools").exists());

    let run_twice = |asked: &str| {
        for _ in 0..2 {
            run().stderr(predicate::str::contains("QEMU ended at its start"));
            assert_eq!(log(), asked);
        }
    };
    // It is started, and ends at once. The package was there already.
    fs::write(&works, "").expect("a file");
    run_twice("asked\nfetched\nasked\n");
    // It is asked again after its lists or the system have changed, and where
    // it has no answer, what is there will do.
    fs::write(&broken, "").expect("a file");
    fs::write(store.join("tools.asked"), "before").expect("a file");
    run_twice("asked\nfetched\nasked\nasked\n");
    assert!(store.join("tools/run").is_dir());
    assert!(!store.join("tools.new").exists());
    assert!(!store.join("tools.debs").exists());
}
