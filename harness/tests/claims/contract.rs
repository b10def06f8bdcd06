//! G6: what is true of every link of a chain, whichever namespace it is for.
//! A seventh demo is one more line here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;
use predicates::prelude::*;
use rstest::rstest;

use crate::target::{Machine, Reader, Root, USERS, User, fresh_machine};

/// What a link must do: the name of the row, the link's arguments, its status,
/// standard output and standard error. `DEMO` stands for the link's name.
type Row =
    (&'static str, &'static [&'static str], i32, &'static str, &'static str);

const CONTRACT: &[Row] = &[
    ("status is that of command", &["sh", "-c", "exit 7"], 7, "", ""),
    (
        "it adds nothing to stdout and stderr",
        &["sh", "-c", "echo out; echo err >&2"],
        0,
        "out\n",
        "err\n",
    ),
    (
        "command that does not exist is 127",
        &["nosuch"],
        127,
        "",
        "DEMO: exec nosuch: ENOENT: No such file or directory\n\
         Is the name spelled right, and is it on PATH?\n",
    ),
    (
        "empty command is 127",
        &[""],
        127,
        "",
        "DEMO: exec : ENOENT: No such file or directory\n\
         Is the name spelled right, and is it on PATH?\n",
    ),
    (
        "command that is no program is 126",
        &["/etc/passwd"],
        126,
        "",
        "DEMO: exec /etc/passwd: EACCES: Permission denied\n\
         Is it a program, and executable (chmod +x)?\n",
    ),
    (
        "unknown option is 125",
        &["-x", "true"],
        125,
        "",
        "DEMO: usage: DEMO [COMMAND [ARG]...]\n",
    ),
    (
        "options of command are its own",
        &["echo", "-h", "--version", "--", "-x"],
        0,
        "-h --version -- -x\n",
        "",
    ),
    (
        "lone dashes end the demo's options",
        &["--", "echo", "--", "x"],
        0,
        "-- x\n",
        "",
    ),
    (
        "help is the usage line",
        &["--help"],
        0,
        "usage: DEMO [COMMAND [ARG]...]\n",
        "",
    ),
    ("version names the package", &["-V"], 0, "DEMO 0.1.0\n", ""),
    (
        "command finds sigpipe at its default",
        &["grep", "SigIgn", "/proc/self/status"],
        0,
        "SigIgn:\t0000000000000000\n",
        "",
    ),
];

/// G6
#[rstest]
#[case::uts("uts-demo")]
#[case::ipc("ipc-demo")]
#[case::pid("pid-demo")]
#[case::mount("mount-demo")]
#[case::user("user-demo")]
#[case::net("net-demo")]
fn contract(#[case] demo: &str) {
    let machine = fresh_machine();
    for (row, args, status, stdout, stderr) in CONTRACT {
        machine
            .root([&[demo], *args].concat())
            .assert()
            .append_context("row", row)
            .code(*status)
            .stdout(stdout.replace("DEMO", demo))
            .stderr(stderr.replace("DEMO", demo));
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

/// G6: a full disk is a failure too, with a line that says so. When that line
/// cannot be written either, the status is still not 101, as Rust's would be.
#[test]
fn report_that_nobody_gets_is_a_failure() {
    let script = "for demo; do for option in '' --help; do
            $demo $option 2>&1 > /dev/full && :; echo $?
            $demo $option > /dev/full 2>&1 && :; echo $?
        done; done";
    let says = DEMOS.map(|demo| {
        format!(
            "{demo}: write standard output: ENOSPC: No space left on device\n\
             Is the disk full, or has the reader gone?\n125\n125\n"
        )
        .repeat(2)
    });
    assert_eq!(fresh_machine().sh_with(Root, script, &DEMOS), says.concat());
}

/// Runs these demos, each of which must be refused, and returns what each
/// prints: the error, and one line of advice.
#[track_caller]
fn refusals(
    machine: &Machine,
    user: User,
    prefix: &[&str],
    demos: &[&str],
) -> Vec<String> {
    let script = "for demo; do $demo true; echo $?; done";
    let argv = [prefix, &["sh", "-c", script, "sh"], demos].concat();
    let output = machine.run(user, argv, b"");
    let says = String::from_utf8(output.stderr).expect("text");
    let statuses = String::from_utf8(output.stdout).expect("text");
    assert_eq!(statuses, "125\n".repeat(demos.len()), "{user}: {says}");
    let lines: Vec<&str> = says.lines().collect();
    assert_eq!(lines.len(), 2 * demos.len(), "{user}: {says}");
    lines.chunks(2).map(|two| two.join("\n")).collect()
}

/// G6: where no user namespace helps, there is the error, and one line that
/// says what to do on this machine.
#[test]
#[cfg_attr(ground_here, ignore = "sets sysctls")]
fn used_up_namespaces_name_their_sysctl() {
    let machine = fresh_machine();
    for user in USERS {
        let works = |demo: &&str| (user, *demo) != (Reader, "mount-demo");
        let demos: Vec<&str> = DEMOS.into_iter().filter(works).collect();
        machine.sh_with(user, "for demo; do $demo true; done", &demos);
    }
    let most = [
        ("uts-demo", "uts"),
        ("ipc-demo", "ipc"),
        ("pid-demo", "pid"),
        ("mount-demo", "mnt"),
        ("net-demo", "net"),
    ];
    // The other demos need this one when the caller is not root.
    let last = [("user-demo", "user")];
    for group in [&most[..], &last] {
        let (demos, kinds): (Vec<&str>, Vec<&str>) =
            group.iter().copied().unzip();
        let script =
            "for kind; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done";
        machine.sh_with(Root, script, &kinds);
        for user in USERS {
            let says = refusals(&machine, user, &[], &demos);
            for ((demo, kind), says) in group.iter().zip(says) {
                assert!(says.starts_with(&format!("{demo}: unshare(")));
                let sysctl = format!("user.max_{kind}_namespaces");
                for part in [": ENOSPC: ", &sysctl, "cargo run -p harness -- "]
                {
                    assert!(says.contains(part), "{user}: {says}");
                }
            }
        }
    }
}

/// G6
#[test]
#[cfg_attr(ground_here, ignore = "sets sysctls")]
fn without_privilege_and_user_namespaces_the_error_says_so() {
    let machine = fresh_machine();
    machine.reader(["uts-demo", "true"]).assert().success();
    machine.sh(Root, "echo 0 > /proc/sys/user/max_user_namespaces");
    let says = refusals(&machine, Reader, &[], &DEMOS);
    for (demo, says) in DEMOS.iter().zip(says) {
        let error = format!(
            "{demo}: unshare(CLONE_NEWUSER): ENOSPC: \
             No space left on device\n"
        );
        assert!(says.starts_with(&error), "{says}");
        assert!(says.contains("user.max_user_namespaces="), "{says}");
    }
}

/// G6: a filter as container runtimes install it, which cannot be avoided.
#[test]
fn seccomp_filter_is_named_where_it_is_the_reason() {
    let machine = fresh_machine();
    for user in USERS {
        let says = refusals(&machine, user, &["no_unshare"], &DEMOS);
        for (demo, says) in DEMOS.iter().zip(says) {
            let error = format!(
                "{demo}: unshare(CLONE_NEWUSER): EPERM: \
                 Operation not permitted\nA seccomp filter forbids it"
            );
            assert!(says.starts_with(&error), "{user}: {says}");
        }
    }
}

/// G6: the advice is about the call and its error. strace(1) injects the
/// errors, so that each of them can be tried.
#[test]
#[cfg_attr(ground_here, ignore = "not everywhere may strace trace")]
fn advice_is_about_the_call_and_its_error() {
    let machine = fresh_machine();
    for (inject, demo, error, advice) in [
        (
            "unshare:error=EINVAL",
            "uts-demo true",
            "unshare(CLONE_NEWUTS): EINVAL: Invalid argument",
            "Does this kernel have the namespace? See /proc/self/ns",
        ),
        (
            "unshare:error=ENOSYS",
            "net-demo true",
            "unshare(CLONE_NEWNET): ENOSYS: Function not implemented",
            "Does this kernel have the namespace? See /proc/self/ns",
        ),
        (
            "unshare:error=EINVAL",
            "pid-demo true",
            "unshare(CLONE_NEWPID): EINVAL: Invalid argument",
            "`unshare --pid` goes with --fork, before this demo",
        ),
        (
            "clone,clone3:error=ENOMEM",
            "pid-demo true",
            "fork: ENOMEM: Out of memory",
            "Is PID 1 of this namespace dead? Then nothing starts",
        ),
        (
            "mount:error=EINVAL",
            "mount-demo true",
            "mount / MS_REC|MS_PRIVATE: EINVAL: Invalid argument",
            "/ is no mount point here: is this a chroot?",
        ),
        (
            "readlink,readlinkat:error=ENOENT",
            "uts-demo",
            "readlink /proc/self/ns/uts: ENOENT: No such file or directory",
            "Is /proc this PID namespace's own? See `findmnt /proc`",
        ),
        (
            "sethostname:error=ENOENT",
            "uts-demo true",
            "sethostname: ENOENT: No such file or directory",
            "See the man page of the call",
        ),
    ] {
        let strace = format!("strace -o /dev/null -e inject={inject} {demo}");
        let demo = demo.split(' ').next().expect("a name");
        machine.root(strace.split(' ')).assert().code(125).stdout("").stderr(
            format!(
                "{demo}: {error}\n{advice}; \
                 the VM always works: cargo run -p harness -- {demo}\n"
            ),
        );
    }
}

/// G6: container runtimes cover parts of /proc, and then the kernel refuses a
/// new /proc in a user namespace.
#[test]
#[cfg_attr(ground_here, ignore = "mounts over a file of /proc")]
fn covered_proc_is_named_where_it_is_the_reason() {
    let machine = fresh_machine();
    let chain = ["user-demo", "pid-demo", "mount-demo", "true"];
    machine.reader(chain).assert().success();
    machine.root(["mount", "--bind", "/dev/null", "/proc/timer_list"]);
    machine.reader(chain).assert().code(125).stdout("").stderr(
        predicate::str::starts_with("mount-demo: mount /proc: EPERM: ")
            .and(predicate::str::contains("\nParts of /proc are covered ")),
    );
}

/// G6: the sysctls with which Debian and Ubuntu forbid user namespaces. Not
/// every kernel has them, so the guest gets files of the same names. The
/// advice must come from what the machine says, and not from a guess.
#[test]
#[cfg_attr(ground_here, ignore = "mounts over /proc/sys")]
fn switch_that_forbids_user_namespaces_is_named() {
    let machine = fresh_machine();
    machine.root(["mount", "-t", "tmpfs", "sysctl", "/proc/sys/kernel"]);
    for (switch, closed, opened) in [
        ("unprivileged_userns_clone", "0", "=1"),
        ("apparmor_restrict_unprivileged_userns", "1", "=0"),
    ] {
        let says = predicate::str::contains(format!("kernel.{switch}{opened}"));
        let other = machine.reader(["no_unshare", "uts-demo", "true"]);
        other.assert().code(125).stderr(says.clone().not());

        let close = "echo \"$2\" > \"/proc/sys/kernel/$1\"";
        machine.sh_with(Root, close, &[switch, closed]);
        let refused = machine.reader(["no_unshare", "uts-demo", "true"]);
        refused.assert().code(125).stderr(says);
    }
}
