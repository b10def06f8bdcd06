//! The user namespace: user_namespaces(7).

use crate::report::{assert_prints, assert_prints_its_page, assert_report};
use crate::target::{
    Machine, Reader, Root, USERS, User, end_of_call, fresh_machine, until,
};

/// Prints its own ids and capabilities, as the kernel has them.
const STATUS: &str = "cat /proc/self/status";

/// The effective uid, gid and capabilities in such a status.
fn who(status: &str) -> [&str; 3] {
    // "Uid:" and "Gid:" have four numbers: real, effective, saved, fsuid.
    [("Uid:", 2), ("Gid:", 2), ("CapEff:", 1)].map(|(name, n)| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(n)).expect(status)
    })
}

/// No capability.
const NONE: &str = "0000000000000000";

/// All capabilities that this kernel has, in the same form.
fn all(machine: &Machine) -> String {
    let last = machine.sh(Root, "cat /proc/sys/kernel/cap_last_cap");
    let last: u32 = last.trim().parse().expect("a number");
    format!("{:016x}", (2_u64 << last) - 1)
}

/// The caller's id outside, where gid and uid are the same.
fn id(user: User) -> &'static str {
    if user == Root { "0" } else { "1000" }
}

/// S1
#[test]
fn caller_is_root_inside() {
    let look = "id -u; id -g
        for file in uid_map gid_map setgroups; do
            while read line; do echo $line; done < /proc/self/$file
        done";
    let machine = fresh_machine();
    for user in USERS {
        let inside = machine.says(user, ["user-demo", "sh", "-c", look]);
        let (id, all) = (id(user), "4294967295");
        assert_eq!(inside, format!("0\n0\n0 {id} 1\n0 {id} 1\ndeny\n"));
        // Without the namespace the ids are the caller's own.
        let seen = format!("{id}\n{id}\n0 0 {all}\n0 0 {all}\nallow\n");
        assert_eq!(machine.sh(user, look), seen);
    }
}

/// S7: only a map carries the chapter.
#[test]
fn without_a_map_no_name_can_be_set() {
    fresh_machine().types(
        "
% unshare --user --map-root-user --uts sh -c 'hostname bird; hostname; id -u'
bird
0
% unshare --user --uts sh -c 'hostname bird 2> /dev/null; hostname; id -u'
outside
65534",
    );
}

/// S4: a map that is written again through the same descriptor.
#[test]
fn second_write_through_one_descriptor_is_invalid() {
    let machine = fresh_machine();
    let script = "cd /tmp; mkfifo ready hold
        unshare --user sh -c 'echo > ready; read end < hold' &
        read word < ready
        # The parent in the same user namespace as before writes the map.
        strace -qq -e trace=write sh -c '
            exec 3> /proc/$1/uid_map; echo 0 1000 1 >&3
            echo 0 1000 1 >&3 || echo 0 1000 1 > /proc/$1/uid_map' sh $! 2> trace ||:
        echo > hold
        sed -n 's/^write([13], .* = //p' trace";
    let seen = machine.sh(Reader, script);
    assert_eq!(
        seen,
        "9\n-1 EINVAL (Invalid argument)\n-1 EPERM (Operation not permitted)\n"
    );
}

/// S1
#[test]
fn file_made_inside_belongs_to_the_caller_outside() {
    let make = "cd /tmp; $1 sh -c '> made; stat -c %u:%g made'
        stat -c %u:%g made; rm made";
    let machine = fresh_machine();
    // Root's ids are the same inside and outside, which would prove nothing.
    // So root's program takes a uid and a gid first, two different numbers.
    let other_ids = "setpriv --reuid=4242 --regid=4343 --clear-groups";
    for (user, caller, ids) in
        [(Reader, "env", "1000:1000"), (Root, other_ids, "4242:4343")]
    {
        let script = format!("exec {caller} sh -euc \"$2\" sh \"$1\"");
        let made = |link| machine.sh_with(user, &script, &[link, make]);
        assert_eq!(made("user-demo"), format!("0:0\n{ids}\n"));
        // Without the namespace the owner is the caller, both times.
        assert_eq!(made("env"), format!("{ids}\n{ids}\n"));
    }
}

/// S1, S2: compares the demo's report with what the tools print.
#[test]
fn user_report_agrees_with_the_tools() {
    let machine = fresh_machine();
    let capabilities = "sed -n 's/CapEff:.//p' /proc/self/status";
    for user in USERS {
        let rows = [
            ("user namespace", "readlink /proc/self/ns/user", "*"),
            ("uid", "id -u", "0"),
            ("gid", "id -g", "0"),
            ("uid_map", "echo $(cat /proc/self/uid_map)", "="),
            ("gid_map", "echo $(cat /proc/self/gid_map)", "="),
            ("capabilities", capabilities, "="),
            // A pipe belongs to the caller, and has no name either.
            ("owner of its file", ": | stat -Lc %u /proc/self/fd/0", "0"),
        ];
        assert_report(&machine, user, "user-demo", &rows);
    }
}

/// S2
#[test]
fn program_started_before_the_map_has_no_capability() {
    let machine = fresh_machine();
    let all = all(&machine);
    for user in USERS {
        let before = machine.sh(user, &format!("unshare -U {STATUS}"));
        assert_eq!(who(&before), ["65534", "65534", NONE], "{user}");
        // Started after the map was written, it has them all.
        let after = machine.sh(user, &format!("user-demo {STATUS}"));
        assert_eq!(who(&after), ["0", "0", &all], "{user}");
    }
}

/// S2: the example's table. It also has the capabilities before any exec.
#[test]
fn capabilities_come_before_the_map() {
    let machine = fresh_machine();
    let all = all(&machine);
    for user in USERS {
        let status = machine.sh(user, STATUS);
        let [uid, gid, mine] = who(&status);
        assert_eq!([uid, gid], [id(user); 2]);
        let expected = format!(
            "                      uid      gid      capabilities
outside               {uid:7}  {gid:7}  {mine}
before the map        65534    65534    {all}
  and a program       65534    65534    {NONE}
after the map         0        0        {all}
  and a program       0        0        {all}

Learned: only uid 0 keeps its capabilities at execve(2).\n"
        );
        assert_eq!(machine.says(user, ["before_the_map"]), expected);
    }
}

const EPERM: &str = "EPERM";
const EINVAL: &str = "EINVAL";

/// What is written from outside to the files of a process in a new user
/// namespace, and how the last write of reader and of root ends. Each map of one
/// and of two lines is among those of `maps.rs`.
const WRITES: [(&str, &str, &str); 9] = [
    ("uid_map 0 1000 1", "done", "done"),
    // Another user's uid.
    ("uid_map 0 1001 1", EPERM, "done"),
    // A second write after a successful one, and after a refused one.
    ("uid_map 0 1000 1; uid_map 0 1000 1", EPERM, EPERM),
    ("uid_map 0 1001 1; uid_map 0 1000 1", "done", EPERM),
    // No length, and not a number.
    ("uid_map 0 1000", EINVAL, EINVAL),
    ("uid_map zero 1000 1", EINVAL, EINVAL),
    // Since Linux 3.19, and only if the writer has no CAP_SETGID outside.
    ("gid_map 0 1000 1", EPERM, "done"),
    ("setgroups deny; gid_map 0 1000 1", "done", "done"),
    // A denial cannot be undone.
    ("setgroups deny; setgroups allow", EPERM, EPERM),
];

/// S3, S4: the control is what happens when root outside writes the same bytes.
#[test]
fn map_is_written_once_and_gid_map_after_a_denial() {
    // A map must be written with one system call. dd(1) writes a block with
    // one call, while some printf write each line with a call of its own.
    // strace(1) prints how the call ended.
    let mut script = "write() {
            echo \"$2\" > text
            strace -qq -o calls -e trace=write dd bs=4096 \\
                < text > /proc/$pid/$1 2> /dev/null || :
            while read -r call; do
                # dd also writes a summary, to standard error.
                case $call in 'write(2,'*) ;; *) end=$call ;; esac
            done < calls
        }\n"
    .to_string();
    for (steps, ..) in WRITES {
        script += "unshare --user sh -c 'echo $$; kill -STOP $$' | {
            read pid\n";
        for step in steps.split("; ") {
            let (file, text) = step.split_once(' ').expect("FILE TEXT");
            script += &format!("write {file} '{text}'\n");
        }
        script += "kill -KILL $pid; printf '%s\\n' \"$end\"; }\n";
    }
    let machine = fresh_machine();
    let [readers, roots] = USERS.map(|user| machine.sh(user, &script));
    let ends = readers.lines().zip(roots.lines());
    let ends: Vec<_> =
        ends.map(|(one, two)| [one, two].map(end_of_call)).collect();
    let seen = WRITES.iter().zip(&ends);
    let seen = seen.map(|((steps, ..), [one, two])| (*steps, &**one, &**two));
    assert_eq!(seen.collect::<Vec<_>>(), WRITES);
}

/// S7: the book's listing for user namespaces sets a Go `Credential` and no
/// map, so its first call in the new namespace is setgroups(0, NULL).
#[test]
fn without_a_map_no_id_can_be_set() {
    let machine = fresh_machine();
    let groups = ["setpriv", "--clear-groups", "true"];
    let gid = ["setpriv", "--regid=1", "--keep-groups", "true"];
    for user in USERS {
        let end = |links: &[&str], call, command: &[&str]| {
            // strace(1) itself needs ids that are mapped.
            let command = [links, command].concat();
            machine.end_of_call(user, &[], [call, ""], &command)
        };
        let new = &["unshare", "--user"][..];
        assert_eq!(end(new, "setgroups", &groups), EPERM, "{user}");
        // Denying setgroups first does not help, and the next call of the
        // listing would be refused, too.
        let deny = [new, &["--setgroups=deny"]].concat();
        assert_eq!(end(&deny, "setgroups", &groups), EPERM, "{user}");
        assert_eq!(end(&deny, "setresgid", &gid), EINVAL, "{user}");
        // One solution is to set no id: then all read as the overflow id.
        assert_eq!(machine.sh(user, "unshare --user id -u"), "65534\n");
        // The other is a map: then the ids in it can be set.
        let gid = ["setpriv", "--regid=0", "--keep-groups", "true"];
        assert_eq!(end(&["user-demo"], "setresgid", &gid), "done", "{user}");
        assert_eq!(machine.sh(user, "user-demo id -u"), "0\n");
    }
    // Without a user namespace root may do both.
    assert_eq!(
        machine.end_of_call(Root, &[], ["setgroups", ""], &groups),
        "done"
    );
    assert_eq!(machine.end_of_call(Root, &[], ["setresgid", ""], &gid), "done");
}

/// S3, S4: the example's table. The process that writes is inside, and so has
/// no privilege outside, even if root started it.
#[test]
fn refused_maps_have_their_errors() {
    assert_prints_its_page("user-demo", "map_rules");
}

/// S6: the example's table: a filter's EPERM, in spite of all capabilities.
#[test]
fn filter_refuses_whatever_the_capabilities() {
    let all = all(&fresh_machine());
    let text = format!(
        "                    capabilities      unshare(CLONE_NEWUTS)
without a filter    {all}  done
under the filter    {all}  EPERM

Learned: EPERM may be a filter's, whoever one is.\n"
    );
    assert_prints("no_unshare", &text);
}

/// S5
#[test]
fn root_inside_is_nobody_to_the_outsides_files() {
    let machine = fresh_machine();
    let open = |user, links: &[&str]| {
        let call = ["openat", "/etc/shadow"];
        machine.end_of_call(user, links, call, &["cat", "/etc/shadow"])
    };
    assert_eq!(open(Reader, &["user-demo"]), "EACCES");
    // The file exists, and root outside can read it.
    let owner = "stat -c %u /etc/shadow";
    machine.types(&format!("$ user-demo {owner}; {owner}\n65534\n0"));
    assert_eq!(open(Root, &[]), "done");
}

/// S5
#[test]
fn root_inside_may_rename_only_a_uts_namespace_of_its_own() {
    let machine = fresh_machine();
    machine.types(
        "
% ! user-demo sh -c 'hostname sparrow 2> /dev/null && hostname'
% user-demo uts-demo sh -c 'hostname sparrow && hostname'; hostname
sparrow
outside",
    );
    for user in USERS {
        let call = ["sethostname", "sparrow"];
        let hostname = ["hostname", "sparrow"];
        let end = machine.end_of_call(user, &["user-demo"], call, &hostname);
        assert_eq!(end, "EPERM", "{user}");
    }
    // Without the namespace root may rename the machine, by the same call.
    machine.types("# hostname sparrow && hostname\nsparrow");
}

/// S6: the example's table.
#[test]
fn process_of_two_threads_may_not_enter() {
    let text = "threads   unshare(CLONE_NEWUSER)
2         EINVAL
1         done

Learned: enter a user namespace before starting threads.\n";
    assert_prints("threads", text);
}

/// S6: when user namespaces are used up, and when they are switched off.
#[test]
fn refusal_names_the_sysctl_that_limits_user_namespaces() {
    let machine = fresh_machine();
    let limit_to = |limit: &str| {
        let script = "echo $1 > /proc/sys/user/max_user_namespaces";
        machine.sh_with(Root, script, &[limit]);
    };
    let refused = |user, chain: &[&str]| {
        let [error, advice] = machine.refused(user, chain);
        assert_eq!(error, FULL, "{user}");
        let sysctl = "sudo sysctl -w user.max_user_namespaces=";
        assert!(advice.contains(sysctl), "{user}: {advice}");
    };
    let one = ["user-demo", "true"];
    // A nested namespace also counts against the limit of the one around it.
    let two = ["user-demo", "user-demo", "true"];
    for user in USERS {
        machine.says(user, two);
    }

    limit_to("1");
    for user in USERS {
        refused(user, &two);
        // One is allowed as soon as the kernel has freed the one before, which
        // it does in a work queue, some time after the last process has ended.
        let words = || format!("{user}: not even one");
        until(words, || machine.run(user, one, b"").status.success());
    }

    limit_to("0");
    for user in USERS {
        refused(user, &one);
    }
}

const FULL: &str =
    "user-demo: unshare(CLONE_NEWUSER): ENOSPC: No space left on device";

/// S6: 33 levels are allowed. The man page says 32.
#[test]
fn nesting_of_user_namespaces_has_a_clear_end() {
    let machine = fresh_machine();
    for user in USERS {
        let at_33 = [&["user-demo"; 33][..], &["id", "-u"]].concat();
        assert_eq!(machine.says(user, at_33), "0\n");
        let at_34 = [&["user-demo"; 34][..], &["id", "-u"]].concat();
        let [error, advice] = machine.refused(user, at_34);
        assert_eq!(error, FULL);
        assert!(advice.contains("(or 33 are nested)"), "{advice}");
    }
}
