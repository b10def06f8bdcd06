//! G6: what every link of a chain does, whichever namespace it makes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;

use crate::target::{Root, fresh_machine, steps};

/// What is typed behind each demo, and what must come: its status, and then the
/// lines of standard output, and behind `! ` those of standard error.
const CONTRACT: &str = "\
$ DEMO sh -c 'exit 7'
7
$ DEMO sh -c 'echo out; echo err >&2'
0
out
! err
$ DEMO nosuch
127
! DEMO: exec nosuch: ENOENT: No such file or directory
! Is the name spelled right, and is it on PATH?
$ DEMO ''
127
! DEMO: exec : ENOENT: No such file or directory
! Is the name spelled right, and is it on PATH?
$ DEMO /etc/passwd
126
! DEMO: exec /etc/passwd: EACCES: Permission denied
! Is it a program, and executable (chmod +x)?
$ DEMO -x true
125
! DEMO: usage: DEMO [COMMAND [ARG]...]
$ DEMO echo -h --version -- -x
0
-h --version -- -x
$ DEMO -- echo -- x
0
-- x
$ DEMO --help
0
usage: DEMO [COMMAND [ARG]...]
$ DEMO -V
0
DEMO 0.1.0
$ DEMO grep SigIgn /proc/self/status
0
SigIgn:\t0000000000000000
";

/// G6
#[test]
fn contract() {
    let machine = fresh_machine();
    let table = DEMOS.map(|demo| CONTRACT.replace("DEMO", demo)).concat();
    for (_, typed, rest) in steps(&table) {
        let (status, said) = rest.split_once('\n').expect("a status");
        let said = said.split_inclusive('\n');
        let (errors, lines): (Vec<&str>, Vec<&str>) =
            said.partition(|line| line.starts_with("! "));
        let typed = format!("exec {typed}");
        machine
            .root(["sh", "-c", &typed])
            .assert()
            .append_context("typed", typed)
            .code(status.parse::<i32>().expect("a status"))
            .stdout(lines.concat())
            .stderr(errors.concat().replace("! ", ""));
    }
}

/// G6
#[test]
fn arguments_are_bytes() {
    let machine = fresh_machine();
    let odd = OsStr::from_bytes(b"\xff\xfe no text \x80");
    for demo in DEMOS {
        let argv =
            [OsStr::new(demo), OsStr::new("printf"), OsStr::new("%s"), odd];
        machine
            .root(argv)
            .assert()
            .append_context("demo", demo)
            .success()
            .stdout(odd.as_bytes());
    }
}

/// G6
#[test]
fn ten_thousand_arguments_pass_and_an_empty_one() {
    let script = "\"$@\" sh -c 'echo $#' sh '' $(seq 10000)";
    assert_eq!(fresh_machine().sh_with(Root, script, &DEMOS), "10001\n");
}

/// Runs each command with standard output, and then with both streams, on a
/// full disk.
const ON_A_FULL_DISK: &str = "
    for command; do
        $command 2>&1 > /dev/full && :; echo $?
        $command > /dev/full 2>&1 && :; echo $?
    done";

/// G6: on a full disk the demo fails, with a line that says so. If that line
/// cannot be written either, the status is 125 and not 101, that of a Rust
/// panic.
#[test]
fn report_that_nobody_gets_is_a_failure() {
    let commands =
        DEMOS.map(|demo| [demo.to_string(), format!("{demo} --help")]);
    let commands = commands.as_flattened();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let messages = DEMOS.map(|demo| {
        format!(
            "{demo}: write standard output: ENOSPC: No space left on device\n\
             The disk is full\n125\n125\n"
        )
        .repeat(2)
    });
    assert_eq!(
        fresh_machine().sh_with(Root, ON_A_FULL_DISK, &commands),
        messages.concat()
    );
}

/// G6: an example on a full disk ends in the same way.
#[test]
fn example_on_a_full_disk_says_so() {
    let examples = [
        "copies",
        "not_isolated",
        "zombie",
        "clone",
        "fixes",
        "map_rules",
        "no_unshare",
    ];
    let messages = examples.map(|example| {
        format!(
            "{example}: failed printing to stdout: No space left on device \
             (os error 28)\n125\n125\n"
        )
    });
    let seen = fresh_machine().sh_with(Root, ON_A_FULL_DISK, &examples);
    assert_eq!(seen, messages.concat());
}

/// G6: if standard output is closed, or a pipe that nobody reads, a demo ends
/// as other programs do.
#[test]
fn report_to_nobody_ends_as_ls_does() {
    let machine = fresh_machine();
    let script = r#"
        cd $(mktemp -d); mkfifo pipe
        exec 3<> pipe 4> pipe 3<&-
        for program; do
            $program >&- 2> errors && :; echo $? $(sed 1d errors)
            $program >&4 2> errors 4>&- && :; echo $? $(sed 1d errors)
            (trap '' PIPE; exec $program >&4 2> errors 4>&-) && :
            echo $? $(sed 1d errors)
            $program <&- >&- 2>&- && :; echo $?
        done"#;
    let seen = machine.sh_with(Root, script, &["sh -c pwd"]);
    assert_eq!(seen, "1\n141\n1\n1\n");
    let seen = machine.sh_with(Root, script, &DEMOS);
    let message = "125 Is it open for writing?\n141\n\
                125 Its reader has gone\n125\n";
    assert_eq!(seen, message.repeat(DEMOS.len()));
}

/// G6: COMMAND ignores the signals that the caller ignores. No demo fails
/// because of an ignored signal.
#[test]
fn dispositions_are_handed_on() {
    let machine = fresh_machine();
    let script = r#"
        trap '' PIPE CHLD USR1
        for link; do
            $link grep SigIgn /proc/self/status
            [ -z "$link" ] || { $link > /dev/null; echo $?; }
        done"#;
    let bash = |links: &[&str]| {
        let argv = [&["bash", "-c", script, "bash"], links].concat();
        let output = machine.root(argv).assert().success().stderr("");
        String::from_utf8(output.get_output().stdout.clone()).expect("text")
    };
    let alone = bash(&[""]);
    // A bit for each signal: CHLD is 17, PIPE 13 and USR1 10.
    assert_eq!(alone, "SigIgn:\t0000000000011200\n");
    assert_eq!(bash(&DEMOS), format!("{alone}0\n").repeat(DEMOS.len()));
}

/// G6: a closed descriptor is closed for COMMAND, too, and no other file
/// becomes its standard input. Rust's runtime would open /dev/null there, and
/// abort if that is missing.
#[test]
fn closed_descriptors_stay_closed() {
    let machine = fresh_machine();
    let script = r#"
        for link; do
            $link sh -c '[ -e /proc/self/fd/0 ]; echo $?' <&-
            $link sh -c '[ -e /proc/self/fd/1 ]; echo $? >&2' 2>&1 >&-
            $link sh -c '[ -e /proc/self/fd/2 ]; echo $?' 2>&-
            $link sh -c 'cd -P /proc/self/fd/0; pwd' < /
        done"#;
    // Without a link. Not with env(1): on some machines it is a Rust program,
    // and has the same problem.
    let alone = machine.sh_with(Root, script, &[""]);
    assert_eq!(alone, "1\n1\n1\n/\n");
    let all = alone.repeat(DEMOS.len());
    assert_eq!(machine.sh_with(Root, script, &DEMOS), all);
    let script = format!("mount -t tmpfs tmpfs /dev; {script}");
    assert_eq!(machine.sh_with(Root, &script, &DEMOS), all);
}

/// G6: a row that fails because of a limit or a filter is reported as "could
/// not be tried", and not as "not isolated".
#[test]
fn row_that_could_not_be_tried_is_told_apart() {
    let machine = fresh_machine();
    let message = |errno: &str| {
        format!("ipc-demo: could not be tried: POSIX queue: {errno}\n")
    };
    let limit = "ulimit -q 0; exec ipc-demo";
    let limit = machine.root(["bash", "-c", limit]);
    limit.assert().code(125).stderr(message("EMFILE"));
    let filter = "strace -f -qq -o /dev/null -e inject=mq_open:error=ENOSYS";
    let filter = machine.root(filter.split(' ').chain(["ipc-demo"]));
    filter.assert().code(125).stderr(message("ENOSYS"));
    machine.root(["ipc-demo"]).assert().success().stderr("");
}
