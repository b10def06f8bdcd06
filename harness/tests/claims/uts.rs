//! The UTS namespace: uts_namespaces(7).

use assert_cmd::assert::OutputAssertExt;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};

/// U1
#[rstest]
fn hostname_set_inside_is_not_seen_outside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let script = "hostname -b sparrow && hostname";
    let inside = outside.run(user, ["uts-demo", "sh", "-c", script], b"");
    inside.assert().success().stdout("sparrow\n");
    outside.root(["hostname"]).assert().stdout("outside\n");

    // Without the namespace it is seen.
    outside.root(["sh", "-c", script]).assert().stdout("sparrow\n");
    outside.root(["hostname"]).assert().stdout("sparrow\n");
}

/// U2
#[rstest]
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
