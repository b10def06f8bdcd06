//! G8: the one line below an error says what to do, and names a reason only
//! where the kernel shows that it is the one.

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;
use predicates::prelude::*;

use crate::target::{Machine, Reader, Root, USERS, User, fresh_machine};

/// G8: the advice names a reason only if the kernel shows that it is the one.
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
            "sudo mount -o remount,rw /proc",
        ),
        (
            "mount -o remount,ro /proc; user-demo true || status=$?
             mount -o remount,rw /proc; exit $status",
            "write /proc/self/setgroups: EROFS",
            "sudo mount -o remount,rw /proc",
        ),
        (
            "mkdir -p /tmp/empty; mount --bind /tmp/empty /proc; user-demo",
            "readlink /proc/self: ENOENT",
            "mount -t proc proc /proc",
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
        (
            "strace -o /dev/null -e inject=execve:error=E2BIG:when=1 \
                 uts-demo /bin/true || [ $? -ne 126 ] || exit 125",
            "exec /bin/true: E2BIG",
            "There is more of arguments and environment than fits",
        ),
        (
            "strace -o /dev/null -e inject=execve:error=ETXTBSY:when=1 \
                 uts-demo /bin/true || [ $? -ne 126 ] || exit 125",
            "exec /bin/true: ETXTBSY",
            "See the man page of the call",
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
        // Least privilege: no container needs it for a demo.
        assert!(!second.contains("--privileged"), "{text}");
    }
    // Only the first call is refused: nothing here shows why.
    let unknown = UNKNOWN;
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

    // What is advised for a /proc that is read-only works.
    machine.sh(
        Root,
        "for how in bind,ro ro; do
            unshare -m sh -euc 'mount -o remount,$1 /proc
                mount -o remount,rw /proc; user-demo true' sh $how
        done",
    );

    // The control: without any of these reasons, the demos work.
    let works = "user-demo true; uts-demo true; ipc-demo > /dev/null
        pid-demo true; mount-demo true; net-demo true";
    machine.sh(Root, works);
}

/// What is said where nothing fits.
const UNKNOWN: &str = "Its reason cannot be seen from here (a security module, \
    a chroot?): see user_namespaces(7), and `dmesg`";

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

/// G8: if no namespace is left, the demo prints the error and one line that
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
                // Of the six types two nest.
                let nests = match *kind {
                    "user" => "here (or 33 are nested): ",
                    "pid" => "here (or 32 are nested): ",
                    _ => "here: ",
                };
                assert!(message.contains(nests), "{user}: {message}");
            }
        }
    }
}

/// G8
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

/// G8: a seccomp filter as container runtimes install it.
#[test]
fn seccomp_filter_is_named_where_it_is_the_reason() {
    let machine = fresh_machine();
    for user in USERS {
        let messages = refusals(&machine, user, &["no_unshare"], &DEMOS);
        for (demo, message) in DEMOS.iter().zip(messages) {
            let error = format!(
                "{demo}: unshare(CLONE_NEWUSER): EPERM: \
                 Operation not permitted\n{FILTER}"
            );
            assert!(message.starts_with(&error), "{user}: {message}");
        }
    }
}

const FILTER: &str = "A seccomp filter forbids it (is this a container?): \
    leave it, or start it with `--security-opt seccomp=unconfined`";

/// G8: Podman's filter allows unshare(2), and refuses calls in the namespace
/// that was made. Here it is strace(1) with a filter that refuses.
#[test]
fn filter_is_named_at_later_calls_too() {
    let machine = fresh_machine();
    let run = |user, filter: &str, inject: &str, demo: &str| {
        let call = inject.split([':', '=']).nth(1).expect("a call");
        let strace = format!(
            "strace {filter} -qq -o /dev/null -e trace={call} -e {inject}"
        );
        let argv = strace.split(' ').chain(demo.split(' '));
        let output = machine.run(user, argv, b"");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        output.assert().append_context("inject", inject.to_string()).code(125);
        text
    };
    for (inject, demo, call) in [
        ("inject=sethostname:error=EPERM", "uts-demo", "sethostname: EPERM"),
        ("inject=sethostname:error=ENOSYS", "uts-demo", "sethostname: ENOSYS"),
        (
            "inject=setdomainname:error=EPERM",
            "uts-demo",
            "setdomainname: EPERM",
        ),
        (
            "inject=mount:error=EPERM",
            "mount-demo",
            "mount / MS_REC|MS_PRIVATE: EPERM",
        ),
        (
            "inject=mount:error=EPERM:when=2+",
            "mount-demo",
            "mount /proc: EPERM",
        ),
        (
            "inject=unshare:error=ENOSYS",
            "net-demo",
            "unshare(CLONE_NEWNET): ENOSYS",
        ),
    ] {
        for user in USERS {
            // Without root a user namespace comes first.
            if user == Reader && demo != "uts-demo" {
                continue;
            }
            let demo = format!("{demo} true");
            let text = run(user, "-f --seccomp-bpf", inject, &demo);
            assert!(text.contains(call), "{user}: {text}");
            assert!(text.contains(&format!("\n{FILTER};")), "{user}: {text}");
            // The same error without a filter.
            let text = run(user, "-f", inject, &demo);
            assert!(text.contains(call), "{user}: {text}");
            assert!(!text.contains("seccomp"), "{user}: {text}");
        }
    }
    // A filter that is not the reason: it does not refuse the second time.
    for (inject, demo) in [
        ("inject=sethostname:error=EPERM:when=1", "uts-demo true"),
        ("inject=setdomainname:error=EPERM:when=1", "uts-demo true"),
        ("inject=mount:error=EPERM:when=1", "mount-demo true"),
    ] {
        let text = run(Root, "-f --seccomp-bpf", inject, demo);
        assert!(text.contains(UNKNOWN), "{text}");
    }
}

/// G3: root without CAP_NET_ADMIN, as in Docker with `--cap-add SYS_ADMIN` and
/// in systemd-nspawn, takes the way of a user who is not root.
#[test]
fn root_without_a_capability_takes_the_readers_way() {
    let machine = fresh_machine();
    let without =
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let words = |more: &[&'static str]| [&without, more].concat();
    // Alone it cannot.
    let alone = ["unshare", "--net", "ip", "link", "set", "lo", "up"];
    machine.root(words(&alone)).assert().failure();
    let seen = machine.root(words(&["net-demo", "ip", "-br", "link"]));
    let seen = seen.assert().success().stderr("").get_output().clone();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("<LOOPBACK,UP,LOWER_UP>"), "{seen}");
    let map = ["net-demo", "cat", "/proc/self/uid_map"];
    let mapped = "         0          0          1\n";
    machine.root(words(&map)).assert().success().stdout(mapped);
    machine.root(words(&["net-demo"])).assert().success().stderr("");
    // With it, or for another type, there is no user namespace.
    let all = "         0          0 4294967295\n";
    machine.root(map).assert().success().stdout(all);
    let other = ["uts-demo", "cat", "/proc/self/uid_map"];
    machine.root(words(&other)).assert().success().stdout(all);
}

/// G8: why the files of /proc/self cannot be written.
#[test]
fn ids_that_refuse_the_map_are_named() {
    let machine = fresh_machine();
    let refused = |words: &str, error: &str, advice: &str| {
        let output = machine.root(["sh", "-c", words]);
        output
            .assert()
            .append_context("script", words.to_string())
            .code(125)
            .stderr(
                predicate::str::contains(error)
                    .and(predicate::str::contains(format!("\n{advice}"))),
            );
    };
    let reader = "setpriv --ruid=1000 --euid=1000 --clear-groups";
    let eacces = "write /proc/self/setgroups: EACCES";
    refused(
        &format!("{reader} --rgid=1000 --egid=5 user-demo true"),
        eacces,
        "Your real and effective gid differ, and so /proc/self is root's: \
         setpriv --regid=GID --keep-groups COMMAND makes them one",
    );
    refused(
        "setpriv --ruid=1001 --euid=1000 --regid=1000 --clear-groups \
         user-demo true",
        eacces,
        "Your real and effective uid differ, and so /proc/self is root's: \
         setpriv --reuid=UID --keep-groups COMMAND makes them one",
    );
    // What is advised works.
    machine.sh(
        Root,
        &format!(
            "{reader} --rgid=1000 --egid=5 \
                 setpriv --regid=5 --keep-groups user-demo true
             setpriv --ruid=1001 --euid=1000 --regid=1000 --clear-groups \
                 setpriv --reuid=1000 --keep-groups user-demo true"
        ),
    );
    // A program that its caller may run and not read, and one that may be read.
    let copy = |mode: &str| {
        let copy =
            "cp \"$(command -v user-demo)\" /tmp; chmod $1 /tmp/user-demo";
        machine.sh_with(Root, copy, &[mode]);
        machine.reader(["sh", "-c", "exec /tmp/user-demo true"]).assert()
    };
    copy("711").code(125).stderr(predicate::str::contains(eacces).and(
        predicate::str::contains(
            "\nThis program's file cannot be read, or has capabilities, ",
        ),
    ));
    copy("755").success();
    // The same error for no reason that can be seen.
    let inject = "strace -o /dev/null -P /proc/self/setgroups \
        -e inject=openat:error=EACCES user-demo true";
    refused(inject, eacces, UNKNOWN);

    // As fakeroot(1) does, strace pretends that uid 1000 is 0.
    let pretended = "strace -o /dev/null -e inject=geteuid:retval=0 \
        user-demo true";
    let pretended = machine.reader(pretended.split_whitespace());
    pretended.assert().code(125).stderr(
        predicate::str::starts_with(
            "user-demo: write /proc/self/uid_map: EPERM",
        )
        .and(predicate::str::contains("\nYour uid is pretended (fakeroot?)")),
    );
    let inject = "strace -o /dev/null -P /proc/self/uid_map \
        -e inject=openat:error=EPERM user-demo true";
    let other = machine.reader(inject.split_whitespace());
    other.assert().code(125).stderr(predicate::str::contains(UNKNOWN));
}

/// S1: of the caller's ids the effective ones are mapped, as the kernel wants.
#[test]
fn effective_ids_are_mapped() {
    let machine = fresh_machine();
    let look = "user-demo cat /proc/self/uid_map /proc/self/gid_map";
    let seen = |options: &str| {
        let script = format!("setpriv {options} --keep-groups {look}");
        let maps = machine.sh(Root, &script);
        maps.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(seen("--ruid=1000 --rgid=1000"), "0 0 1 0 0 1");
    // Without a difference there is one id to map.
    assert_eq!(seen("--reuid=1000 --regid=1000"), "0 1000 1 0 1000 1");
}

/// G8: AppArmor's profile for containers refuses to mount. Not every kernel has
/// AppArmor: the file in which it names the profile is put in its place.
#[test]
fn apparmor_profile_is_named_if_there_is_one() {
    let machine = fresh_machine();
    let script = "mount -t tmpfs tmpfs /proc/$$/attr
        mkdir /proc/$$/attr/apparmor
        echo \"$1\" > /proc/$$/attr/apparmor/current
        exec strace -D -o /dev/null -e inject=mount:error=EACCES mount-demo true";
    for (profile, advice) in [
        (
            "docker-default (enforce)",
            "AppArmor's profile docker-default may forbid it (is this a \
             container?): leave it, or start it with \
             `--security-opt apparmor=unconfined`",
        ),
        ("docker-default (complain)", UNKNOWN),
        ("unconfined", UNKNOWN),
    ] {
        let refused = machine.root(["sh", "-c", script, "sh", profile]);
        refused.assert().code(125).stderr(
            predicate::str::starts_with("mount-demo: mount / MS_REC|MS_PRIV")
                .and(predicate::str::contains(format!("\n{advice};"))),
        );
    }
}

/// G8: the advice is about the call and its error. strace(1) injects errors
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
            "See the man page of the call",
        ),
        (
            "unshare:error=ENOSPC",
            "ipc-demo true",
            "unshare(CLONE_NEWIPC): ENOSPC: No space left on device",
            "No ipc namespace is left here: \
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
        (
            "sethostname:error=EPERM",
            "uts-demo true",
            "sethostname: EPERM: Operation not permitted",
            UNKNOWN,
        ),
        // Root's own /proc, of which nothing is covered.
        (
            "mount:error=EPERM:when=2",
            "mount-demo true",
            "mount /proc: EPERM: Operation not permitted",
            UNKNOWN,
        ),
        (
            "ioctl:error=EACCES:when=1+",
            "net-demo true",
            "ioctl(SIOCGIFFLAGS): EACCES: Permission denied",
            UNKNOWN,
        ),
        (
            "sethostname:error=EROFS",
            "uts-demo true",
            "sethostname: EROFS: Read-only file system",
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

/// G8: container runtimes cover parts of /proc, and then the kernel refuses a
/// new /proc in a user namespace.
#[test]
fn covered_proc_is_named_where_it_is_the_reason() {
    let machine = fresh_machine();
    let chain = ["user-demo", "pid-demo", "mount-demo", "true"];
    machine.reader(chain).assert().success();
    machine.root(["mount", "--bind", "/dev/null", "/proc/timer_list"]);
    machine.reader(chain).assert().code(125).stdout("").stderr(
        predicate::str::starts_with("mount-demo: mount /proc: EPERM: ").and(
            predicate::str::contains(
                "\nParts of /proc are covered (is this a container?): leave \
                 it, or start it with `--security-opt \
                 systempaths=unconfined` (Podman: `unmask=ALL`)",
            ),
        ),
    );
    // It is not the reason where /proc belongs to another PID namespace, and
    // what systemd and an NFS server mount there covers nothing.
    machine.root(["umount", "/proc/timer_list"]);
    machine.sh(
        Root,
        "for it in /proc/sys/fs/binfmt_misc /proc/fs/nfsd; do
            [ ! -d $it ] || mount -t tmpfs tmpfs $it
        done",
    );
    machine.reader(chain).assert().success();
    machine.reader(["mount-demo", "true"]).assert().code(125).stderr(
        predicate::str::contains("/proc belongs to a PID namespace, which"),
    );
}

/// G8: the switches with which Debian and Ubuntu forbid user namespaces. Not
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
        refused.assert().code(125).stderr(message.clone());
        // The first switch asks for CAP_SYS_ADMIN, which this root lacks.
        let inject = "strace -o /dev/null -e inject=unshare:error=EPERM";
        let lacks = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin";
        let asks = switch == "unprivileged_userns_clone";
        for (root, named) in [("env", false), (lacks, asks)] {
            let words = format!("{root} {inject} user-demo true");
            let output = machine.root(words.split(' '));
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            output.assert().code(125);
            assert_eq!(message.eval(&text), named, "{root}: {text}");
        }
    }
}
