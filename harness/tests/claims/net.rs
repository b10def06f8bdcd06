//! The network namespace: network_namespaces(7).

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};
use crate::report::report;

/// The interfaces, as netlink and as /proc know them.
const LINKS: &str = "ip -o link | cut -d: -f2 | tr -d ' '; ifconfig -a -s | \
     tail -n +2 | cut -d' ' -f1; tail -n +3 /proc/net/dev | cut -d: -f1 | \
     tr -d ' '";

/// N1
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn there_is_only_lo_inside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let inside = outside.run(user, ["net-demo", "sh", "-c", LINKS], b"");
    inside.assert().success().stdout("lo\n".repeat(3));
    // Outside there is more.
    let there = outside.sh(user, LINKS);
    assert!(there.lines().filter(|it| *it != "lo").count() >= 3, "{there}");
}

/// N1, N2, N3: the demo's own words, and what the tools say.
#[rstest]
#[cfg_attr(ground_here, ignore = "the VM's interfaces fit into a column")]
fn net_report_agrees_with_the_tools(#[values(Root, Reader)] user: User) {
    let look = "readlink /proc/self/ns/net
        echo $(ip -o link show up | cut -d: -f2)
        echo $(ip -o address show lo | tr -s ' ' | cut -d' ' -f4 | cut -d/ -f1)
        ip -o address | grep -vc '^[0-9]*: lo ' || true";
    let facts = ["net namespace", "interfaces up", "lo", "other addresses"];
    let outside = outside();
    let there = outside.sh(user, look);
    let inside = outside.run(user, ["net-demo", "sh", "-c", look], b"");
    let inside = String::from_utf8(inside.stdout).expect("text");
    let report = report(&outside, user, "net-demo");
    let lines = there.lines().zip(inside.lines());
    for (fact, (outside, inside)) in facts.iter().zip(lines) {
        let row = &report[*fact];
        assert_eq!([&row[0], &row[2]], [outside; 2], "{fact}");
        match *fact {
            "net namespace" => assert_ne!(row[1], row[0]),
            _ => assert_eq!(row[1], inside, "{fact}"),
        }
        // Only lo is the same, by its addresses.
        assert_eq!(row[1] == row[0], *fact == "lo", "{fact}");
    }
    assert_eq!(report["lo at birth"], ["-", "down", "-"]);
    let answers = ["answers", "ECONNREFUSED", "answers"];
    assert_eq!(report["listener outside"], answers);
    assert_eq!(report.len(), 6);
}

/// N2
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn lo_is_born_down_and_brought_up(#[values(Root, Reader)] user: User) {
    let outside = outside();
    // The port does not matter: nobody listens.
    let look = "ip -o link show lo; : < /dev/tcp/127.0.0.1/9";
    let born = ["unshare", "--map-root-user", "--net", "bash", "-c", look];
    outside
        .run(user, born, b"")
        .assert()
        .failure()
        .stdout(predicate::str::contains("<LOOPBACK>"))
        .stderr(predicate::str::contains("Network is unreachable"));
    outside
        .run(user, ["net-demo", "bash", "-c", look], b"")
        .assert()
        .failure()
        .stdout(predicate::str::contains("<LOOPBACK,UP,LOWER_UP>"))
        .stderr(predicate::str::contains("Connection refused"));
}

/// N2
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn there_is_no_address_but_los_and_no_route_elsewhere(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let addresses = "ip -o address | tr -s ' ' | cut -d' ' -f2-4";
    let routes = "ip route; ip -6 route";
    let script = format!("{addresses}; {routes}");
    let inside = outside.run(user, ["net-demo", "sh", "-c", &script], b"");
    inside.assert().success().stdout("lo inet 127.0.0.1/8\nlo inet6 ::1/128\n");
    // Outside there are others.
    assert!(outside.sh(user, addresses).lines().count() > 2);
    assert_ne!(outside.sh(user, routes), "");
}

/// N3
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside: dummy0")]
fn listener_outside_does_not_answer_inside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    // No tool of the guest listens, but the report does, on 127.0.0.1. Its
    // output is a pipe that is full, so it waits there, and goes on listening.
    let port = outside.sh(
        user,
        "cd $(mktemp -d); mkfifo full; exec 3<> full
        head -c 65536 /dev/zero >&3
        net-demo >&3 &
        end=$(($(date +%s) + 30)) line=
        until [ -n \"$line\" ]; do
            [ $(date +%s) -lt $end ]
            line=$(ss -Hltn | grep -o '127.0.0.1:[0-9]*') || true
        done
        echo ${line#*:}",
    );
    let connect = format!("ss -Hltn; : < /dev/tcp/127.0.0.1/{}", port.trim());
    outside
        .run(user, ["net-demo", "bash", "-c", &connect], b"")
        .assert()
        .failure()
        .stdout("")
        .stderr(predicate::str::contains("Connection refused"));
    // Outside it answers.
    outside
        .run(user, ["bash", "-c", &connect], b"")
        .assert()
        .success()
        .stdout(predicate::str::contains(port.trim()))
        .stderr("");
}

/// N3: the example's table.
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn same_port_is_free_inside(#[values(Root, Reader)] user: User) {
    let output = outside().run(user, ["same_port"], b"");
    output.assert().success().stderr("").stdout(
        "                    connect             bind the same port\n\
         outside             done                EADDRINUSE\n\
         inside, lo is down  ENETUNREACH         done\n\
         inside, lo is up    ECONNREFUSED        done\n",
    );
}

/// N4
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn sys_class_net_shows_the_outside_until_sysfs_is_mounted_anew(
    #[values(Root, Reader)] user: User,
) {
    let look = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort
        echo; ls /sys/class/net";
    let anew = "mount -t sysfs sysfs /mnt; ls /mnt/class/net; echo
        ls /sys/class/net";
    let argv = ["unshare", "--mount", "sh", "-euc", anew];
    let outside = outside();
    let there = outside.sh(user, look);
    let [proc, sys] = [0, 1].map(|i| there.split("\n\n").nth(i).unwrap());
    assert_eq!(format!("{proc}\n"), sys);
    assert_ne!(proc, "lo");

    let inside = outside.run(user, ["net-demo", "sh", "-c", look], b"");
    inside.assert().success().stdout(format!("lo\n\n{sys}"));
    let inside = outside.run(user, [&["net-demo"], &argv[..]].concat(), b"");
    inside.assert().success().stdout(format!("lo\n\n{sys}"));
    // Without the namespace a new one shows the same as the old.
    outside.root(argv).assert().success().stdout(format!("{sys}\n{sys}"));
}

/// N4: the example's table.
#[rstest]
#[cfg_attr(ground_here, ignore = "names the VM's interfaces")]
fn sysfs_stays_where_proc_follows(#[values(Root, Reader)] user: User) {
    outside().run(user, ["sysfs"], b"").assert().success().stderr("").stdout(
        "                    /proc/net/dev               /sys/class/net\n\
         outside             dummy0 lo                   dummy0 lo\n\
         inside              lo                          dummy0 lo\n\
         /sys anew           lo                          lo\n",
    );
}

/// N5: the example's table.
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn abstract_sockets_are_separate_and_paths_are_not(
    #[values(Root, Reader)] user: User,
) {
    let output = outside().run(user, ["abstract_socket"], b"");
    output.assert().success().stderr("").stdout(
        "listener outside      outside             inside\n\
         connect to @bird      done                ECONNREFUSED\n\
         bind @bird as well    EADDRINUSE          done\n\
         connect to /tmp/bird  done                done\n\
         bind /tmp/bird too    EADDRINUSE          EADDRINUSE\n",
    );
}
