//! The UTS namespace: uts_namespaces(7).

use crate::report::{assert_prints, assert_prints_its_page, assert_report};
use crate::target::{Reader, Root, USERS, fresh_machine};

/// A script that sets both names; for root. Not every distribution has
/// domainname(1).
pub fn rename(host: &str, domain: &str) -> String {
    format!("hostname {host}; echo {domain} > /proc/sys/kernel/domainname")
}

/// U1: without the namespace it is seen.
#[test]
fn hostname_set_inside_is_not_seen_outside() {
    fresh_machine().types(
        "
% uts-demo sh -c 'hostname sparrow && hostname'; hostname
sparrow
outside
# hostname sparrow && hostname
sparrow
% hostname
sparrow",
    );
}

/// U2: without the namespace it is seen.
#[test]
fn domain_name_set_inside_is_not_seen_outside() {
    fresh_machine().types(
        "
% cd /proc/sys/kernel; uts-demo cat domainname; cat domainname
nest
(none)
# echo tree > /proc/sys/kernel/domainname
% cat /proc/sys/kernel/domainname
tree",
    );
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
            ("NIS domain name", "cat /proc/sys/kernel/domainname", "nest"),
        ];
        assert_report(&machine, user, "uts-demo", &rows);
    }
    let names = "hostname; cat /proc/sys/kernel/domainname";
    assert_eq!(machine.sh(Root, names), "branch\nleaf\n");
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
    let longest = format!("{:064}", 1);
    let machine = fresh_machine();
    machine.types(&format!(
        "
% uts-demo sh -c 'hostname 0{longest} 2> /dev/null || hostname
>     hostname {longest} && hostname'
bird
{longest}"
    ));
    for user in USERS {
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
