//! The mount namespace: mount_namespaces(7).

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};
use crate::report::rows;

/// The book's experiment, as its reader did it: new PID and mount namespaces
/// and a new /proc, on a tree that is shared with the outside.
const EXPERIMENT: &str = "unshare --propagation unchanged -m -p -f \
                          mount -t proc proc /proc";

/// The lines of the mounts at /proc, the oldest first.
const STACK: &str = "grep ' / /proc ' /proc/self/mountinfo";

/// M1
#[rstest]
#[cfg_attr(ground_here, ignore = "covers /tmp and /run on purpose")]
fn mount_made_inside_is_not_seen_outside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let seen = outside.sh(
        user,
        "look() {
            cat /proc/self/mountinfo
            # All but kernel threads, which come and go.
            ps --ppid 2 -p 2 --deselect -o comm=
        }
        mkfifo ready hold
        look > before
        pid-demo mount-demo sh -c '
            mount -t tmpfs inside /tmp
            findmnt -n -o SOURCE /tmp | tail -n 1
            findmnt -n -o TARGET /proc | wc -l
            echo > ready; read end < hold' &
        read word < ready
        look > meanwhile
        echo > hold; wait $!
        look > after
        sed /pid-demo/,+1d meanwhile
        echo ---; cat before; echo ---; cat after",
    );
    let (inside, outside_of_it) = seen.split_at(9);
    assert_eq!(inside, "inside\n2\n");
    let looks: Vec<&str> = outside_of_it.split("---\n").collect();
    assert!(looks[0].contains(" / /proc ") && looks[0].contains("ps\n"));
    assert_eq!(looks[0], looks[1]);
    assert_eq!(looks[1], looks[2]);

    // Without the namespace the mount is seen, and so it is with one that is
    // nothing but a copy: the copies stay connected.
    outside
        .sh(Root, "unshare -m --propagation unchanged mount -t tmpfs a /run");
    assert_eq!(
        outside.sh(Root, "findmnt -n -o SOURCE /run | tail -n 1"),
        "a\n"
    );
    outside.sh(Root, "mount -t tmpfs b /tmp");
    assert_eq!(
        outside.sh(user, "findmnt -n -o SOURCE /tmp | tail -n 1"),
        "b\n"
    );
}

/// M2
#[rstest]
#[cfg_attr(
    ground_here,
    ignore = "needs the guest's outside: its mounts are shared"
)]
fn ps_inside_lists_exactly_what_runs_there(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let ps = ["ps", "-e", "-o", "pid,ppid,args"];
    let argv = [&["pid-demo", "mount-demo"], &ps[..]].concat();
    let alone = outside.run(user, argv, b"");
    alone.assert().success().stdout(predicate::function(|text: &str| {
        let lines = text.lines().map(|line| line.split_whitespace());
        let lines: Vec<Vec<&str>> = lines.map(Iterator::collect).collect();
        lines[1..] == [["1", "0", "ps", "-e", "-o", "pid,ppid,args"]]
    }));
    let script = "sleep 1000 & ps -e -o ppid=,comm= | tr -s ' '";
    let argv = ["pid-demo", "mount-demo", "sh", "-c", script];
    let some = outside.run(user, argv, b"");
    some.assert().success().stdout(" 0 sh\n 1 sleep\n 1 ps\n 1 tr\n");

    // With the old /proc, COMMAND lists the outside.
    let argv = [&["pid-demo"], &ps[..]].concat();
    let output = outside.run(user, argv, b"");
    output.assert().stdout(predicate::str::contains("[kthreadd]"));
}

/// M3
#[rstest]
#[case::shared("shared", "yes yes bound")]
#[case::private("private", "no no bound")]
#[case::slave("slave", "no yes bound")]
#[case::unbindable("unbindable", "no no wrong fs type")]
#[cfg_attr(
    ground_here,
    ignore = "needs the guest's outside: its mounts are shared"
)]
fn propagation_decides_which_way_mounts_travel(
    #[values(Root, Reader)] user: User,
    #[case] kind: &str,
    #[case] travels: &str,
) {
    // "Outside" is a namespace here, since `reader` may not mount otherwise.
    let user_namespace = if user == Root { "-m" } else { "-rm" };
    let script = format!(
        "mount -t tmpfs tree /tmp; mount --make-shared /tmp
         cd /tmp; mkdir in out bind; mkfifo ready hold
         unshare -m --propagation unchanged sh -euc '
             cd /tmp; mount --make-{kind} /tmp
             mount -t tmpfs inside in; echo > ready
             exec sleep 1000' & inside=$!
         read word < ready
         mount -t tmpfs outside out
         seen() {{ if grep -q \" /tmp/$2 \" /proc/$1/mountinfo
                   then echo yes; else echo no; fi; }}
         echo $(seen $inside in) $(seen $inside out)
         echo $(seen self in) $(seen $inside out) \
              $(nsenter -m -t $inside mount --bind /tmp /tmp/bind 2>&1 \
                && echo bound)"
    );
    let argv = ["unshare", user_namespace, "sh", "-euc", &script];
    let output = outside().run(user, argv, b"");
    let out = if travels.contains("no no") { "no" } else { "yes" };
    output.assert().success().stdout(
        predicate::str::starts_with(format!("yes {out}\n{}", &travels[..6]))
            .and(predicate::str::contains(&travels[6..])),
    );
}

/// M4. The book's pitfall.
#[test]
#[cfg_attr(ground_here, ignore = "breaks /proc on purpose")]
fn new_proc_on_a_shared_tree_breaks_the_outside() {
    let outside = outside();
    let propagation = "findmnt -n -o TARGET,PROPAGATION /proc";
    assert_eq!(outside.sh(Root, propagation), "/proc  shared\n");
    // While the experiment runs, the outside sees the inside's processes.
    let numbers = outside.sh(
        Root,
        "mkfifo ready hold
         unshare --propagation unchanged -m -p -f sh -c '
             mount -t proc proc /proc; ps -e -o comm=
             echo > ready; read end < hold' &
         read word < ready
         cd /proc; echo [0-9]*; cd /; echo > /root/hold; wait $!",
    );
    assert_eq!(numbers, "sh\nps\n1\n");

    // It has ended, and the outside does not recover.
    outside.root(["ps", "-ef"]).assert().failure().stdout("").stderr(
        predicate::str::starts_with("Error, do this: mount -t proc proc /proc"),
    );
    outside.root(["mount"]).assert().failure().stdout("").stderr(
        predicate::str::contains(
            "failed to read mtab: No such file or directory",
        ),
    );
    let link = outside.root(["readlink", "-v", "/proc/self"]);
    link.assert().failure().stderr(predicate::str::contains("No such file"));
    assert_eq!(outside.sh(Root, "cd /proc; echo [0-9]*"), "[0-9]*\n");
    outside.sh(Root, "cat /proc/uptime");
    // So it is for all.
    outside.reader(["ps", "-ef"]).assert().failure();
}

/// M4, the control.
#[rstest]
#[cfg_attr(
    ground_here,
    ignore = "needs the guest's outside: its mounts are shared"
)]
fn with_mount_demo_a_new_proc_breaks_nothing(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let stack = outside.sh(Root, STACK);
    let argv = ["pid-demo", "mount-demo", "findmnt", "-n", "/proc"];
    outside.run(user, argv, b"").assert().success();
    outside.root(["ps", "-ef"]).assert().success();
    outside.root(["mount"]).assert().success();
    outside.root(["readlink", "/proc/self"]).assert().success();
    assert_eq!(outside.sh(Root, STACK), stack);
}

/// M5. The book's open question: why /proc is then mounted twice.
#[test]
#[cfg_attr(ground_here, ignore = "breaks /proc on purpose")]
fn usual_repair_buries_the_dead_proc_under_a_third() {
    let outside = outside();
    let before = outside.sh(Root, STACK);
    assert_eq!(before.lines().count(), 1);
    for round in 1..=3 {
        outside.sh(Root, EXPERIMENT);
        outside.root(["ps"]).assert().failure();
        outside.sh(Root, "mount -t proc proc /proc");
        outside.root(["ps"]).assert().success();

        let stack = outside.sh(Root, STACK);
        assert!(stack.starts_with(&before), "{stack}");
        assert_eq!(stack.lines().count(), 1 + 2 * round);
        // None replaces another: each one's parent is the one below it.
        let ids: Vec<Vec<&str>> =
            stack.lines().map(|line| line.split(' ').collect()).collect();
        assert!(ids.windows(2).all(|two| two[1][1] == two[0][0]), "{stack}");
    }
    let listed = outside.sh(Root, "mount | grep -c '^proc on /proc '");
    assert_eq!(listed, "7\n");

    // The one below the last repair is dead, the next one below is not.
    outside.sh(Root, "umount /proc");
    outside.root(["ps"]).assert().failure();
    outside.sh(Root, "umount /proc");
    outside.root(["ps"]).assert().success();
}

/// M6
#[rstest]
#[case::at_once("", 1)]
#[case::after_the_usual_repair("mount -t proc proc /proc", 2)]
#[cfg_attr(ground_here, ignore = "breaks /proc on purpose")]
fn right_repair_is_to_unmount(#[case] repair: &str, #[case] times: usize) {
    let outside = outside();
    let before = outside.sh(Root, "cat /proc/self/mountinfo");
    outside.sh(Root, &format!("{EXPERIMENT}\n{repair}"));
    for _ in 0..times {
        let now = outside.root(["cat", "/proc/self/mountinfo"]);
        assert_ne!(now.stdout, before.as_bytes());
        outside.sh(Root, "umount /proc");
    }
    outside.root(["ps", "-ef"]).assert().success();
    assert_eq!(outside.sh(Root, "cat /proc/self/mountinfo"), before);
}

/// M7
#[rstest]
#[case::nothing("", ":", false)]
#[case::private_without_rec("", "mount --make-private /", false)]
#[case::private_proc_alone("", "mount --make-private /proc", true)]
#[case::rprivate("", "mount --make-rprivate /", true)]
#[case::rslave("", "mount --make-rslave /", true)]
#[case::a_new_user_namespace("-U -r", ":", true)]
#[cfg_attr(ground_here, ignore = "breaks /proc on purpose")]
fn what_keeps_a_new_proc_inside(
    #[case] namespaces: &str,
    #[case] before: &str,
    #[case] kept: bool,
) {
    let outside = outside();
    outside.sh(
        Root,
        &format!(
            "unshare --propagation unchanged {namespaces} -m -p -f sh -euc '
                 {before}; mount -t proc proc /proc; [ $(ps -e | wc -l) = 5 ]'"
        ),
    );
    assert_eq!(outside.root(["ps", "-ef"]).status.success(), kept);
}

/// M7: a new user namespace makes shared mounts slaves by itself.
#[rstest]
#[cfg_attr(
    ground_here,
    ignore = "needs the guest's outside: its mounts are shared"
)]
fn user_namespace_makes_shared_mounts_slaves(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let command = "findmnt -n -o PROPAGATION /sys";
    let unshare = "unshare --propagation unchanged -m";
    let copy = outside.sh(Root, &format!("{unshare} {command}"));
    assert_eq!(copy, "shared\n");
    let own = outside.sh(user, &format!("{unshare} -U -r {command}"));
    assert_eq!(own, "private,slave\n");
}

/// M8
#[rstest]
#[cfg_attr(
    ground_here,
    ignore = "needs the guest's outside: its mounts are shared"
)]
fn findmnt_says_shared_outside_and_private_inside(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let findmnt = ["findmnt", "-o", "TARGET,PROPAGATION", "/proc"];
    let output = outside.run(user, findmnt, b"");
    output.assert().stdout("TARGET PROPAGATION\n/proc  shared\n");
    let argv = [&["pid-demo", "mount-demo"], &findmnt[..]].concat();
    // Two: the inherited one, and on top of it that of the inside.
    outside
        .run(user, argv, b"")
        .assert()
        .success()
        .stdout("TARGET PROPAGATION\n/proc  private\n/proc  private\n");
    let output = outside.run(user, findmnt, b"");
    output.assert().stdout("TARGET PROPAGATION\n/proc  shared\n");
}

/// M9
#[rstest]
#[cfg_attr(
    ground_here,
    ignore = "needs the guest's outside: its mounts are shared"
)]
fn umount_inside_uncovers_the_old_proc(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let script = "
        cat /proc/1/comm; grep -c ' / /proc ' /proc/self/mountinfo
        umount /proc
        cat /proc/2/comm; grep -c ' / /proc ' /proc/self/mountinfo
        readlink /proc/self > self; [ $(cat self) -ne 1 ]";
    let argv = ["pid-demo", "mount-demo", "sh", "-euc", script];
    let output = outside.run(user, argv, b"");
    output.assert().success().stdout("sh\n2\nkthreadd\n1\n");
    assert_eq!(outside.sh(user, STACK).lines().count(), 1);
}

/// M1, M2, M8
#[rstest]
#[cfg_attr(
    ground_here,
    ignore = "needs the guest's outside: its mounts are shared"
)]
fn report_of_mount_demo_is_what_the_tools_say(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let seen = outside.sh(
        user,
        "readlink /proc/self/ns/mnt
         grep -c ' / /proc ' /proc/self/mountinfo
         findmnt -n -o PROPAGATION /proc; echo $$; exec mount-demo",
    );
    let mut lines = seen.lines();
    let told: Vec<&str> = lines.by_ref().take(4).collect();
    let [namespace, stack, kind, pid] = told[..] else { panic!("{seen}") };
    let rows = rows(lines);
    assert_eq!(rows[0], ["outside", "inside", "outside again"]);
    let inside = rows[1][2];
    assert!(inside.starts_with("mnt:[") && inside != namespace, "{seen}");
    assert_eq!(rows[1], ["mount namespace", namespace, inside, namespace]);
    assert_eq!(rows[2], ["/proc mounts", stack, "2", stack]);
    assert_eq!(rows[3], ["/proc propagation", kind, "private", kind]);
    assert_eq!(rows[4][..1], ["processes in /proc"]);
    assert_eq!(rows[4][2], "1");
    assert!(rows[4][1].parse::<u32>().expect("a number") > 2, "{seen}");
    assert_eq!(rows[5], ["/proc/self", pid, "1", pid]);
    assert_eq!(rows.len(), 6);
}

/// M3 to M7: what the examples print, line by line.
#[rstest]
#[case::m3(
    "propagation",
    r"inside      in -> out   out -> in   bind mount
shared      true        true        Ok\(\(\)\)
private     false       false       Ok\(\(\)\)
slave       false       true        Ok\(\(\)\)
unbindable  false       false       Err\(EINVAL\)"
)]
#[case::m4_to_m6(
    "pitfall",
    r"\$ ps
 +PID .*
.* pitfall\n.* sh\n.* ps

# a new /proc was mounted inside
\$ ps
Error, do this: mount -t proc proc /proc
\$ mount
mount: failed to read mtab: No such file or directory

# the usual repair
\$ mount -t proc proc /proc
\$ ps
 +PID .*
.* pitfall\n.* sh\n.* ps
\$ grep ' / /proc ' /proc/self/mountinfo \| tail -n 3
(?:.* / /proc .* shared:.* - proc proc .*\n){3}
# the right repair
\$ umount /proc
\$ ps
Error, do this: mount -t proc proc /proc
\$ umount /proc
\$ ps
 +PID .*
.* pitfall\n.* sh\n.* ps"
)]
#[case::m7(
    "fixes",
    r"before /proc is mounted inside  /proc/self outside, afterwards
nothing                         gone
MS_PRIVATE on /                 gone
MS_PRIVATE on /proc             there
MS_REC\|MS_PRIVATE on /          there
MS_REC\|MS_SLAVE on /            there
new user namespace              there"
)]
fn examples_print_what_they_measure_and_leave_nothing(
    #[values(Root, Reader)] user: User,
    #[case] example: &str,
    #[case] lines: &str,
) {
    let outside = outside();
    let before = outside.sh(Root, "cat /proc/self/mountinfo; ls /tmp");
    let lines = predicate::str::is_match(format!("^{lines}\n$"));
    let output = outside.run(user, [example], b"");
    output.assert().success().stdout(lines.expect("regex")).stderr("");
    let after = outside.sh(Root, "cat /proc/self/mountinfo; ls /tmp");
    assert_eq!(before, after);
}
