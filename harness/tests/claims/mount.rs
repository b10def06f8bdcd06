//! The mount namespace: mount_namespaces(7).

use assert_cmd::assert::OutputAssertExt;

use crate::report::{
    assert_matches, assert_prints, assert_prints_its_page, assert_report,
};
use crate::target::{Reader, Root, USERS, fresh_machine};

/// The notes' experiment: new PID and mount namespaces and a new /proc, while
/// the mounts are shared with the outside.
const EXPERIMENT: &str = "unshare --propagation unchanged -m -p -f \
                          mount -t proc proc /proc";

/// Prints each mount of the namespace, one a line.
const MOUNTS: &str = "cat /proc/self/mountinfo";

/// The mounts at /proc among them, the oldest first.
fn at_proc(mounts: &str) -> Vec<&str> {
    mounts.lines().filter(|line| line.contains(" / /proc ")).collect()
}

/// Succeeds if /proc shows the process that reads it. A /proc whose PID
/// namespace has ended shows no process.
const ALIVE: &str = "[ -e /proc/self ]";
const DEAD: &str = "[ ! -e /proc/self ]";

/// M1
#[test]
fn mount_made_inside_is_not_seen_outside() {
    let machine = fresh_machine();
    for user in USERS {
        let before = machine.traces();
        assert!(before.contains(" / /proc ") && before.contains(" kthreadd\n"));
        let inside = machine.sh(
            user,
            "mkfifo ready hold
            pid-demo mount-demo sh -c '
                mount -t tmpfs inside /tmp; cat /proc/self/mountinfo
                echo > ready; read end < hold' > seen &
            read word < ready; cat seen",
        );
        assert!(inside.contains(" - tmpfs inside "), "{user}: {inside}");
        // The new /proc has the options that systemd gives to /proc: no
        // set-user-ID, no devices, no programs.
        let own = at_proc(&inside)
            .into_iter()
            .filter(|line| line.contains(" rw,nosuid,nodev,noexec,relatime "));
        assert_eq!((at_proc(&inside).len(), own.count()), (2, 1), "{inside}");
        // Outside, the only new things are the two processes.
        let mut meanwhile = machine.traces();
        for process in [" pid-demo", " sh"] {
            let line = meanwhile.lines().find(|it| it.ends_with(process));
            let line = format!("{}\n", line.expect("a process"));
            meanwhile = meanwhile.replace(&line, "");
        }
        assert_eq!(meanwhile, before, "{user}");
        machine.sh(user, "echo > hold");
        machine.comes_back_to(&before);
    }

    // Without the namespace the mount is seen outside. It is also seen when
    // the new namespace keeps the propagation: a copy of a shared mount is in
    // the same peer group.
    machine.sh(
        Root,
        "unshare -m --propagation unchanged mount -t tmpfs copy /run
         mount -t tmpfs bare /tmp",
    );
    for user in USERS {
        let mounts = machine.sh(user, MOUNTS);
        assert!(mounts.contains(" - tmpfs copy "), "{user}: {mounts}");
        assert!(mounts.contains(" - tmpfs bare "), "{user}: {mounts}");
    }
}

/// M2: with the old /proc, ps inside lists the outside's processes.
#[test]
fn ps_inside_lists_exactly_what_runs_there() {
    // The width of a column depends on the machine.
    fresh_machine().types(
        "
% pid-demo mount-demo ps -e -o pid,ppid,args | awk '{ $1 = $1; print }'
PID PPID COMMAND
1 0 ps -e -o pid,ppid,args
% pid-demo mount-demo sh -c 'sleep 1000 & ps -e -o ppid=,comm=; exit' |
>     awk '{ $1 = $1; print }'
0 sh
1 sleep
1 ps
% pid-demo ps -o comm= -p 2
kthreadd",
    );
}

/// M2: what `ps` of today does first is to look itself up, by its own PID.
#[test]
fn old_proc_has_another_process_or_none_under_ones_own_number() {
    let machine = fresh_machine();
    // The next PID is chosen, so that no process outside has it.
    let look = "echo 60000 > /proc/sys/kernel/ns_last_pid
        sh -c 'echo $$; cat /proc/$$/comm || echo nobody' 2> /dev/null";
    let inside = |links: &[&str], look| {
        machine.says(Root, [links, &["sh", "-euc", look]].concat())
    };
    let first = "sh -c 'echo $$; cat /proc/$$/comm'; :";
    assert_eq!(inside(&["pid-demo"], first), "2\nkthreadd\n");
    assert_eq!(inside(&["pid-demo"], look), "60001\nnobody\n");
    let links = ["pid-demo", "mount-demo"];
    assert_eq!(inside(&links, first), "2\nsh\n");
    assert_eq!(inside(&links, look), "60001\nsh\n");
}

/// M3: the example's table.
#[test]
fn propagation_decides_which_way_mounts_travel() {
    let text = "the copy is    its mounts  outside's     its copy's    a bind
made           outside     mounts in it  mounts in it  mount
shared         yes         yes           yes           done
private        no          no            no            done
slave          no          yes           no            done
slave, shared  no          yes           yes           done
unbindable     no          no            no            EINVAL

Learned: the propagation type decides what is passed on.\n";
    assert_prints("propagation", text);
}

/// M3: in each way out of a group a mount may stay unbindable or not.
#[test]
fn private_takes_unbindable_away_and_slave_keeps_it() {
    fresh_machine().types(
        "
# mkdir /tmp/bind; mount -t tmpfs tree /mnt; mount --make-unbindable /mnt
# ! mount --bind /mnt /tmp/bind
# mount --make-rslave /mnt; ! mount --bind /mnt /tmp/bind
# mount --make-rprivate /mnt; mount --bind /mnt /tmp/bind",
    );
}

/// M4. The notes' pitfall.
#[test]
fn new_proc_on_a_shared_tree_breaks_the_outside() {
    let machine = fresh_machine();
    let before = machine.sh(Root, MOUNTS);
    let [proc] = at_proc(&before)[..] else { panic!("{before}") };
    assert!(proc.contains(" shared:"), "{proc}");
    // With mount-demo a new /proc breaks nothing.
    for user in USERS {
        let inside = "pid-demo mount-demo cat /proc/self/mountinfo";
        assert_eq!(at_proc(&machine.sh(user, inside)).len(), 2, "{user}");
        assert_eq!(machine.sh(Root, MOUNTS), before, "{user}");
    }
    machine.sh(Root, &format!("ps -ef; mount; {ALIVE}"));

    machine.sh(Root, EXPERIMENT);
    // The experiment has ended, and the outside does not recover.
    machine.root(["ps", "-ef"]).assert().failure().stdout("");
    machine.root(["mount"]).assert().failure().stdout("");
    // What is mounted there is a /proc, but without any process.
    let rest = format!("{DEAD}; echo /proc/[0-9]*; read up < /proc/uptime");
    assert_eq!(machine.sh(Root, &rest), "/proc/[0-9]*\n");
    // It is the same for every user.
    machine.sh(Reader, DEAD);
}

/// M4: the notes' second shell, while the first one still runs.
#[test]
fn outside_is_broken_while_the_experiment_still_runs() {
    let machine = fresh_machine();
    let before = machine.sh(Root, MOUNTS);
    let experiment = "mkfifo /tmp/ready /tmp/hold
        unshare --propagation unchanged -m -p -f sh -euc '
            mount -t proc proc /proc; echo /proc/[0-9]*
            echo > /tmp/ready; read go < /tmp/hold
            echo /proc/[0-9]* > /tmp/seen; echo > /tmp/ready
            read end < /tmp/hold' > /dev/null &
        read word < /tmp/ready";
    machine.sh(Root, experiment);
    // This /proc shows a process, but not the one that reads it. So there is
    // no /proc/self.
    let numbers = format!("echo /proc/[0-9]*; {DEAD}");
    assert_eq!(machine.sh(Root, &numbers), "/proc/1\n");
    machine.root(["ps", "-ef"]).assert().failure().stdout("");
    // The repair is the same. It propagates, and so takes the inside's /proc
    // away as well.
    let repair = format!("umount /proc; {ALIVE}; {MOUNTS}");
    assert_eq!(machine.sh(Root, &repair), before);
    machine.root(["ps", "-ef"]).assert().success();
    let go = "echo > /tmp/hold; read word < /tmp/ready; cat /tmp/seen
        set -- /proc/[0-9]*; echo $# > /tmp/count";
    let seen = machine.sh(Root, go);
    let many = seen.split_whitespace().count();
    assert!(many > 10, "inside still sees its own /proc: {seen}");
    machine.sh(Root, "echo > /tmp/hold");
}

/// M5. The notes' open question: why /proc is then mounted twice.
#[test]
fn usual_repair_buries_the_dead_proc_under_a_third() {
    let machine = fresh_machine();
    let before = machine.sh(Root, MOUNTS);
    let before = at_proc(&before);
    assert_eq!(before.len(), 1);
    let repair = "mount -t proc proc /proc";
    let script = format!("{EXPERIMENT}; {DEAD}; {repair}; {ALIVE}; {MOUNTS}");
    for round in 1..=3 {
        let mounts = machine.sh(Root, &script);
        let stack = at_proc(&mounts);
        assert!(stack.starts_with(&before), "{mounts}");
        assert_eq!(stack.len(), 1 + 2 * round);
        // No mount replaces another: the parent of each is the one below it.
        let ids: Vec<Vec<&str>> =
            stack.iter().map(|line| line.split(' ').collect()).collect();
        assert!(ids.windows(2).all(|two| two[1][1] == two[0][0]), "{mounts}");
    }
    let listed = machine.sh(Root, "mount");
    let listed = listed.lines().filter(|it| it.starts_with("proc on /proc "));
    assert_eq!(listed.count(), 7);

    // Below the last repair is a dead /proc, and below that the repair of the
    // round before, which shows processes.
    let script = format!("umount /proc; {DEAD}; umount /proc; {ALIVE}");
    machine.sh(Root, &script);
}

/// M6: each of the three states of /proc is told by two looks, and how many
/// umounts are needed by their number.
#[test]
fn right_repair_is_to_unmount_until_one_is_left() {
    let machine = fresh_machine();
    let before = machine.sh(Root, MOUNTS);
    let look = "if [ -e /proc/self ]; then echo self; else echo none; fi
        set -- /proc/*; [ -e \"$1\" ] && echo files || echo empty
        grep -sc ' / /proc ' /proc/self/mountinfo || :";
    let look = |first: &str| machine.sh(Root, &format!("{first}\n{look}"));
    assert_eq!(look(":"), "self\nfiles\n1\n");
    assert_eq!(look(EXPERIMENT), "none\nfiles\n");
    // One umount is enough when no other repair was tried before.
    assert_eq!(look("umount /proc"), "self\nfiles\n1\n");
    assert_eq!(machine.sh(Root, MOUNTS), before);
    // After the usual repair two are needed: the page's loop counts.
    let usual = format!("{EXPERIMENT}; mount -t proc proc /proc");
    assert_eq!(look(&usual), "self\nfiles\n3\n");
    let repair =
        "until [ \"$(grep -sc ' / /proc ' /proc/self/mountinfo)\" = 1 ]
        do umount /proc; done";
    assert_eq!(look(repair), "self\nfiles\n1\n");
    assert_eq!(machine.sh(Root, MOUNTS), before);
    // One too many takes the only one away.
    assert_eq!(look("umount /proc"), "none\nempty\n");
    // Here, and only here, another mount is the cure.
    let cure = "mount -t proc proc /proc";
    assert_eq!(look(cure), "self\nfiles\n1\n");
}

/// M6: a working directory in it, in either namespace, keeps a dead /proc.
#[test]
fn working_directory_in_a_dead_proc_keeps_it_mounted() {
    let machine = fresh_machine();
    let before = machine.sh(Root, MOUNTS);
    let umount = "strace -o /tmp/trace -e trace=umount2 umount /proc \
            2> /tmp/said || :
        sed -n 's/.* = //p' /tmp/trace";
    let busy = "-1 EBUSY (Device or resource busy)\n";
    let here = format!("{EXPERIMENT}; cd /proc; {umount}; {DEAD}");
    assert_eq!(machine.sh(Root, &here), busy);
    // The shell has ended, and with it its working directory.
    assert_eq!(machine.sh(Root, &format!("umount /proc; {MOUNTS}")), before);

    let there = "cd /tmp; mkfifo ready hold
        unshare --propagation unchanged -m -p -f sh -euc '
            mount -t proc proc /proc; cd /proc; echo > /tmp/ready
            read word < /tmp/hold; cd /; echo > /tmp/ready
            read end < /tmp/hold' &
        read word < ready";
    machine.sh(Root, there);
    assert_eq!(machine.sh(Root, umount), busy);
    let leave = "echo > /tmp/hold; read word < /tmp/ready; umount /proc";
    assert_eq!(machine.sh(Root, &format!("{leave}; {MOUNTS}")), before);
}

/// M7
#[test]
fn private_outside_keeps_it_inside_until_it_is_undone() {
    let machine = fresh_machine();
    let try_it = |first: &str| {
        machine.sh(
            Root,
            &format!(
                "{first}; {EXPERIMENT}
                 if {ALIVE}; then echo whole; else echo broken; umount /proc; fi"
            ),
        )
    };
    assert_eq!(try_it(":"), "broken\n");
    assert_eq!(try_it("mount --make-private /proc"), "whole\n");
    // It stays until it is undone.
    assert_eq!(try_it(":"), "whole\n");
    assert_eq!(try_it("mount --make-shared /proc"), "broken\n");
    // As on a system that nobody has made shared.
    assert_eq!(try_it("mount --make-rprivate /"), "whole\n");
    assert_eq!(try_it("mount --make-rshared /"), "broken\n");
}

/// M7: the example's table.
#[test]
fn what_keeps_a_new_proc_inside() {
    assert_prints_its_page("mount-demo", "fixes");
}

/// M7: a new user namespace makes shared mounts slaves by itself.
#[test]
fn user_namespace_makes_shared_mounts_slaves() {
    fresh_machine().types(
        r"
# unshare --propagation unchanged -m \
>     grep ' / /sys ' /proc/self/mountinfo | grep -o 'shared\|master'
shared
% unshare --propagation unchanged -m -U -r \
>     grep ' / /sys ' /proc/self/mountinfo | grep -o 'shared\|master'
master",
    );
}

/// M11
#[test]
fn locked_mount_goes_when_the_outside_unmounts_it() {
    let machine = fresh_machine();
    let umount = "strace -o /tmp/trace -e trace=umount2 umount /mnt \
            2> /tmp/said || :
        sed -n 's/^umount2.* = //p' /tmp/trace; rm /tmp/trace";
    let count = "grep -c ' / /mnt ' /proc/self/mountinfo || :";
    let inside = format!(
        "echo $$ > /tmp/pid; {{ {umount}; {count}; }} > /tmp/seen
         echo > /tmp/ready; read word < /tmp/hold
         {{ {count}; }} >> /tmp/seen; echo > /tmp/ready"
    );
    let start = "mkfifo -m 666 /tmp/ready /tmp/hold
        mount -t tmpfs outside /mnt; printf %s \"$1\" > /tmp/inside
        reader unshare --propagation unchanged -m -U -r sh -eu /tmp/inside &
        read word < /tmp/ready; cat /tmp/seen";
    let locked = "-1 EINVAL (Invalid argument)\n";
    let seen = machine.sh_with(Root, start, &[&inside]);
    assert_eq!(seen, format!("{locked}1\n"));
    // Real root is no better off in a copy of that namespace.
    let copy = "nsenter --mount --target $(cat /tmp/pid) \
        unshare --propagation unchanged -m sh -euc \"$1\"";
    assert_eq!(machine.sh_with(Root, copy, &[umount]), locked);
    // Outside it is not locked, and the locked copy goes with it.
    let outside = "umount /mnt; echo > /tmp/hold; read word < /tmp/ready
        tail -n 1 /tmp/seen";
    assert_eq!(machine.sh(Root, outside), "0\n");
}

/// M12
#[test]
fn pivot_root_wants_the_mount_of_the_old_root_not_to_be_shared() {
    let machine = fresh_machine();
    let script = "
        mount -t tmpfs new /mnt; mkdir /mnt/old
        for kind in shared private; do
            mount --make-$kind /mnt
            strace -o /tmp/$kind -e trace=pivot_root pivot_root /mnt /mnt/old \
                2> /dev/null && tmp=/old/tmp || tmp=/tmp
            read -r said < $tmp/$kind; echo \"${said##*= }\"
        done";
    let seen = machine.says(Root, ["unshare", "-m", "sh", "-euc", script]);
    assert_eq!(seen, "-1 EINVAL (Invalid argument)\n0\n");
}

/// M8: inside are the inherited mount and, on top of it, the new one.
#[test]
fn findmnt_says_shared_outside_and_private_inside() {
    let findmnt = "findmnt --noheadings --raw -o TARGET,PROPAGATION /proc";
    fresh_machine().types(&format!(
        "
% {findmnt}; pid-demo mount-demo {findmnt}; {findmnt}
/proc shared
/proc private
/proc private
/proc shared"
    ));
}

/// M9
#[test]
fn umount_inside_uncovers_the_old_proc() {
    let machine = fresh_machine();
    // The first number in /proc/self/stat is the PID of the process that reads
    // it, in the PID namespace that this /proc belongs to.
    let script = "
        look() {
            read pid rest < /proc/self/stat; read name < /proc/$1/comm
            echo $name $pid; cat /proc/self/mountinfo; echo ---
        }
        look 1; umount /proc; look 2";
    for user in USERS {
        let argv = ["pid-demo", "mount-demo", "sh", "-euc", script];
        let seen = machine.says(user, argv);
        let (own, old) = seen.split_once("---\n").expect("two looks");
        assert!(own.starts_with("sh 1\n"), "{user}: {own}");
        assert_eq!(at_proc(own).len(), 2, "{user}: {own}");
        assert!(old.starts_with("kthreadd "), "{user}: {old}");
        assert!(!old.starts_with("kthreadd 1\n"), "{user}: {old}");
        assert_eq!(at_proc(old).len(), 1, "{user}: {old}");
        assert_eq!(at_proc(&machine.sh(user, MOUNTS)).len(), 1, "{user}");
    }
}

/// M1, M2, M8
#[test]
fn report_of_mount_demo_is_what_the_tools_say() {
    let machine = fresh_machine();
    for user in USERS {
        let rows = [
            ("mount namespace", "readlink /proc/self/ns/mnt", "*"),
            ("/proc mounts", "grep -c ' / /proc ' /proc/self/mountinfo", "2"),
            // findmnt prints one line for each mount at /proc.
            ("/proc propagation", "findmnt -n -o PROPAGATION /proc", "private"),
            ("processes in /proc", "", "1"),
            ("/proc/self", "echo $$", "1"),
        ];
        let seen = assert_report(&machine, user, "mount-demo", &rows);
        let processes: u32 = seen[3][1].parse().expect("a number");
        assert!(processes > 2, "{processes}");
    }
}

/// M4, M5, M6: the example's session. Some shells run their last command
/// without a fork, and then ps does not list a shell.
#[test]
fn pitfall_is_undone_by_umount() {
    assert_matches(
        "pitfall",
        r"\$ ps
 +PID .*
.* pitfall(\n.* sh)?\n.* ps

# a new /proc was mounted inside
\$ ps
[^\n$#]+
\$ mount
[^\n$#]+

# the usual repair
\$ mount -t proc proc /proc
\$ ps
 +PID .*
.* pitfall(\n.* sh)?\n.* ps
\$ grep ' / /proc ' /proc/self/mountinfo \| tail -n 3
(?:.* / /proc .* shared:.* - proc proc .*\n){3}
# the right repair
\$ umount /proc
\$ ps
[^\n$#]+
\$ umount /proc
\$ ps
 +PID .*
.* pitfall(\n.* sh)?\n.* ps

Learned: mounts stack, and umount takes the top one away\.",
    );
}
