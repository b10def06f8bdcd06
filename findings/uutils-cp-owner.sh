#!/bin/sh
# Guess:     in a user namespace that maps one id, `cp -a` of a file whose owner
#            is not mapped says "Invalid argument" and ends with 1: so does
#            chown(2), and GNU's cp passes it on.
# Behaviour: uutils' cp ends with 0, says nothing, and the copy is the caller's.
# Versions:  uu_cp 0.12.0 (crates.io); GNU coreutils 9.1; Linux 6.1.
# Source:    `cp --help` of both: -a is -dR --preserve=all.
#            user_namespaces(7): ids that are not mapped cannot be set.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cargo install --quiet --root "$dir" uu_cp@0.12.0
cd "$dir"
# A file of somebody else's: an ordinary user has one of root's, and root makes
# one of nobody's.
file=/etc/passwd
[ "$(id -u)" -ne 0 ] || {
    file=$dir/file
    echo text > file
    chown 65534 file
}
inside() {
    status=0
    unshare --user --map-root-user "$2" -a "$file" "copy.$1" 2> said || status=$?
    echo "$1: status $status, lines: $(wc -l < said)"
}
cat > expected <<'SEEN'
GNU: status 1, lines: 1
uutils: status 0, lines: 0
SEEN
{
    inside GNU /bin/cp
    inside uutils "$dir/bin/cp"
} > seen
diff expected seen && cat seen
