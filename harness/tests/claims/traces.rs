//! A program that was killed leaves nothing behind.

use std::time::{Duration, Instant};

use crate::ground::{Root, USERS, outside};

const DEMOS: [&str; 6] =
    ["uts-demo", "ipc-demo", "pid-demo", "mount-demo", "user-demo", "net-demo"];

/// Starts the demos together and kills them together with SIGKILL, `$1`
/// times: in equal steps from the beginning of their lives to the end. One
/// spin for all, since it is the waiting that is dear. Says how each ended.
const KILL: &str = r#"
rounds=$1
shift
round=0
while [ $round -lt $rounds ]; do
    started=
    for demo; do
        $demo > /dev/null 2>&1 < /dev/null &
        started="$started$! "
    done
    spin=0
    while [ $spin -lt $((round * 400 / rounds)) ]; do spin=$((spin + 1)); done
    kill -KILL $started 2> /dev/null || :
    for demo; do
        status=0
        wait ${started%% *} 2> /dev/null || status=$?
        started=${started#* }
        echo "$demo $status"
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

/// Who is still there: what pgrep(1) says, for a tenth of the price.
const LEFT: &str = "
    for comm in /proc/[0-9]*/comm; do
        read name < $comm || continue
        case $name in *-demo) echo $comm: $name ;; esac
    done 2> /dev/null";

/// G5
#[test]
#[cfg_attr(ground_here, ignore = "compares the whole machine")]
fn killed_at_any_moment_a_report_leaves_no_trace() {
    let outside = outside();
    let before = outside.sh(Root, LOOK);
    for user in USERS {
        let args = [&["10"], &DEMOS[..]].concat();
        let ends = outside.sh_with(user, KILL, &args);
        for demo in DEMOS {
            let killed = format!("{demo} 137");
            let killed = ends.lines().filter(|end| *end == killed).count();
            // In the middle of it, or nothing has been shown.
            assert!(killed >= 3, "{user}: {demo}: {ends}");
        }
        // Who was forked ends by himself, or by the kernel: in his own time.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = outside.sh(Root, LEFT);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{user}: {left}");
        }
        assert_eq!(outside.sh(Root, LOOK), before, "{user}");
    }
}
