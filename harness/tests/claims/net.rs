//! The network namespace: network_namespaces(7).

use crate::report::{assert_prints, assert_prints_its_page, assert_report};
use crate::target::{Reader, Root, SOON, USERS, fresh_machine};

/// Prints the first word of each line: two headings and the interfaces.
const PROC: &str = "while read name rest; do echo $name; done < /proc/net/dev";

/// The interfaces' names in such a listing (`dummy0:`) and in the output of
/// `ip -o link` (`2: dummy0: <UP> ...`).
fn links(listing: &str) -> Vec<&str> {
    let words = listing.split_whitespace();
    let words = words.filter_map(|word| word.strip_suffix(':'));
    words.filter(|word| word.parse::<u32>().is_err()).collect()
}

/// Interface, kind and address of each line of `ip -o address`.
fn addresses(listing: &str) -> Vec<[&str; 3]> {
    let words = |line| str::split_whitespace(line).collect::<Vec<_>>();
    let address = |line| match words(line)[..] {
        [_, link, kind @ ("inet" | "inet6"), it, ..] => Some([link, kind, it]),
        _ => None,
    };
    listing.lines().filter_map(address).collect()
}

/// N1
#[test]
fn there_is_only_lo_inside() {
    let machine = fresh_machine();
    let look = format!("ip -o link; {PROC}");
    for user in USERS {
        let inside = machine.says(user, ["net-demo", "sh", "-euc", &look]);
        assert_eq!(links(&inside), ["lo"; 2]);
    }
    // Outside there are more interfaces.
    let outside = machine.sh(Root, &look);
    assert!(links(&outside).iter().filter(|it| **it != "lo").count() >= 2);
}

/// N1, N2, N3: compares the demo's report with what the tools print.
#[test]
fn net_report_agrees_with_the_tools() {
    let machine = fresh_machine();
    let los =
        "echo $(ip -o address show lo | awk '{ print $4 }' | cut -d/ -f1)";
    for user in USERS {
        let rows = [
            ("net namespace", "readlink /proc/self/ns/net", "*"),
            ("interfaces up", "echo $(ip -o link show up | cut -d: -f2)", "lo"),
            ("lo at birth", "echo -", "down"),
            ("lo", los, "="),
            ("other addresses", "ip -o address | grep -vc ': lo '", "0"),
            ("listener outside", "echo answers", "ECONNREFUSED"),
        ];
        let seen = assert_report(&machine, user, "net-demo", &rows);
        // Of all rows only the addresses of lo are the same.
        let same = seen.iter().map(|[inside, outside]| inside == outside);
        assert!(same.eq([false, false, false, true, false, false]), "{user}");
    }
}

/// N2
#[test]
fn lo_is_born_down_and_brought_up() {
    let machine = fresh_machine();
    for user in USERS {
        let born = ["unshare", "--map-root-user", "--net"];
        for (links, flags, error) in [
            (&born[..], "<LOOPBACK>", "ENETUNREACH"),
            (&["net-demo"], "<LOOPBACK,UP,LOWER_UP>", "ECONNREFUSED"),
        ] {
            let look = [links, &["ip", "-o", "link", "show", "lo"]].concat();
            let seen = machine.says(user, look);
            assert!(seen.contains(flags), "{user}: {seen}");
            // The port does not matter, because no program listens.
            let connect = ["bash", "-c", ": < /dev/tcp/127.0.0.1/9"];
            let call = ["connect", "AF_INET"];
            let end = machine.end_of_call(user, links, call, &connect);
            assert_eq!(end, error, "{user}: {links:?}");
        }
    }
}

/// N2
#[test]
fn there_is_no_address_but_los_and_no_route_elsewhere() {
    let machine = fresh_machine();
    let script = "ip -o address; ip route; ip -6 route";
    for user in USERS {
        let inside = machine.says(user, ["net-demo", "sh", "-euc", script]);
        let los = [["lo", "inet", "127.0.0.1/8"], ["lo", "inet6", "::1/128"]];
        assert_eq!(addresses(&inside), los);
        // There are no more lines, so there is no route.
        assert_eq!(inside.lines().count(), los.len(), "{inside}");
    }
    // Outside there are other addresses, and routes.
    let outside = machine.sh(Root, script);
    assert!(addresses(&outside).len() > 2, "{outside}");
    assert!(outside.lines().count() > addresses(&outside).len(), "{outside}");
}

/// N3
#[test]
fn listener_outside_does_not_answer_inside() {
    let machine = fresh_machine();
    // The demo's report listens on 127.0.0.1. Its output is a full pipe, so its
    // write blocks, and it continues to listen. /proc/net/tcp has the listener
    // in its second line, below the headings.
    let script = format!(
        "{SOON} listens() {{ {{ read title; read line; }} < /proc/net/tcp; }}
        mkfifo full; exec 3<> full; printf %65536s '' >&3
        net-demo >&3 &
        soon listens
        echo $line"
    );
    let listener = machine.sh(Reader, &script);
    let listener: Vec<&str> = listener.split(' ').collect();
    // The bytes of the address in reverse order, and the state TCP_LISTEN.
    let [_, address, _, "0A", ..] = listener[..] else {
        panic!("{listener:?}")
    };
    let port = address.strip_prefix("0100007F:").expect("127.0.0.1");
    let connect = format!(": < /dev/tcp/127.0.0.1/$((16#{port}))");
    for user in USERS {
        let listeners = |links: &[&str]| {
            machine.says(user, [links, &["cat", "/proc/net/tcp"]].concat())
        };
        let connect = |links: &[&str]| {
            let bash = ["bash", "-c", &connect];
            machine.end_of_call(user, links, ["connect", "AF_INET"], &bash)
        };
        // Only the headings: no program listens inside.
        assert_eq!(listeners(&["net-demo"]).lines().count(), 1);
        assert_eq!(connect(&["net-demo"]), "ECONNREFUSED", "{user}");
        // Outside it is listed, and answers.
        assert!(listeners(&[]).contains(address), "{user}");
        assert_eq!(connect(&[]), "done", "{user}");
    }
}

/// N3: the example's table.
#[test]
fn same_port_is_free_inside() {
    let text = "                    connect             bind the same port
outside             done                EADDRINUSE
inside, lo is down  ENETUNREACH         done
inside, lo is up    ECONNREFUSED        done

Learned: each network namespace has its own ports.\n";
    assert_prints("same_port", text);
}

/// N4: the control. Without the namespace a new sysfs shows what the old shows.
#[test]
fn new_sysfs_shows_its_mounters_network() {
    let script = "mount -t sysfs sysfs /mnt
        for at in /sys /mnt; do cd $at/class/net; echo *; done";
    let look = ["unshare", "--mount", "sh", "-euc", script];
    let machine = fresh_machine();
    let outside = machine.says(Root, look);
    let [old, new] = outside.lines().collect::<Vec<_>>()[..] else {
        panic!("{outside}")
    };
    assert_eq!(old, new);
    for user in USERS {
        let inside = machine.says(user, [&["net-demo"], &look[..]].concat());
        assert_eq!(inside, format!("{old}\nlo\n"), "{user}");
    }
}

/// N4: the example's table.
#[test]
fn sysfs_stays_where_proc_follows() {
    assert_prints_its_page("net-demo", "sysfs");
}

/// N5: the example's table.
#[test]
fn abstract_sockets_are_separate_and_paths_are_not() {
    let text = "listener outside      outside             inside
connect to @bird      done                ECONNREFUSED
bind @bird as well    EADDRINUSE          done
connect to /tmp/bird  done                done
bind /tmp/bird too    EADDRINUSE          EADDRINUSE

Learned: only abstract sockets belong to a network namespace.\n";
    assert_prints("abstract_socket", text);
}

/// N6
#[test]
fn descriptor_mount_or_socket_keeps_a_namespace() {
    let machine = fresh_machine();
    // Each namespace gets one end of a veth. It is destroyed with its
    // namespace, and then the end that is outside is gone as well.
    let script = r#"modprobe veth; cd /tmp; mkfifo ready hold out stay; : > mounted
        start() {
            unshare --net sh -c 'echo > ready; read end < hold' & pid=$!
            read word < ready
            ip link add $1 type veth peer name inside netns $pid
        }
        finish() { echo > hold; wait $pid; }
        start descriptor; exec 8< /proc/$pid/ns/net; finish
        start mount; mount --bind /proc/$pid/ns/net mounted; finish
        # A socket that is made inside, of a process that goes outside then.
        start socket
        nsenter --net --target $pid ip link set lo up
        nsenter --net --target $pid bash -c '
            exec 9<> /dev/udp/127.0.0.1/9
            exec nsenter --net --target 1 sh -c "echo > out; read end < stay"
        ' 8<&- & holder=$!
        read word < out; finish
        start nothing; finish
        # ls(1) and not the shell: a loop without a system call that waits keeps
        # the kernel's worker from the processor.
        gone() { while ls -d /sys/class/net/$1 > seen 2>&1; do :; done; }
        left() { for it in descriptor mount socket nothing; do
            [ ! -e /sys/class/net/$it ] || printf "$it "; done; echo; }
        gone nothing; left
        exec 8<&-; gone descriptor; left
        umount mounted; gone mount; left
        echo > stay; wait $holder
        gone socket; left"#;
    assert_eq!(
        machine.sh(Root, script),
        "descriptor mount socket \nmount socket \nsocket \n\n"
    );
}

/// N6: the control is a socket that was made there and closed.
#[test]
fn socket_in_flight_keeps_a_namespace() {
    let machine = fresh_machine();
    machine.put("/tmp/in_flight");
    // A veth shows which namespaces are left, as above.
    let script = r#"modprobe veth; cd /tmp; mkfifo ready hold out
        for it in sent closed; do
            unshare --net sh -c 'echo > ready; read end < hold' & pid=$!
            read word < ready
            ip link add $it type veth peer name inside netns $pid
            mkfifo stay-$it
            /tmp/in_flight $pid $it <> stay-$it > out &
            [ $it = closed ] || sent=$!
            read word < out; echo > hold; wait $pid
        done
        gone() { while ls -d /sys/class/net/$1 > seen 2>&1; do :; done; }
        gone closed
        ls -d /sys/class/net/sent
        # The process has no socket but the two ends of the Unix socket.
        ls -l /proc/$sent/fd | grep -c socket:
        echo > stay-sent; gone sent; echo > stay-closed; wait"#;
    assert_eq!(machine.sh(Root, script), "/sys/class/net/sent\n2\n");
}
