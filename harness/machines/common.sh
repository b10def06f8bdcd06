# What the scripts of this folder have in common. Each sources it first: it
# makes, enters and removes machines, and types the README's two commands there.
#
# A machine is a root directory with namespaces of its own: nothing remains of
# them. A function of a script can be run in a machine, as a program can be.
#
# shellcheck shell=bash
# shellcheck disable=SC2034 # Some variables are for the scripts.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C
script=harness/machines/${0##*/}

say() { printf '%s: %s\n' "$script" "$*" >&2; }
fail() {
    say "$*"
    exit 125
}

as_root() { [ "$(id -u)" -eq 0 ] || fail 'this needs root'; }

needs() {
    local program
    for program; do
        command -v "$program" >/dev/null || fail "$program is missing"
    done
}

# known NAME KNOWN...
known() {
    case " ${*:2} " in
    *" $1 "*) ;;
    *) fail "there is no $1, but there are: ${*:2}" ;;
    esac
}

# begin DIR: sets $dir, where all files are. Another one may not run in it. What
# must not remain is removed when the script ends for any reason.
begin() {
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    exec 9>"$dir/lock"
    flock -n 9 || fail "another one is running in $dir"
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    clean
    rm -rf "$dir/log"
    mkdir "$dir/log"
}

machine='' remove=(new)
clean() {
    if [ -n "$machine" ]; then
        # Kills its PID 1, and so everything in it; unshare(1) waits for that.
        pkill -KILL -P "$machine" || kill -KILL "$machine" || :
        wait "$machine" || :
    fi
    rm -rf --one-file-system "${remove[@]/#/$dir/}"
} 2>/dev/null

# ---- machines

# Paths in a machine, its PATH, its environment.
src=/srv/namespace-demos cargo=/srv/cargo
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
environment=(HOME=/root USER=root TERM=dumb CARGO_HOME="$cargo")
# What a function that is run apart knows of the script's variables.
variables=(variables environment path src cargo dir machine)

# apart COMMAND...: runs COMMAND, which may be a function, in its own PID,
# mount, UTS and IPC namespaces. It ends with them, or with this script.
apart() {
    # Without `exit`, bash would exec the last command. It must stay PID 1, and
    # reap orphans.
    setpriv --pdeathsig KILL unshare --mount --pid --uts --ipc --fork \
        --kill-child --propagation private \
        env -i "${environment[@]}" PATH="$PATH" bash -euo pipefail -c \
        "$(declare -p "${variables[@]}" && declare -f)"'; "$@"; exit' \
        apart "$@" </dev/null 9>&- &
    machine=$!
    local status=0
    wait "$machine" || status=$?
    machine=
    return "$status"
}

# making WHAT COMMAND...: the same, with a log.
making() {
    local log=$dir/log/$1
    apart "${@:2}" >"$log" 2>&1 || {
        say "$1: failed, the end of $log:"
        tail -n 20 "$log" >&2
        return 1
    }
}

# enter ROOT COMMAND...: runs COMMAND as root in the machine whose root
# directory is ROOT.
enter() { apart inside "$@"; }

inside() {
    local device
    mount --bind "$1" "$1"
    cd "$1"
    shift
    mkdir -p old
    mount -t proc proc proc
    mount -t tmpfs -o mode=755 dev dev
    for device in null zero full random urandom tty; do device $device; done
    mkdir dev/pts dev/shm dev/mqueue
    mount -t devpts -o newinstance,ptmxmode=666,gid=5,mode=620 pts dev/pts
    ln -s pts/ptmx dev/ptmx
    mount -t tmpfs -o mode=1777 shm dev/shm
    mount -t mqueue mqueue dev/mqueue
    cp -P /dev/fd /dev/stdin /dev/stdout /dev/stderr dev/
    mount -t tmpfs -o mode=1777 tmp tmp
    furnish
    hostname machine
    pivot_root . old
    cd /
    PATH=$path
    umount -l old
    rmdir old
    mount --make-rshared /
    "$@"
}

device() {
    touch "dev/$1"
    mount --bind "/dev/$1" "dev/$1"
}

# What else a machine has of this one. It is run in the new root directory.
furnish() { :; }

# bootstrap OPTION... RELEASE: makes this Debian in $dir/new. To be run apart.
bootstrap() {
    rm -rf --one-file-system "$dir/new"
    debootstrap --variant=minbase "$@" "$dir/new"
    # Start no service. Accept an old mirror.
    printf '#!/bin/sh\nexit 101\n' >"$dir/new/usr/sbin/policy-rc.d"
    chmod +x "$dir/new/usr/sbin/policy-rc.d"
    echo 'Acquire::Check-Valid-Until "false";' \
        >"$dir/new/etc/apt/apt.conf.d/90machines"
    echo '127.0.0.1 localhost machine' >"$dir/new/etc/hosts"
    network "$dir/new"
}

network() {
    mkdir -p "$1/etc/ssl/certs"
    cp -L /etc/resolv.conf "$1/etc/"
    cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
}

get() {
    DEBIAN_FRONTEND=noninteractive \
        apt-get -y install --no-install-recommends "$@"
}

# from RELEASE COMMAND...: runs COMMAND, with an option for apt-get, while apt
# knows this release, too.
from() {
    local list=/etc/apt/sources.list.d/from.list
    echo "deb http://deb.debian.org/debian $1 main" >"$list"
    apt-get update
    "${@:2}" -t "$1"
    rm "$list"
    apt-get update
}

# unpack_kernel PACKAGE [OPTION]...: unpacks in a new folder, and goes to it,
# the kernel on which Debian's meta package PACKAGE depends.
unpack_kernel() {
    local package
    mkdir "/tmp/$1"
    cd "/tmp/$1"
    apt-get "${@:2}" -s install --no-install-recommends "$1" |
        sed -n 's/^Inst \(linux-[bim][a-z]*-[0-9][^ ]*\).*/\1/p' |
        xargs apt-get "${@:2}" download
    for package in *.deb; do dpkg -x "$package" .; done
    rm ./*.deb
}

# Builds everything, with the same arguments as the two commands and the harness,
# so that Cargo has nothing to build afterwards.
build() {
    local demo demos=()
    for demo in *-demo; do demos+=(--package "$demo"); done
    cargo build --quiet --package pid-demo
    cargo build --quiet --bins --examples "${demos[@]}"
    cargo build --quiet --package harness
    cargo test --quiet --package harness --no-run
}

# ---- the two commands

# Makes $dir/src a clone of HEAD, with what is built there already, and
# $dir/cargo a folder for Cargo. Sets $commands to the block of README.md that
# has `cargo test` in it. Prints the head of the table.
begin_table() {
    mkdir -p "$dir/systems" "$dir/cargo"
    [ -d "$dir/src" ] || git clone -q "$PWD" "$dir/src"
    git -C "$dir/src" fetch -q "$PWD" HEAD
    git -C "$dir/src" reset -q --hard FETCH_HEAD
    rm -rf "$dir/src/target/harness-cache"
    commands=$(awk '/^```/ { if (block ~ /cargo test/) exit
                             block = ""; in_sh = $0 == "```sh"; next }
                    in_sh { block = block $0 "\n" }
                    END { printf "%s", block }' "$dir/src/README.md")
    [ -n "$commands" ] || fail 'no commands in README.md'
    failed=0
    say "$(git -C "$dir/src" rev-parse --short HEAD), $(nproc) processors;" \
        "the logs are in $dir/log"
    say 'passed/failed/ignored tests, and the time with all before them'
    row machine as kernel QEMU rustc tests
}

row() { printf '%-18s %-7s %-25s %-8s %-8s %s\n' "$@"; }

# two_commands NAME USER KERNEL COMMAND...: runs the two commands in a machine,
# where COMMAND starts a program as USER, and prints their row of the table. The
# guest must have this kernel, if KERNEL is not empty. Where a demo must be
# refused, $refused is its status.
two_commands() {
    local log=$dir/log/$1.$2 start=$SECONDS status=0 kernel result
    "${@:4}" timeout -s KILL 3600 \
        sh -euc "$(declare -f typed)"'; typed "$@"' typed \
        "$src" "$commands" "${refused:-0}" \
        >"$log" 2>&1 || status=$?
    result=$(tests "$log") || status=1
    kernel=$(found 'kernel: ')
    [ "${3:-$kernel}" = "$kernel" ] || {
        status=1
        say "the kernel should be $3"
    }
    result="$result, $((SECONDS - start)) s"
    ! grep -q '^ *Compiling ' "$log" || result="$result with a build"
    [ "$status" = 0 ] || {
        failed=1 result="$result, FAILED"
        say "$1, $2: failed, the end of $log:"
        tail -n 40 "$log" >&2
    }
    row "$1" "$2" "$kernel" "$(found 'QEMU emulator version ')" \
        "$(found 'rustc ')" "$result"
}

found() { sed -n "s/^$1\([^ ]*\).*/\1/p" "$log" | tail -n 1; }

# Runs in the machine, by its own sh. Anything but status 0 is a failure.
typed() {
    cd "$1"
    before=$(dpkg-query -W)
    status=0
    while IFS= read -r line; do
        echo "\$ $line"
        wanted=0 found=0
        case $line in 'cargo run '*) wanted=$3 ;; esac
        sh -c "$line" </dev/null || found=$?
        [ $found = "$wanted" ] || status=1
    done <<END
$2
END
    if printf '%s\n' "$before" | grep -vxF "$(dpkg-query -W)"; then
        echo 'these packages were removed or upgraded'
        status=1
    fi
    kernel=$(cargo run -q -p harness -- uname -r) || status=1
    echo "kernel: $kernel"
    PATH=$PATH:$1/target/harness-cache/packages/tools/run
    "qemu-system-$(uname -m)" --version || status=1
    rustc --version || status=1
    exit $status
}

# Prints the sum of tests/claims and tests/pages. Fails unless both passed, with
# at least one test, and none was left out.
tests() {
    awk '/^ *(Running|Doc-tests) / { counts = / tests\/(claims|pages)\// }
         counts && /^test result: / {
             results += $4 > 0
             passed += $4; failed += $6; ignored += $8; left += $12
         }
         END { print passed + 0 "/" failed + 0 "/" ignored + 0
               exit results != 2 || failed || left }' "$1"
}
