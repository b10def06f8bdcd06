//! The IPC namespace: ipc_namespaces(7).

use crate::report::{assert_prints, assert_prints_its_page, assert_report};
use crate::target::{Reader, Root, SOON, USERS, fresh_machine};

/// One of each kind of System V object.
const MAKE: &str = "ipcmk -Q -S 1 -M 4096 > /dev/null";

/// For each output of ipcs(1) in this text, how many message queues, memory
/// segments and semaphore sets it lists.
fn counts(output: &str) -> Vec<[usize; 3]> {
    let keys =
        |kind: &str| kind.lines().filter(|it| it.starts_with("0x")).count();
    let kinds: Vec<_> = output.split("------ ").skip(1).map(keys).collect();
    let (lists, rest) = kinds.as_chunks();
    assert!(rest.is_empty(), "{output}");
    lists.to_vec()
}

/// I1
#[test]
fn objects_made_outside_are_not_listed_inside() {
    let machine = fresh_machine();
    for (made, user) in (1..).zip(USERS) {
        machine.sh(user, MAKE);
        let inside = machine.sh(user, "ipc-demo ipcs");
        assert_eq!(counts(&inside), [[0; 3]]);
        // Without the namespace they are listed.
        assert_eq!(counts(&machine.sh(user, "ipcs")), [[made; 3]]);
    }
}

/// I1, I4: compares the demo's report with what the tools print.
#[test]
fn ipc_report_agrees_with_the_tools() {
    let machine = fresh_machine();
    // The last one has the name that the demo prefers for its own queue.
    let more = "ipcmk -Q; ipcmk -M 4096; ipcmk -M 4096; \
                : > /dev/mqueue/62697264";
    machine.sh(Reader, &format!("{MAKE}; {more}"));
    let look = "ipcs; echo /dev/mqueue/*";
    let outside = machine.sh(Root, look);
    assert_eq!(counts(&outside), [[2, 3, 1]]);
    for user in USERS {
        let rows = [
            ("IPC namespace", "readlink /proc/self/ns/ipc", "*"),
            ("message queues", "ipcs -q | grep -c ^0x", "0"),
            ("semaphore sets", "ipcs -s | grep -c ^0x", "0"),
            ("shared memory", "ipcs -m | grep -c ^0x", "0"),
            // No object has these keys and this name before.
            ("queue by key", "echo ENOENT", "found"),
            ("semaphores by key", "echo ENOENT", "found"),
            ("memory by key", "echo ENOENT", "found"),
            ("POSIX queue", "echo ENOENT", "found"),
        ];
        assert_report(&machine, user, "ipc-demo", &rows);
    }
    assert_eq!(machine.sh(Root, look), outside);
}

/// I2
#[test]
fn objects_made_inside_are_not_listed_outside() {
    let machine = fresh_machine();
    // Both listings are made while the objects exist.
    let script = format!(
        "mkfifo $1-ready $1-go
        $1 sh -c '{MAKE}; ipcs; echo > $0-ready; read _ < $0-go' $1 &
        read _ < $1-ready; ipcs; echo > $1-go; wait"
    );
    for user in USERS {
        let seen = machine.sh_with(user, &script, &["ipc-demo"]);
        assert_eq!(counts(&seen), [[1; 3], [0; 3]]);
    }
    // Without the namespace they are listed.
    let seen = machine.sh_with(Reader, &script, &["env"]);
    assert_eq!(counts(&seen), [[1; 3], [1; 3]]);
}

/// I2
#[test]
fn ipcrm_inside_removes_only_what_is_inside() {
    let machine = fresh_machine();
    let script = format!("{MAKE}; ipcs; ipcrm --all; ipcs");
    for (made, user) in (1..).zip(USERS) {
        machine.sh(user, MAKE);
        let inside = machine.says(user, ["ipc-demo", "sh", "-euc", &script]);
        assert_eq!(counts(&inside), [[1; 3], [0; 3]]);
        assert_eq!(counts(&machine.sh(user, "ipcs")), [[made; 3]]);
    }
    // Without the namespace it removes the outside's.
    let seen = machine.sh(Root, &script);
    assert_eq!(counts(&seen), [[3; 3], [0; 3]]);
}

/// I3
#[test]
fn same_key_names_two_queues() {
    assert_prints_its_page("ipc-demo", "same_key");
}

/// I3: so keys must be compared, and not ids.
#[test]
fn ids_restart_at_0_inside() {
    let machine = fresh_machine();
    // Each queue has a line below the heading: its key, its id, and more.
    let make = "ipcmk -Q > /dev/null
        while read key id rest; do echo $id; done < /proc/sysvipc/msg";
    assert_eq!(machine.sh(Reader, make), "msqid\n0\n");
    for user in USERS {
        let inside = machine.says(user, ["ipc-demo", "sh", "-euc", make]);
        assert_eq!(inside, "msqid\n0\n", "{user}");
        // Without the namespace the next queue has another id.
        let next = machine.sh(user, make);
        let ids: Vec<&str> = next.lines().skip(1).collect();
        assert_eq!(ids.iter().filter(|id| **id == "0").count(), 1, "{next}");
        assert!(ids.len() > 1, "{next}");
    }
}

/// I4, I5: the example's table, with mq_open(3) itself.
#[test]
fn mqueue_mount_shows_the_namespace_it_was_mounted_in() {
    let text = "                    queue outside       queue inside
mq_open outside     found               ENOENT
mq_open inside      ENOENT              found
mounted outside     found               ENOENT
mounted inside      ENOENT              found

Learned: a mount shows the namespace that mounted it.\n";
    assert_prints("mqueue_mount", text);
}

/// I5
#[test]
fn mqueue_mounted_before_keeps_showing_the_outside() {
    let machine = fresh_machine();
    let script = "mount -t mqueue mqueue /mnt; : > /mnt/inside
        cd /mnt; echo *; read line < inside; echo ${line%%:*}
        cd /dev/mqueue; echo *; rm other";
    let argv = ["ipc-demo", "unshare", "--mount", "sh", "-euc", script];
    for user in USERS {
        machine.sh(user, "cd /dev/mqueue; : > other; : >> outside");
        let inside = machine.says(user, argv);
        assert_eq!(inside, "inside\nQSIZE\nother outside\n");
        // These are the outside's own queues: one that was removed inside is
        // gone outside, too.
        let here = machine.sh(user, "echo /dev/mqueue/*");
        assert_eq!(here, "/dev/mqueue/outside\n");
    }
}

/// I6: the kernel limits the bytes of all queues of a user. When the namespace
/// has gone, its bytes are free, and the user can make another queue.
#[test]
fn objects_go_with_the_last_process() {
    let fill = "n=0; while true > $at/$n; do n=$((n + 1)); done 2> /dev/null
        [ $n -gt 1 ]";
    let machine = fresh_machine();
    let more = |user, name: &str| {
        let script = format!("true > /dev/mqueue/{name}");
        let call = ["openat", "/dev/mqueue/"];
        machine.end_of_call(user, &[], call, &["sh", "-c", &script])
    };
    for user in USERS {
        // The shell that makes them ends, and sleep is the last process.
        let script = format!(
            "mount -t mqueue mqueue /mnt; at=/mnt; {fill}
            sleep 1000 > /dev/null 2>&1 &
            echo $!"
        );
        let argv = ["ipc-demo", "unshare", "--mount", "sh", "-euc", &script];
        let last = machine.says(user, argv);
        assert_eq!(more(user, "more"), "EMFILE", "{user}");

        // The kernel removes them some time after the last process's end.
        let wait = format!(
            "{SOON} one_more() {{ true > /dev/mqueue/{user}; }}
            kill $1; soon one_more"
        );
        machine.sh_with(user, &wait, &[last.trim()]);
    }

    // Without the namespace they stay, although all their makers have ended.
    machine.sh(Reader, &format!("at=/dev/mqueue; {fill}"));
    assert_eq!(more(Reader, "more"), "EMFILE");
}

/// I7: the example's table; and what is made inside is seen outside.
#[test]
fn shared_memory_and_socket_are_not_isolated() {
    let text = "made outside          outside             inside
System V queue        found               ENOENT
POSIX shared memory   found               found
socket                found               found

Learned: what is a file, an IPC namespace does not hide.\n";
    assert_prints("not_isolated", text);
    let machine = fresh_machine();
    let made = "ipc-demo sh -c 'echo inside > /dev/shm/file'";
    let script = format!("{made}; cat /dev/shm/file");
    assert_eq!(machine.sh(Reader, &script), "inside\n");
}
