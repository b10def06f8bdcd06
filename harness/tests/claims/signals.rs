//! What pid-demo does with a signal: the table in its `init.rs`, cell by cell.

use crate::pid::{STEPS, assert_steps};
use crate::target::{Machine, Root, SOON, USERS, User, fresh_machine};

/// For scripts, behind [`SOON`] and [`STEPS`]. `cell SENDER HOW SIGNAL` starts
/// `$chain /tmp/signals`. If SENDER is `outside`, pid-demo gets SIGNAL; if it
/// is `terminal`, the signal's key is pressed. When each pid-demo has read all
/// its signals, COMMAND gets its word. Prints the cell, for a signal that stops
/// the states of all, and how it ended.
const CELL: &str = r#"
    # bash ends its loops when one of its jobs stops. So this runs in a child.
    settle() {
        soon settled
        printf '%s:' "$*"
        case $3$2$1 in
        20handler* | 20awaited* | 20onceterminal) ;;
        20*) states ;;
        esac
        if stopped; then
            if [ $1 = terminal ]; then return; fi
            kill -CONT $demo
            soon settled
        fi
        echo "$*" >&4
    }
    # The terminal echoes a key when it has sent the signal: `^C`.
    press() {
        case $1 in
        2) set -- '\003' C ;;
        3) set -- '\034' '\' ;;
        20) set -- '\032' Z ;;
        esac
        printf $1 >&5
        until read -r -d "$2" echo <&6; [ "${echo%^}" != "$echo" ]; do :; done
    }
    stopped() { [ "$(state_of $demo 2> /dev/null)" = T ]; }
    continued() { ! stopped; }
    cell() {
        status=0 how=$2
        if [ $1 = terminal ]; then
            { read word <&3
              read self demo < /proc/$$/task/$$/children || :
              press $3; settle "$@"; } & other=$!
            $chain /tmp/signals $2 $3 $1 "$*" <&4 >&3 || status=$?
            wait $other
            if [ $status = 148 ]; then
                status=0 demo=$(jobs -p)
                { soon continued; soon settled; echo "$*" >&4; } &
                fg > /dev/null || status=$?
                wait
            fi
        else
            $chain /tmp/signals $2 $3 $1 "$*" <&4 >&3 & demo=$!
            read word <&3
            if [ $1 = outside ]; then kill -$3 $demo; fi
            (settle "$@")
            wait $demo || status=$?
        fi
        echo " $status"
    }
"#;

/// A signal that ends a process, one that does so with a core dump, one
/// without a name, and two that do nothing: TERM, QUIT, 40, WINCH, CONT.
const SIGNALS: [i32; 5] = [15, 3, 40, 28, 18];

/// What COMMAND may do with a signal: see `tests/guest/signals.rs`.
const HOW: [&str; 10] = [
    "default", "handler", "once", "counted", "ignored", "blocked", "awaited",
    "thread", "other", "loose",
];

/// No pid-demo, one, and one behind another.
const CHAINS: [&str; 3] = ["env", "pid-demo", "pid-demo pid-demo"];

/// What is typed of a cell, and what it prints after that.
type Cell = (String, String);

/// Each of these senders with each of these signals, which do not stop: their
/// cells behind this chain.
fn cells(senders: &[&str], signals: &[i32], chain: &str) -> Vec<Cell> {
    let mut cells = Vec::new();
    for sender in senders {
        for (how, signal) in
            HOW.iter().flat_map(|how| signals.iter().map(|it| (*how, *it)))
        {
            // There is no end, if the signal does nothing.
            let waits = ["other", "loose"].contains(&how);
            let outside = *sender == "outside";
            if waits && (!outside || [28, 18].contains(&signal)) {
                continue;
            }
            // From elsewhere it comes as often as it was sent.
            if how == "counted" && *sender != "terminal" {
                continue;
            }
            // A signal that dumps core is put where each thread may take it:
            // the one that is about to wait for it may be the first.
            if how == "loose" && signal == 3 {
                continue;
            }
            let end = end(sender, how, signal, chain != "env");
            cells.push((format!("{sender} {how} {signal}"), format!(" {end}")));
        }
    }
    cells
}

/// How a cell ends, and whether COMMAND is in a PID namespace makes the
/// difference only for a signal that is not from outside.
fn end(sender: &str, how: &str, signal: i32, namespace: bool) -> i32 {
    let ends = ![28, 18].contains(&signal);
    let dropped = namespace && sender != "outside" || !ends;
    match how {
        "default" | "other" | "loose" if !dropped => 128 + signal,
        "default" | "ignored" => 5,
        "blocked" => 6,
        "once" | "counted" => 8,
        _ => 9,
    }
}

/// The cells of TSTP: the states from the outermost process on, and the end.
fn stops(sender: &str, chain: &str) -> Vec<Cell> {
    let column = CHAINS.iter().position(|it| *it == chain).expect("a chain");
    // Whether pid-demo looks after ^Z has set the default action is chance.
    let once = match sender {
        "terminal" => [" 8"; 3],
        _ => [" S 8", " S S 8", " T S S 8"],
    };
    [
        // Without a handler both stop.
        ("default", [" T 5", " T T 5", " T S T 5"]),
        ("handler", [" 9", " 9", " 9"]),
        ("once", once),
        // The outer pid-demo stops, since the inner one is PID 1.
        ("ignored", [" S 5", " S S 5", " T S S 5"]),
        // SIGCONT takes a stop signal that is pending away.
        ("blocked", [" S 6", " S S 6", " T S S 5"]),
        ("awaited", [" 9", " 9", " 9"]),
    ]
    .map(|(how, ends)| (format!("{sender} {how} 20"), ends[column].into()))
    .into()
}

/// Runs `bash job` as the session leader of a terminal. Its standard error is
/// the terminal, or bash would have no jobs.
const AT_A_TERMINAL: &str = r#"
    printf '%s\n' "$1" > job
    [ -p in ] || mkfifo in shown
    exec 5<> in 6<> shown
    script -qec "exec $2 bash -eu job > cells" /dev/null < in > shown
    cat cells
"#;

impl Machine {
    /// Tries these cells behind this chain, and names each that ends otherwise.
    #[track_caller]
    fn try_cells(&self, user: User, chain: &str, cells: &[Cell]) {
        let seen = self.sh(user, &script("", chain, cells));
        same(&seen, cells, &format!("{user}: {chain}"));
    }

    /// The same in a shell at a terminal, which is started behind `outer` and
    /// runs `first`.
    #[track_caller]
    fn try_at_a_terminal(
        &self,
        user: User,
        [outer, first]: [&str; 2],
        chain: &str,
        cells: &[Cell],
    ) {
        let job = script(first, chain, cells);
        let seen = self.sh_with(user, AT_A_TERMINAL, &[&job, outer]);
        same(&seen, cells, &format!("{user}: {outer} {chain}"));
    }
}

/// The shell gets ^C and ^\, too. With `set -m` it would not, but end its
/// script when SIGINT has ended a job.
const ONE_GROUP: [&str; 2] = ["", "trap '' INT QUIT"];
/// Each cell is a job, in a process group of its own, which can be stopped.
const JOBS: [&str; 2] = ["", "set -m"];

fn script(first: &str, chain: &str, cells: &[Cell]) -> String {
    let cells = cells.iter().map(|(cell, _)| format!("cell {cell}\n"));
    let cells: String = cells.collect();
    format!("{SOON}{STEPS}{CELL}\n{first}\nchain='{chain}'\n{cells}")
}

/// Each cell has ended as it must.
#[track_caller]
fn same(seen: &str, cells: &[Cell], what: &str) {
    let expected = cells.iter().map(|(cell, end)| format!("{cell}:{end}"));
    let wrong: Vec<String> = seen
        .lines()
        .zip(expected)
        .filter(|(seen, expected)| seen != expected)
        .map(|(seen, expected)| format!("{seen}, and not {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{what}: {}", wrong.join("; "));
    assert_eq!(seen.lines().count(), cells.len(), "{what}");
}

/// Tries these cells behind each chain: in a shell, or in one at a terminal.
#[track_caller]
fn try_each(terminal: Option<[&str; 2]>, cells: impl Fn(&str) -> Vec<Cell>) {
    let machine = fresh_machine();
    machine.put("/tmp/signals");
    for user in USERS {
        for chain in CHAINS {
            let cells = cells(chain);
            match terminal {
                None => machine.try_cells(user, chain, &cells),
                Some(at) => machine.try_at_a_terminal(user, at, chain, &cells),
            }
        }
    }
}

/// P9, P10
#[test]
fn signal_from_outside_does_what_it_does_without_the_namespace() {
    try_each(None, |chain| cells(&["outside"], &SIGNALS, chain));
}

/// P11: without a handler PID 1 ends neither by its own signals nor by those of
/// its children, as abort(3), SIGPIPE and a shell's `kill $$` would end it.
#[test]
fn signal_from_inside_does_not_end_command() {
    try_each(None, |chain| cells(&["itself", "child"], &SIGNALS, chain));
}

/// P9, P10: ^C and ^\ come to COMMAND from the terminal, and COMMAND alone
/// decides.
#[test]
fn keys_of_a_terminal_are_left_to_command() {
    try_each(Some(ONE_GROUP), |chain| cells(&["terminal"], &[2, 3], chain));
}

/// P9, P10: a signal that stops, from outside and by ^Z. COMMAND's process group
/// must be a job of a shell, or the kernel would not stop it.
#[test]
fn stop_stops_command_as_without_the_namespace() {
    let senders = ["outside", "terminal"];
    try_each(Some(JOBS), |chain| senders.map(|it| stops(it, chain)).concat());
}

/// P10: the sender's number is 1 also for a PID 1 that is not COMMAND: for a
/// shell that is PID 1 and stops its job, and for one in another session. So
/// the signal is sent on.
#[test]
fn another_pid_1_is_not_taken_for_command() {
    let machine = fresh_machine();
    machine.put("/tmp/signals");
    let outer = "pid-demo mount-demo";
    for user in USERS {
        let cells = ["outside", "terminal"].map(|it| stops(it, "pid-demo"));
        let first = [outer, JOBS[1]];
        machine.try_at_a_terminal(user, first, "pid-demo", &cells.concat());

        // It is not stopped, but that is so without the namespace, too: nobody
        // in its session could let it continue.
        let cells = [("outside handler 20".into(), " 9".into())];
        for chain in ["setsid env", "setsid pid-demo"] {
            let script = script("", chain, &cells);
            let argv = format!("exec {outer} sh -euc \"$1\"");
            let seen = machine.sh_with(user, &argv, &[&script]);
            same(&seen, &cells, &format!("{user}: {outer} {chain}"));
        }
    }
}

/// P10: a terminal is closed, and the kernel tells COMMAND and each pid-demo.
#[test]
fn closed_terminal_does_what_it_does_without_the_namespace() {
    let machine = fresh_machine();
    machine.put("/tmp/signals");
    // The status goes to a shell that ignores the signal. The session leader,
    // whose end sends it, is the shell above that.
    let script = r#"
        echo 'trap "" HUP; status=0
            $1 /tmp/signals $2 1 terminal $2 <&4 >&3 || status=$?
            echo $status > ended' > shell
        echo 'set -m; sh shell "$@"' > job
        [ -p ended ] || mkfifo ended in
        gone() { [ $(there $leader) = gone ]; }
        for how in default handler ignored; do
            script -qec "exec bash job '$1' $how" /dev/null <> in > shown &
            script=$!
            read word <&3
            leader=$(child_of $script)
            demo=$(child_of $(child_of $leader))
            kill -KILL $script
            soon gone
            soon settled
            echo $how >&4
            read status < ended
            echo $how $status
        done"#;
    for user in USERS {
        for chain in CHAINS {
            let script = format!("{SOON}{STEPS}{script}");
            let seen = machine.sh_with(user, &script, &[chain]);
            let ends = "default 129\nhandler 9\nignored 5\n";
            assert_eq!(seen, ends, "{user}: {chain}");
        }
    }
}

/// P10: where /proc is covered, nothing is known of COMMAND. So pid-demo sends
/// each signal on, and does nothing else.
#[test]
fn where_proc_is_covered_every_signal_is_only_sent_on() {
    let machine = fresh_machine();
    machine.put("/tmp/signals");
    for user in USERS {
        let own = if user == Root { "-m" } else { "-Urm" };
        let cover = "mount -t tmpfs none /proc; exec pid-demo \"$@\"";
        machine.sh_with(user, "echo \"$1\" > cover", &[cover]);
        let mut cells = cells(&["outside"], &[15, 3, 40], "pid-demo");
        cells.retain(|(cell, _)| {
            // These do not read their word, and so nothing would end them.
            !cell.contains("other") && !cell.contains("loose")
        });
        // The control: with /proc the default action ends COMMAND.
        machine.try_cells(user, "pid-demo", &cells[..3]);
        for (_, end) in &mut cells[..3] {
            *end = " 5".into();
        }
        cells.push(("outside default 20".into(), " S S 5".into()));
        machine.try_cells(user, &format!("unshare {own} sh cover"), &cells);
    }
}

/// P10: a COMMAND that cleans up, sets the default action and sends itself the
/// signal goes on, since that comes from inside. A second one ends it.
#[test]
fn second_signal_ends_command_that_has_taken_its_handler_away() {
    let script = r#"
        echo 'trap "trap - TERM; kill -TERM \$\$; echo lives > ready" \
                  TERM
            . ./sleeper & while :; do wait; done' > command
        # Without the namespace it ends itself.
        sh command & demo=$!
        read sleeper <&3
        kill -TERM $demo; wait $demo || echo $?
        kill $sleeper
        for chain in pid-demo 'pid-demo pid-demo'; do
            $chain sh command & demo=$!
            read sleeper <&3
            kill -TERM $demo; read word <&3; echo $word
            kill -TERM $demo; wait $demo || echo $?
        done"#;
    assert_steps(script, "143\nlives\n143\nlives\n143\n");
}

/// P9: an orphan that this pid-demo inherits by exec, or as PID 1 of an outer
/// namespace, is waited for.
#[test]
fn pid_demo_waits_for_every_child_that_it_has() {
    let script = r#"
        gone() { [ $(there $orphan) = gone ]; }
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
        zombie() { [ $(state_of $orphan) = Z ]; }
        soon zombie; echo zombie; echo > hold; wait $demo"#;
    assert_steps(script, "7\nzombie\n\n");
}

/// P9: an interactive shell inside puts a process group of its own into the
/// foreground. When pid-demo ends, its caller is in the foreground again.
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

/// P9: who has taken the terminal meanwhile keeps it, as the caller's shell
/// while pid-demo is in the background.
#[test]
fn terminal_stays_with_who_has_taken_it() {
    let machine = fresh_machine();
    let job = r#"
        set -m
        front() {
            read pid name state parent group session tty front rest \
                < /proc/self/stat
            echo $((front == $1))
        }
        { read word <&3
          read self demo < /proc/$$/task/$$/children || :
          front $demo; kill -TSTP $demo; } & other=$!
        $chain sh -c 'echo > ready; read end < hold' || echo $?
        wait $other
        bg > /dev/null
        demo=$(jobs -p)
        echo > hold
        # bash itself would take the terminal when it has waited for a job.
        gone() { [ $(there $demo) = gone ]; }
        { soon gone; front $$; } & wait $!
    "#;
    for user in USERS {
        for chain in CHAINS {
            let job = format!("{SOON}{STEPS}chain='{chain}'\n{job}");
            let seen = machine.sh_with(user, AT_A_TERMINAL, &[&job, ""]);
            assert_eq!(seen, "1\n148\n1\n", "{user}: {chain}");
        }
    }
}
