#!/bin/sh
# Guess:     a new mount namespace has copies of all mounts, with the same
#            propagation types: what is unbindable stays unbindable.
# Behaviour: from Linux 6.17 to 7.1 the copy is private, and can be bound. Before
#            and since it is unbindable. Shared, private and slave are kept.
# Versions:  lost on 6.17.13, 6.18.15, 6.19.14, 7.0.13, 7.1.13; kept on 5.10.223,
#            6.1.192, 6.12.117, 6.16.12, 7.2.12, 7.3.4.
# Source:    Documentation/filesystems/sharedsubtree.rst says that the clone of a
#            namespace has the mounts of the old one with their types.
set -eu
seen=$(unshare --user --map-root-user --mount sh -euc '
    mount -t tmpfs tmpfs /mnt
    mount --make-unbindable /mnt
    look() { grep -q " /mnt .* unbindable - " /proc/self/mountinfo; }
    look
    # The child looks at its own mounts, with the same words.
    unshare --mount --propagation unchanged \
        grep -q " /mnt .* unbindable - " /proc/self/mountinfo &&
        echo kept || echo lost')
release=$(uname -r)
printf 'Linux %s: %s\n' "$release" "$seen"
minor=${release#*.}
minor=${minor%%[!0-9]*}
case ${release%%.*}.$minor in
6.17 | 6.18 | 6.19 | 7.0 | 7.1) [ "$seen" = lost ] ;;
*) [ "$seen" = kept ] ;;
esac
