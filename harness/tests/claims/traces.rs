//! A program that was killed leaves nothing behind.

use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};

/// Kills the words after it with SIGKILL, `$rounds` times, each time a
/// little later in their life; then waits until nobody of them is left, and
/// says what the machine looks like.
const KILL: &str = r#"
look() {
    cat /proc/self/mountinfo
    hostname; domainname
    tail -n +2 -q /proc/sysvipc/msg /proc/sysvipc/sem /proc/sysvipc/shm
    ls /dev/mqueue /dev/shm /tmp
    ip -o address
}
before=$(look)
round=0
while [ $round -lt $rounds ]; do
    "$@" > /dev/null 2>&1 < /dev/null &
    spin=0
    while [ $spin -lt $((round * 37)) ]; do spin=$((spin + 1)); done
    kill -KILL $! 2> /dev/null && killed=$((killed + 1))
    wait $! 2> /dev/null || true
    round=$((round + 1))
done
# What was forked is killed by the kernel, which takes its moment.
deadline=$(($(date +%s) + 30))
while pgrep -x -- "$name" > /dev/null; do
    [ "$(date +%s)" -lt $deadline ] || { echo "left: $(ps -ef)"; break; }
done
[ "$(look)" = "$before" ] || { echo "before: $before"; echo "now: $(look)"; }
echo "killed: $killed"
"#;

/// G5
#[rstest]
#[cfg_attr(ground_here, ignore = "compares the whole machine")]
fn killed_at_any_moment_a_report_leaves_no_trace(
    #[values(
        "uts-demo",
        "ipc-demo",
        "pid-demo",
        "mount-demo",
        "user-demo",
        "net-demo"
    )]
    demo: &str,
    #[values(Root, Reader)] user: User,
) {
    let script = format!("rounds=12 killed=0 name={demo}; {KILL}");
    let seen = outside().sh_with(user, &script, &[demo]);
    let killed = seen.strip_prefix("killed: ").expect(&seen).trim();
    // Some were killed in the middle, or nothing has been shown.
    assert!(killed.parse::<u32>().expect("a number") >= 3, "{seen}");
}
