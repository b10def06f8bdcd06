//! The UTS namespace: uts_namespaces(7).

use crate::report::{assert_prints, assert_prints_its_page, assert_report};
use crate::target::{Reader, Root, USERS, fresh_machine};

/// Not every distribution has domainname(1).
const DOMAIN: &str = "cat /proc/sys/kernel/domainname";

/// A script that sets both names; for root.
pub fn rename(host: &str, domain: &str) -> String {
    format!("hostname {host}; echo {domain} > /proc/sys/kernel/domainname")
}

/// U1
#[test]
fn hostname_set_inside_is_not_seen_outside() {
    let machine = fresh_machine();
    let script = "hostname sparrow && hostname";
    for user in USERS {
        let inside = machine.says(user, ["uts-demo", "sh", "-c", script]);
        assert_eq!(inside, "sparrow\n");
        assert_eq!(machine.sh(Root, "hostname"), "outside\n");
    }

    // Without the namespace it is seen.
    assert_eq!(machine.sh(Root, script), "sparrow\n");
    assert_eq!(machine.sh(Root, "hostname"), "sparrow\n");
}

/// U2
#[test]
fn domain_name_set_inside_is_not_seen_outside() {
    let machine = fresh_machine();
    for user in USERS {
        let inside = machine.says(user, ["uts-demo", "sh", "-c", DOMAIN]);
        assert_eq!(inside, "nest\n");
        assert_eq!(machine.sh(Root, DOMAIN), "(none)\n");
    }

    // Without the namespace it is seen.
    machine.sh(Root, "echo tree > /proc/sys/kernel/domainname");
    for user in USERS {
        assert_eq!(machine.sh(user, DOMAIN), "tree\n");
    }
}

/// U1, U2: compares the demo's report with what the tools print.
#[test]
fn uts_report_agrees_with_the_tools() {
    let machine = fresh_machine();
    machine.sh(Root, &rename("branch", "leaf"));
    for user in USERS {
        let rows = [
            ("UTS namespace", "readlink /proc/self/ns/uts", "*"),
            ("hostname", "hostname", "bird"),
            ("NIS domain name", DOMAIN, "nest"),
        ];
        assert_report(&machine, user, "uts-demo", &rows);
    }
    let names = format!("hostname; {DOMAIN}");
    assert_eq!(machine.sh(Root, &names), "branch\nleaf\n");
}

/// U3
#[test]
fn later_names_of_the_outside_do_not_come_in() {
    let start = "mkfifo $1-ready $1-go $1-seen
        $1 sh -c \"echo > $1-ready; read _ < $1-go
            { hostname; cat /proc/sys/kernel/domainname; } > $1-seen\" &
        read _ < $1-ready";
    let look = "echo > $1-go
        { read host; read domain; } < $1-seen
        echo $host $domain";
    let machine = fresh_machine();
    for user in USERS {
        machine.sh_with(user, start, &["uts-demo"]);
    }
    machine.sh_with(Reader, start, &["env"]);
    machine.sh(Root, &rename("later", "later"));
    for user in USERS {
        let inside = machine.sh_with(user, look, &["uts-demo"]);
        assert_eq!(inside, "bird nest\n");
    }
    // Without the namespace the later names are seen, and in a new one.
    assert_eq!(machine.sh_with(Reader, look, &["env"]), "later later\n");
    assert_eq!(machine.sh(Root, "unshare --uts hostname"), "later\n");
}

/// U3: the example's table.
#[test]
fn copies_go_their_own_ways() {
    assert_prints_its_page("uts-demo", "copies");
}

/// U4
#[test]
fn name_over_64_bytes_is_refused_and_nothing_changes() {
    let script = "hostname $(printf %065d 1) 2> /dev/null || hostname
        hostname $(printf %064d 1) && hostname";
    let longest = format!("{:064}", 1);
    let machine = fresh_machine();
    for user in USERS {
        let seen = machine.says(user, ["uts-demo", "sh", "-c", script]);
        assert_eq!(seen, format!("bird\n{longest}\n"));
        let end = |name: &str| {
            let (uts, tool) = (["uts-demo"], ["hostname", name]);
            machine.end_of_call(user, &uts, ["sethostname", ""], &tool)
        };
        assert_eq!(end(&format!("0{longest}")), "EINVAL", "{user}");
        assert_eq!(end(&longest), "done", "{user}");
    }
}

/// U4: the same for both names.
#[test]
fn longest_name_has_64_bytes() {
    let text = "                    64 bytes            65 bytes
sethostname         done                EINVAL
setdomainname       done                EINVAL

Learned: a name has 64 bytes at most.\n";
    assert_prints("longest", text);
}
