//! What changed while the pages were true: facts that hold since a version of
//! Linux. Each claim asserts both sides of it, on Debian's kernels; other
//! vendors backport.

use crate::target::{Machine, Root, fresh_machine};

/// The script prints whether the kernel does it. Debian's does it since SINCE.
#[track_caller]
fn since(machine: &Machine, since: (u32, u32), script: &str) {
    let answer = machine.sh(Root, script);
    let does = match &*answer {
        "yes\n" => true,
        "no\n" => false,
        _ => panic!("neither yes nor no: {answer}"),
    };
    if let Some(release) = machine.debians_release() {
        let expected = release >= since;
        assert_eq!(does, expected, "Linux {release:?}, since {since:?}");
    }
}

/// K1: the control is another namespace, which has another number.
#[test]
fn initial_namespaces_have_fixed_numbers() {
    let machine = fresh_machine();
    let script = r#"
        initial=yes
        for it in cgroup ipc mnt net pid time user uts; do
            id=$(readlink /proc/self/ns/$it); id=${id#*[}; id=${id%]}
            [ $id -ge 4026531832 ] && [ $id -le 4026531839 ] || initial=no
        done
        echo $initial"#;
    since(&machine, (6, 17), script);
    for kind in ["mount", "uts", "ipc", "net"] {
        let new = format!("unshare --{kind} sh -c '{script}'");
        assert_eq!(machine.sh(Root, &new), "no\n", "{kind}");
    }
}

/// K2: the mount without the option is the control, and shows the outside.
#[test]
fn proc_of_another_pid_namespace_is_mounted_by_an_option() {
    let machine = fresh_machine();
    let script = "
        mkfifo ready hold
        pid-demo sh -c 'echo > ready; read end < hold' &
        read word < ready
        inside=$(pgrep -P $!)
        mount -t proc proc /mnt
        [ -e /mnt/2 ]; umount /mnt
        if mount -t proc -o pidns=/proc/$inside/ns/pid proc /mnt 2> /dev/null
        then
            [ \"$(echo /mnt/[0-9]*)\" = /mnt/1 ] && echo yes
            umount /mnt
        else echo no
        fi
        echo > hold; wait";
    since(&machine, (6, 18), script);
}

/// K3: without the option the mount is refused on every kernel.
#[test]
fn proc_with_processes_alone_is_mounted_where_proc_is_covered() {
    let machine = fresh_machine();
    let script = r#"
        mount -t tmpfs tmpfs /proc/fs
        try() {
            setpriv --reuid=reader user-demo pid-demo unshare --mount \
                mount -t proc ${1-} proc /proc 2> /dev/null
        }
        ! try
        if try "-o subset=pid"; then echo yes; else echo no; fi
        umount /proc/fs
        # The control: where nothing is covered it is mounted.
        try && try "-o subset=pid""#;
    since(&machine, (7, 2), script);
}

/// K4: the outside's limit is the control: without the namespace it changes.
#[test]
fn limit_of_pids_belongs_to_the_namespace() {
    let machine = fresh_machine();
    let script = "
        limit=/proc/sys/kernel/pid_max
        before=$(cat $limit)
        pid-demo mount-demo sh -c \"echo 1000 > $limit\"
        if [ $(cat $limit) = $before ]; then echo yes
        else
            [ $(cat $limit) = 1000 ] && echo no
        fi
        echo 2000 > $limit; [ $(cat $limit) = 2000 ]; echo $before > $limit";
    since(&machine, (6, 14), script);
}

/// K5: the link of a namespace that has a process is the control.
#[test]
fn pid_namespace_without_a_process_can_be_read() {
    let machine = fresh_machine();
    let script = "
        link=/proc/self/ns/pid_for_children
        readlink $link > /dev/null
        if unshare --pid readlink $link > /dev/null; then echo yes
        else echo no
        fi";
    since(&machine, (7, 1), script);
}

/// K6: of the namespaces that unshare(2) leaves for the next child, execve(2)
/// enters the time namespace, and never the PID namespace.
#[test]
fn execve_enters_the_time_namespace() {
    let machine = fresh_machine();
    let script = "
        changes() {
            [ $(unshare --$1 readlink /proc/self/ns/$1) != \\
                $(readlink /proc/self/ns/$1) ]
        }
        ! changes pid
        changes uts
        if changes time; then echo yes; else echo no; fi";
    let release = machine.debians_release();
    // Between these two nothing was tried.
    if release.is_none_or(|it| it <= (6, 1) || it >= (6, 12)) {
        since(&machine, (6, 12), script);
    }
}

/// K7: a new network namespace has IPv4's settings of the *initial* one, though
/// that is not its creator's, and IPv6's of the kernel.
#[test]
fn new_network_namespace_forwards_if_the_initial_one_does() {
    let machine = fresh_machine();
    let script = "
        cd /proc/sys/net
        for it in 0 1; do
            echo $it > ipv4/ip_forward; echo $it > ipv6/conf/all/forwarding
            net-demo cat ipv4/ip_forward ipv6/conf/all/forwarding
            net-demo sh -c '
                echo 0 > ipv4/ip_forward; exec net-demo cat ipv4/ip_forward'
        done";
    assert_eq!(machine.sh(Root, script), "0\n0\n0\n1\n0\n1\n");
}

/// K8: rootfs is the lowest mount, and nothing could take its place; now there
/// is a mount below it. The control is the root that is mounted over it.
#[test]
fn root_of_an_initramfs_can_be_pivoted() {
    let machine = fresh_machine();
    let script = r#"
        pivot='mkdir /tmp/new && mount -t tmpfs new /tmp/new &&
            mkdir /tmp/new/old && pivot_root /tmp/new /tmp/new/old'
        unshare --mount sh -c "mount --make-rprivate /; $pivot"
        rmdir /tmp/new
        # Below the root that is taken away here there is only rootfs.
        mkfifo ready hold
        unshare --mount sh -c '
            mount --make-rprivate /; umount --lazy /
            echo > ready; read end < hold' &
        read word < ready
        if nsenter --mount=/proc/$!/ns/mnt sh -c "$pivot" 2> /dev/null
        then echo yes
        else echo no
        fi
        echo > hold; wait"#;
    since(&machine, (7, 0), script);
}
