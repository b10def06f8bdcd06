//! Links combined, as root and as `reader`.

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};

/// Every namespace of a process, a line each: `uts:[4026531838]`. The two
/// `*_for_children` are not namespaces that a process is in.
const NAMESPACES: &str =
    "cd /proc/self/ns; readlink cgroup ipc mnt net pid time user uts";

/// What the claims below mean by "the outside is what it was".
const TRACES: &str = "cat /proc/self/mountinfo; hostname; domainname; \
     tail -n +2 -q /proc/sysvipc/msg /proc/sysvipc/sem /proc/sysvipc/shm; \
     ls /dev/mqueue /dev/shm /tmp; ip -o address; ip -o link; \
     ps -e -o pid= -o comm= | grep -v -e kworker -e ' \\(ps\\|grep\\|sh\\)$'; \
     readlink /proc/self/exe";

/// G1
#[rstest]
#[case("uts-demo", "uts")]
#[case("ipc-demo", "ipc")]
#[case("pid-demo", "pid")]
#[case("mount-demo", "mnt")]
#[case("user-demo", "user")]
#[case("net-demo", "net")]
fn each_demo_changes_exactly_one_namespace(
    #[case] demo: &str,
    #[case] kind: &str,
) {
    let outside = outside();
    let changed = |argv: &[&str]| {
        let callers = outside.sh(Root, NAMESPACES);
        let inside = outside.root([argv, &["sh", "-c", NAMESPACES]].concat());
        let inside = String::from_utf8(inside.stdout).expect("text");
        assert_eq!(inside.lines().count(), callers.lines().count());
        let pairs = callers.lines().zip(inside.lines());
        let differ = pairs.filter(|(caller, inside)| caller != inside);
        differ.map(|(_, inside)| inside.to_string()).collect::<Vec<_>>()
    };
    let changed_by_demo = changed(&[demo]);
    assert_eq!(changed_by_demo.len(), 1, "{changed_by_demo:?}");
    assert!(changed_by_demo[0].starts_with(&format!("{kind}:[")));

    // Without a demo all are the caller's.
    assert_eq!(changed(&["env"]), [""; 0]);
}

/// G1: without root, a demo changes its own and the user namespace.
#[rstest]
#[case("uts-demo", "uts")]
#[case("ipc-demo", "ipc")]
#[case("pid-demo", "pid")]
#[case("net-demo", "net")]
fn without_root_a_user_namespace_comes_first(
    #[case] demo: &str,
    #[case] kind: &str,
) {
    let outside = outside();
    let callers = outside.sh(Reader, NAMESPACES);
    let inside = outside.reader([demo, "sh", "-c", NAMESPACES]);
    let inside = String::from_utf8(inside.stdout).expect("text");
    let differ: Vec<&str> = callers
        .lines()
        .zip(inside.lines())
        .filter(|(caller, inside)| caller != inside)
        .map(|(_, inside)| inside.split(':').next().unwrap_or_default())
        .collect();
    let mut expected = vec![kind, "user"];
    expected.sort();
    assert_eq!(differ, expected);
    outside.reader([demo, "id", "-u"]).assert().success().stdout("0\n");
}

/// G2: the book's first program.
#[test]
#[cfg_attr(ground_here, ignore = "leaves a message queue")]
fn four_links_are_the_books_first_program() {
    let outside = outside();
    outside.sh(Root, "ipcmk -Q");
    let look = "hostname; echo $$; ipcs -q | grep -c 0x; ls -d /proc/[0-9]*";
    let chain = ["uts-demo", "ipc-demo", "pid-demo", "mount-demo"];
    let inside = outside.root([&chain[..], &["sh", "-c", look]].concat());
    inside.assert().stdout("bird\n1\n0\n/proc/1\n");
    let there = outside.root(["sh", "-c", look]);
    there.assert().stdout(predicate::str::contains("outside\n"));
}

/// G2, G3
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves a message queue")]
fn six_links_are_a_container(#[values(Root, Reader)] user: User) {
    let outside = outside();
    outside.sh(Root, "ipcmk -Q");
    let look = "id -u; hostname; echo $$; ipcs -q | grep -c 0x; \
         ps -e -o comm=; ip -o link | cut -d: -f2";
    let chain =
        "user-demo uts-demo ipc-demo pid-demo mount-demo net-demo sh -c";
    let chain: Vec<&str> = chain.split(' ').chain([look]).collect();
    let inside = outside.run(user, chain, b"");
    inside.assert().stdout("0\nbird\n1\n0\nsh\nps\n lo\n").stderr("");

    // The same words without the links.
    let there = outside.run(user, ["sh", "-c", look], b"");
    let id = if user == Root { "0\n" } else { "1000\n" };
    there.assert().stdout(
        predicate::str::starts_with(format!("{id}outside\n"))
            .and(
                predicate::str::contains("\n1\nharness-init\n")
                    .or(predicate::str::contains("\n1\ninit\n")),
            )
            .and(predicate::str::ends_with(" lo\n dummy0\n")),
    );
}

/// G3
#[rstest]
fn report_of_each_demo_holds(
    #[values(
        "uts-demo",
        "ipc-demo",
        "pid-demo",
        "mount-demo",
        "user-demo",
        "net-demo"
    )]
    demo: &str,
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let mine =
        outside.sh(user, &format!("{NAMESPACES}; cat /proc/self/status"));
    let report = outside.run(user, [demo], b"");
    let text = String::from_utf8(report.stdout.clone()).expect("text");
    report.assert().success().stderr("");

    // The first row is the namespace's id: outside it is the caller's.
    let row = text.lines().nth(1).expect("a row");
    let ids: Vec<&str> =
        row.split_whitespace().filter(|word| word.contains(":[")).collect();
    assert_eq!(ids.len(), 3, "{text}");
    assert!(mine.lines().any(|line| line == ids[0]), "{text}");
    assert_ne!(ids[1], ids[0], "{text}");
    assert_eq!(ids[2], ids[0], "{text}");
    // It is read at a terminal of 80 columns.
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    assert!(text.starts_with("       "), "{text}");
}

/// G4
#[test]
#[cfg_attr(ground_here, ignore = "renames the machine, and more")]
fn after_each_demo_the_outside_is_what_it_was() {
    let outside = outside();
    let look = || {
        let seen = outside.root(["sh", "-c", TRACES]);
        String::from_utf8(seen.stdout).expect("text")
    };
    let before = look();
    let demos = "user-demo uts-demo ipc-demo pid-demo mount-demo net-demo";
    for demo in demos.split(' ') {
        outside.root([demo]).assert().success();
        outside.reader([demo]).assert().success();
    }
    // Inside, all that a machine can be left with.
    let litter = "hostname litter; domainname litter; ipcmk -Q -M 64 -S 1; \
         mount -t tmpfs litter /mnt; ip link add litter type dummy; \
         sleep 1000 & true";
    let inside = demos.split(' ').chain(["sh", "-c", litter]);
    outside.root(inside).assert().success();
    assert_eq!(look(), before);

    // Without the links every bit of it is seen.
    outside.root(["sh", "-c", litter]);
    let after = look();
    for trace in ["litter\nlitter\n", "/mnt", "litter: <", " sleep"] {
        assert!(after.contains(trace), "{trace:?} is not in {after}");
        assert!(!before.contains(trace), "{trace:?} is in {before}");
    }
}

/// G7
#[rstest]
#[case::mount_alone("mount-demo ps")]
#[case::mount_before_pid("user-demo mount-demo pid-demo ps")]
#[case::user_between("pid-demo user-demo mount-demo ps")]
fn wrong_order_names_the_right_one(#[case] words: &str) {
    let outside = outside();
    outside.reader(words.split(' ')).assert().code(125).stdout("").stderr(
        predicate::str::starts_with("mount-demo: mount /proc: EPERM: ")
            .and(predicate::str::contains("user-demo pid-demo mount-demo")),
    );
    let right = "user-demo pid-demo mount-demo ps -e -o comm=";
    outside.reader(right.split(' ')).assert().success().stdout("ps\n");
}

/// G6
#[test]
#[cfg_attr(ground_here, ignore = "mounts below /tmp")]
fn chroot_is_named_where_it_is_the_reason() {
    let outside = outside();
    let script = "mkdir -p /tmp/jail/usr /tmp/jail/proc; cd /tmp/jail; \
         ln -s usr/bin usr/lib usr/lib64 .; \
         mount --bind /usr usr; mount --bind /proc proc";
    outside.sh(Root, script);
    let jail = "chroot --userspec=1000:1000 /tmp/jail uts-demo true";
    outside.root(jail.split(' ')).assert().code(125).stderr(
        predicate::str::starts_with("uts-demo: unshare(CLONE_NEWUSER): EPERM")
            .and(predicate::str::contains("chroot")),
    );
    // The same user, the same command, not in it.
    outside.reader(["uts-demo", "true"]).assert().success();
}
