#!/bin/sh
# Guess:     a program that posix_spawn(3) starts ignores the signals that its
#            parent ignores, as after fork(2) and execve(2).
# Behaviour: it ignores signals 32 and 33 as well, which glibc keeps for its
#            threads. Who looks at SigIgn of a container's process to see what
#            its runtime has left ignored finds two signals of glibc's.
# Versions:  glibc 2.36 (Debian 2.36-9+deb12u14), Python 3.11, Linux 6.18.
# Source:    what was seen; the two are SIGCANCEL and SIGSETXID, for which no
#            program can set an action by glibc's sigaction(3).
set -eu
seen=$(python3 - <<'PYTHON'
import os

def ignored(start):
    read, write = os.pipe()
    pid = start(write)
    os.close(write)
    mask = int(os.fdopen(read).read().split()[1], 16)
    os.waitpid(pid, 0)
    return {n for n in range(1, 65) if mask >> n - 1 & 1}

argv = ["grep", "SigIgn", "/proc/self/status"]

def spawn(out):
    return os.posix_spawnp(argv[0], argv, os.environ,
                           file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])

def fork(out):
    pid = os.fork()
    if pid == 0:
        os.dup2(out, 1)
        os.execvp(argv[0], argv)
    return pid

print(sorted(ignored(spawn) - ignored(fork)))
PYTHON
)
printf '%s\n%s\n' "$(getconf GNU_LIBC_VERSION)" "$seen"
[ "$seen" = '[32, 33]' ]
