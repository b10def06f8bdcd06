#!/bin/sh
# Guess:     a signal that a process has blocked, and waits for in sigwait(3),
#            stands in SigBlk of its /proc/PID/status all the time.
# Behaviour: while it waits, it does not. All three masks are without it, as if
#            the signal had its default action and would end the process; but
#            the signal only ends the wait. Before and after it is in SigBlk.
# Versions:  Linux 5.10 to 7.3; Python 3.9 or newer.
# Source:    sigtimedwait takes what it waits for out of `blocked`, and keeps
#            that in `real_blocked`, which no file shows: kernel/signal.c,
#            do_sigtimedwait(); fs/proc/array.c, task_sig().
set -eu
seen=$(python3 - <<'PYTHON'
import os, signal

def masks(pid):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    names = ("SigBlk", "SigIgn", "SigCgt")
    has = lambda line: int(line.split()[1], 16) >> signal.SIGUSR1 - 1 & 1
    return [name for line in lines for name in names
            if line.startswith(name) and has(line)]

def state(pid):
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]

(told, tell), (go, begin) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.write(tell, b"1")
    os.read(go, 1)
    signal.sigwait([signal.SIGUSR1])
    os.write(tell, b"2")
    os.read(go, 1)
    os._exit(7)
os.read(told, 1)
print("blocked:", masks(child))
os.write(begin, b"1")
# No other sign says that it waits: the masks change, and it sleeps.
while masks(child) or state(child) != "S":
    pass
print("waits:", masks(child))
os.kill(child, signal.SIGUSR1)
os.read(told, 1)
print("has waited:", masks(child))
os.write(begin, b"2")
print("status:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
PYTHON
)
expected="blocked: ['SigBlk']
waits: []
has waited: ['SigBlk']
status: 7"
printf 'Linux %s, %s\n%s\n' "$(uname -r)" "$(python3 --version)" "$seen"
[ "$seen" = "$expected" ]
