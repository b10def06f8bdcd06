#!/bin/sh
# Guess:     010 in a line of /proc/PID/uid_map is 8, as it is for mkdir -m, for
#            mount's uid=, for C and for $((010)); or it is refused.
# Behaviour: it is 10. 0x10 is refused, with EINVAL.
# Versions:  Linux 5.10 to 7.3.
# Source:    kernel/user_namespace.c, map_write(): simple_strtoul(..., 10).
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkfifo "$dir/ready" "$dir/go"
seen=$(for map in 010 0x10; do
    # shellcheck disable=SC2016
    # Its creator writes the map: the shell has lost its capabilities at execve.
    unshare --user sh -c 'echo $$ > "$1"; read -r go < "$2"; exec id -u' \
        sh "$dir/ready" "$dir/go" < /dev/null > "$dir/id" &
    read -r pid < "$dir/ready"
    printf '%s %s 1\n' "$map" "$(id -u)" > "/proc/$pid/uid_map" ||
        echo "$map is refused"
    echo > "$dir/go"
    wait "$!"
    echo "$map is $(cat "$dir/id")"
done 2> /dev/null)
printf 'Linux %s\n%s\n' "$(uname -r)" "$seen"
[ "$seen" = "010 is 10
0x10 is refused
0x10 is $(cat /proc/sys/kernel/overflowuid)" ]
