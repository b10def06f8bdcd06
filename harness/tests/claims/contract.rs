//! G6: what is true of every link of a chain, whichever namespace it is for.
//! A seventh demo is one more line here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};

/// All of them.
const DEMOS: [&str; 6] =
    ["uts-demo", "ipc-demo", "pid-demo", "mount-demo", "user-demo", "net-demo"];

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
    #[case] args: &[&str],
    #[case] status: i32,
    #[case] stdout: &str,
    #[case] stderr: &str,
) {
    let outside = outside();
    for demo in DEMOS {
        outside
            .root([&[demo], args].concat())
            .assert()
            .code(status)
            .stdout(stdout.replace("DEMO", demo))
            .stderr(stderr.replace("DEMO", demo));
    }
}

/// G6
#[test]
fn arguments_are_bytes() {
    let odd = OsStr::from_bytes(b"\xff\xfe no text \x80");
    let outside = outside();
    for demo in DEMOS {
        let argv =
            [OsStr::new(demo), OsStr::new("printf"), OsStr::new("%s"), odd];
        outside.root(argv).assert().success().stdout(odd.as_bytes());
    }
}

/// G6
#[test]
fn ten_thousand_arguments_pass_and_an_empty_one() {
    let count = ["sh", "-c", "echo $#", "sh", ""];
    let argv = DEMOS.into_iter().chain(count).map(String::from);
    let many = std::iter::repeat_n("x".to_string(), 10_000);
    let output = outside().root(argv.chain(many));
    output.assert().success().stdout("10001\n");
}

/// G6: a full disk is a failure too, with a line that says so; and where
/// nobody hears that line either, it still is not Rust's 101.
#[test]
fn report_that_nobody_gets_is_a_failure() {
    let outside = outside();
    for demo in DEMOS {
        let script = "for option in '' --help; do \
             $1 $option 2>&1 > /dev/full && :; echo $?; \
             $1 $option > /dev/full 2>&1 && :; echo $?; done";
        let seen = outside.sh_with(Root, script, &[demo]);
        let says = format!(
            "{demo}: write standard output: ENOSPC: No space left on device\n\
             Is the disk full, or has the reader gone?\n125\n125\n"
        );
        assert_eq!(seen, format!("{says}{says}"));
    }
}

/// G6: refused, with nothing to be done about it: the error, and one line
/// that says what to do on this machine.
#[rstest]
#[cfg_attr(ground_here, ignore = "sets sysctls")]
fn used_up_namespaces_name_their_sysctl(#[values(Root, Reader)] user: User) {
    let kinds = ["uts", "ipc", "pid", "mnt", "net", "user"];
    let demos = [
        "uts-demo",
        "ipc-demo",
        "pid-demo",
        "mount-demo",
        "net-demo",
        "user-demo",
    ];
    let outside = outside();
    for (demo, kind) in demos.into_iter().zip(kinds) {
        let sysctl = format!("user.max_{kind}_namespaces");
        if (user, demo) != (Reader, "mount-demo") {
            outside.run(user, [demo, "true"], b"").assert().success();
        }
        outside.sh(Root, &format!("sysctl -q {sysctl}=0"));
        let output = outside.run(user, [demo, "true"], b"");
        output.assert().code(125).stdout("").stderr(
            predicate::str::starts_with(format!("{demo}: unshare("))
                .and(predicate::str::contains(": ENOSPC: "))
                .and(predicate::str::contains(sysctl))
                .and(predicate::str::contains("cargo run -p harness -- "))
                .and(predicate::function(|text: &str| {
                    text.lines().count() == 2
                })),
        );
    }
}

/// G6
#[test]
#[cfg_attr(ground_here, ignore = "sets sysctls")]
fn without_privilege_and_user_namespaces_the_error_says_so() {
    let outside = outside();
    outside.reader(["uts-demo", "true"]).assert().success();
    outside.sh(Root, "sysctl -q user.max_user_namespaces=0");
    for demo in DEMOS {
        outside.reader([demo, "true"]).assert().code(125).stdout("").stderr(
            predicate::str::starts_with(format!(
                "{demo}: unshare(CLONE_NEWUSER): ENOSPC: \
                 No space left on device\n"
            ))
            .and(predicate::str::contains("user.max_user_namespaces=")),
        );
    }
}

/// G6: a filter as containers have it, and no way round it.
#[rstest]
fn seccomp_filter_is_named_where_it_is_the_reason(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    for demo in DEMOS {
        let refused = outside.run(user, ["no_unshare", demo, "true"], b"");
        refused.assert().code(125).stdout("").stderr(
            predicate::str::starts_with(format!(
                "{demo}: unshare(CLONE_NEWUSER): EPERM: \
                 Operation not permitted\nA seccomp filter forbids it"
            )),
        );
    }
}

/// G6: what Debian and Ubuntu say no with. Not every kernel has these
/// switches, so the guest gets files that look like them: the advice must
/// come from the machine and not from a guess.
#[rstest]
#[case::debians_switch("unprivileged_userns_clone", "0", "=1")]
#[case::ubuntus_apparmor("apparmor_restrict_unprivileged_userns", "1", "=0")]
#[cfg_attr(ground_here, ignore = "mounts over /proc/sys")]
fn switch_that_forbids_user_namespaces_is_named(
    #[case] switch: &str,
    #[case] closed: &str,
    #[case] opened: &str,
) {
    let outside = outside();
    let script = "mount -t tmpfs sysctl /proc/sys/kernel; \
         echo \"$2\" > \"/proc/sys/kernel/$1\"";
    let says = predicate::str::contains(format!("kernel.{switch}{opened}"));
    let other = outside.reader(["no_unshare", "uts-demo", "true"]);
    other.assert().code(125).stderr(says.clone().not());

    outside.sh_with(Root, script, &[switch, closed]);
    let refused = outside.reader(["no_unshare", "uts-demo", "true"]);
    refused.assert().code(125).stderr(says);
}
