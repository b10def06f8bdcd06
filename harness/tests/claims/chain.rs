//! Chains of links, as root and as `reader`.

use std::collections::BTreeSet;

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;
use predicates::prelude::*;

use crate::target::{Machine, Reader, Root, USERS, User, fresh_machine};
use crate::uts::rename;

/// All links, in the order of a container.
const LINKS: [&str; DEMOS.len()] =
    ["user-demo", "uts-demo", "ipc-demo", "pid-demo", "mount-demo", "net-demo"];

/// Prints the namespaces that it is in, one a line: `uts:[4026531838]`. The two
/// `*_for_children` are left out, because the process itself is not in them.
const NAMESPACES: &str = "cd /proc/self/ns
    exec readlink cgroup ipc mnt net pid time user uts";

fn namespaces(machine: &Machine, user: User, links: &[&str]) -> Vec<String> {
    let text = machine.says(user, [links, &["sh", "-c", NAMESPACES]].concat());
    text.lines().map(String::from).collect()
}

/// The types of the namespaces in which the two processes differ.
fn differ<'a>(caller: &[String], inside: &'a [String]) -> Vec<&'a str> {
    assert_eq!([caller.len(), inside.len()], [8, 8]);
    let pairs = inside.iter().zip(caller);
    let differ = pairs.filter(|(inside, caller)| inside != caller);
    differ.filter_map(|(inside, _)| inside.split(':').next()).collect()
}

/// G1: without root, a demo changes its own and the user namespace.
#[test]
fn each_demo_changes_exactly_one_namespace() {
    let machine = fresh_machine();
    let [root, reader] =
        [Root, Reader].map(|user| namespaces(&machine, user, &[]));
    for (demo, kind) in [
        ("uts-demo", "uts"),
        ("ipc-demo", "ipc"),
        ("pid-demo", "pid"),
        ("mount-demo", "mnt"),
        ("user-demo", "user"),
        ("net-demo", "net"),
    ] {
        let inside = namespaces(&machine, Root, &[demo]);
        assert_eq!(differ(&root, &inside), [kind], "{demo}");
        if demo == "mount-demo" {
            continue; // Without root it takes a PID namespace as well.
        }
        let inside = namespaces(&machine, Reader, &[demo]);
        let kinds = BTreeSet::from(["user", kind]);
        assert_eq!(differ(&reader, &inside), Vec::from_iter(kinds), "{demo}");
        assert_eq!(machine.says(Reader, [demo, "id", "-u"]), "0\n", "{demo}");
    }
    // Without a demo all namespaces are the caller's.
    assert_eq!(namespaces(&machine, Root, &["env"]), root);
    assert_eq!(namespaces(&machine, Reader, &["env"]), reader);
}

/// G2, G3
#[test]
fn four_links_are_the_books_first_program_and_six_a_container() {
    let machine = fresh_machine();
    machine.sh(Root, "ipcmk -Q");
    // /proc/[0-9]* are the processes, and the folders in conf are the network
    // interfaces. Each queue has a line below a heading.
    let look = "id -u
        read name < /proc/sys/kernel/hostname; echo $name
        echo $$
        read name < /proc/1/comm; echo $name /proc/[0-9]*
        cd /proc/sys/net/ipv4/conf; echo *
        cat /proc/sysvipc/msg";
    let look = |user, links: &[&str]| -> Vec<String> {
        let argv = [links, &["sh", "-euc", look]].concat();
        let seen = machine.says(user, argv);
        seen.lines().map(String::from).collect()
    };
    for user in USERS {
        let inside = look(user, &LINKS);
        let expected = ["0", "bird", "1", "sh /proc/1", "all default lo"];
        assert_eq!(inside[..5], expected, "{user}");
        assert_eq!(inside.len(), 6, "{user}: {inside:?}");
    }
    // The book's first program stays in the outside's network namespace.
    let inside = look(Root, &LINKS[1..5]);
    let expected = ["0", "bird", "1", "sh /proc/1", "all default dummy0 lo"];
    assert_eq!(inside[..5], expected);
    assert_eq!(inside.len(), 6, "{inside:?}");

    // The same script without the links.
    for (user, id) in [(Reader, "1000"), (Root, "0")] {
        let outside = look(user, &[]);
        assert_eq!(outside[..2], [id, "outside"]);
        assert_ne!(outside[2], "1", "{user}");
        assert!(outside[3].contains("init /proc/1 /proc/"), "{outside:?}");
        assert_eq!(outside[4], "all default dummy0 lo", "{user}");
        assert_eq!(outside.len(), 7, "{user}: {outside:?}");
    }
}

/// G3, G4
#[test]
fn report_of_each_demo_holds_and_the_outside_is_what_it_was() {
    let machine = fresh_machine();
    let before = machine.traces();
    for user in USERS {
        for demo in LINKS {
            machine.says(user, [demo]);
        }
    }
    assert_eq!(machine.traces(), before);
    // Inside, one object of each kind that could be left behind is made.
    let litter = rename("litter", "litter")
        + "; ipcmk -Q -M 64 -S 1; \
         mount -t tmpfs litter /mnt; ip link add litter type dummy; \
         sleep 1000 & true";
    let inside = [&LINKS[..], &["sh", "-c", &litter]].concat();
    machine.root(inside).assert().success();
    assert_eq!(machine.traces(), before);

    // Without the links all of it is seen.
    machine.root(["sh", "-c", &litter]);
    let after = machine.traces();
    for trace in ["litter\nlitter\n", "/mnt", "litter: <", " sleep"] {
        assert!(after.contains(trace), "{trace:?} is not in {after}");
        assert!(!before.contains(trace), "{trace:?} is in {before}");
    }
}

/// G3: the control. When unshare(2) succeeds but makes no namespace, no row of
/// any report holds.
#[test]
fn no_report_holds_where_unshare_does_nothing() {
    let machine = fresh_machine();
    let fake = "strace -f -qq -o /dev/null -e inject=unshare:retval=0";
    // What no new namespace has: an address of lo, and an object of each kind.
    machine.sh(Root, "ip address add 127.0.0.9/8 dev lo; ipcmk -Q -M 64 -S 1");
    for demo in DEMOS.into_iter().filter(|demo| *demo != "user-demo") {
        let seen = machine.root(fake.split(' ').chain([demo]));
        let table = String::from_utf8_lossy(&seen.stdout).into_owned();
        let facts =
            table.lines().skip(1).filter_map(|row| row.split("  ").next());
        let says = |fact| format!("{demo}: not isolated: {fact}\n");
        let all: String = facts.map(says).collect();
        seen.assert().code(1).stderr(all);
    }
    // user-demo fails before its report: the outside has a map already.
    let seen = machine.root(fake.split(' ').chain(["user-demo"]));
    seen.assert().code(125).stdout("").stderr(predicate::str::starts_with(
        "user-demo: write /proc/self/setgroups: EPERM: ",
    ));
}

/// G2: strace(1) shows how often the chain makes each system call, and that
/// its child is a fork: the clone has SIGCHLD.
#[test]
fn chain_of_six_is_seven_programs_six_unshares_and_one_child() {
    let machine = fresh_machine();
    let trace = "trace=execve,unshare,clone,clone3,fork,vfork";
    let strace = ["strace", "-f", "-qq", "-e", trace, "-e", "signal=none"];
    let chain = [&strace[..], &LINKS, &["true"]].concat();
    for user in USERS {
        let output = machine.run(user, &chain, b"");
        let calls = String::from_utf8_lossy(&output.stderr).into_owned();
        // A program is looked for in each folder of PATH: only the call that
        // found it counts. strace may print a call in two lines: only the
        // second, with its end, counts.
        let done = |name: &str| {
            let call = format!("{name}(");
            let rest = format!("<... {name} resumed>");
            let is_end = |line: &&str| {
                (line.contains(&call) || line.contains(&rest))
                    && !line.contains(" = -1 ")
                    && !line.contains("<unfinished ...>")
            };
            calls.lines().filter(is_end).count()
        };
        let made = ["clone", "clone3", "fork", "vfork"].map(done);
        let seen = [done("execve"), done("unshare"), made.iter().sum()];
        assert_eq!(seen, [7, 6, 1], "{user}: {calls}");
        assert!(calls.contains("SIGCHLD"), "{user}: {calls}");
    }
}

/// G7
#[test]
fn wrong_order_names_the_right_one() {
    let machine = fresh_machine();
    for words in [
        "mount-demo sh",
        "user-demo mount-demo pid-demo sh", // Mount before PID.
        "pid-demo user-demo mount-demo sh", // User between them.
    ] {
        let [error, advice] = machine.refused(Reader, words.split(' '));
        assert!(error.starts_with("mount-demo: mount /proc: EPERM: "));
        assert!(advice.contains("user-demo pid-demo mount-demo"), "{advice}");
    }
    let right = ["user-demo", "pid-demo", "mount-demo"];
    let right = [&right[..], &["sh", "-c", "echo /proc/[0-9]*"]].concat();
    assert_eq!(machine.says(Reader, right), "/proc/1\n");
}
