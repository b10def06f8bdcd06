//! The PID namespace: pid_namespaces(7).

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Outside, Reader, Root, User, outside};
use crate::report::rows;

/// For scripts. `inside SCRIPT` starts `pid-demo sh -c SCRIPT` and waits for
/// the word that SCRIPT writes to the fifo `ready`; `$demo` is pid-demo and
/// `$child` is COMMAND, as the outside counts. `soon` waits for a condition.
const INSIDE: &str = r#"
    [ -p ready ] || mkfifo ready hold
    inside() {
        pid-demo sh -c "$1" & demo=$!
        read word < ready
        child=$(ps -o pid= --ppid $demo | tr -d ' ')
    }
    soon() {
        end=$(($(date +%s) + 30))
        until "$@"; do [ $(date +%s) -lt $end ]; done
    }
"#;

impl Outside {
    /// Runs a script that begins with the above.
    #[track_caller]
    fn with_inside(&self, user: User, script: &str) -> String {
        self.sh(user, &format!("{INSIDE}{script}"))
    }
}

/// P1
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn command_is_pid_1_and_has_no_parent(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let script = "echo $$ $PPID; ps -o pid=,ppid= -p $$ | tr -s ' '; :";
    let chain = ["pid-demo", "mount-demo", "sh", "-c", script];
    outside.run(user, chain, b"").assert().success().stdout("1 0\n 1 0\n");

    // Without the namespace it is one of many, and has a parent.
    let seen = outside.sh(user, script);
    let numbers: Vec<u32> =
        seen.split_whitespace().map(|n| n.parse().expect("PID")).collect();
    assert_eq!(numbers[..2], numbers[2..]);
    assert!(numbers[0] > 1 && numbers[1] > 0, "{seen}");
}

/// P2
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn outside_counts_the_same_process_among_its_own(
    #[values(Root, Reader)] user: User,
) {
    let seen = outside().with_inside(
        user,
        r#"
        inside 'echo $$ > ready; read end < hold'
        echo $demo $child $word
        grep NSpid: /proc/$child/status /proc/$demo/status | tr '\t' ' '
        pstree -pl
        echo > hold; wait $demo"#,
    );
    let first = seen.lines().next().expect("three numbers");
    let numbers: Vec<&str> = first.split(' ').collect();
    let [demo, child, "1"] = numbers[..] else { panic!("{seen}") };
    assert_ne!(child, "1");
    let both = format!("/proc/{child}/status:NSpid: {child} 1\n");
    assert!(seen.contains(&both), "{seen}");
    assert!(
        seen.contains(&format!("-pid-demo({demo})---sh({child})")),
        "{seen}"
    );

    // The link itself has stayed outside: it has one number only.
    let one = format!("/proc/{demo}/status:NSpid: {demo}\n");
    assert!(seen.contains(&one), "{seen}");
}

/// P3
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn old_proc_still_shows_the_outside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let seen = outside.with_inside(
        user,
        r#"
        inside 'read self rest < /proc/self/stat; echo $$ $self > ready
                read end < hold'
        echo $word = 1 $child
        echo > hold; wait $demo"#,
    );
    let (inside, expected) = seen.trim().split_once(" = ").expect("a line");
    assert_eq!(inside, expected);

    let script = "echo $$; readlink /proc/self; ps -o comm= -p 2; :";
    let argv = ["pid-demo", "sh", "-c", script];
    let numbers = outside.run(user, argv, b"");
    numbers.assert().success().stdout(
        predicate::str::is_match("^1\n[0-9]{2,}\nkthreadd\n$").expect("regex"),
    );

    // With a /proc of its own the inside sees itself.
    let argv = ["pid-demo", "mount-demo", "readlink", "/proc/self"];
    outside.run(user, argv, b"").assert().success().stdout("1\n");
    let argv = ["pid-demo", "mount-demo", "ps", "-e", "-o", "comm="];
    outside.run(user, argv, b"").assert().stdout("ps\n");
}

/// P4
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn pid_1_cannot_be_killed_from_inside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    // By itself and by a child. An ordinary process there can be killed.
    let script = "for signal in KILL TERM STOP; do
            kill -$signal 1; echo $?
            sh -c \"kill -$signal 1; echo \\$?\"
        done
        sleep 1000 & kill -KILL $!; wait $! || echo $?";
    let argv = ["pid-demo", "sh", "-c", script];
    let output = outside.run(user, argv, b"");
    output.assert().success().stdout("0\n0\n0\n0\n0\n0\n137\n");

    // From outside it can be killed, too.
    let seen = outside.with_inside(
        user,
        "inside 'echo > ready; read end < hold'
         kill -TERM $child; ps -o comm= -p $child
         kill -KILL $child; wait $demo || echo $?",
    );
    assert_eq!(seen, "sh\n137\n");
}

/// P5
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves processes behind on purpose")]
fn nobody_inside_outlives_pid_1(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let seen = outside.with_inside(
        user,
        "inside 'sleep 1000 & sh -c \"sleep 2000 &\"; echo > ready
                 read end < hold; exit 7'
         soon sh -c '[ $(pgrep -x sleep | wc -l) = 2 ]'
         pgrep -x sleep > /dev/null
         echo > hold; wait $demo || echo $?
         ! pgrep -x sleep",
    );
    assert_eq!(seen, "7\n");

    // Without the namespace they live on.
    outside.sh(user, "sleep 1000 & sh -c 'sleep 2000 &'");
    let seen = outside.sh(user, "pgrep -x sleep | wc -l");
    assert_eq!(seen, "2\n");
}

/// P5
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn where_pid_1_is_dead_fork_says_no_memory(#[values(Root, Reader)] user: User) {
    let outside = outside();
    // Of two commands the first is PID 1, and the second comes too late.
    let script = "sh -c 'echo $$'; sh -c 'echo $$'; :";
    let user_namespace = if user == Root { "--mount" } else { "-Ur" };
    let argv = ["unshare", user_namespace, "-p", "bash", "-c", script];
    outside
        .run(user, argv, b"")
        .assert()
        .code(254)
        .stdout("1\n")
        .stderr(predicate::str::contains("fork: Cannot allocate memory"));
    let free = "awk '/MemAvailable/ { print ($2 > 20000) }' /proc/meminfo";
    assert_eq!(outside.sh(user, free), "1\n");

    // Without the namespace, and in one whose PID 1 lives, both run.
    let argv = ["unshare", user_namespace, "bash", "-c", script];
    let two = predicate::function(|text: &str| text.lines().count() == 2);
    outside.run(user, argv, b"").assert().success().stdout(two);
    let output = outside.run(user, ["pid-demo", "bash", "-c", script], b"");
    output.assert().success().stdout("2\n3\n");
}

/// P6
#[rstest]
#[cfg_attr(ground_here, ignore = "leaves processes behind on purpose")]
fn orphan_is_adopted_by_pid_1_of_its_namespace(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    // A shell ends, and what it has started goes on.
    let orphan = "parent=$(sh -c 'sleep 1000 > /dev/null &
            ps -o ppid= -C sleep > before; echo $$')
        [ $parent -eq $(cat before) ]
        ps -o ppid= -C sleep | tr -d ' '";
    let argv = ["pid-demo", "mount-demo", "sh", "-euc", orphan];
    outside.run(user, argv, b"").assert().success().stdout("1\n");

    // As the outside sees it: its own PID 1 gets the orphans of the outside,
    // and COMMAND those of the inside.
    let seen = outside.with_inside(
        user,
        "inside 'sh -c \"sleep 1000 &\"; echo > ready; read end < hold'
         [ $child -eq $(ps -o ppid= -C sleep) ]
         echo > hold; wait $demo",
    );
    assert_eq!(seen, "");
    assert_eq!(outside.sh(user, orphan), "1\n");
}

/// P7
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn zombie_stays_until_pid_1_waits_for_it(#[values(Root, Reader)] user: User) {
    let outside = outside();
    // The zombie's parent is gone: it is an orphan, too.
    let seen = outside.with_inside(
        user,
        r#"mkfifo die answer
        zombie() { ps -o stat= -p $orphan | grep -q Z; }
        inside_with_orphan() {
            inside "sh -c 'read end < die & echo > ready'; $1"
            orphan=$(ps -o pid= --ppid $child | tr -d ' ')
            if zombie; then echo already; fi
            echo > die; soon zombie
        }

        # cat never waits, however much it has to do.
        inside_with_orphan 'exec cat hold > answer'
        exec 4< answer 3> hold
        echo busy >&3; read word <&4; echo $word
        ps -o stat= -p $orphan
        exec 3>&-; wait $demo

        # dash waits, for whatever there is, when it runs a command.
        inside_with_orphan 'read go < hold; sleep 0; echo > ready
                            read end < hold'
        ps -o stat= -p $orphan
        echo > hold; read word < ready
        ! ps -o stat= -p $orphan
        echo > hold; wait $demo"#,
    );
    assert_eq!(seen, "busy\nZ\nZ\n");

    // Outside, PID 1 always waits.
    outside.with_inside(
        user,
        r#"mkfifo die2
        orphan=$(sh -c 'cat die2 > /dev/null & echo $!')
        ps -p $orphan
        echo > die2
        gone() { ! ps -p $orphan; }
        soon gone"#,
    );
}

/// P8
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn process_has_a_pid_in_each_namespace_around_it(
    #[values(Root, Reader)] user: User,
) {
    let seen = outside().with_inside(
        user,
        r#"
        inside "exec pid-demo pid-demo sh -c 'echo > ready; read end < hold'"
        for n in 1 2; do child=$(ps -o pid= --ppid $child | tr -d ' '); done
        echo $child 3 2 1
        sed -n 's/NSpid:.//p' /proc/$child/status | tr '\t' ' '
        echo > hold; wait $demo"#,
    );
    let (expected, seen) = seen.trim().split_once('\n').expect("two lines");
    assert_eq!(seen, expected);
}

/// P8
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn namespace_below_32_others_is_refused(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let chain = |links| [vec!["pid-demo"; links], vec!["echo", "in"]].concat();
    outside.run(user, chain(32), b"").assert().success().stdout("in\n");
    outside.run(user, chain(33), b"").assert().code(125).stdout("").stderr(
        predicate::str::starts_with(
            "pid-demo: unshare(CLONE_NEWPID): ENOSPC: No space left on device\n",
        )
        .and(predicate::str::contains("(or 32 are nested)")),
    );
}

/// P9
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn sigterm_and_sighup_reach_command(
    #[values(Root, Reader)] user: User,
    #[values("TERM", "HUP")] signal: &str,
) {
    let outside = outside();
    let command = format!(
        "trap \"echo heard; exit 9\" {signal}
         sleep 1000 & echo > ready; wait"
    );
    let seen = outside.with_inside(
        user,
        &format!(
            "inside '{command}'
             kill -{signal} $demo; wait $demo || echo $?"
        ),
    );
    assert_eq!(seen, "heard\n9\n");
}

/// P9
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn nobody_inside_outlives_pid_demo(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let seen = outside.with_inside(
        user,
        "inside 'sleep 1000 & echo > ready; read end < hold'
         soon pgrep -x sleep > /dev/null
         kill -KILL $demo; wait $demo || echo $?
         gone() { ! ps -p $child > /dev/null && ! pgrep -x sleep; }
         soon gone",
    );
    assert_eq!(seen, "137\n");
}

/// P9
#[rstest]
#[case::of_success("exit 0", 0)]
#[case::of_failure("exit 7", 7)]
#[case::the_largest("exit 255", 255)]
// A fault of its own is a signal that PID 1 does not survive.
#[case::of_a_signal("ulimit -s 200; f() { f; }; f", 128 + 11)]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn status_of_command_comes_back(
    #[values(Root, Reader)] user: User,
    #[case] script: &str,
    #[case] status: i32,
) {
    let argv = ["pid-demo", "sh", "-c", script];
    outside().run(user, argv, b"").assert().code(status);
}

/// For scripts. `type_into COMMAND` runs COMMAND at a terminal of its own,
/// and when it has said `ready` types ^C and the word `end`.
const TERMINAL: &str = r#"
    mkfifo in out
    type_into() {
        { exec 3> in < out
          until read line; [ "${line#ready}" != "$line" ]; do :; done
          printf '\003' >&3
          printf 'end\n' >&3
          cat 3>&-
        } &
        status=0
        script -qec "exec $1" /dev/null < in > out || status=$?
        wait
        echo "status $status"
    }
"#;

/// P9
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn interrupt_at_a_terminal_goes_to_command_alone(
    #[values(Root, Reader)] user: User,
) {
    let seen = outside().sh(
        user,
        &format!(
            r#"{TERMINAL}
            cat > handler << 'END'
                n=0; trap 'n=$((n + 1))' INT; echo ready
                until read word; do :; done
                echo $word, $n interrupt; exit 7
END
            type_into 'pid-demo sh handler'
            # Who has no handler is killed, but not when it is PID 1.
            echo 'BEGIN {{ print "ready"; fflush(); getline; print }}' > none
            type_into 'pid-demo awk -f none'
            type_into 'awk -f none'"#,
        ),
    );
    let lines: Vec<&str> = seen.lines().map(str::trim_end).collect();
    // ^C and the first `end` are the terminal's echo.
    let expected = [
        ["^Cend", "end, 1 interrupt", "status 7"].as_slice(),
        &["^Cend", "end", "status 0"],
        &["^Cend", "status 130"],
    ];
    assert_eq!(lines, expected.concat());
}

/// P1, P2
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn report_of_pid_demo_is_what_the_tools_say(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let script = "readlink /proc/self/ns/pid; echo $$; echo $PPID
        exec pid-demo";
    let seen = outside.sh(user, script);
    let mut lines = seen.lines();
    let told: Vec<&str> = lines.by_ref().take(3).collect();
    let [namespace, pid, parent] = told[..] else { panic!("{seen}") };
    let rows = rows(lines);
    assert_eq!(rows[0], ["outside", "inside", "outside again"]);
    let inside = rows[1][2];
    assert!(inside.starts_with("pid:[") && inside != namespace, "{seen}");
    assert_eq!(rows[1], ["PID namespace", namespace, inside, namespace]);
    assert_eq!(rows[2], ["PID", pid, "1", pid]);
    assert_eq!(rows[3], ["parent PID", parent, "0", parent]);
    let both = rows[4][2];
    assert!(both.ends_with(" 1") && !both.starts_with(pid), "{seen}");
    assert_eq!(rows[4], ["NSpid", pid, both, pid]);
    assert_eq!(rows.len(), 5);
}

/// P4 to P8: what the examples print, line by line.
#[rstest]
#[case::p4(
    "init_is_immune",
    r"kill\(1, SIGKILL\)  returned  PID 1 then
by itself         0         answers
by PID 2          0         answers
from outside      0         is dead"
)]
#[case::p5(
    "dead_init",
    r"first fork    Exited\(Pid\([0-9]+\), 0\)
second fork   ENOMEM: Out of memory
and yet       MemAvailable: +[0-9]{5,} kB"
)]
#[case::p6(
    "orphan",
    r"its parent       PID  parent's PID
lives              3             2
has ended          3             1"
)]
#[case::p7(
    "zombie",
    r"it lives          [RS] \([a-z]+\)
it has ended      Z \(zombie\)
PID 1 has waited  gone"
)]
#[case::p8(
    "nested",
    r"level  0  PID [0-9]+
level  1   PID 32
level  2    PID 31
(level .*\n){29}level 32 +PID 1
level 33 unshare\(CLONE_NEWPID\): ENOSPC: No space left on device"
)]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn examples_print_what_they_measure(
    #[values(Root, Reader)] user: User,
    #[case] example: &str,
    #[case] lines: &str,
) {
    let lines = predicate::str::is_match(format!("^{lines}\n$"));
    let output = outside().run(user, [example], b"");
    output.assert().success().stdout(lines.expect("regex")).stderr("");
}

/// An example that is refused says so as the demos do.
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn examples_that_are_refused_name_the_call_and_the_way_out(
    #[values(
        "clone",
        "dead_init",
        "init_is_immune",
        "nested",
        "orphan",
        "zombie",
        "fixes",
        "pitfall",
        "propagation"
    )]
    example: &str,
) {
    let outside = outside();
    outside.sh(Root, "sysctl -q user.max_user_namespaces=0");
    outside.reader([example]).assert().code(125).stdout("").stderr(
        predicate::str::starts_with(format!(
            "{example}: unshare(CLONE_NEWUSER): ENOSPC: No space left on device\n"
        ))
        .and(predicate::str::contains("user.max_user_namespaces=")),
    );
}
