//! A program leaves nothing behind when it is killed.

use std::fs;

use harness::DEMOS;

use crate::common::package;
use crate::readers::kills;
use crate::target::{USERS, fresh_machine};

/// Chains of demos.
const CHAINS: [&str; 2] = [
    "user-demo uts-demo ipc-demo pid-demo mount-demo net-demo sleep 1000",
    "user-demo pid-demo pid-demo sh -c 'sleep 1000 & sleep 1000'",
];

/// The examples. They are killed only if `HARNESS_KILLS` is set, because that
/// takes long.
fn examples() -> Vec<String> {
    let dirs = DEMOS.map(|demo| package().with_file_name(demo));
    let files = dirs.map(|dir| fs::read_dir(dir.join("examples")));
    let files = files.into_iter().flat_map(|it| it.expect("examples"));
    let names = files.map(|file| file.expect("a file").path());
    names
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_string()))
        .map(|name| match &*name {
            "no_unshare" => "no_unshare uts-demo".into(), // Needs a COMMAND.
            _ => name,
        })
        .collect()
}

/// Starts the programs together, waits, and kills them together with SIGKILL,
/// `$1` times: the first time at once, and then each time a little later. The
/// last time most have ended by themselves. Prints how each ended.
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
    # The next round starts with the next program.
    first=$1; shift; set -- "$@" "$first"
    round=$((round + 1))
done
"#;

/// G5: each is killed `HARNESS_KILLS` times, and the examples too, if that is
/// set.
#[test]
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
    let before = machine.traces();
    for user in USERS {
        // If more are started together, the first ends before the last starts.
        let groups = programs.chunks(8).map(|group| {
            let mut args = vec![&*rounds];
            args.extend(group.iter().map(String::as_str));
            machine.sh_with(user, KILL, &args)
        });
        let ends: String = groups.collect();
        let killed = ends.lines().filter(|end| end.starts_with("137 "));
        let (killed, all) = (killed.count(), ends.lines().count());
        println!("{user}: {killed} of {all} were killed while they ran");
        // If most had ended by themselves, nothing would be proven.
        assert!(killed >= all / 3, "{user}: {ends}");

        machine.comes_back_to(&before);
    }
}
