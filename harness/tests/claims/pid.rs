//! The PID namespace: pid_namespaces(7).

use assert_cmd::assert::OutputAssertExt;

use crate::report::{
    assert_matches, assert_prints, assert_prints_its_page, assert_report,
};
use crate::target::{Machine, Reader, Root, SOON, USERS, User, fresh_machine};

/// For scripts whose processes wait for each other: they write a word into the
/// FIFO `ready`, and read one from `hold`.
pub const STEPS: &str = r#"
    [ -p ready ] || mkfifo ready hold never
    exec 3<> ready 4<> hold # Kept open, so that no word is lost.

    # `inside SCRIPT` starts `pid-demo sh -c SCRIPT` and waits until SCRIPT has
    # written a word. $demo is pid-demo's PID, and $child is COMMAND's PID in
    # the outside's namespace.
    inside() {
        pid-demo sh -c "$1" & demo=$!
        read word <&3
        child=$(child_of $demo)
    }

    # `. ./sleeper &` is a process that writes its PID, as /proc shows it, into
    # `ready`, and then sleeps until it is killed.
    echo 'read pid rest < /proc/self/stat; echo $pid > ready
          read end < never' > sleeper

    # In /proc the list of children has no newline, and so `read` fails.
    child_of() {
        read pid < /proc/$1/task/$1/children || echo $pid
    }
    parent_of() {
        read pid name state parent rest < /proc/$1/stat; echo $parent
    }
    state_of() {
        read pid name state rest < /proc/$1/stat; echo $state
    }
    numbers_of() {
        while read name numbers; do
            case $name in NSpid:) echo $numbers; esac
        done < /proc/$1/status
    }
    # A zombie counts as `there`.
    there() {
        for pid; do if [ -e /proc/$pid ]; then echo there; else echo gone; fi
        done
    }

    # From $demo on every process with its child, which sleeps or is stopped,
    # and has no signal left, but for one that it blocks; or has ended.
    settled() {
        process=$demo
        while [ $process ]; do
            program= state= left=
            while read name value rest; do
                case $name in
                Name:) program=$value ;;
                State:) state=$value ;;
                ShdPnd:) left=$value; break ;;
                esac
            done < /proc/$process/status || return 0
            case $state$left,${how-}$program in
            T* | S0000000000000000,*) ;;
            Z* | S*,blockedsignals) return 0 ;;
            *) return 1 ;;
            esac
            process=$(child_of $process)
        done
    }
    states() {
        process=$demo
        while [ $process ]; do
            printf ' %s' $(state_of $process)
            process=$(child_of $process)
        done
    }
"#;

/// For each user a script that begins with these functions prints this.
#[track_caller]
pub fn assert_steps(script: &str, expected: &str) {
    let script = format!("{SOON}{STEPS}{script}");
    let machine = fresh_machine();
    for user in USERS {
        assert_eq!(machine.sh(user, &script), expected, "{user}");
    }
}

/// P1
#[test]
fn command_is_pid_1_and_has_no_parent() {
    let machine = fresh_machine();
    // The PID and the parent's PID, from the shell's variables and from /proc.
    let script = "echo $$ $PPID
        read pid name state parent rest < /proc/self/stat; echo $pid $parent";
    for user in USERS {
        let chain = ["pid-demo", "mount-demo", "sh", "-c", script];
        assert_eq!(machine.says(user, chain), "1 0\n1 0\n");

        // Without the namespace the PID is another, and there is a parent.
        let seen = machine.sh(user, script);
        let numbers: Vec<u32> =
            seen.split_whitespace().map(|n| n.parse().expect("PID")).collect();
        assert_eq!(numbers[..2], numbers[2..]);
        assert!(numbers[0] > 1 && numbers[1] > 0, "{seen}");
    }
}

/// P2: pid-demo itself stays outside, so it has one PID only.
#[test]
fn outside_counts_the_same_process_among_its_own() {
    let script = r#"
        inside 'echo $$ > ready; read end < hold'
        echo $word $(numbers_of $demo) $(numbers_of $child) |
            sed "s/ $demo / demo /; s/ $child / child /"
        pstree -pl | grep -c -- "-pid-demo($demo)---sh($child)"
        echo > hold; wait $demo"#;
    assert_steps(script, "1 demo child 1\n1\n");
}

/// P3: with a new /proc the only process that is seen inside is COMMAND.
#[test]
fn old_proc_still_shows_the_outside() {
    let script = r#"
        inside 'read self rest < /proc/self/stat; echo $$ $self > ready
                ps -o comm= -p 2; read end < hold'
        echo > hold; wait $demo
        echo "$word" | sed "s/ $child$/ child/"
        pid-demo mount-demo sh -c '
            read self rest < /proc/self/stat; echo $self
            cd /proc; echo [0-9]*'"#;
    assert_steps(script, "kthreadd\n1 child\n1\n1\n");
}

/// P4
#[test]
fn pid_1_cannot_be_killed_from_inside() {
    let script = r#"
        # PID 1 sends itself a signal, and then its child sends it one.
        # Another process can be killed.
        inside 'for signal in KILL TERM STOP; do
                    kill -$signal 1; echo $?
                    sh -c "kill -$signal 1; echo \$?"
                done
                read end < never & kill -KILL $!; wait $! || echo $?
                echo > ready; read go < hold
                echo answer > ready; read end < hold'

        # A SIGTERM from outside is ignored, too. A SIGKILL kills.
        kill -TERM $child
        echo > hold; read word <&3; echo $word
        kill -KILL $child; wait $demo || echo $?"#;
    assert_steps(script, "0\n0\n0\n0\n0\n0\n137\nanswer\n137\n");
}

/// P5
#[test]
fn nobody_inside_outlives_pid_1() {
    let script = r#"
        family() {
            "$@" sh -c '. ./sleeper & sh -c ". ./sleeper &"
                        read end < hold; exit 7' & first=$!
            read child <&3; read grandchild <&3
            there $child $grandchild
            echo > hold; wait $first || echo $?
            there $child $grandchild
        }
        family pid-demo
        # Without the namespace they survive.
        family
        kill $child $grandchild"#;
    assert_steps(
        script,
        "there\nthere\n7\ngone\ngone\n\
             there\nthere\n7\nthere\nthere\n",
    );
}

/// P5
#[test]
fn where_pid_1_is_dead_fork_says_no_memory() {
    let machine = fresh_machine();
    // The first of two processes is PID 1. It has ended before the second is
    // forked.
    let script = "(echo $BASHPID); (echo $BASHPID); :";
    for user in USERS {
        let own = if user == Root { "--mount" } else { "-Ur" };
        let argv = ["unshare", own, "-p", "bash", "-c", script];
        machine.run(user, argv, b"").assert().failure().stdout("1\n");
        let end = machine.end_of_call(user, &[], ["clone", ""], &argv);
        assert_eq!(end, "ENOMEM", "{user}");

        // Without the namespace, and where PID 1 is still running, both run.
        let argv = ["unshare", own, "bash", "-c", script];
        assert_eq!(machine.says(user, argv).lines().count(), 2, "{user}");
        let end = machine.end_of_call(user, &[], ["clone", ""], &argv);
        assert_eq!(end, "done", "{user}");
        let argv = ["pid-demo", "bash", "-c", script];
        assert_eq!(machine.says(user, argv), "2\n3\n");
    }
}

/// P6: an orphan outside gets the outside's PID 1 as its parent, and an orphan
/// inside gets COMMAND, which is PID 1 there.
#[test]
fn orphan_is_adopted_by_pid_1_of_its_namespace() {
    // A shell ends, and its child does not.
    let orphan = r#"
        sh -c '. ./sleeper & read end < hold' & shell=$!
        read orphan <&3
        [ $(parent_of $orphan) -eq $shell ]
        echo > hold; wait $shell
        parent_of $orphan
        kill $orphan
    "#;
    let inside = r#"
        inside 'sh -c ". ./sleeper &"; read go < hold
                echo > ready; read end < hold'
        orphan=$word
        echo > hold; read word <&3 # The orphan's parent has ended.
        parent_of $orphan | sed "s/^$child$/COMMAND/"
        echo > hold; wait $demo"#;
    assert_steps(&format!("{orphan}{inside}"), "1\nCOMMAND\n");
    let orphan = format!("{STEPS}{orphan}");
    let machine = fresh_machine();
    for user in USERS {
        let argv = ["pid-demo", "mount-demo", "sh", "-euc", &orphan];
        assert_eq!(machine.says(user, argv), "1\n");
    }
}

/// P7
#[test]
fn zombie_stays_until_pid_1_waits_for_it() {
    let script = r#"
        ask() { echo $1 > hold; read word <&3; echo $word; }
        zombie() { [ $(state_of $orphan) = Z ]; }
        # The zombie is an orphan, so that PID 1 is its parent: cat, which never
        # waits for a child.
        inside "sh -c '. ./sleeper &'; exec cat hold > ready"
        orphan=$word
        ask cat
        kill -KILL $orphan; soon zombie
        ask busy; state_of $orphan
        kill -KILL $child; wait $demo || echo $?
        # Outside, PID 1 always waits for its children.
        sh -c '. ./sleeper &'; read orphan <&3
        [ $(there $orphan) = there ]
        kill -KILL $orphan
        gone() { [ $(there $orphan) = gone ]; }
        soon gone"#;
    assert_steps(script, "cat\nbusy\nZ\n137\n");
}

/// P8
#[test]
fn namespace_below_32_others_is_refused() {
    let machine = fresh_machine();
    let chain = |levels| [&["pid-demo"; 33][..levels], &["echo"]].concat();
    for user in USERS {
        assert_eq!(machine.says(user, chain(32)), "\n");
        let [error, advice] = machine.refused(user, chain(33));
        let call = "unshare(CLONE_NEWPID): ENOSPC: No space left on device";
        assert_eq!(error, format!("pid-demo: {call}"));
        assert!(advice.contains("(or 32 are nested)"), "{advice}");
    }
}

/// P9: COMMAND is stopped, and pid-demo is not: a signal still comes to it.
#[test]
fn command_that_is_stopped_is_continued() {
    let script = r#"
        inside 'echo > ready; read end < hold; exit 5'
        stopped() { [ $(state_of $child) = T ]; }
        kill -STOP $child; soon stopped
        kill -CONT $demo; echo > hold; wait $demo || echo $?"#;
    assert_steps(script, "5\n");
}

/// P9: a signal in the first milliseconds of pid-demo ends it or reaches
/// COMMAND, and is never lost between the two.
#[test]
fn signal_at_any_moment_of_the_beginning_is_not_lost() {
    let script = r#"
        for chain in pid-demo 'pid-demo pid-demo'; do
            round=0
            while [ $round -lt 20 ]; do
                $chain sh -c 'read end < never; :' & demo=$!
                spin=0
                while [ $spin -lt $((round * 40)) ]; do
                    spin=$((spin + 1))
                done
                kill -TERM $demo; status=0; wait $demo || status=$?
                echo $status
                round=$((round + 1))
            done
        done"#;
    assert_steps(script, &"143\n".repeat(40));
}

/// P9
#[test]
fn nobody_inside_outlives_pid_demo() {
    let script = r#"
        inside '. ./sleeper & wait'
        there $child $word
        kill -KILL $demo; wait $demo || echo $?
        gone() { case $(there $child $word) in *there*) false; esac; }
        soon gone"#;
    assert_steps(script, "there\nthere\n137\n");
}

/// P9: when a process changes its ids, the kernel clears its parent-death
/// signal. So PID 1 should keep its ids, and let a child change them.
#[test]
fn command_with_other_ids_goes_with_pid_demo_as_a_child_of_pid_1() {
    let script = r#"
        other='setpriv --reuid=1 --regid=1 --clear-groups sleep 1000'
        other_ids() { [ "$(stat -c %u /proc/$1)" = 1 ]; }
        asleep() { read name < /proc/$1/comm; [ $name = sleep ]; }
        pid-demo sh -c ". ./sleeper & $other; exit" & demo=$!
        read word <&3
        grandchild() {
            for pid in $(cat /proc/$1/task/$1/children); do
                if asleep $pid; then echo $pid; fi
            done
        }
        child=$(child_of $demo)
        there_is() { other=$(grandchild $child); [ $other ]; }
        soon there_is; soon other_ids $other
        kill -KILL $demo; wait $demo || :
        gone() { [ $(there $other) = gone ]; }
        soon gone; echo gone

        pid-demo setpriv --reuid=1 --regid=1 --clear-groups sleep 1000 &
        demo=$!
        born() { child=$(child_of $demo); [ $child ] && asleep $child; }
        soon born
        kill -KILL $demo; wait $demo || :
        there $child; kill -KILL $child"#;
    let script = format!("{SOON}{STEPS}{script}");
    assert_eq!(fresh_machine().sh(Root, &script), "gone\nthere\n");
}

/// P9
#[test]
fn status_of_command_comes_back() {
    let machine = fresh_machine();
    for user in USERS {
        for (script, status) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("exit 255", 255),
            // A signal that the kernel sends for a fault kills PID 1, too.
            ("ulimit -s 200; f() { f; }; f", 128 + 11),
        ] {
            let argv = ["pid-demo", "sh", "-c", script];
            machine.run(user, argv, b"").assert().code(status);
        }
    }
}

/// For scripts: `at_a_terminal JOB CHAIN` runs the bash script JOB as the
/// session leader of a terminal of its own. `see WORD` waits for a line with
/// this word there, and leaves the line in $line. `keys TEXT` types.
const AT_A_TERMINAL: &str = r#"
    [ -p in ] || mkfifo in out
    at_a_terminal() {
        echo "$1" > job
        script -qec "exec bash job $2" /dev/null < in > out & script=$!
        exec 5> in 6< out
    }
    see() {
        until read -r line <&6; [ "${line#*$1}" != "$line" ]; do :; done
        line=$1${line#*$1} # Without the echo of what was typed.
        line=${line%?} # Without the carriage return before the newline.
    }
    keys() { printf "$1" >&5; }
"#;

impl Machine {
    /// Runs a script that begins with all these functions, with `args` as `$1`,
    /// `$2` and so on.
    #[track_caller]
    fn at_a_terminal(&self, user: User, script: &str, args: &[&str]) -> String {
        let script = format!("{SOON}{STEPS}{AT_A_TERMINAL}{script}");
        self.sh_with(user, &script, args)
    }
}

/// P9, K9
#[test]
fn job_control_stops_and_continues_command_with_pid_demo() {
    let job = [
        SOON,
        STEPS,
        r#"set +e -m
        report() {
            demo=$(jobs -p)
            soon settled
            echo "$*$(states)"
        }
        "$@" sh command
        report stopped $?
        # In the background, reading from the terminal stops it: SIGTTIN.
        bg > /dev/null
        wait %1 || report background $?
        fg > /dev/null
        echo ended $?"#,
    ]
    .concat();
    let machine = fresh_machine();
    for user in USERS {
        for (chain, states) in [
            ("env", "T"),
            ("pid-demo", "T T"),
            ("user-demo pid-demo", "T T"),
            // The second pid-demo is PID 1, which cannot stop itself: it waits.
            ("pid-demo pid-demo", "T S T"),
        ] {
            // An editor stops its process group itself: for that moment it sets
            // SIGTSTP to its default action. pid-demo may read that before or
            // after; here it reads after, when there is a handler again.
            let suspends = [("", r"\032"), ("trap : TSTP; kill -TSTP 0", "")];
            let both = user == Root && chain != "env";
            for (suspend, keys) in &suspends[..1 + usize::from(both)] {
                let seen = machine.at_a_terminal(
                    user,
                    r#"
                    echo "echo ready; ${3:-:}; read word; exit 7" > command
                    at_a_terminal "$1" "$2"
                    see ready; keys "$4"
                    see stopped; echo "$line"
                    see background; echo "$line"; keys 'end\n'
                    see ended; echo "$line"
                    wait $script"#,
                    &[&job, chain, suspend, keys],
                );
                let expected = format!(
                    "stopped 148 {states}\nbackground 149 {states}\nended 7\n"
                );
                assert_eq!(seen, expected, "{user}: {chain}: {suspend}");
            }
        }
    }
}

/// A COMMAND that gets the signal `$1`, and ends when its parent sleeps and has
/// no signals pending.
const ONCE: &str = r#"
    read pid name state parent rest < /proc/self/stat
    settled() {
        status=$(cat /proc/$parent/status 2> /dev/null) || return 0
        case $status in
        *"State:	S"*"ShdPnd:	0000000000000000"*) ;;
        *) false ;;
        esac
    }
    came() { read word || :; [ $n -gt 0 ]; }
    n=0; trap 'n=$((n + 1))' $1
    echo ready; soon came
    soon settled
    echo $1 came > came
"#;

/// P9: COMMAND gets a signal only once if a terminal sends it to the foreground
/// process group. When a terminal is closed, the kernel sends SIGHUP only to
/// the session leader: if that is pid-demo, it passes the signal on.
#[test]
fn signal_of_a_terminal_comes_to_command_once() {
    let machine = fresh_machine();
    for user in USERS {
        // COMMAND cannot count: two signals of a kind that are pending are one.
        // So strace(1) says what pid-demo sends. It has a session of its own.
        let seen = machine.at_a_terminal(
            user,
            r#"echo "$1" > command
                traced() {
                    demo='strace -DDD -q -e signal=none -e trace=kill -o trace'
                    at_a_terminal "$1" "$demo pid-demo sh command $2"
                }
                sent() {
                    ended() { grep -q '^+++ ' trace; }
                    soon ended; cat came; rm came
                    while read -r call signal rest; do
                        # SIGCONT comes with SIGHUP, and does nothing here; 0
                        # asks whether a process group exists.
                        case $call$signal in
                        kill*SIGCONT* | kill*,0*) ;;
                        kill*) echo sent "${signal%)}" ;;
                        esac
                    done < trace
                }
                traced 'exec "$@"' TSTP
                see ready; keys '\032end\n'
                wait $script; sent
                for job in 'exec "$@"' '"$@"; exit'; do
                    traced "$job" HUP
                    see ready; kill -KILL $script; wait $script || :
                    sent
                done"#,
            &[&format!("{SOON}{ONCE}")],
        );
        let expected = "TSTP came\nHUP came\nsent SIGHUP\nHUP came\n";
        assert_eq!(seen, expected, "{user}");
    }
}

/// P9: when a terminal is closed, the processes at it end, also stopped ones.
#[test]
fn nobody_outlives_the_terminal() {
    let job = [
        STEPS,
        r#"set +e -m
        "$@" sh -c 'read pid rest < /proc/self/stat; echo ready $pid
                    exec sleep 1000'
        echo stopped
        read end < never"#,
    ]
    .concat();
    let machine = fresh_machine();
    for user in USERS {
        for chain in
            ["env", "pid-demo", "user-demo pid-demo", "pid-demo pid-demo"]
        {
            let seen = machine.at_a_terminal(
                user,
                r#"
                gone() { case $(there $all) in *there*) false; esac; }
                for stopped in no yes; do
                    at_a_terminal "$1" "$2"
                    see ready
                    process=${line#ready } all=
                    while [ $process -ne $script ]; do
                        all="$all $process"
                        process=$(parent_of $process)
                    done
                    if [ $stopped = yes ]; then
                        keys '\032'
                        see stopped
                    fi
                    there $all
                    kill -KILL $script; wait $script || :
                    soon gone
                    echo gone
                    exec 5>&- 6<&-
                done"#,
                &[&job, chain],
            );
            // bash, COMMAND, and one for each pid-demo.
            let there = 2 + chain.matches("pid-demo").count();
            let expected = "there\n".repeat(there) + "gone\n";
            assert_eq!(seen, expected.repeat(2), "{user}: {chain}");
        }
    }
}

/// P1, P2
#[test]
fn report_of_pid_demo_is_what_the_tools_say() {
    let machine = fresh_machine();
    for user in USERS {
        let rows = [
            ("PID namespace", "readlink /proc/self/ns/pid", "*"),
            ("PID", "echo $$", "1"),
            ("parent PID", "echo $PPID", "0"),
            // Of the child: another PID outside, and 1 inside.
            ("NSpid", "echo $$", "* 1"),
        ];
        assert_report(&machine, user, "pid-demo", &rows);
    }
}

/// P4
#[test]
fn only_from_outside_pid_1_can_be_killed() {
    let text = "kill(1, SIGKILL)  returned  PID 1 then
by itself         0         answers
by PID 2          0         answers
from outside      0         is dead

Learned: only from outside can PID 1 be killed.\n";
    assert_prints("init_is_immune", text);
}

/// P5
#[test]
fn second_child_of_a_dead_namespace_is_refused() {
    assert_matches(
        "dead_init",
        r"fork\(2\)             result
first child         made: it is PID 1, and it has ended
second child        ENOMEM: Out of memory
memory available    [0-9]{5,} kB

Learned: without PID 1 there is no new process: ENOMEM\.",
    );
}

/// P6
#[test]
fn orphans_parent_is_pid_1() {
    assert_prints_its_page("pid-demo", "orphan");
}

/// P7
#[test]
fn zombie_goes_when_pid_1_has_waited() {
    assert_matches(
        "zombie",
        r"an orphan         its state in /proc
runs              [RS] \([a-z]+\)
has ended         Z \(zombie\)
PID 1 has waited  gone

Learned: PID 1 has to wait\(2\) for orphans\.",
    );
}

/// P8
#[test]
fn process_at_level_32_has_33_pids() {
    assert_matches(
        "nested",
        r"namespace  PID of this one process there
level  0  PID [0-9]+
level  1   PID 32
level  2    PID 31
(level .*\n){29}level 32 +PID 1
level 33 unshare\(CLONE_NEWPID\): ENOSPC: No space left on device

Learned: a process has a PID in each namespace around it\.",
    );
}

/// G6: an example that is refused prints the error and the advice as a demo
/// does.
#[test]
fn examples_that_are_refused_name_the_call_and_the_way_out() {
    let machine = fresh_machine();
    machine.sh(Root, "echo 0 > /proc/sys/user/max_user_namespaces");
    for example in [
        "clone",
        "dead_init",
        "init_is_immune",
        "nested",
        "orphan",
        "zombie",
        "fixes",
        "pitfall",
        "propagation",
    ] {
        let [error, advice] = machine.refused(Reader, [example]);
        let call = "unshare(CLONE_NEWUSER): ENOSPC: No space left on device";
        assert_eq!(error, format!("{example}: {call}"));
        assert!(advice.contains("user.max_user_namespaces="), "{advice}");
    }
}
