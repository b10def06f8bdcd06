//! G6: what is true of every link of a chain, whichever namespace it is for.
//! A seventh demo is one more line here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Reader, Root, outside};

/// G6. `DEMO` stands for the demo's name.
#[rstest]
#[case::status_is_that_of_command(&["sh", "-c", "exit 7"], 7, "", "")]
#[case::it_adds_nothing_to_stdout_and_stderr(
    &["sh", "-c", "echo out; echo err >&2"], 0, "out\n", "err\n")]
#[case::command_that_does_not_exist_is_127(
    &["nosuch"], 127, "",
    "DEMO: exec nosuch: ENOENT: No such file or directory\n\
     Is the name spelled right, and is it on PATH?\n")]
#[case::empty_command_is_127(
    &[""], 127, "",
    "DEMO: exec : ENOENT: No such file or directory\n\
     Is the name spelled right, and is it on PATH?\n")]
#[case::command_that_is_no_program_is_126(
    &["/etc/passwd"], 126, "",
    "DEMO: exec /etc/passwd: EACCES: Permission denied\n\
     Is it a program, and executable (chmod +x)?\n")]
#[case::unknown_option_is_125(
    &["-x", "true"], 125, "", "DEMO: usage: DEMO [COMMAND [ARG]...]\n")]
#[case::options_of_command_are_its_own(
    &["echo", "-h", "--version", "--", "-x"], 0,
    "-h --version -- -x\n", "")]
#[case::lone_dashes_end_the_demos_options(
    &["--", "echo", "--", "x"], 0, "-- x\n", "")]
#[case::help_is_the_usage_line(
    &["--help"], 0, "usage: DEMO [COMMAND [ARG]...]\n", "")]
#[case::version_names_the_package(&["-V"], 0, "DEMO 0.1.0\n", "")]
#[case::command_finds_sigpipe_at_its_default(
    &["sh", "-c", "grep SigIgn /proc/self/status"], 0,
    "SigIgn:\t0000000000000000\n", "")]
fn contract(
    #[values(
        "uts-demo",
        "ipc-demo",
        "pid-demo",
        "mount-demo",
        "user-demo",
        "net-demo"
    )]
    demo: &str,
    #[case] args: &[&str],
    #[case] status: i32,
    #[case] stdout: &str,
    #[case] stderr: &str,
) {
    outside()
        .root([&[demo], args].concat())
        .assert()
        .code(status)
        .stdout(stdout.replace("DEMO", demo))
        .stderr(stderr.replace("DEMO", demo));
}

/// G6
#[rstest]
fn arguments_are_bytes(
    #[values(
        "uts-demo",
        "ipc-demo",
        "pid-demo",
        "mount-demo",
        "user-demo",
        "net-demo"
    )]
    demo: &str,
) {
    let odd = OsStr::from_bytes(b"\xff\xfe no text \x80");
    let many = (0..10_000).map(|n| OsString::from(n.to_string()));
    let outside = outside();
    let argv = [demo, "printf", "%s"].map(OsStr::new);
    let output = outside.root([&argv[..], &[odd]].concat());
    output.assert().success().stdout(odd.as_bytes());

    let argv = [demo, "sh", "-c", "echo $#", "sh", ""].map(OsString::from);
    let output = outside.root(argv.into_iter().chain(many));
    output.assert().success().stdout("10001\n");
}

/// G6: a full disk and a closed pipe are failures too, with a line each.
#[rstest]
fn report_that_nobody_gets_is_a_failure(
    #[values(
        "uts-demo",
        "ipc-demo",
        "pid-demo",
        "mount-demo",
        "user-demo",
        "net-demo"
    )]
    demo: &str,
) {
    let outside = outside();
    for words in [demo.to_string(), format!("{demo} --help")] {
        let script = format!("exec {words} > /dev/full");
        let output = outside.root(["sh", "-c", &script]);
        output.assert().code(125).stderr(predicate::str::starts_with(format!(
            "{demo}: write standard output: ENOSPC"
        )));
        // Nobody hears the complaint either, and it still is not 101.
        let script = format!("exec {words} > /dev/full 2> /dev/full");
        outside.root(["sh", "-c", &script]).assert().code(125);
    }
}

/// G6: refused, and nothing to be done: one line, and one that says what.
#[rstest]
#[case("uts-demo", "uts")]
#[case("ipc-demo", "ipc")]
#[case("pid-demo", "pid")]
#[case("mount-demo", "mnt")]
#[case("user-demo", "user")]
#[case("net-demo", "net")]
fn used_up_namespaces_name_their_sysctl(
    #[case] demo: &str,
    #[case] kind: &str,
) {
    let outside = outside();
    outside.root([demo, "true"]).assert().success();
    let sysctl = format!("user.max_{kind}_namespaces");
    outside.sh(Root, &format!("sysctl -q {sysctl}=0"));
    for user in [Root, Reader] {
        let output = outside.run(user, [demo, "true"], b"");
        output.assert().code(125).stdout("").stderr(
            predicate::str::starts_with(format!("{demo}: unshare("))
                .and(predicate::str::contains(": ENOSPC: "))
                .and(predicate::str::contains(&*sysctl))
                .and(predicate::str::contains("cargo run -p harness -- "))
                .and(predicate::function(|text: &str| {
                    text.lines().count() == 2
                })),
        );
    }
}

/// G6
#[rstest]
fn without_privilege_and_user_namespaces_the_error_says_so(
    #[values(
        "uts-demo",
        "ipc-demo",
        "pid-demo",
        "mount-demo",
        "user-demo",
        "net-demo"
    )]
    demo: &str,
) {
    let outside = outside();
    outside.reader([demo, "--", "true"]);
    outside.sh(Root, "sysctl -q user.max_user_namespaces=0");
    let output = outside.reader([demo, "true"]);
    output.assert().code(125).stdout("").stderr(
        predicate::str::starts_with(format!(
            "{demo}: unshare(CLONE_NEWUSER): ENOSPC: No space left on device\n"
        ))
        .and(predicate::str::contains("user.max_user_namespaces=")),
    );
}
