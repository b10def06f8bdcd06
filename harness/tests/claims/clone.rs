//! clone(2) and fork(2): the book's 1.2 and 1.3.

use assert_cmd::assert::OutputAssertExt;
use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// C1. Each row is the other's control.
#[rstest]
fn memory_is_copied_by_fork_and_shared_by_clone_vm(
    #[values(Root, Reader)] user: User,
) {
    let seen = outside().sh(user, "fork_vs_clone");
    let rows = words(&seen);
    assert_eq!(rows[1], ["none", "1", "0"]);
    assert_eq!(rows[2], ["CLONE_VM", "1", "1"]);
}

/// C2
#[rstest]
fn process_made_with_clone_parent_is_a_sibling(
    #[values(Root, Reader)] user: User,
) {
    // The shell becomes the example, so it knows its PID and its parent's.
    let seen = outside().sh(user, "echo $$ $PPID; exec fork_vs_clone");
    let rows = words(&seen);
    let [first, parent] = rows[0][..] else { panic!("{seen}") };
    assert_eq!(rows[6], [first, parent]);
    let ["none", child, childs_parent] = rows[7][..] else { panic!("{seen}") };
    assert_eq!(childs_parent, first);
    // With the flag the child's new process has the child's parent, and
    // without it the child.
    assert_eq!(rows[8][..1], ["none"]);
    assert_eq!(rows[8][2], child);
    assert_eq!(rows[9][..1], ["CLONE_PARENT"]);
    assert_eq!(rows[9][2], first);
}

/// What each link in /proc/self/ns says.
const NAMESPACES: &str = "cd /proc/self/ns; for it in *; do
    [ -h $it ] && echo $it $(readlink $it); done";

/// C3. The book's first program.
#[rstest]
#[cfg_attr(ground_here, ignore = "needs the guest's outside")]
fn one_clone_gives_a_shell_in_four_namespaces(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let before = outside.sh(user, NAMESPACES);
    let inside =
        outside.run(user, ["clone", "sh", "-c", NAMESPACES], b"").stdout;
    let inside = String::from_utf8(inside).expect("text");
    let (before, inside) = (words(&before), words(&inside));
    let changed = before.iter().zip(&inside).filter(|(a, b)| a != b);
    let names: Vec<&str> = changed.map(|(a, _)| a[0]).collect();
    let mut four = vec!["ipc", "mnt", "pid", "pid_for_children", "uts"];
    if user == Reader {
        four.insert(4, "user"); // Which gives the right to the others.
    }
    assert_eq!(names, four);
    assert_eq!(before.len(), inside.len());

    // It is a shell, and what it does to its mounts and names is its own.
    let script = "echo $$; hostname bird; mount -t proc proc /proc; ps -o comm=
        exit 9";
    let output = outside.run(user, ["clone"], script.as_bytes());
    output.assert().code(9).stdout("1\nsh\nps\n");
    assert_eq!(
        outside.sh(Root, "hostname; ps -o comm= -p 2"),
        "outside\nkthreadd\n"
    );
}

/// C4
#[rstest]
fn clone_puts_the_child_in_and_unshare_only_the_next_one(
    #[values(Root, Reader)] user: User,
) {
    let outside = outside();
    let script = "echo $$; sh -c 'echo $$'";
    let output = outside.run(user, ["clone", "sh", "-c", script], b"");
    output.assert().success().stdout("1\n2\n");

    // The shell still has the PID that it had before it became unshare.
    let own = if user == Root { "-m" } else { "-Ur" };
    let exec = "echo $$; exec unshare -p \"$@\"";
    let argv = ["sh", "-c", exec, "sh", own, "sh", "-c", script];
    let output = outside.run(user, argv, b"");
    let seen = String::from_utf8(output.stdout).expect("text");
    let [before, after, "1"] = seen.lines().collect::<Vec<_>>()[..] else {
        panic!("{seen}")
    };
    assert_eq!(before, after);
}
