#!/bin/sh
# Guess:     an unmount in one mount namespace can take mounts away in another.
#            It cannot put a mount into another directory there.
# Behaviour: before Linux 6.17 it can. Two namespaces have the shared mounts w/a
#            and w/a/a. In the second one a private mount covers w/a/a. After
#            `umount --lazy w/a` in the first, that mount is at w/a in the second:
#            a directory higher, where nobody has mounted it. Since 6.17 w/a
#            stays there, because of it.
# Versions:  at w/a on Debian's 6.1.0-56 and 6.12.117; at w/a/a on 6.17.13, 6.18 and 7.2.12.
# Source:    fs/pnode.c, propagate_umount(), which was written anew for 6.17. No
#            document says it.
set -eu
# shellcheck disable=SC2016
seen=$(unshare --user --map-root-user --mount sh -euc '
    mount -t tmpfs base /mnt
    cd /mnt
    mkdir w
    mkfifo go done
    mount -t tmpfs w w
    mount --make-shared w
    mkdir w/a
    unshare --mount --propagation unchanged sh -euc '\''
        echo > done; read word < go
        mount --make-private w/a/a
        mount -t tmpfs cover w/a/a
        echo > done; read word < go
        while read id parent device root at rest; do
            case $rest in *"tmpfs cover "*) echo "${at#/mnt/}" ;; esac
        done < /proc/self/mountinfo'\'' &
    read word < done
    mount -t tmpfs a w/a
    mkdir w/a/a
    mount -t tmpfs aa w/a/a
    echo > go; read word < done
    umount --lazy w/a
    echo > go
    wait')
release=$(uname -r)
printf 'Linux %s: the cover is at %s\n' "$release" "$seen"
minor=${release#*.}
minor=${minor%%[!0-9]*}
if [ "$((${release%%.*} * 1000 + minor))" -lt 6017 ]; then
    [ "$seen" = w/a ]
else
    [ "$seen" = w/a/a ]
fi
