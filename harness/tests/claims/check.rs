//! `check`, which says whether a reader's container isolates, is right: each of
//! its rows is ok on a container that has what it says, and not ok on one that
//! lacks that alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;
use harness::guest::check::rows;
use predicates::prelude::*;

use crate::common;
use crate::readers::executable;
use crate::target::{Machine, Root, fresh_machine, steps};

/// What a row says: `+` ok, `X` not ok, `.` skipped.
type Outcome = char;

/// The rows of an output, which must be complete.
#[track_caller]
fn outcome(output: &Output) -> Vec<Outcome> {
    let text = String::from_utf8_lossy(&output.stdout);
    let plan = format!("1..{}", rows().len());
    let head: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#')).take(2).collect();
    assert_eq!(head, ["TAP version 13", &plan], "{text}");
    let lines = text.lines().filter(|line| line.contains(" - "));
    let lines = lines.filter(|line| !line.starts_with('#'));
    let mut outcomes = Vec::new();
    for (number, (line, row)) in lines.zip(rows()).enumerate() {
        let text = format!("ok {} - {row}", number + 1);
        outcomes.push(match line.strip_prefix(&text) {
            Some("") => '+',
            Some(skip) if skip.starts_with(" # SKIP ") => '.',
            _ if line == format!("not {text}") => 'X',
            _ => panic!("{text}: {line}"),
        });
    }
    assert_eq!(outcomes.len(), rows().len(), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let status = if outcomes.contains(&'X') { 1 } else { 0 };
    assert_eq!(output.status.code(), Some(status), "{text}");
    outcomes
}

/// The rows that have this outcome.
fn those(outcomes: &[Outcome], wanted: Outcome) -> BTreeSet<&'static str> {
    let all = rows().into_iter().zip(outcomes);
    all.filter(|(_, it)| **it == wanted).map(|(row, _)| row).collect()
}

const PATH: &str = "/usr/local/bin/container";

/// A machine with that container, and with a cgroup hierarchy that limits
/// memory.
fn machine() -> Machine {
    let machine = fresh_machine();
    machine.put(PATH);
    let hierarchy = "
        [ -e /sys/fs/cgroup/cgroup.procs ] ||
            mount -t cgroup2 none /sys/fs/cgroup
        echo +memory > /sys/fs/cgroup/cgroup.subtree_control";
    machine.sh(Root, hierarchy);
    machine
}

fn check(machine: &Machine, prefix: &[&str]) -> Vec<Outcome> {
    outcome(&machine.root([&["check"], prefix].concat()))
}

/// Behind `# ` the mistakes of tests/guest/made-wrong/container.rs. Below each are
/// the rows that name it, and those that cannot be asked then. All other rows are
/// as without it. After the last one the outside's interface is gone.
const MISTAKES: &str = "
# name before the namespace
X UTS: a hostname of its own
X end: SIGTERM to PREFIX leaves nothing
X end: SIGKILL to PREFIX leaves nothing else
X end: COMMAND's own end leaves nothing
# /dev/mqueue is bound
X IPC: queues of its own, also in /dev/mqueue
# unshare without fork
X PID: COMMAND, or an init above it, is PID 1
. mount: /proc inside shows the inside
. end: orphans inside are reaped
. end: what COMMAND leaves running ends too
# /proc is the outside's
X mount: /proc inside shows the inside
# chroot
X root: a root of its own, with no way out
# the old root stays
X root: the outside's root is not inside it
# root is root
X user: the kernel's switches cannot be written
# lo is down
X net: lo is up
# /sys is bound
X net: /sys shows its own network
# a limit, and nobody in it
X cgroup: a memory limit that is set holds
# /dev/null is a file
X call: /dev/null works
# descriptor 3
X call: no descriptor is open but 0, 1, 2
# SIGINT is ignored
X call: no signal is ignored or blocked
# orphans stay
X end: orphans inside are reaped
# COMMAND is PID 1
X end: SIGTERM to PREFIX ends all
X end: a closed terminal ends all
. end: orphans inside are reaped
# SIGTERM is not passed on
X end: SIGTERM to PREFIX ends all
X end: SIGTERM reaches a COMMAND that handles it
# SIGTERM is not passed on, and the words are printed
X end: SIGTERM to PREFIX ends all
X end: SIGTERM reaches a COMMAND that handles it
X call: input, output, errors pass
# SIGTERM is answered by SIGKILL
X end: SIGTERM reaches a COMMAND that handles it
# one at a time
X end: two can run side by side
# no SIGKILL for the child
X end: SIGKILL to PREFIX leaves no process
# file is removed at the end
X end: SIGKILL to PREFIX leaves nothing else
# file is made at the end
X end: COMMAND's own end leaves nothing
# a session of its own
X end: a closed terminal ends all
# waits for all
X end: what COMMAND leaves running ends too
# status is 1
X call: COMMAND's status passes (exit 7)
# signal is 1
X call: COMMAND's death is told (SIGSEGV)
# errors are output
X call: input, output, errors pass
# no word of errors
X call: a COMMAND that is not there is told
# takes an interface
X net: interfaces and ports of its own
X end: SIGTERM to PREFIX leaves nothing
";

/// Pairs of an unshare(1) that has the rows below and one that lacks them, which
/// the container above, in its user namespace, cannot lack.
const PAIRS: &str = "
# unshare --mount --propagation private
# unshare --mount --propagation shared
mount: a mount inside is not seen outside
# unshare --mount sh -c 'mount -t proc proc /proc; exec \"$@\"' sh
# sh -c 'mount -t proc proc /proc; exec unshare --mount \"$@\"' sh
mount: /proc outside is whole while it runs
end: SIGTERM to PREFIX leaves nothing
end: SIGKILL to PREFIX leaves nothing else
end: COMMAND's own end leaves nothing
# reader unshare --user --map-root-user
# reader unshare --user
user: uids of its own
# reader unshare --user --map-root-user --mount
# unshare --user --map-root-user --mount sh -c '
>     mount -o bind /proc /proc; mount -o remount,bind,ro /proc
>     exec \"$@\"' sh
user: root's files outside cannot be written
";

/// R1: each row is ok on a container that has what it says, and not ok on one
/// that lacks it and differs in nothing else.
#[test]
fn each_row_is_seen_ok_and_not_ok() {
    // In halves, at the same time.
    let all = steps(MISTAKES);
    let (one, two) = all.split_at(all.len() / 2);
    let (mut ok, mut not_ok) = (BTreeSet::new(), BTreeSet::new());
    let found = std::thread::scope(|scope| {
        let first = scope.spawn(|| mistakes(one));
        let second = scope.spawn(|| mistakes(two));
        let third = scope.spawn(pairs);
        [first, second, third].map(|it| it.join().expect("no panic"))
    });
    for (has, lacks) in found {
        ok.extend(has);
        not_ok.extend(lacks);
    }
    let all: BTreeSet<&str> = rows().into_iter().collect();
    assert_eq!(ok, all, "seen ok");
    assert_eq!(not_ok, all, "seen not ok");
}

type Seen = (BTreeSet<&'static str>, BTreeSet<&'static str>);

fn mistakes(mistakes: &[(char, String, String)]) -> Seen {
    let machine = machine();
    let good = check(&machine, &[PATH, "good"]);
    let limit = "cgroup: a memory limit that is set holds";
    assert_eq!(those(&good, 'X'), BTreeSet::new());
    assert_eq!(those(&good, '.'), BTreeSet::from([limit]));
    let limited = check(&machine, &[PATH, "a limit"]);
    assert_eq!(those(&limited, '+').len(), rows().len());
    let mut seen = BTreeSet::new();
    for (_, mistake, rows) in mistakes {
        let wrong = check(&machine, &[PATH, mistake]);
        let these =
            |mark| rows.lines().filter_map(move |it| it.strip_prefix(mark));
        let lacks: BTreeSet<&str> = these("X ").collect();
        assert_eq!(those(&wrong, 'X'), lacks, "{mistake}");
        let mut skipped: BTreeSet<&str> = these(". ").collect();
        if !lacks.contains(limit) {
            skipped.insert(limit);
        }
        assert_eq!(those(&wrong, '.'), skipped, "{mistake}");
        seen.extend(those(&wrong, 'X'));
    }
    // What a container leaves is removed, for the next one.
    assert_eq!(
        machine.sh(Root, "hostname; find /run -name 'container*'"),
        "outside\n"
    );
    (those(&limited, '+'), seen)
}

fn pairs() -> Seen {
    let machine = machine();
    let (mut ok, mut not_ok) = (BTreeSet::new(), BTreeSet::new());
    let prefixes = steps(PAIRS);
    for [(_, has, _), (_, lacks, lines)] in prefixes.as_chunks().0 {
        let [has, lacks] = [has, lacks].map(|prefix| {
            let line = "eval \"set -- $1\"; exec check \"$@\"";
            outcome(&machine.root(["sh", "-c", line, "sh", prefix]))
        });
        let more = &those(&lacks, 'X') - &those(&has, 'X');
        assert_eq!(more, lines.lines().collect(), "{has:?} {lacks:?}");
        assert!(more.is_subset(&those(&has, '+')), "{has:?}");
        ok.extend(those(&has, '+'));
        not_ok.extend(more);
    }
    (ok, not_ok)
}

/// The demos, alone and as a chain, and what unshare(1) makes of the
/// namespaces: `+` ok, `X` not ok, `.` skipped, in the order of the rows. How
/// an unshare(1) ends depends on its version.
const SUBJECTS: &[(&str, &str)] = &[
    ("env", "....+..........+++.+++++++.+++++"),
    ("uts-demo", "+...+..........+++.+++++++.+++++"),
    ("ipc-demo", ".X..+..........+++.+++++++.+++++"),
    ("pid-demo", "..+.+..........+++.+++++++++++++"),
    ("mount-demo", "....++.........+++.+++++++.+++++"),
    ("user-demo", "....+...+XX....+++.+++++++.+++++"),
    ("net-demo", "....+......++X.+++.+++++++.+++++"),
    (
        "user-demo uts-demo ipc-demo pid-demo mount-demo net-demo",
        "+X++++..+XX++X.+++.+++++++++++++",
    ),
    (
        "reader user-demo uts-demo ipc-demo pid-demo mount-demo net-demo",
        "+X++++..+++++X.+++.+++++++++++++",
    ),
    // A relative path, which must be found at each start.
    (
        "../usr/bin/unshare -pfm --kill-child --mount-proc",
        "..++++.........+++.X+X++++++++++",
    ),
    ("unshare -Urpfmuin --mount-proc", "+X++++..+XX+XX.+++"),
    ("unshare -pmuin", "+XX.++.....+XX.+++"),
    ("unshare -pfm --mount-proc --propagation shared", "..+++X.........+++"),
    ("unshare -pfm --mount-proc --propagation slave", "..++++.........+++"),
    ("reader unshare -Urpfmuin --mount-proc", "+X++++..++++XX.+++"),
];

/// R2: what `check` says of the six demos, of their chain, and of unshare(1).
#[test]
fn demos_and_unshare_have_what_they_promise() {
    let machine = fresh_machine();
    for (prefix, expected) in SUBJECTS {
        let words: Vec<&str> = prefix.split(' ').collect();
        let seen: String = check(&machine, &words).iter().collect();
        let seen = &seen[..expected.len()];
        assert_eq!(seen, *expected, "{prefix}: {:?}", rows());
    }
    for demo in DEMOS {
        let is_there = SUBJECTS.iter().any(|(prefix, _)| *prefix == demo);
        assert!(is_there, "{demo}");
    }
}

/// R3: the exit status, and that nothing is known of what does not start.
/// prove(1), where it is installed, counts what it reads.
#[test]
fn output_is_tap_and_the_status_sums_it_up() {
    let machine = fresh_machine();
    let bare = machine.root(["check", "reader", "env"]);
    assert!(!outcome(&bare).contains(&'X'));
    let wrong = machine.root(["check", "unshare", "--net"]);
    let not_ok = outcome(&wrong).iter().filter(|it| **it == 'X').count();
    assert!(not_ok > 0);
    for (why, prefix, status, says) in [
        ("it is not there", &["/no/such"][..], 2, "Bail out! "),
        ("it ends", &["sh", "-c", "echo why >&2; exit 3"], 2, "Bail out! "),
        ("it hangs", &["sh", "-c", "while read line; do :; done"], 2, ""),
        ("no PREFIX", &[], 125, ""),
        ("no PREFIX behind reader", &["reader"], 125, ""),
        ("an option", &["--help"], 125, ""),
    ] {
        let output = machine.root([&["check"], prefix].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{why}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with(says), "{why}: {text}");
    }
    // A PREFIX that can be started once: the rows of that start stand.
    let once = "#!/bin/sh\nrm \"$0\"; exec \"$@\"\n";
    let script = "
        printf %s \"$1\" > /root/once; chmod 755 /root/once
        check /root/once";
    let once = machine.root(["sh", "-c", script, "sh", once]);
    let last = "\n#   exec /root/once: No such file or directory (os error 2)\n\
                Bail out! no more is known than the rows above\n";
    let said = predicate::str::contains("\nok 1 - UTS: ")
        .and(predicate::str::ends_with(last));
    once.assert().code(2).stdout(said);

    // Rows that nobody can read are no success.
    for (to, why) in [(">&-", "Bad file"), ("> /dev/full", "No space left")] {
        let script = format!("check env {to}");
        let said = format!("check: write to standard output: {why}");
        let said = predicate::str::starts_with(said);
        machine.root(["sh", "-c", &script]).assert().code(125).stderr(said);
    }

    // The deadline of all: of no seconds, which nothing can keep.
    let late = ["env", "HARNESS_PATIENCE=0", "check", "sh", "-c", "read line"];
    let said = predicate::str::ends_with("Bail out! no end after 0 s\n");
    machine.root(late).assert().code(2).stdout(said);

    let dir = tempfile::tempdir().expect("a folder");
    for (output, fails) in [(bare, 0), (wrong, not_ok)] {
        let file = dir.path().join("output");
        fs::write(&file, &output.stdout).expect("a file");
        // By a shell: where programs for another processor are emulated, only
        // a status says that there is none.
        let mut prove = Command::new("sh");
        prove.args(["-c", "exec prove -e cat \"$0\""]).arg(file);
        let prove = prove.output().expect("sh");
        if prove.status.code() == Some(127) {
            println!("prove(1) is not installed, and did not read it");
            continue;
        }
        let text = String::from_utf8_lossy(&prove.stdout);
        let tests = format!("Tests={}", rows().len());
        assert!(text.contains(&tests), "{text}");
        let failed = format!("Failed {fails}/{} subtests", rows().len());
        assert_eq!(text.contains(&failed), fails > 0, "{text}");
        assert!(!text.contains("Parse errors"), "{text}");
    }
}

/// R4: the page's loop over many programs counts the rows that are ok and were
/// asked: what is shared with the outside does not count.
#[test]
fn teachers_loop_counts_what_is_isolated() {
    let here = common::package();
    let page = fs::read_to_string(here.join("CHECK.md")).expect("the page");
    let blocks = page.split("```sh\n").skip(1);
    let scripts: Vec<&str> =
        blocks.filter_map(|it| it.split("```").next()).collect();
    let [script] = scripts[..] else { panic!("{scripts:?}") };

    let dir = tempfile::tempdir().expect("a folder");
    let chain = "user-demo uts-demo ipc-demo pid-demo mount-demo net-demo";
    for (student, links) in [("anna", chain), ("bo", "")] {
        let dir = dir.path().join("students").join(student);
        fs::create_dir_all(&dir).expect("a folder");
        let program = format!("#!/bin/sh\nshift\nexec {links} \"$@\"\n");
        executable(&dir.join("mydocker"), &program);
    }
    let target = dir.path().join("target/debug");
    fs::create_dir_all(&target).expect("a folder");
    symlink(common::program(), target.join("harness")).expect("a link");
    let output = Command::new("sh")
        .args(["-uc", script])
        .current_dir(&dir)
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = "7 of 9 students/anna/mydocker\n\
                    1 of 9 students/bo/mydocker\n";
    assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
