//! G6: what every link of a chain does, whichever namespace it makes. For a
//! seventh demo, add a `case` to `contract`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;
use predicates::prelude::*;
use rstest::rstest;

use crate::target::{Machine, Reader, Root, USERS, User, fresh_machine};

/// A row of the contract: its name, the link's arguments, its status, standard
/// output and standard error. `DEMO` stands for the link's name.
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
            $link sh -c 'cd -P /proc/self/fd/0; pwd' < /
        done"#;
    // Without a link. Not with env(1): on some machines it is a Rust program,
    // and has the same problem.
    let alone = machine.sh_with(Root, script, &[""]);
    assert_eq!(alone, "1\n/\n");
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

/// G6: the advice names a reason only if the kernel shows that it is the one.
#[test]
fn advice_asks_the_kernel_about_what_it_names() {
    let machine = fresh_machine();
    machine.sh(
        Root,
        r##"
        mkdir -p /tmp/jail/usr /tmp/jail/proc; cd /tmp/jail
        ln -s usr/bin usr/lib usr/lib64 usr/sbin .
        printf '#!/nosuch\n' > /tmp/orphaned; chmod +x /tmp/orphaned
        mkdir -p /tmp/proc/self/ns; : > /tmp/proc/self/ns/user"##,
    );
    let jail = "cd /tmp/jail; mount --bind /usr usr; mount --bind /proc proc";
    let chroot = "No user namespace begins in a chroot";
    let mapping = "has no mapping";
    for (script, error, advice) in [
        (
            "unshare --pid pid-demo true",
            "unshare(CLONE_NEWPID): EINVAL",
            "`unshare --pid` goes with --fork",
        ),
        (
            "unshare --pid sh -c 'ls /mnt; exec uts-demo'",
            "fork: ENOMEM",
            "PID 1 of the namespace is dead",
        ),
        (
            "mount --bind /tmp/proc /proc
             strace -o /dev/null -e inject=unshare:error=EINVAL uts-demo true",
            "unshare(CLONE_NEWUTS): EINVAL",
            "This kernel has no uts namespaces",
        ),
        (
            &format!("{jail}; chroot . user-demo true"),
            "unshare(CLONE_NEWUSER): EPERM",
            chroot,
        ),
        (
            &format!("{jail}; chroot --userspec=1000:1000 . user-demo true"),
            "unshare(CLONE_NEWUSER): EPERM",
            chroot,
        ),
        (
            &format!("{jail}; chroot . mount-demo true"),
            "mount / MS_REC|MS_PRIVATE: EINVAL",
            "No mount is at / in this chroot",
        ),
        // A root directory that is a bind mount is no chroot.
        (
            "mount --bind /tmp/jail /tmp/jail; cd /tmp/jail
             mount --rbind /usr usr; mount --bind /proc proc
             mount --move . /; exec chroot . unshare -U user-demo true",
            "unshare(CLONE_NEWUSER): EPERM",
            mapping,
        ),
        ("unshare -U user-demo true", "unshare(CLONE_NEWUSER): EPERM", mapping),
        // A seccomp filter that is not the reason: strace's own.
        (
            "strace --seccomp-bpf -f -qq -e trace=chroot -o /dev/null \
                 unshare -U user-demo true",
            "unshare(CLONE_NEWUSER): EPERM",
            mapping,
        ),
        (
            "no_unshare user-demo true",
            "unshare(CLONE_NEWUSER): EPERM",
            "A seccomp filter forbids it",
        ),
        (
            "setpriv --bounding-set=-setfcap --inh-caps=-setfcap \
                 user-demo true",
            "write /proc/self/uid_map: EPERM",
            "takes CAP_SETFCAP",
        ),
        (
            "mount -o remount,bind,ro /proc; user-demo true",
            "write /proc/self/setgroups: EROFS",
            "/proc is mounted read-only",
        ),
        (
            "mount -t proc -o subset=pid proc /proc; ipc-demo",
            "read /proc/sysvipc/msg: ENOENT",
            "/proc is mounted with subset=pid",
        ),
        (
            "echo 1 > /proc/sys/fs/mount-max; mount-demo true || status=$?
             echo 100000 > /proc/sys/fs/mount-max; exit $status",
            "mount /proc: ENOSPC",
            "sysctl -w fs.mount-max=",
        ),
        (
            "uts-demo /tmp/orphaned || [ $? -ne 127 ] || exit 125",
            "exec /tmp/orphaned: ENOENT",
            "its interpreter is not",
        ),
    ] {
        let output = machine.root(["unshare", "--mount", "sh", "-c", script]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        output.assert().append_context("script", script.to_string()).code(125);
        let lines: Vec<&str> = text.lines().collect();
        let [first, second] = lines[..] else { panic!("{script}: {text}") };
        assert!(first.contains(&format!(": {error}")), "{script}: {text}");
        assert!(second.contains(advice), "{script}: {text}");
        assert!(!second.to_lowercase().contains("be root"), "{text}");
    }
    // Only the first call is refused: nothing here shows why.
    let unknown = "Its reason cannot be seen from here";
    let refused = "strace -o /dev/null -e inject=unshare:error=EPERM:when=1 \
        user-demo true";
    for (user, namespace, advice) in [
        (Reader, "", unknown),
        (Root, "", unknown),
        (Reader, "unshare -U --map-user=5 --map-group=5 ", unknown),
        (Reader, "unshare -U --map-user=5 ", mapping),
    ] {
        let words = format!("{namespace}{refused}");
        let output = machine.run(user, words.split_whitespace(), b"");
        let named = predicate::str::contains(advice);
        output.assert().code(125).stderr(named);
    }
    // A chroot into a mount point: its root differs from PID 1's.
    let mounted = "mount --bind /tmp/jail /tmp/jail; cd /tmp/jail
        mount --bind /usr usr; mount --bind /proc proc";
    machine.sh(Root, mounted);
    let chrooted = machine.root(["chroot", "/tmp/jail", "user-demo", "true"]);
    let named = predicate::str::contains(chroot);
    chrooted.assert().code(125).stderr(named);

    // The control: without any of these reasons, the demos work.
    let works = "user-demo true; uts-demo true; ipc-demo > /dev/null
        pid-demo true; mount-demo true";
    machine.sh(Root, works);
}

/// Runs these demos, each of which must be refused. Returns what each prints:
/// the error and one line of advice.
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
    let message = String::from_utf8(output.stderr).expect("text");
    let statuses = String::from_utf8(output.stdout).expect("text");
    assert_eq!(statuses, "125\n".repeat(demos.len()), "{user}: {message}");
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 2 * demos.len(), "{user}: {message}");
    lines.chunks(2).map(|two| two.join("\n")).collect()
}

/// G6: if no namespace is left, the demo prints the error and one line that
/// names the sysctl of this namespace.
#[test]
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
    // Last, because without root the other demos need a user namespace, too.
    let last = [("user-demo", "user")];
    for group in [&most[..], &last] {
        let (demos, kinds): (Vec<&str>, Vec<&str>) =
            group.iter().copied().unzip();
        let script =
            "for kind; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done";
        machine.sh_with(Root, script, &kinds);
        for user in USERS {
            let messages = refusals(&machine, user, &[], &demos);
            for ((demo, kind), message) in group.iter().zip(messages) {
                assert!(message.starts_with(&format!("{demo}: unshare(")));
                let sysctl = format!("user.max_{kind}_namespaces");
                for part in [": ENOSPC: ", &sysctl, "cargo run -p harness -- "]
                {
                    assert!(message.contains(part), "{user}: {message}");
                }
            }
        }
    }
}

/// G6
#[test]
fn without_privilege_and_user_namespaces_the_error_says_so() {
    let machine = fresh_machine();
    machine.reader(["uts-demo", "true"]).assert().success();
    machine.sh(Root, "echo 0 > /proc/sys/user/max_user_namespaces");
    let messages = refusals(&machine, Reader, &[], &DEMOS);
    for (demo, message) in DEMOS.iter().zip(messages) {
        let error = format!(
            "{demo}: unshare(CLONE_NEWUSER): ENOSPC: \
             No space left on device\n"
        );
        assert!(message.starts_with(&error), "{message}");
        assert!(message.contains("user.max_user_namespaces="), "{message}");
    }
}

/// G6: a seccomp filter as container runtimes install it.
#[test]
fn seccomp_filter_is_named_where_it_is_the_reason() {
    let machine = fresh_machine();
    for user in USERS {
        let messages = refusals(&machine, user, &["no_unshare"], &DEMOS);
        for (demo, message) in DEMOS.iter().zip(messages) {
            let error = format!(
                "{demo}: unshare(CLONE_NEWUSER): EPERM: \
                 Operation not permitted\nA seccomp filter forbids it"
            );
            assert!(message.starts_with(&error), "{user}: {message}");
        }
    }
}

/// G6: the advice is about the call and its error. strace(1) injects errors
/// that have no reason on this machine, and so the advice must not name a
/// reason that it has not found.
#[test]
fn advice_is_about_the_call_and_its_error() {
    let machine = fresh_machine();
    for (inject, demo, error, advice) in [
        (
            "unshare:error=EINVAL",
            "uts-demo true",
            "unshare(CLONE_NEWUTS): EINVAL: Invalid argument",
            "See the man page of the call",
        ),
        (
            "unshare:error=ENOSYS",
            "net-demo true",
            "unshare(CLONE_NEWNET): ENOSYS: Function not implemented",
            "See the man page of the call",
        ),
        (
            "unshare:error=EINVAL",
            "user-demo true",
            "unshare(CLONE_NEWUSER): EINVAL: Invalid argument",
            "User namespaces are switched off (RHEL and CentOS 7: boot with \
             user_namespace.enable=1)",
        ),
        (
            "unshare:error=ENOSPC",
            "ipc-demo true",
            "unshare(CLONE_NEWIPC): ENOSPC: No space left on device",
            "No ipc namespace is left here (or 32 are nested): \
             sudo sysctl -w user.max_ipc_namespaces=10000",
        ),
        (
            "clone,clone3:error=EAGAIN",
            "pid-demo true",
            "fork: EAGAIN: Try again",
            "There are too many processes: see `ulimit -u`, and pids.max of \
             the cgroup",
        ),
        (
            "mount:error=ENOSPC",
            "mount-demo true",
            "mount / MS_REC|MS_PRIVATE: ENOSPC: No space left on device",
            "A limit of this machine is reached",
        ),
        (
            "unshare:error=EINVAL",
            "pid-demo true",
            "unshare(CLONE_NEWPID): EINVAL: Invalid argument",
            "See the man page of the call",
        ),
        (
            "clone,clone3:error=ENOMEM",
            "pid-demo true",
            "fork: ENOMEM: Out of memory",
            "See the man page of the call",
        ),
        (
            "clone,clone3:error=ENOMEM",
            "uts-demo",
            "fork: ENOMEM: Out of memory",
            "See the man page of the call",
        ),
        (
            "mount:error=EINVAL",
            "mount-demo true",
            "mount / MS_REC|MS_PRIVATE: EINVAL: Invalid argument",
            "See the man page of the call",
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

/// G6: the switches with which Debian and Ubuntu forbid user namespaces. Not
/// every kernel has them, so files of the same names are put in their place,
/// and a caller without mapped ids gets the same EPERM. The advice must read
/// the files, and not guess.
#[test]
fn switch_that_forbids_user_namespaces_is_named() {
    let machine = fresh_machine();
    machine.root(["mount", "-t", "tmpfs", "sysctl", "/proc/sys/kernel"]);
    for (switch, closed, opened) in [
        ("unprivileged_userns_clone", "0", "=1"),
        ("apparmor_restrict_unprivileged_userns", "1", "=0"),
    ] {
        let message =
            predicate::str::contains(format!("kernel.{switch}{opened}"));
        let other = machine.reader(["unshare", "-U", "uts-demo", "true"]);
        other.assert().code(125).stderr(message.clone().not());

        let close = "echo \"$2\" > \"/proc/sys/kernel/$1\"";
        machine.sh_with(Root, close, &[switch, closed]);
        let refused = machine.reader(["unshare", "-U", "uts-demo", "true"]);
        refused.assert().code(125).stderr(message);
    }
}
