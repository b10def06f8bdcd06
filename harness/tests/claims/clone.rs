//! clone(2) and fork(2): the notes' 1.2 and 1.3.

use assert_cmd::assert::OutputAssertExt;

use crate::target::{Reader, Root, USERS, fresh_machine};

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// C1. Each row is the other's control.
#[test]
fn memory_is_copied_by_fork_and_shared_by_clone_vm() {
    let machine = fresh_machine();
    for user in USERS {
        let seen = machine.sh(user, "fork_vs_clone");
        let rows = words(&seen);
        assert_eq!(rows[1], ["none", "1", "0"]);
        assert_eq!(rows[2], ["CLONE_VM", "1", "1"]);
    }
}

/// C5: copy on write. Reading one of the parent's pages causes no page fault,
/// and writing to it causes one. If fork copied the pages, neither would.
#[test]
fn fork_copies_a_page_when_it_is_written_to() {
    let machine = fresh_machine();
    for user in USERS {
        let seen = machine.sh(user, "copy_on_write");
        let rows = words(&seen);
        assert_eq!(rows[0].join(" "), "1000 pages, the child its page faults");
        let faults = |row: usize| -> u32 {
            let count = rows[row].last().expect("a number");
            count.parse().expect("a number")
        };
        assert!(seen.contains("\ndoes nothing ") && faults(1) < 50, "{seen}");
        assert!(seen.contains("\nreads each ") && faults(2) < 50, "{seen}");
        let all = (1000..1050).contains(&faults(3));
        assert!(seen.contains("\nwrites to each ") && all, "{seen}");
    }
}

/// C2
#[test]
fn process_made_with_clone_parent_is_a_sibling() {
    let machine = fresh_machine();
    for user in USERS {
        // The shell prints its own PID and its parent's, and then becomes the
        // example by exec.
        let seen = machine.sh(user, "echo $$ $PPID; exec fork_vs_clone");
        let rows = words(&seen);
        let [first, parent] = rows[0][..] else { panic!("{seen}") };
        assert_eq!(rows[6][..2], ["(this", "process)"]);
        assert_eq!(rows[6][2..], [first, parent]);
        let ["none", child, its_parent] = rows[7][..] else { panic!("{seen}") };
        assert_eq!(its_parent, first);
        // Without the flag, the parent of the child's new process is the
        // child. With it, it is the child's parent.
        assert_eq!(rows[8][..1], ["none"]);
        assert_eq!(rows[8][2], child);
        assert_eq!(rows[9][..1], ["CLONE_PARENT"]);
        assert_eq!(rows[9][2], first);
    }
}

/// The links in /proc/self/ns: their names in one line, and the target of
/// each.
const NAMESPACES: &str = "cd /proc/self/ns; echo *; readlink *";

/// C3. The book's first program, with the mounts made private.
#[test]
fn one_clone_gives_a_shell_in_four_namespaces() {
    let machine = fresh_machine();
    for user in USERS {
        let before = machine.sh(user, NAMESPACES);
        let inside = machine.says(user, ["clone", "sh", "-c", NAMESPACES]);
        let (before, inside) = (words(&before), words(&inside));
        let names = &before[0];
        assert_eq!(inside[0], *names);
        assert_eq!([before.len(), inside.len()], [names.len() + 1; 2]);
        let changed =
            (0..names.len()).filter(|i| before[i + 1] != inside[i + 1]);
        let changed: Vec<&str> = changed.map(|i| names[i]).collect();
        let mut four = vec!["ipc", "mnt", "pid", "pid_for_children", "uts"];
        if user == Reader {
            four.insert(4, "user"); // Without it the others are refused.
        }
        assert_eq!(changed, four);

        // It is a shell, and its changes to mounts and names stay inside.
        let script = "echo $$; hostname bird; hostname
            mount -t proc proc /proc; echo /proc/[0-9]*; exit 9";
        let output = machine.run(user, ["clone", "sh"], script.as_bytes());
        output.assert().code(9).stdout("1\nbird\n/proc/1\n");
        let look = "hostname; read name < /proc/2/comm; echo $name";
        assert_eq!(machine.sh(Root, look), "outside\nkthreadd\n");

        // Without COMMAND: a table of the same.
        let table = machine.sh(user, "clone");
        let rows = words(&table);
        assert_eq!(rows[0], ["outside", "inside"]);
        let new = |row: &&Vec<&str>| row.last() == Some(&"new");
        assert_eq!(rows[1..7].iter().filter(new).count(), four.len() - 1);
        let same = |row: &&Vec<&str>| row[0] == row[1] && row[3..] == ["same"];
        let others = if user == Root { 2 } else { 1 };
        let unchanged = rows[1..7].iter().filter(same).count();
        assert_eq!(unchanged, others, "{table}");
    }
}

/// C6: setns(2), which is what nsenter(1) calls.
#[test]
fn setns_enters_a_namespace_that_another_process_is_in() {
    let machine = fresh_machine();
    // COMMAND stays in namespaces of its own until a word is in `hold`.
    let script = "mkfifo ready hold
        uts-demo pid-demo sh -c 'echo > ready; read end < hold' & link=$!
        read word < ready
        read child < /proc/$link/task/$link/children || :
        nsenter --target $child $1 --uts hostname
        hostname
        nsenter --target $child $1 --uts --pid sh -c 'echo $$ $PPID'
        echo > hold; wait $link";
    for (user, also) in [(Reader, "--user --preserve-credentials"), (Root, "")]
    {
        let seen = machine.sh_with(user, script, &[also]);
        let lines: Vec<&str> = seen.lines().collect();
        let [inside, "outside", pids] = lines[..] else { panic!("{seen}") };
        assert_eq!(inside, "bird");
        // nsenter's child is in the namespace whose PID 1 is COMMAND. nsenter
        // itself is outside, and has no PID there: so the parent is 0.
        let (pid, parent) = pids.split_once(' ').expect("two PIDs");
        let pid: u32 = pid.parse().expect("a PID");
        assert!((2..10).contains(&pid) && parent == "0", "{pids}");
    }
}

/// C4
#[test]
fn clone_puts_the_child_in_and_unshare_only_the_next_one() {
    let machine = fresh_machine();
    // Some shells run the last command of a script by exec, without a fork.
    // Here the last command is `:`, so that each shell forks for the other.
    let script = "echo $$; sh -c 'echo $$'; :";
    for user in USERS {
        let seen = machine.says(user, ["clone", "sh", "-c", script]);
        assert_eq!(seen, "1\n2\n");

        // The shell still has the PID that it had before it became unshare.
        let own = if user == Root { "-m" } else { "-Ur" };
        let exec = "echo $$; exec unshare -p \"$@\"";
        let argv = ["sh", "-c", exec, "sh", own, "sh", "-c", script];
        let seen = machine.says(user, argv);
        let [before, after, "1"] = seen.lines().collect::<Vec<_>>()[..] else {
            panic!("{seen}")
        };
        assert_eq!(before, after);
    }
}
