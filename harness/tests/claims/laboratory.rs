//! The laboratory: the reader's own container, the tour, the ordinary user.

use std::fs;
use std::process::Command;

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;

use crate::common;
use crate::readers::harness;
use crate::target::{Reader, Root, fresh_machine, guest};

/// V7: a reader's own program is a container in the machine.
#[test]
fn readers_own_container_runs_in_the_machine() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::copy(guest(), dir.path().join("container")).expect("a program");
    let look = "hostname; echo $$; echo /proc/[0-9]*; ls -d /etc";
    let run = |argv: &[&str]| {
        harness().args(argv).current_dir(&dir).assert().success()
    };
    run(&["./container", "good", "sh", "-c", look])
        .stdout("container\n2\n/proc/1 /proc/2\n/etc\n");
    // Without it the same commands see the outside.
    let outside = predicate::str::starts_with("outside\n")
        .and(predicate::str::contains(" /proc/2 "));
    run(&["sh", "-c", look]).stdout(outside);

    // The harness does not need Go, but the book's readers have it.
    let go = dir.path().join("book");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&go, &common::package().join("tests/guest/book.go")])
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
        run(&["sh", "-c", pipe, "sh", book]).stdout("1\n");
    }
}

/// V11: a control group of one's own limits what is in it.
#[test]
fn control_groups_are_there_and_limit() {
    let script = r#"
        cd /sys/fs/cgroup
        echo +pids +memory > cgroup.subtree_control
        mkdir small
        echo "$1" > small/pids.max
        sh -c 'echo $$ > small/cgroup.procs; cat /proc/self/cgroup'
    "#;
    let machine = fresh_machine();
    let seen = machine.sh(Root, "cat /proc/self/cgroup");
    assert_eq!(seen, "0::/\n");
    // The shell itself is one process, and cat another.
    assert_eq!(machine.sh_with(Root, script, &["2"]), "0::/small\n");
    let limited = ["sh", "-euc", &script.replace("mkdir", "#"), "sh", "1"];
    machine.root(limited).assert().failure().stdout("");
}

/// V11: what is built into the kernel, and which modules there are, is listed
/// where programs look for it.
#[test]
fn modules_are_listed_where_programs_look() {
    let machine = fresh_machine();
    let script = r#"
        cd /lib/modules/$(uname -r)
        grep -c . modules.builtin
        for name; do
            grep -q "/$name\.ko" modules.builtin || grep "/$name\.ko:" modules.dep
        done
    "#;
    let names = ["dummy", "veth", "bridge", "overlay", "loop"];
    let listed = machine.sh_with(Root, script, &names);
    let first = listed.lines().next().expect("a count");
    assert!(first.parse::<u32>().expect("a count") > 100, "{listed}");
    let nosuch = ["sh", "-euc", script, "sh", "nosuch"];
    machine.root(nosuch).assert().failure();
}

/// V11: the kernel loads a module when it is asked for what that does.
#[test]
fn module_is_loaded_when_it_is_needed() {
    let machine = fresh_machine();
    let script = r#"
        loaded() { grep -q "^veth " /proc/modules; }
        ! loaded
        ip link add one type veth peer name two
        loaded || grep -q "/veth\.ko" /lib/modules/$(uname -r)/modules.builtin
    "#;
    machine.sh(Root, script);
}

/// V11: a file of 300 MB has room, as the image of a small system is, and what
/// has none is refused while the machine goes on.
#[test]
fn image_of_300_mb_has_room() {
    let machine = fresh_machine();
    let fill = "head -c $1 /dev/zero > file; stat -c %s file";
    let seen = machine.sh_with(Root, fill, &["300000000"]);
    assert_eq!(seen, "300000000\n");
    let more = ["sh", "-euc", fill, "sh", "900000000"];
    machine.root(more).assert().failure().stdout("");
    machine.sh(Root, "rm file; true > file");
}

/// V11: Landlock is on, where the kernel has it.
#[test]
fn landlock_is_on_where_the_kernel_has_it() {
    let machine = fresh_machine();
    let script = "
        mount -t securityfs none /mnt; cat /mnt/lsm; echo
        grep -c '^CONFIG_SECURITY_LANDLOCK=y' /boot/config-* || true
    ";
    let seen = machine.sh(Root, script);
    let (modules, built) = seen.split_once('\n').expect("two lines");
    // A kernel whose configuration is not here may have it.
    let has = modules.split(',').any(|it| it == "landlock");
    assert!(modules.split(',').any(|it| it == "capability"), "{seen}");
    assert_eq!(has, built.trim() == "1", "{seen}");
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
        for step in ["0", "13", "1 3", "nowhere"] {
            let wrong = machine.root(["tour", language, step]);
            wrong.assert().code(2).stdout("");
        }
    }
}

/// V9: what the tour says of its keys is in the language of its text.
#[test]
fn tour_says_in_its_language_which_keys_there_are() {
    let script = r#"cd /tmp; mkfifo keys; exec 3<> keys
        shown() { until grep -q "$1" screen; do sleep 0.1; done; }
        TERM=linux script -qefc "stty columns 80 rows 24
            tour $1 4; echo EN''DED; read answer" screen < keys > /dev/null 2>&1 &
        shown "$2"; shown "$3"
        printf '[[B' >&3; printf 'tour %s
' "$1" >&3; shown "$4"
        printf '[[B' >&3; printf q >&3; shown ENDED
        printf '
' >&3; wait $!; cat screen
        tour $1 99 2>&1 || :"#;
    let english =
        ["F2: text or shell", "Space: on, b: back", "the tour is open", "from"];
    let chinese = ["F2 文字/shell", "空格往后，b 往前", "导览已经打开", "从"];
    for (language, words, others) in
        [("en", english, chinese), ("zh", chinese, english)]
    {
        let machine = fresh_machine();
        let [keys, less, open, usage] = words;
        let arguments = [language, keys, less, open];
        let seen = machine.sh_with(Root, script, &arguments);
        let last = seen.lines().last().expect("a line");
        assert!(last.contains(usage), "{last}");
        let first = seen.find("## 4. ").expect("a step");
        for other in others.iter().filter(|it| it.len() > 4) {
            assert!(!seen[first..].contains(other), "{other}: {seen}");
        }
    }
}

/// V9: at a terminal, `q` leaves the tour. Then there is a prompt, and above it
/// the step that was read, and no other. Both shells can be typed in.
#[test]
fn tour_that_is_left_leaves_the_step_and_a_prompt() {
    let script = r#"cd /tmp; mkfifo keys; exec 3<> keys
        shown() { until grep -q "$1" screen; do sleep 0.1; done; }
        TERM=linux script -qefc "stty columns $1 rows $2
            tour 4; echo EN''DED; read answer; echo the answer: \$answer" \
            screen < keys > /dev/null 2>&1 &
        shown 'UTS: a name'; shown 'first (F2'
        printf :n >&3; shown 'IPC: queues'
        printf '\033[[B' >&3; printf 'echo $((6 * 7)) > /tmp/one; cd /\n' >&3
        until [ -s one ]; do sleep 0.1; done
        printf '\033[[C' >&3; printf 'pwd > two; mv two /tmp\n' >&3
        until [ -s two ]; do sleep 0.1; done
        printf 'tour 7\n' >&3; shown 'the tour is open'
        printf '\033[[B' >&3; printf q >&3; shown ENDED
        printf 'yes\n' >&3; shown 'answer: yes'; wait $!
        cat one two; tr -d '\r' < screen"#;
    for [columns, rows] in [["80", "24"], ["200", "50"]] {
        let machine = fresh_machine();
        let seen = machine.sh_with(Root, script, &[columns, rows]);
        let step = machine.sh(Root, "tour 5");
        let (step, _) = step.split_once("\n## 6.").expect("a next step");
        let shells = seen.starts_with("42\n/root\n");
        assert!(shells, "{columns}: {seen}");
        // What the tour has told less(1) to do is not on the screen.
        assert!(!seen.contains(":n##"), "{columns}: {seen}");
        let last = seen.rfind("## 5. IPC").map(|at| &seen[at..]);
        let last = last.and_then(|it| it.split_once("answer: yes\n"));
        let end = format!("{step}\nENDED\nyes\nthe ");
        assert_eq!(last.expect("the step").0, end, "{columns}");
    }
}
