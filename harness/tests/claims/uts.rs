//! The UTS namespace: uts_namespaces(7).

use assert_cmd::assert::OutputAssertExt;
use rstest::rstest;

use crate::ground::{Reader, Root, USERS, User, outside};
use crate::report::report;

/// U1
#[test]
#[cfg_attr(ground_here, ignore = "renames the machine")]
fn hostname_set_inside_is_not_seen_outside() {
    let outside = outside();
    let script = "hostname -b sparrow && hostname";
    for user in USERS {
        let inside = outside.run(user, ["uts-demo", "sh", "-c", script], b"");
        inside.assert().success().stdout("sparrow\n");
        outside.root(["hostname"]).assert().stdout("outside\n");
    }

    // Without the namespace it is seen.
    outside.root(["sh", "-c", script]).assert().stdout("sparrow\n");
    outside.root(["hostname"]).assert().stdout("sparrow\n");
}

/// U2
#[rstest]
#[cfg_attr(ground_here, ignore = "renames the machine")]
fn domain_name_set_inside_is_not_seen_outside(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let domain = "cat /proc/sys/kernel/domainname";
    let script = format!("domainname tree && {domain}");
    let inside = outside.run(user, ["uts-demo", "sh", "-c", &script], b"");
    inside.assert().success().stdout("tree\n");
    assert_eq!(outside.sh(Root, domain), "(none)\n");

    // Without the namespace it is seen.
    assert_eq!(outside.sh(Root, &script), "tree\n");
    assert_eq!(outside.sh(Root, domain), "tree\n");
}

/// U1, U2: the demo's own words, and what the tools say.
#[rstest]
#[cfg_attr(ground_here, ignore = "renames the machine")]
fn uts_report_agrees_with_the_tools(#[values(Root, Reader)] user: User) {
    let outside = outside();
    outside.sh(Root, "hostname branch; domainname leaf");
    let look = "readlink /proc/self/ns/uts; hostname; domainname";
    let there = outside.sh(user, look);
    let inside = outside.sh(user, &format!("exec uts-demo sh -c '{look}'"));
    let report = report(&outside, user, "uts-demo");
    for (i, fact) in
        ["UTS namespace", "hostname", "NIS domain name"].iter().enumerate()
    {
        let row = &report[*fact];
        assert_eq!([&row[0], &row[2]], [there.lines().nth(i).unwrap(); 2]);
        assert_ne!(row[1], row[0]);
        if i > 0 {
            assert_eq!(row[1], inside.lines().nth(i).unwrap());
        }
    }
    assert_eq!(report.len(), 3);
    assert_eq!(outside.sh(user, look), there);
}

/// U3
#[rstest]
#[cfg_attr(ground_here, ignore = "renames the machine")]
fn new_namespace_starts_as_a_copy_of_the_callers_names(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let script = "unshare --map-root-user --uts sh -c 'hostname; domainname'";
    assert_eq!(outside.sh(user, script), "outside\n(none)\n");
    // Not a copy of anything else: the next one starts with the new names.
    outside.sh(Root, "hostname branch; domainname leaf");
    assert_eq!(outside.sh(user, script), "branch\nleaf\n");
}

/// U3
#[rstest]
#[cfg_attr(ground_here, ignore = "renames the machine")]
fn later_names_of_the_outside_do_not_come_in(
    #[values(Root, Reader)] user: User,
) {
    let start = "mkdir /tmp/$1; cd /tmp/$1; mkfifo ready go seen
        $1 sh -c 'echo > ready; read _ < go
            { hostname; domainname; } > seen' &
        read _ < ready";
    let look = "cd /tmp/$1; echo > go; cat seen";
    let outside = outside();
    outside.sh_with(user, start, &["uts-demo"]);
    outside.sh_with(user, start, &["env"]);
    outside.sh(Root, "hostname later; domainname later");
    assert_eq!(outside.sh_with(user, look, &["uts-demo"]), "bird\nnest\n");
    // Without the namespace they do.
    assert_eq!(outside.sh_with(user, look, &["env"]), "later\nlater\n");
}

/// U3: the example's table.
#[rstest]
fn copies_go_their_own_ways(#[values(Root, Reader)] user: User) {
    outside().run(user, ["copies"], b"").assert().success().stderr("").stdout(
        "                    outside             inside\n\
         at birth            tree, wood          tree, wood\n\
         inside renamed      tree, wood          bird, nest\n\
         outside renamed     hill, field         bird, nest\n",
    );
}

/// U4
#[rstest]
fn name_over_64_bytes_is_refused_and_nothing_changes(
    #[values(Root, Reader)] user: User,
) {
    // EINVAL is what hostname(1) calls too long.
    let script = "for name in hostname domainname; do
            $name $(printf %065d 1) 2>&1 || $name
            $name $(printf %064d 1) && $name
        done";
    let seen = outside().run(user, ["uts-demo", "sh", "-c", script], b"");
    let longest = format!("{:064}", 1);
    seen.assert().success().stdout(format!(
        "hostname: name too long\nbird\n{longest}\n\
         domainname: name too long\nnest\n{longest}\n"
    ));
}
