//! What pid-demo does with a signal: the table in its `init.rs`, cell by cell.

use crate::pid::STEPS;
use crate::target::{Machine, SOON, USERS, User, fresh_machine};

/// For scripts, behind [`SOON`] and [`STEPS`]. `cell SENDER HOW SIGNAL` starts
/// `$chain /tmp/signals`, and sends SIGNAL to pid-demo if SENDER is `outside`.
/// When each pid-demo has read all its signals, COMMAND gets its word. Prints
/// the cell, and how it ended.
const CELL: &str = r#"
    # Every process of the chain sleeps or is stopped, and no signal is left;
    # or it has ended.
    settled() {
        process=$demo
        while [ $process ]; do
            state= left=
            while read name value rest; do
                case $name in
                Name:) program=$value ;;
                State:) state=$value ;;
                ShdPnd:) left=$value ;;
                esac
            done < /proc/$process/status || return 0
            case $state$left,$how$program in
            T* | S0000000000000000,*) ;;
            Z* | *,blockedsignals) return 0 ;;
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
    cell() {
        status=0 how=$2
        $chain /tmp/signals $2 $3 $1 "$*" <&4 >&3 & demo=$!
        read word <&3
        if [ $1 = outside ]; then kill -$3 $demo; fi
        soon settled
        stopped=
        if [ $3 = 20 ]; then
            case $2 in handler | awaited) ;; *) stopped=$(states) ;; esac
            kill -CONT $demo 2> /dev/null || :
            soon settled
        fi
        echo "$*" >&4
        # A shell may say first that its job has been stopped: 148.
        while wait $demo || status=$?; [ $status = 148 ]; do status=0; done
        echo "$*:$stopped $status"
    }
"#;

/// A signal that ends a process, one that does so with a core dump, one
/// without a name, and two that do nothing: TERM, QUIT, 40, WINCH, CONT.
const SIGNALS: [i32; 5] = [15, 3, 40, 28, 18];

/// What COMMAND may do with a signal: see `tests/guest/signals.rs`.
const HOW: [&str; 9] = [
    "default", "handler", "once", "ignored", "blocked", "awaited", "thread",
    "other", "loose",
];

/// How a cell ends, and whether COMMAND is in a PID namespace makes the
/// difference only for a signal from inside.
fn end(sender: &str, how: &str, signal: i32, namespace: bool) -> i32 {
    let ends = ![28, 18].contains(&signal);
    let dropped = namespace && sender != "outside" || !ends;
    match how {
        "default" | "other" | "loose" if !dropped => 128 + signal,
        "default" | "ignored" => 5,
        "blocked" => 6,
        "once" => 8,
        _ => 9,
    }
}

impl Machine {
    /// Tries the cells behind this chain, and names each that ends otherwise.
    #[track_caller]
    fn cells(&self, user: User, chain: &str, senders: &[&str]) {
        let mut script = format!("{SOON}{STEPS}{CELL}\nchain='{chain}'\n");
        let mut expected = String::new();
        for sender in senders {
            for (how, signal) in
                HOW.iter().flat_map(|how| SIGNALS.map(|it| (*how, it)))
            {
                // There is no end, if the signal does nothing.
                let waits = ["other", "loose"].contains(&how);
                let outside = *sender == "outside";
                if waits && (!outside || [28, 18].contains(&signal)) {
                    continue;
                }
                let cell = format!("{sender} {how} {signal}");
                script += &format!("cell {cell}\n");
                let end = end(sender, how, signal, chain != "env");
                expected += &format!("{cell}: {end}\n");
            }
        }
        let seen = self.sh(user, &script);
        same(&seen, &expected, &format!("{user}: {chain}"));
    }
}

/// Both are the same, line by line.
#[track_caller]
fn same(seen: &str, expected: &str, what: &str) {
    let wrong: Vec<String> = seen
        .lines()
        .zip(expected.lines())
        .filter(|(seen, expected)| seen != expected)
        .map(|(seen, expected)| format!("{seen}, and not {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{what}: {}", wrong.join("; "));
    assert_eq!(seen.lines().count(), expected.lines().count(), "{what}");
}

/// P10
#[test]
fn signal_from_outside_does_what_it_does_without_the_namespace() {
    let machine = fresh_machine();
    machine.put("signals");
    for user in USERS {
        for chain in ["env", "pid-demo", "pid-demo pid-demo"] {
            machine.cells(user, chain, &["outside"]);
        }
    }
}

/// P11: without a handler PID 1 ends neither by its own signals nor by those of
/// its children, as abort(3), SIGPIPE and a shell's `kill $$` would end it.
#[test]
fn signal_from_inside_does_not_end_command() {
    let machine = fresh_machine();
    machine.put("signals");
    for user in USERS {
        for chain in ["env", "pid-demo", "pid-demo pid-demo"] {
            machine.cells(user, chain, &["itself", "child"]);
        }
    }
}

/// P10: a signal that stops. COMMAND's process group must be a job of a shell,
/// or the kernel would not stop it.
#[test]
fn stop_from_outside_stops_command_as_without_the_namespace() {
    let machine = fresh_machine();
    machine.put("signals");
    let cells = [
        // Without a handler both stop.
        ("default", [" T 5", " T T 5", " T S T 5"]),
        ("handler", [" 9", " 9", " 9"]),
        ("once", [" S 8", " S S 8", " T S S 8"]),
        ("ignored", [" S 5", " S S 5", " T S S 5"]),
        // The outer pid-demo stops, since the inner one is PID 1.
        // SIGCONT takes a stop signal that is pending away.
        ("blocked", [" S 5", " S S 5", " T S S 5"]),
        ("awaited", [" 9", " 9", " 9"]),
    ];
    for user in USERS {
        for (column, chain) in
            ["env", "pid-demo", "pid-demo pid-demo"].iter().enumerate()
        {
            let mut job =
                format!("{SOON}{STEPS}{CELL}set -m\nchain='{chain}'\n");
            let mut expected = String::new();
            for (how, states) in cells {
                job += &format!("cell outside {how} 20 >> cells\n");
                expected += &format!("outside {how} 20:{}\n", states[column]);
            }
            let script = "echo \"$1\" > job; : > cells
                script -qec 'bash -eu job' /dev/null > shown < /dev/null
                cat cells";
            let seen = machine.sh_with(user, script, &[&job]);
            same(&seen, &expected, &format!("{user}: {chain}"));
        }
    }
}

/// P9: an orphan that this pid-demo inherits by exec, or as PID 1 of an outer
/// namespace, is waited for.
#[test]
fn pid_demo_waits_for_every_child_that_it_has() {
    let machine = fresh_machine();
    for user in USERS {
        let seen = machine.sh(
            user,
            &format!(
                r#"{SOON}{STEPS}
                gone() {{ [ $(there $orphan) = gone ]; }}
                # A child from before the exec.
                sh -c '. ./sleeper & exec pid-demo sh -c "read end < hold"' &
                demo=$!
                read orphan <&3
                kill -KILL $orphan; soon gone; echo > hold; wait $demo
                # An orphan in the outer namespace, whose PID 1 is pid-demo.
                pid-demo sh -c '(. ./sleeper &)
                    exec pid-demo sh -c "read end < hold; exit 7"' & demo=$!
                read orphan <&3
                kill -KILL $orphan; soon gone; echo > hold
                wait $demo || echo $?
                # The control: a zombie stays if its parent does not wait.
                sh -c '. ./sleeper & exec head -n 1 hold' & demo=$!
                read orphan <&3
                kill -KILL $orphan
                zombie() {{ [ $(state_of $orphan) = Z ]; }}
                soon zombie; echo zombie; echo > hold; wait $demo"#
            ),
        );
        assert_eq!(seen, "7\nzombie\n\n", "{user}");
    }
}

/// P9: an interactive shell inside puts a process group of its own into the
/// foreground. When pid-demo ends, its caller is in the foreground again; but
/// who has taken it meanwhile keeps it.
#[test]
fn caller_is_in_the_foreground_again() {
    let machine = fresh_machine();
    // `tpgid` is the foreground process group. The job's script has no job
    // control, so it is in the process group of pid-demo.
    let job = "foreground() {
            read pid name state parent group session tty front rest \
                < /proc/self/stat
            if [ $group = $front ]; then echo $1 yes; else echo $1 no; fi
        }
        foreground before
        $1 bash --norc -ic 'exit 7'
        status=$?
        foreground after
        echo ended $status";
    for user in USERS {
        for chain in ["", "pid-demo", "user-demo pid-demo", "pid-demo pid-demo"]
        {
            let script = "echo \"$1\" > job
                script -qec \"sh job '$2'\" /dev/null < /dev/null";
            let seen = machine.sh_with(user, script, &[job, chain]);
            let lines = seen.lines().map(str::trim_end);
            let lines: Vec<&str> =
                lines.filter(|it| it.contains(' ')).collect();
            let ends = ["before yes", "after yes", "ended 7"];
            assert_eq!(lines, ends, "{user}: {chain}");
        }
    }
}
