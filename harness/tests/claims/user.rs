//! The user namespace: user_namespaces(7).

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};
use crate::report::report;

/// All capabilities of this kernel, as /proc/PID/status shows them.
const ALL: &str =
    "printf '%016x\\n' $(((2 << $(cat /proc/sys/kernel/cap_last_cap)) - 1))";

/// Those of this process. It needs no other, which would have its own.
const MINE: &str = "grep CapEff /proc/self/status | cut -f 2";

/// The caller's id outside, where gid and uid are the same.
fn id(user: User) -> &'static str {
    if user == Root { "0" } else { "1000" }
}

/// S1
#[rstest]
fn caller_is_root_inside(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let look = "id -u; id -g; cd /proc/self; tr -s ' ' < uid_map
        tr -s ' ' < gid_map; cat setgroups";
    let inside = outside.run(user, ["user-demo", "sh", "-c", look], b"");
    let (id, all) = (id(user), "4294967295");
    inside
        .assert()
        .success()
        .stdout(format!("0\n0\n 0 {id} 1\n 0 {id} 1\ndeny\n"));
    // Without the namespace everyone is who he is.
    let seen = format!("{id}\n{id}\n 0 0 {all}\n 0 0 {all}\nallow\n");
    assert_eq!(outside.sh(user, look), seen);
}

/// S1
#[rstest]
fn file_made_inside_belongs_to_the_caller_outside(
    #[values(Root, Reader)] user: User,
) {
    let script = "cd $(mktemp -d)
        user-demo sh -c 'touch made; stat -c %u:%g made'
        stat -c %u:%g made; rm made";
    let id = id(user);
    assert_eq!(outside().sh(user, script), format!("0:0\n{id}:{id}\n"));
}

/// S1, S2: the demo's own words, and what the tools say.
#[rstest]
fn user_report_agrees_with_the_tools(#[values(Root, Reader)] user: User) {
    let look = format!(
        "readlink /proc/self/ns/user; id -u; id -g; cd /proc/self
        echo $(cat uid_map); echo $(cat gid_map); {MINE}; cd
        file=$(mktemp); stat -c %u $file; rm $file"
    );
    let facts = [
        "user namespace",
        "uid",
        "gid",
        "uid_map",
        "gid_map",
        "capabilities",
        "owner of its file",
    ];
    let outside = outside();
    let there = outside.sh(user, &look);
    let inside = outside.run(user, ["user-demo", "sh", "-c", &look], b"");
    let inside = String::from_utf8(inside.stdout).expect("text");
    let report = report(&outside, user, "user-demo");
    assert_eq!(report.len(), facts.len());
    let lines = there.lines().zip(inside.lines());
    for (fact, (outside, inside)) in facts.iter().zip(lines) {
        let row = &report[*fact];
        assert_eq!([&row[0], &row[2]], [outside; 2], "{fact}");
        match *fact {
            "user namespace" => assert_ne!(row[1], row[0]),
            _ => assert_eq!(row[1], inside, "{fact}"),
        }
    }
}

/// S2
#[rstest]
fn program_started_before_the_map_has_no_capability(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let look = format!("id -u; id -g; {MINE}");
    let before = outside.run(user, ["unshare", "-U", "sh", "-c", &look], b"");
    let none = "0".repeat(16);
    before.assert().success().stdout(format!("65534\n65534\n{none}\n"));
    // After it, it has them all.
    let all = outside.sh(user, ALL);
    let after = outside.run(user, ["user-demo", "sh", "-c", &look], b"");
    after.assert().success().stdout(format!("0\n0\n{all}"));
}

/// S2: the example's table; it looks before any exec as well.
#[rstest]
fn capabilities_come_before_the_map(#[values(Root, Reader)] user: User) {
    let outside = outside();
    let (all, mine) = (outside.sh(user, ALL), outside.sh(user, MINE));
    let (all, mine, none) = (all.trim(), mine.trim(), "0".repeat(16));
    let id = id(user);
    let output = outside.run(user, ["before_the_map"], b"");
    output.assert().success().stderr("").stdout(format!(
        "                      uid      gid      capabilities\n\
         outside               {id:7}  {id:7}  {mine}\n\
         before the map        65534    65534    {all}\n  \
           and a program       65534    65534    {none}\n\
         after the map         0        0        {all}\n  \
           and a program       0        0        {all}\n"
    ));
}

/// Starts a process in a new user namespace, without a map. Writes to its
/// files from outside: `FILE TEXT`, as often as there are arguments. Prints
/// what came of the last.
const WRITE: &str = r#"
cd $(mktemp -d); mkfifo ready stay
unshare --user sh -c 'echo > ready; read _ < stay' &
read _ < ready
while [ $# -gt 0 ]; do
    last=$(env printf "$2" 2>&1 > /proc/$!/$1) && last=done
    shift 2
done
echo > stay
echo "${last#printf: write error: }"
"#;
const EPERM: &str = "Operation not permitted";
const EINVAL: &str = "Invalid argument";

/// S3: since Linux 3.19, and not where the writer is root outside.
#[test]
fn gid_map_needs_setgroups_to_be_denied_first() {
    let outside = outside();
    let late = ["gid_map", "0 1000 1", "setgroups", "deny"];
    let seen = outside.sh_with(Reader, WRITE, &late[..2]);
    assert_eq!(seen.trim(), EPERM);
    let right = [&late[2..], &late[..2]].concat();
    assert_eq!(outside.sh_with(Reader, WRITE, &right).trim(), "done");
    assert_eq!(outside.sh_with(Root, WRITE, &late[..2]).trim(), "done");
    // And there is no way back.
    let back = ["setgroups", "deny", "setgroups", "allow"];
    assert_eq!(outside.sh_with(Reader, WRITE, &back).trim(), EPERM);
}

/// S4: what root outside gets is the control, for the same bytes.
#[rstest]
#[case::one_line_of_ones_own(&["0 1000 1"], "done", "done")]
#[case::another_number_inside(&["5 1000 1"], "done", "done")]
#[case::somebody_else(&["0 1001 1"], EPERM, "done")]
#[case::root(&["0 0 1"], EPERM, "done")]
#[case::two_lines(&["0 1000 1\n1 1001 1\n"], EPERM, "done")]
#[case::more_than_one(&["0 1000 2"], EPERM, "done")]
#[case::a_second_time(&["0 1000 1", "0 1000 1"], EPERM, EPERM)]
#[case::after_a_refusal(&["0 1001 1", "0 1000 1"], "done", EPERM)]
#[case::no_length(&["0 1000"], EINVAL, EINVAL)]
#[case::length_zero(&["0 1000 0"], EINVAL, EINVAL)]
#[case::an_overlap(&["0 1000 1\n0 1000 1\n"], EINVAL, EINVAL)]
#[case::no_number(&["zero 1000 1"], EINVAL, EINVAL)]
fn uid_map_takes_one_line_for_oneself_once(
    #[case] maps: &[&str],
    #[case] readers: &str,
    #[case] roots: &str,
) {
    let outside = outside();
    let words: Vec<&str> =
        maps.iter().flat_map(|map| ["uid_map", map]).collect();
    assert_eq!(outside.sh_with(Reader, WRITE, &words).trim(), readers);
    assert_eq!(outside.sh_with(Root, WRITE, &words).trim(), roots);
}

/// S3, S4: the example's table. Who has entered is not root outside.
#[rstest]
fn refused_maps_have_their_errors(#[values(Root, Reader)] user: User) {
    let output = outside().run(user, ["map_rules"], b"");
    let table = [
        ("uid_map 0 U 1; setgroups deny; gid_map 0 G 1", "done"),
        ("uid_map 0 U 1; gid_map 0 G 1", "EPERM"),
        ("uid_map 0 V 1", "EPERM"),
        ("uid_map 0 U 1, 1 V 1", "EPERM"),
        ("uid_map 0 U 2", "EPERM"),
        ("uid_map 0 U 1; uid_map 0 U 1", "EPERM"),
        ("setgroups deny; setgroups allow", "EPERM"),
        ("uid_map 0 U 1; setgroups deny; gid_map 0 G 1; setgroups()", "EPERM"),
        ("uid_map 0 U 0", "EINVAL"),
        ("uid_map 0 U 1, 0 U 1", "EINVAL"),
    ];
    let table = table.map(|(steps, end)| format!("{steps:60}  {end}\n"));
    output.assert().success().stderr("").stdout(table.concat());
}

/// S5
#[test]
fn root_inside_is_nobody_to_the_outsides_files() {
    let outside = outside();
    let inside = outside.reader(["user-demo", "cat", "/etc/shadow"]);
    let denied = "cat: /etc/shadow: Permission denied\n";
    inside.assert().failure().stdout("").stderr(denied);
    let owner = ["stat", "-c", "%u", "/etc/shadow"];
    let inside = outside.reader([&["user-demo"], &owner[..]].concat());
    inside.assert().success().stdout("65534\n");
    // It is there, and root outside reads it.
    outside.reader(owner).assert().success().stdout("0\n");
    outside.root(["cat", "/etc/shadow"]).assert().success();
}

/// S5
#[rstest]
#[cfg_attr(ground_here, ignore = "renames the machine")]
fn root_inside_may_rename_only_a_uts_namespace_of_its_own(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let rename = ["sh", "-c", "hostname bird && hostname"];
    let inside = outside.run(user, [&["user-demo"], &rename[..]].concat(), b"");
    let denied = "hostname: you must be root to change the host name\n";
    inside.assert().failure().stdout("").stderr(denied);
    let chain = [&["user-demo", "uts-demo"], &rename[..]].concat();
    outside.run(user, chain, b"").assert().success().stdout("bird\n");
    assert_eq!(outside.sh(user, "hostname"), "outside\n");
    // Without the namespace root may rename the machine.
    outside.root(rename).assert().success().stdout("bird\n");
}

/// S6: the example's table.
#[rstest]
fn process_of_two_threads_may_not_enter(#[values(Root, Reader)] user: User) {
    outside().run(user, ["threads"], b"").assert().success().stderr("").stdout(
        "threads   unshare(CLONE_NEWUSER)\n\
         2         EINVAL\n\
         1         done\n",
    );
}

/// S6
#[rstest]
#[case::switched_off(0)]
#[case::used_up(1)]
#[cfg_attr(ground_here, ignore = "takes the machine's user namespaces away")]
fn refusal_names_the_sysctl_that_limits_user_namespaces(
    #[case] limit: u32,
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let sysctl = format!("user.max_user_namespaces={limit}");
    outside.run(user, ["user-demo", "true"], b"").assert().success();
    outside.sh(Root, &format!("sysctl -q {sysctl}"));
    // Each is counted for the ids of those it is nested in, too.
    let chain = ["user-demo", "user-demo", "true"];
    outside.run(user, chain, b"").assert().code(125).stdout("").stderr(
        predicate::str::starts_with(
            "user-demo: unshare(CLONE_NEWUSER): ENOSPC: \
             No space left on device\n",
        )
        .and(predicate::str::contains(
            "sudo sysctl -w user.max_user_namespaces=",
        )),
    );
    if limit == 0 {
        outside.run(user, ["user-demo", "true"], b"").assert().code(125);
        return;
    }
    // One is allowed, as soon as the kernel has put the last one away: it
    // does so in a work queue, some time after the last process has ended.
    let until = "end=$(($(date +%s) + 30)); \
         until user-demo true 2> /dev/null; do [ $(date +%s) -lt $end ]; done";
    outside.sh(user, until);
}

/// S6: 32 are a depth that is allowed, by the man page.
#[rstest]
fn nesting_of_user_namespaces_has_a_clear_end(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let chain = |n| [vec!["user-demo"; n], vec!["id", "-u"]].concat();
    outside.run(user, chain(32), b"").assert().success().stdout("0\n");
    outside.run(user, chain(40), b"").assert().code(125).stdout("").stderr(
        predicate::str::starts_with(
            "user-demo: unshare(CLONE_NEWUSER): ENOSPC",
        )
        .and(predicate::str::contains("or 32 are nested")),
    );
}
