#!/bin/sh
# Guess:     in a new PID namespace, with the /proc of the old one, no tool can
#            kill by name: the PIDs in that /proc mean nothing to kill(2) there.
# Behaviour: pkill finds the process, and kill(2) does not: no such process (or,
#            worse, another one). psmisc's killall kills the right one.
# Versions:  psmisc 23.6, procps 4.0.2; Linux 5.10 to 7.3.
# Source:    killall sends the signal by the open folder /proc/PID, which is as
#            good as a pidfd, and a pidfd means the same in every namespace:
#            psmisc's src/killall.c; pidfd_send_signal(2).
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp "$(command -v sleep)" "$dir/sleeper"
for tool in 'pkill -x sleeper' 'killall sleeper'; do
    # 137 is SIGKILL, 143 is SIGTERM, which both tools send.
    # shellcheck disable=SC2016
    unshare --user --map-root-user --pid --fork sh -c '
        "$1/sleeper" 60 &
        until [ "$(cat /proc/[0-9]*/comm | grep -cx sleeper)" = 1 ]; do :; done
        $2 || :
        kill -s KILL "$!"; wait "$!"
        echo "$2: $?"' sh "$dir" "$tool"
done > "$dir/seen" 2> /dev/null
killall --version 2>&1 | head -n 1
pkill --version
cat "$dir/seen"
[ "$(cat "$dir/seen")" = "pkill -x sleeper: 137
killall sleeper: 143" ]
