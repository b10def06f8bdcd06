//! A program that was killed leaves nothing behind.

use std::time::Instant;

use harness::DEMOS;

use crate::target::{Root, USERS, fresh_machine, patience};
use crate::vm::kills;

/// Demos as links.
const CHAINS: [&str; 2] = [
    "user-demo uts-demo ipc-demo pid-demo mount-demo net-demo sleep 1000",
    "user-demo pid-demo pid-demo sh -c 'sleep 1000 & sleep 1000'",
];

/// The examples take too long for every day.
fn examples() -> Vec<String> {
    let built = harness::build_demos().expect("the demos");
    let names = built.iter().filter_map(|path| path.file_name()?.to_str());
    names
        .filter(|name| !DEMOS.contains(name))
        .map(|name| match name {
            "no_unshare" => "no_unshare uts-demo".into(), // It takes COMMAND.
            name => name.into(),
        })
        .collect()
}

/// Starts the programs together and kills them together with SIGKILL, `$1`
/// times: in equal steps from the beginning of their lives to the end. One
/// wait for all, since it is the waiting that is dear. Says how each ended.
const KILL: &str = r#"
rounds=$1
shift
round=0
while [ $round -lt $rounds ]; do
    started=
    for program; do
        eval "exec $program" > /dev/null 2>&1 < /dev/null &
        started="$started$! "
    done
    spin=0
    while [ $spin -lt $((round * 400 / rounds)) ]; do spin=$((spin + 1)); done
    kill -KILL $started 2> /dev/null || :
    for program; do
        status=0
        wait ${started%% *} 2> /dev/null || status=$?
        started=${started#* }
        echo "$status $program"
    done
    # Another one comes first.
    first=$1; shift; set -- "$@" "$first"
    round=$((round + 1))
done
"#;

/// What the machine looks like.
const LOOK: &str = "
    cat /proc/self/mountinfo /proc/sys/kernel/hostname \
        /proc/sys/kernel/domainname /proc/sysvipc/msg /proc/sysvipc/sem \
        /proc/sysvipc/shm /proc/net/fib_trie /proc/net/if_inet6
    echo /dev/mqueue/* /dev/shm/* /tmp/* /sys/class/net/*";

/// Who is there, without the kernel's workers, who come and go.
const PROCESSES: &str = "
    for comm in /proc/[0-9]*/comm; do
        [ $comm != /proc/$$/comm ] && read name < $comm || continue
        case $name in kworker*) ;; *) echo $comm: $name ;; esac
    done 2> /dev/null";

/// G5. `HARNESS_KILLS` times each, and the examples too, if that is set.
#[test]
#[cfg_attr(ground_here, ignore = "compares the whole machine")]
fn killed_at_any_moment_a_program_leaves_no_trace() {
    let mut programs: Vec<String> =
        DEMOS.into_iter().chain(CHAINS).map(String::from).collect();
    let mut rounds = 8;
    if let Some(kills) = kills() {
        programs.extend(examples());
        rounds = kills;
    }
    let rounds = rounds.to_string();

    let machine = fresh_machine();
    let look = || machine.sh(Root, LOOK);
    let processes = || machine.sh(Root, PROCESSES);
    let (before, there) = (look(), processes());
    for user in USERS {
        // More at a time, and the first have ended before the last begin.
        let groups = programs.chunks(8).map(|group| {
            let mut args = vec![&*rounds];
            args.extend(group.iter().map(String::as_str));
            machine.sh_with(user, KILL, &args)
        });
        let ends: String = groups.collect();
        let killed = ends.lines().filter(|end| end.starts_with("137 "));
        let (killed, all) = (killed.count(), ends.lines().count());
        println!("{user}: {killed} of {all} were killed while they ran");
        // In the middle of it, or nothing has been shown.
        assert!(killed >= all / 3, "{user}: {ends}");

        // Who was forked ends by himself, or by the kernel: in his own time.
        let deadline = Instant::now() + patience();
        loop {
            let now = processes();
            let mut left = now.lines().filter(|line| !there.contains(line));
            let Some(process) = left.next() else { break };
            assert!(Instant::now() < deadline, "{user}: {process}");
        }
        assert_eq!(look(), before, "{user}");
    }
}
