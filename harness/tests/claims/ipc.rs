//! The IPC namespace: ipc_namespaces(7).

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};
use crate::report::report;

/// One of each kind of System V object.
const MAKE: &str = "ipcmk -Q -S 1 -M 4096 > /dev/null";

/// How many there are: queues, semaphore sets, memory segments.
const COUNT: &str =
    "for kind in q s m; do ipcs -$kind | grep -c ^0x || true; done";

/// I1
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves IPC objects")]
fn objects_made_outside_are_not_listed_inside(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    outside.sh(user, MAKE);
    let inside = outside.run(user, ["ipc-demo", "sh", "-c", COUNT], b"");
    inside.assert().success().stdout("0\n0\n0\n");
    // Without the namespace they are.
    assert_eq!(outside.sh(user, COUNT), "1\n1\n1\n");
}

/// I1, I4: the demo's own words, and what the tools say.
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves IPC objects")]
fn ipc_report_agrees_with_the_tools(#[values(Root, Reader)] user: User) {
    let outside = outside();
    // The last one bears the name that the demo would choose for its own.
    let more = "ipcmk -Q; ipcmk -M 4096; ipcmk -M 4096; \
                touch /dev/mqueue/62697264";
    outside.sh(user, &format!("{MAKE}; {more}"));
    let look = format!("{COUNT}; readlink /proc/self/ns/ipc; ls /dev/mqueue");
    let there = outside.sh(user, &look);
    let lines: Vec<&str> = there.lines().collect();
    assert_eq!(lines[..3], ["2", "1", "3"]);

    let report = report(&outside, user, "ipc-demo");
    for (i, fact) in
        ["message queues", "semaphore sets", "shared memory"].iter().enumerate()
    {
        assert_eq!(report[*fact], [lines[i], "0", lines[i]]);
    }
    let [before, inside, after] = &report["IPC namespace"];
    assert_eq!([before, after], [lines[3]; 2]);
    assert_ne!(inside, before);
    for fact in
        ["queue by key", "semaphores by key", "memory by key", "POSIX queue"]
    {
        assert_eq!(report[fact], ["ENOENT", "found", "ENOENT"]);
    }
    assert_eq!(report.len(), 8);
    assert_eq!(outside.sh(user, &look), there);
}

/// I2
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves IPC objects")]
fn objects_made_inside_are_not_listed_outside(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    // Both listings are of the moment when the objects exist.
    let script = format!(
        "cd $(mktemp -d); mkfifo ready go
        $1 sh -c '{MAKE}; {{ {COUNT}; }} > inside; echo > ready; read _ < go' &
        read _ < ready
        cat inside; echo outside; {COUNT}; echo > go"
    );
    let seen = outside.sh_with(user, &script, &["ipc-demo"]);
    assert_eq!(seen, "1\n1\n1\noutside\n0\n0\n0\n");
    // Without the namespace they are.
    let seen = outside.sh_with(user, &script, &["env"]);
    assert_eq!(seen, "1\n1\n1\noutside\n1\n1\n1\n");
}

/// I2
#[rstest]
#[cfg_attr(ground_here, ignore = "removes all IPC objects")]
fn ipcrm_inside_removes_only_what_is_inside(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    outside.sh(user, MAKE);
    let script = format!("{MAKE}; {COUNT}; ipcrm --all; {COUNT}");
    let inside = outside.run(user, ["ipc-demo", "sh", "-c", &script], b"");
    inside.assert().success().stdout("1\n1\n1\n0\n0\n0\n");
    assert_eq!(outside.sh(user, COUNT), "1\n1\n1\n");
    // Without the namespace it removes the outside's.
    assert_eq!(outside.sh(user, &script), "2\n2\n2\n0\n0\n0\n");
}

/// I3
#[rstest]
fn same_key_names_two_queues(#[values(Root, Reader)] user: User) {
    outside()
        .run(user, ["same_key"], b"")
        .assert()
        .success()
        .stderr("")
        .stdout(
            "key 0x62697264      outside             inside\n\
         queue made outside  id 0                ENOENT\n\
         queue made inside   id 0                id 0\n\
         1 and 2 are sent    1, then ENOMSG      2, then ENOMSG\n",
        );
}

/// I3: so compare keys.
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves IPC objects")]
fn ids_restart_at_0_inside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let first = "Message queue id: 0\n";
    outside.run(user, ["ipcmk", "-Q"], b"").assert().stdout(first);
    let inside = outside.run(user, ["ipc-demo", "ipcmk", "-Q"], b"");
    inside.assert().success().stdout(first);
    // Without the namespace the next queue has another one.
    let next = outside.run(user, ["ipcmk", "-Q"], b"");
    next.assert().success().stdout(predicate::ne(first));
}

/// I4
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves a POSIX queue")]
fn posix_queue_made_outside_cannot_be_opened_inside(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    outside.sh(user, "touch /dev/mqueue/queue");
    let script = "mount -t mqueue mqueue /mnt; exec cat /mnt/queue";
    let argv = ["unshare", "--mount", "sh", "-euc", script];
    let inside = outside.run(user, [&["ipc-demo"], &argv[..]].concat(), b"");
    inside
        .assert()
        .failure()
        .stdout("")
        .stderr("cat: /mnt/queue: No such file or directory\n");
    // Without the namespace the same way leads to it.
    let found = outside.root(argv);
    found.assert().success().stdout(predicate::str::starts_with("QSIZE:0"));
}

/// I4, I5: the example's table, with mq_open(3) itself.
#[rstest]
fn mqueue_mount_shows_the_namespace_it_was_mounted_in(
    #[values(Root, Reader)] user: User,
) {
    let output = outside().run(user, ["mqueue_mount"], b"");
    output.assert().success().stderr("").stdout(
        "                    queue outside       queue inside\n\
         mq_open outside     found               ENOENT\n\
         mq_open inside      ENOENT              found\n\
         mounted outside     found               ENOENT\n\
         mounted inside      ENOENT              found\n",
    );
}

/// I5
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves POSIX queues")]
fn mqueue_mounted_before_keeps_showing_the_outside(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    outside.sh(user, "touch /dev/mqueue/outside /dev/mqueue/other");
    let script = "mount -t mqueue mqueue /mnt; touch /mnt/inside
        ls /mnt; head -c 6 /mnt/inside; echo
        ls /dev/mqueue; rm /dev/mqueue/other";
    let argv = ["ipc-demo", "unshare", "--mount", "sh", "-euc", script];
    let inside = outside.run(user, argv, b"");
    inside.assert().success().stdout("inside\nQSIZE:\nother\noutside\n");
    // It is no picture of them: what was removed there is gone here.
    assert_eq!(outside.sh(user, "ls /dev/mqueue"), "outside\n");
}

/// I6: seen by who made them, since their bytes are counted for each user.
#[rstest]
#[cfg_attr(ground_here, ignore = "uses up all POSIX queues")]
fn objects_go_with_the_last_process(#[values(Root, Reader)] user: User) {
    let fill = "n=0; while touch $at/$n 2> /dev/null; do n=$((n + 1)); done
        [ $n -gt 1 ]";
    let one = "touch /dev/mqueue/one";
    let full = "touch: cannot touch '/dev/mqueue/one': Too many open files\n";
    let outside = outside();
    // The one who makes them ends; sleep stays.
    let script = format!(
        "mount -t mqueue mqueue /mnt; at=/mnt; {fill}
        sleep 1000 > /dev/null 2>&1 &
        echo $!"
    );
    let argv = ["ipc-demo", "unshare", "--mount", "sh", "-euc", &script];
    let inside = outside.run(user, argv, b"");
    let last = inside.assert().success().get_output().stdout.clone();
    let last = String::from_utf8(last).expect("a PID");
    outside.run(user, ["sh", "-c", one], b"").assert().failure().stderr(full);

    let wait = format!(
        "kill $1; end=$(($(date +%s) + 30))
        until {one} 2> /dev/null; do [ $(date +%s) -lt $end ]; done"
    );
    outside.sh_with(user, &wait, &[last.trim()]);

    // Without the namespace they stay, although all their makers have ended.
    outside.sh(user, &format!("rm /dev/mqueue/one; at=/dev/mqueue; {fill}"));
    outside.run(user, ["sh", "-c", one], b"").assert().failure().stderr(full);
}

/// I7
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves files in /dev/shm")]
fn posix_shared_memory_is_not_isolated(#[values(Root, Reader)] user: User) {
    let outside = outside();
    outside.sh(user, &format!("{MAKE}; echo outside > /dev/shm/outside"));
    let script =
        format!("cat /dev/shm/outside; echo inside > /dev/shm/inside; {COUNT}");
    let inside = outside.run(user, ["ipc-demo", "sh", "-c", &script], b"");
    // Unlike System V's.
    inside.assert().success().stdout("outside\n0\n0\n0\n");
    assert_eq!(outside.sh(user, "cat /dev/shm/inside"), "inside\n");
}

/// I7: the example's table.
#[rstest]
fn socket_with_a_path_is_not_isolated(#[values(Root, Reader)] user: User) {
    let output = outside().run(user, ["not_isolated"], b"");
    output.assert().success().stderr("").stdout(
        "made outside          outside             inside\n\
         System V queue        found               ENOENT\n\
         POSIX shared memory   found               found\n\
         socket                found               found\n",
    );
}
