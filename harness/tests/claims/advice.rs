//! G8: the one line below an error says what to do, and names a reason only
//! where the kernel shows that it is the one.

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;

use crate::target::{Machine, Reader, Root, USERS, fresh_machine, steps};

/// Types what a table has behind `$ ` as reader, and behind `# ` as root in a
/// mount namespace of its own. Below it in the table are the beginnings of what
/// must be said: the call with its error, and the advice. Where there is none, it
/// is the one above.
#[track_caller]
fn assert_refused(machine: &Machine, table: &str) {
    let mut above = String::new();
    for (prompt, typed, expected) in steps(table) {
        let sh = ["sh", "-c", &typed];
        let said = match prompt {
            '$' => machine.refused(Reader, sh),
            _ => machine.refused(Root, [&["unshare", "-m"], &sh[..]].concat()),
        };
        let (error, advice) = expected.split_once('\n').expect("an error");
        if !advice.is_empty() {
            above = advice.trim_end().into();
        }
        for (said, expected) in said.iter().zip([error, &above]) {
            assert!(said.starts_with(expected), "{typed}: {said}");
        }
    }
}

/// Where no reason can be seen, above all for errors that strace(1) injects:
/// they have none on this machine.
const UNKNOWN: &str = r#"
# strace -o /dev/null -e inject=unshare:error=EINVAL uts-demo true
uts-demo: unshare(CLONE_NEWUTS): EINVAL: Invalid argument
See the man page of the call;
# strace -o /dev/null -e inject=unshare:error=ENOSYS net-demo true
net-demo: unshare(CLONE_NEWNET): ENOSYS: Function not implemented
# strace -o /dev/null -e inject=unshare:error=EINVAL user-demo true
user-demo: unshare(CLONE_NEWUSER): EINVAL: Invalid argument
# strace -o /dev/null -e inject=unshare:error=EINVAL pid-demo true
pid-demo: unshare(CLONE_NEWPID): EINVAL: Invalid argument
# strace -o /dev/null -e inject=clone,clone3:error=ENOMEM pid-demo true
pid-demo: fork: ENOMEM: Out of memory
# strace -o /dev/null -e inject=clone,clone3:error=ENOMEM uts-demo
uts-demo: fork: ENOMEM: Out of memory
# strace -o /dev/null -e inject=mount:error=EINVAL mount-demo true
mount-demo: mount / MS_REC|MS_PRIVATE: EINVAL: Invalid argument
# strace -o /dev/null -e inject=sethostname:error=ENOENT uts-demo true
uts-demo: sethostname: ENOENT: No such file or directory
# strace -o /dev/null -e inject=sethostname:error=EROFS uts-demo true
uts-demo: sethostname: EROFS: Read-only file system
# strace -o /dev/null -e inject=execve:error=ETXTBSY:when=1 \
>     uts-demo /bin/true
uts-demo: exec /bin/true: ETXTBSY: Text file busy
See the man page of the call
# strace -o /dev/null -e inject=mount:error=ENOSPC mount-demo true
mount-demo: mount / MS_REC|MS_PRIVATE: ENOSPC: No space left on device
A limit of this machine is reached;
# strace -o /dev/null -e inject=sethostname:error=EPERM uts-demo true
uts-demo: sethostname: EPERM: Operation not permitted
Its reason cannot be seen from here (a security module, a chroot?): see
# strace -o /dev/null -e inject=mount:error=EPERM:when=2 mount-demo true
mount-demo: mount /proc: EPERM: Operation not permitted
# strace -o /dev/null -e inject=ioctl:error=EACCES:when=1+ net-demo true
net-demo: ioctl(SIOCGIFFLAGS): EACCES: Permission denied
# strace -o /dev/null -P /proc/self/setgroups \
>     -e inject=openat:error=EACCES user-demo true
user-demo: write /proc/self/setgroups: EACCES: Permission denied
$ strace -o /dev/null -P /proc/self/uid_map \
>     -e inject=openat:error=EPERM user-demo true
user-demo: write /proc/self/uid_map: EPERM: Operation not permitted
$ strace -o /dev/null -e inject=unshare:error=EPERM:when=1 user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
# strace -o /dev/null -e inject=unshare:error=EPERM:when=1 user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
$ unshare -U --map-user=5 --map-group=5 strace -o /dev/null \
>     -e inject=unshare:error=EPERM:when=1 user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
"#;

/// Where the reason is there, and may be seen in the error alone.
const NAMED: &str = r#"
# strace -o /dev/null -e inject=unshare:error=ENOSPC ipc-demo true
ipc-demo: unshare(CLONE_NEWIPC): ENOSPC: No space left on device
No ipc namespace is left here: sudo sysctl -w user.max_ipc_namespaces=10000;
# strace -o /dev/null -e inject=clone,clone3:error=EAGAIN pid-demo true
pid-demo: fork: EAGAIN: Try again
There are too many processes: see `ulimit -u`, and pids.max of the cgroup;
# strace -o /dev/null -e inject=readlink,readlinkat:error=ENOENT uts-demo
uts-demo: readlink /proc/self/ns/uts: ENOENT: No such file or directory
Is /proc this PID namespace's own? See `findmnt /proc`;
# strace -o /dev/null -e inject=execve:error=E2BIG:when=1 uts-demo /bin/true
uts-demo: exec /bin/true: E2BIG: Argument list too long
There is more of arguments and environment than fits
# printf '#!/nosuch\n' > /tmp/orphaned; chmod +x /tmp/orphaned
> uts-demo /tmp/orphaned
uts-demo: exec /tmp/orphaned: ENOENT: No such file or directory
It is there, but its interpreter is not: see its first line, or `file` of it
# unshare --pid pid-demo true
pid-demo: unshare(CLONE_NEWPID): EINVAL: Invalid argument
`unshare --pid` goes with --fork, before this demo;
# unshare --pid sh -c 'ls /mnt; exec uts-demo'
uts-demo: fork: ENOMEM: Out of memory
PID 1 of the namespace is dead: nothing starts there;
# mkdir -p /tmp/proc/self/ns; : > /tmp/proc/self/ns/user
> mount --bind /tmp/proc /proc
> strace -o /dev/null -e inject=unshare:error=EINVAL uts-demo true
uts-demo: unshare(CLONE_NEWUTS): EINVAL: Invalid argument
This kernel has no uts namespaces;
# unshare -U user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
Your uid or gid has no mapping in this user namespace: see /proc/self/uid_map
# strace --seccomp-bpf -f -qq -e trace=chroot -o /dev/null \
>     unshare -U user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
$ unshare -U --map-user=5 strace -o /dev/null \
>     -e inject=unshare:error=EPERM:when=1 user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
# setpriv --bounding-set=-setfcap --inh-caps=-setfcap user-demo true
user-demo: write /proc/self/uid_map: EPERM: Operation not permitted
To map uid 0 takes CAP_SETFCAP since Linux 5.12, and this root lacks it
# mount -o remount,bind,ro /proc; user-demo true
user-demo: write /proc/self/setgroups: EROFS: Read-only file system
/proc is mounted read-only (is this a container?): leave it, or sudo mount -o
# mount -o remount,ro /proc; user-demo true || status=$?
> mount -o remount,rw /proc; exit $status
user-demo: write /proc/self/setgroups: EROFS: Read-only file system
# mkdir -p /tmp/empty; mount --bind /tmp/empty /proc; user-demo
user-demo: readlink /proc/self: ENOENT: No such file or directory
Nothing is mounted at /proc: mount -t proc proc /proc;
# mount -t proc -o subset=pid proc /proc; ipc-demo
ipc-demo: read /proc/sysvipc/msg: ENOENT: No such file or directory
/proc is mounted with subset=pid: mount it without;
# echo 1 > /proc/sys/fs/mount-max; mount-demo true || status=$?
> echo 100000 > /proc/sys/fs/mount-max; exit $status
mount-demo: mount /proc: ENOSPC: No space left on device
No mount is left here: sudo sysctl -w fs.mount-max=100000;
$ mount-demo sh
mount-demo: mount /proc: EPERM: Operation not permitted
/proc belongs to a PID namespace, which must be ours too: user-demo pid-demo
"#;

/// A chroot is the reason where no mount is at its root, or its root is not that
/// of PID 1; a root directory that is a bind mount is no chroot.
const CHROOTED: &str = r#"
# cd /tmp/jail; mount --bind /usr usr; mount --bind /proc proc
> chroot . user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
No user namespace begins in a chroot: leave it;
# cd /tmp/jail; mount --bind /usr usr; mount --bind /proc proc
> chroot --userspec=1000:1000 . uts-demo true
uts-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
# cd /tmp/jail; mount --bind /usr usr; mount --bind /proc proc
> chroot . mount-demo true
mount-demo: mount / MS_REC|MS_PRIVATE: EINVAL: Invalid argument
No mount is at / in this chroot: leave it;
# mount --bind /tmp/jail /tmp/jail; cd /tmp/jail
> mount --rbind /usr usr; mount --bind /proc proc
> mount --move . /; exec chroot . unshare -U user-demo true
user-demo: unshare(CLONE_NEWUSER): EPERM: Operation not permitted
Your uid or gid has no mapping in this user namespace: see /proc/self/uid_map
"#;

/// G8: the advice is about the call and its error, and names a reason only if
/// the kernel shows that it is the one.
#[test]
fn advice_asks_the_kernel_about_what_it_names() {
    let machine = fresh_machine();
    assert_refused(&machine, UNKNOWN);
    assert_refused(&machine, NAMED);
    let jail = "mkdir -p /tmp/jail/usr /tmp/jail/proc
        ln -s usr/bin usr/lib usr/lib64 usr/sbin /tmp/jail";
    machine.sh(Root, jail);
    assert_refused(&machine, CHROOTED);
    // A chroot into a mount point, in the mount namespace of PID 1.
    let mounted = "mount --bind /tmp/jail /tmp/jail; cd /tmp/jail
        mount --bind /usr usr; mount --bind /proc proc";
    machine.sh(Root, mounted);
    let chroot = ["chroot", "/tmp/jail", "user-demo", "true"];
    let [_, advice] = machine.refused(Root, chroot);
    assert!(advice.starts_with("No user namespace begins in a chroot"));
    let end = "; the VM always works: cargo run -p harness -- user-demo";
    assert!(advice.ends_with(end), "{advice}");

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

/// G8: if no namespace is left, the demo prints the error and one line that
/// names the sysctl of this namespace; or, without privilege, that of the user
/// namespaces, which come first.
#[test]
fn used_up_namespaces_name_their_sysctl() {
    let machine = fresh_machine();
    for user in USERS {
        let works = |demo: &&str| (user, *demo) != (Reader, "mount-demo");
        let demos: Vec<&str> = DEMOS.into_iter().filter(works).collect();
        machine.sh_with(user, "for demo; do $demo true; done", &demos);
    }
    let refused = |user, demo: &str, kind: &str| {
        let [error, advice] = machine.refused(user, [demo, "true"]);
        assert!(error.starts_with(&format!("{demo}: unshare(")), "{error}");
        assert!(error.contains("): ENOSPC: No space left"), "{error}");
        // Of the six types two nest.
        let nests = match kind {
            "user" => " (or 33 are nested)",
            "pid" => " (or 32 are nested)",
            _ => "",
        };
        assert_eq!(
            advice,
            format!(
                "No {kind} namespace is left here{nests}: sudo sysctl -w \
                 user.max_{kind}_namespaces=10000; the VM always works: cargo \
                 run -p harness -- {demo}"
            ),
            "{user}"
        );
    };
    for (demo, kind) in [
        ("uts-demo", "uts"),
        ("ipc-demo", "ipc"),
        ("pid-demo", "pid"),
        ("mount-demo", "mnt"),
        ("net-demo", "net"),
        ("user-demo", "user"), // Last, because without root all need one.
    ] {
        let limit = "echo 0 > /proc/sys/user/max_$1_namespaces";
        machine.sh_with(Root, limit, &[kind]);
        for user in USERS {
            refused(user, demo, kind);
        }
    }
    for demo in DEMOS {
        refused(Reader, demo, "user");
    }
}

const FILTER: &str = "A seccomp filter forbids it (is this a container?): \
    leave it, or start it with `--security-opt seccomp=unconfined`";

/// G8: a seccomp filter as container runtimes install it.
#[test]
fn seccomp_filter_is_named_where_it_is_the_reason() {
    let machine = fresh_machine();
    for (user, demo) in
        USERS.into_iter().flat_map(|user| DEMOS.map(|demo| (user, demo)))
    {
        let words = ["no_unshare", demo, "true"];
        let [error, advice] = machine.refused(user, words);
        let call = "unshare(CLONE_NEWUSER): EPERM: Operation not permitted";
        assert_eq!(error, format!("{demo}: {call}"), "{user}");
        assert!(advice.starts_with(FILTER), "{user}: {advice}");
    }
}

/// G8: Podman's filter allows unshare(2), and refuses calls in the namespace
/// that was made. Here it is strace(1) with a filter that refuses.
#[test]
fn filter_is_named_at_later_calls_too() {
    let machine = fresh_machine();
    let run = |user, filter: &str, inject: &str, demo: &str| {
        let call = inject.split(':').next().expect("a call");
        let strace = format!(
            "strace -f {filter} -qq -o /dev/null -e trace={call} \
             -e inject={inject} {demo} true"
        );
        machine.refused(user, strace.split_whitespace())
    };
    let by_filter = "--seccomp-bpf";
    for (inject, demo, call) in [
        ("sethostname:error=EPERM", "uts-demo", "sethostname: EPERM"),
        ("sethostname:error=ENOSYS", "uts-demo", "sethostname: ENOSYS"),
        ("setdomainname:error=EPERM", "uts-demo", "setdomainname: EPERM"),
        ("mount:error=EPERM", "mount-demo", "mount / MS_REC|MS_PRIVATE: EPERM"),
        ("mount:error=EPERM:when=2+", "mount-demo", "mount /proc: EPERM"),
        ("unshare:error=ENOSYS", "net-demo", "unshare(CLONE_NEWNET): ENOSYS"),
    ] {
        for user in USERS {
            // Without root a user namespace comes first.
            if user == Reader && demo != "uts-demo" {
                continue;
            }
            let call = format!("{demo}: {call}: ");
            let [error, advice] = run(user, by_filter, inject, demo);
            assert!(error.starts_with(&call), "{user}: {error}");
            assert!(advice.starts_with(&format!("{FILTER};")), "{advice}");
            // The same error without a filter.
            let [error, advice] = run(user, "", inject, demo);
            assert!(error.starts_with(&call), "{user}: {error}");
            assert!(!advice.contains("seccomp"), "{user}: {advice}");
        }
    }
    // A filter that is not the reason: it does not refuse the second time.
    for (call, demo) in [
        ("sethostname", "uts-demo"),
        ("setdomainname", "uts-demo"),
        ("mount", "mount-demo"),
    ] {
        let inject = format!("{call}:error=EPERM:when=1");
        let [_, advice] = run(Root, by_filter, &inject, demo);
        assert!(advice.starts_with("Its reason cannot be seen"), "{advice}");
    }
}

/// G3: root without CAP_NET_ADMIN, as in Docker with `--cap-add SYS_ADMIN` and
/// in systemd-nspawn, takes the way of a user who is not root.
#[test]
fn root_without_a_capability_takes_the_readers_way() {
    let machine = fresh_machine();
    let without = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin";
    // Alone it cannot.
    let alone = format!("{without} unshare --net ip link set lo up");
    machine.root(alone.split(' ')).assert().failure();
    let says = |words: &str| machine.says(Root, words.split(' '));
    let link = says(&format!("{without} net-demo ip -br link"));
    assert!(link.contains("<LOOPBACK,UP,LOWER_UP>"), "{link}");
    says(&format!("{without} net-demo"));
    let map = |words: &str| {
        let map = says(&format!("{words} cat /proc/self/uid_map"));
        map.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(map(&format!("{without} net-demo")), "0 0 1");
    // With it, or for another type, there is no user namespace.
    assert_eq!(map("net-demo"), "0 0 4294967295");
    assert_eq!(map(&format!("{without} uts-demo")), "0 0 4294967295");
}

/// Why the files of /proc/self cannot be written. strace pretends, as
/// fakeroot(1) does, that uid 1000 is 0.
const IDS: &str = r#"
# setpriv --ruid=1000 --euid=1000 --clear-groups --rgid=1000 --egid=5 \
>     user-demo true
user-demo: write /proc/self/setgroups: EACCES: Permission denied
Your real and effective gid differ, and so /proc/self is root's: setpriv
# setpriv --ruid=1001 --euid=1000 --regid=1000 --clear-groups user-demo true
user-demo: write /proc/self/setgroups: EACCES: Permission denied
Your real and effective uid differ, and so /proc/self is root's: setpriv
$ exec /tmp/user-demo true
user-demo: write /proc/self/setgroups: EACCES: Permission denied
This program's file cannot be read, or has capabilities, and so /proc/self
$ strace -o /dev/null -e inject=geteuid:retval=0 user-demo true
user-demo: write /proc/self/uid_map: EPERM: Operation not permitted
Your uid is pretended (fakeroot?), and the kernel maps real ones only: call
"#;

/// G8: why the files of /proc/self cannot be written; what is advised works.
#[test]
fn ids_that_refuse_the_map_are_named() {
    let machine = fresh_machine();
    let unreadable = "cp \"$(command -v user-demo)\" /tmp
        chmod 711 /tmp/user-demo";
    machine.sh(Root, unreadable);
    assert_refused(&machine, IDS);
    machine.sh(
        Root,
        "setpriv --ruid=1000 --euid=1000 --clear-groups --rgid=1000 --egid=5 \
             setpriv --regid=5 --keep-groups user-demo true
         setpriv --ruid=1001 --euid=1000 --regid=1000 --clear-groups \
             setpriv --reuid=1000 --keep-groups user-demo true
         chmod 755 /tmp/user-demo",
    );
    machine.sh(Reader, "exec /tmp/user-demo true");
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
    for (profile, expected) in [
        (
            "docker-default (enforce)",
            "AppArmor's profile docker-default may forbid it (is this a \
             container?): leave it, or start it with \
             `--security-opt apparmor=unconfined`;",
        ),
        ("docker-default (complain)", "Its reason cannot be seen"),
        ("unconfined", "Its reason cannot be seen"),
    ] {
        let words = ["sh", "-c", script, "sh", profile];
        let [error, advice] = machine.refused(Root, words);
        assert!(error.starts_with("mount-demo: mount / MS_REC|MS_PRIVATE"));
        assert!(advice.starts_with(expected), "{profile}: {advice}");
    }
}

/// G8: container runtimes cover parts of /proc, and then the kernel refuses a
/// new /proc in a user namespace.
#[test]
fn covered_proc_is_named_where_it_is_the_reason() {
    let machine = fresh_machine();
    let chain = ["user-demo", "pid-demo", "mount-demo", "true"];
    machine.says(Reader, chain);
    machine.sh(Root, "mount --bind /dev/null /proc/timer_list");
    let [error, advice] = machine.refused(Reader, chain);
    assert!(error.starts_with("mount-demo: mount /proc: EPERM: "), "{error}");
    let covered = "Parts of /proc are covered (is this a container?): leave \
        it, or start it with `--security-opt systempaths=unconfined` (Podman: \
        `unmask=ALL`)";
    assert!(advice.starts_with(covered), "{advice}");
    // It is not the reason where /proc belongs to another PID namespace, and
    // what systemd and an NFS server mount there covers nothing.
    machine.sh(
        Root,
        "umount /proc/timer_list
        for it in /proc/sys/fs/binfmt_misc /proc/fs/nfsd; do
            [ ! -d $it ] || mount -t tmpfs tmpfs $it
        done",
    );
    machine.says(Reader, chain);
    let [_, advice] = machine.refused(Reader, ["mount-demo", "true"]);
    assert!(advice.starts_with("/proc belongs to a PID namespace"), "{advice}");
}

/// G8: the switches with which Debian and Ubuntu forbid user namespaces. Not
/// every kernel has them, so files of the same names are put in their place,
/// and a caller without mapped ids gets the same EPERM. The advice must read
/// the files, and not guess.
#[test]
fn switch_that_forbids_user_namespaces_is_named() {
    let machine = fresh_machine();
    machine.sh(Root, "mount -t tmpfs sysctl /proc/sys/kernel");
    for (switch, closed, opened) in [
        ("unprivileged_userns_clone", "0", "=1"),
        ("apparmor_restrict_unprivileged_userns", "1", "=0"),
    ] {
        let names_it = |user, words: &str| {
            let [_, advice] = machine.refused(user, words.split(' '));
            advice.contains(&format!("kernel.{switch}{opened}"))
        };
        assert!(!names_it(Reader, "unshare -U uts-demo true"), "{switch}");
        let close = "echo \"$2\" > \"/proc/sys/kernel/$1\"";
        machine.sh_with(Root, close, &[switch, closed]);
        assert!(names_it(Reader, "unshare -U uts-demo true"), "{switch}");
        // The first switch asks for CAP_SYS_ADMIN, which this root lacks.
        let inject = "strace -o /dev/null -e inject=unshare:error=EPERM";
        let lacks = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin";
        let asks = switch == "unprivileged_userns_clone";
        for (root, named) in [("env", false), (lacks, asks)] {
            let words = format!("{root} {inject} user-demo true");
            assert_eq!(names_it(Root, &words), named, "{switch}: {root}");
        }
    }
}
