//! A program that was killed leaves nothing behind.

use rstest::rstest;

use crate::ground::{Reader, Root, User, outside};

/// Kills each demo with SIGKILL, `$1` times, each time a little later in its
/// life; waits until nobody of them is left; says what the machine looks
/// like if that is not as before, and how many were killed while they ran.
const KILL: &str = r#"
look() {
    cat /proc/self/mountinfo
    hostname; domainname
    tail -n +2 -q /proc/sysvipc/msg /proc/sysvipc/sem /proc/sysvipc/shm
    ls /dev/mqueue /dev/shm /tmp
    ip -o address
}
before=$(look)
for demo in uts-demo ipc-demo pid-demo mount-demo user-demo net-demo; do
    round=0 killed=0
    while [ $round -lt $1 ]; do
        $demo > /dev/null 2>&1 < /dev/null &
        spin=0
        while [ $spin -lt $((round * 48)) ]; do spin=$((spin + 1)); done
        kill -KILL $! 2> /dev/null || :
        status=0; wait $! 2> /dev/null || status=$?
        [ $status -ne 137 ] || killed=$((killed + 1))
        round=$((round + 1))
    done
    # Who was forked ends by himself, or by the kernel: in his own time.
    deadline=$(($(date +%s) + 30))
    while pgrep -x $demo > /dev/null; do
        [ "$(date +%s)" -lt $deadline ] || { ps -ef; break; }
    done
    echo "$demo $killed"
done
[ "$(look)" = "$before" ] || { echo "$before"; echo now; look; }
"#;

/// G5
#[rstest]
#[cfg_attr(ground_here, ignore = "compares the whole machine")]
fn killed_at_any_moment_a_report_leaves_no_trace(
    #[values(Root, Reader)] user: User,
) {
    let seen = outside().sh_with(user, KILL, &["10"]);
    let killed: Vec<(&str, u32)> = seen
        .lines()
        .map(|line| line.split_once(' ').expect(&seen))
        .map(|(demo, number)| (demo, number.parse().expect(&seen)))
        .collect();
    assert_eq!(killed.len(), 6, "{seen}");
    // In the middle of it, or nothing has been shown.
    assert!(killed.iter().all(|(_, number)| *number >= 3), "{seen}");
}
