//! The UTS namespace: uts_namespaces(7).

use assert_cmd::assert::OutputAssertExt;

use crate::report::report;
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
        let inside = machine.run(user, ["uts-demo", "sh", "-c", script], b"");
        inside.assert().success().stdout("sparrow\n");
        machine.root(["hostname"]).assert().stdout("outside\n");
    }

    // Without the namespace it is seen.
    machine.root(["sh", "-c", script]).assert().stdout("sparrow\n");
    machine.root(["hostname"]).assert().stdout("sparrow\n");
}

/// U2
#[test]
fn domain_name_set_inside_is_not_seen_outside() {
    let machine = fresh_machine();
    for user in USERS {
        let inside = machine.run(user, ["uts-demo", "sh", "-c", DOMAIN], b"");
        inside.assert().success().stdout("nest\n");
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
    let names = format!("hostname; {DOMAIN}");
    let look = format!("readlink /proc/self/ns/uts; {names}");
    let facts = ["UTS namespace", "hostname", "NIS domain name"];
    let machine = fresh_machine();
    machine.sh(Root, &rename("branch", "leaf"));
    let outside = machine.sh(Root, &look);
    for user in USERS {
        let report = report(&machine, user, "uts-demo");
        let column = |i: usize| facts.map(|it| report[it][i].clone() + "\n");
        assert_eq!(
            [column(0), column(2)].map(|it| it.concat()),
            [&*outside; 2]
        );
        for fact in facts {
            assert_ne!(report[fact][1], report[fact][0]);
        }
        let inside = machine.run(user, ["uts-demo", "sh", "-c", &names], b"");
        inside.assert().success().stdout(column(1)[1..].concat());
        assert_eq!(report.len(), 3);
    }
    assert_eq!(machine.sh(Root, &look), outside);
}

/// U3
#[test]
fn new_namespace_starts_as_a_copy_of_the_callers_names() {
    let machine = fresh_machine();
    let script =
        format!("unshare --map-root-user --uts sh -c 'hostname; {DOMAIN}'");
    let copies = || USERS.map(|user| machine.sh(user, &script));
    assert_eq!(copies(), ["outside\n(none)\n"; 2]);
    // The next namespace starts with the new names.
    machine.sh(Root, &rename("branch", "leaf"));
    assert_eq!(copies(), ["branch\nleaf\n"; 2]);
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
    // Without the namespace the later names are seen.
    assert_eq!(machine.sh_with(Reader, look, &["env"]), "later later\n");
}

/// U3: the example's table.
#[test]
fn copies_go_their_own_ways() {
    let machine = fresh_machine();
    for user in USERS {
        let output = machine.run(user, ["copies"], b"");
        output.assert().success().stderr("").stdout(
            "                    outside             inside\n\
             at birth            tree, wood          tree, wood\n\
             inside renamed      tree, wood          bird, nest\n\
             outside renamed     hill, field         bird, nest\n\n\
             Learned: a new UTS namespace is a copy, and then its own.\n",
        );
    }
}

/// U4
#[test]
fn name_over_64_bytes_is_refused_and_nothing_changes() {
    let script = "hostname $(printf %065d 1) 2> /dev/null || hostname
        hostname $(printf %064d 1) && hostname";
    let longest = format!("{:064}", 1);
    let machine = fresh_machine();
    for user in USERS {
        let seen = machine.run(user, ["uts-demo", "sh", "-c", script], b"");
        seen.assert().success().stdout(format!("bird\n{longest}\n"));
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
    let machine = fresh_machine();
    for user in USERS {
        let output = machine.run(user, ["longest"], b"");
        output.assert().success().stderr("").stdout(
            "                    64 bytes            65 bytes\n\
             sethostname         done                EINVAL\n\
             setdomainname       done                EINVAL\n\n\
             Learned: a name has 64 bytes at most.\n",
        );
    }
}
