#!/bin/sh
# Guess:     printf '0 0 1\n1 1 1\n' > uid_map is one write(2) in every shell.
# Behaviour: bash's printf writes each line with a write of its own, to a file
#            and to a pipe too. A map can be written once only, so the first line
#            becomes the map, and the others are EPERM. printf(1), dash and
#            busybox write it whole.
# Versions:  bash 5.2.15, dash 0.5.12, coreutils 9.1, busybox 1.35; Python 3.
# Source:    bash makes standard output line buffered, always: sh_setlinebuf().
#            user_namespaces(7): "an attempt to write more than once to a uid_map
#            file in a user namespace fails with the error EPERM".
set -eu
seen=$(python3 - <<'PYTHON'
import shutil, socket, subprocess

text = r"printf '0 0 1\n1 1 1\n'"
for argv in (["bash", "-c", text], ["dash", "-c", text],
             ["busybox", "sh", "-c", text],
             ["env", "printf", r"0 0 1\n1 1 1\n"]):
    if shutil.which(argv[0]) is None:
        continue
    # Each write to such a socket arrives as a message of its own.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    subprocess.run(argv, stdout=theirs, check=True)
    ours.setblocking(False)
    writes = []
    try:
        while True:
            writes.append(ours.recv(100))
    except BlockingIOError:
        print(argv[0], writes)
PYTHON
)
bash --version | head -n 1
printf '%s\n' "$seen"
whole="[b'0 0 1\\n1 1 1\\n']"
printf '%s\n' "$seen" | grep -Fqx "bash [b'0 0 1\\n', b'1 1 1\\n']"
printf '%s\n' "$seen" | grep -Fqx "env $whole"
[ "$(printf '%s\n' "$seen" | grep -Fvc " $whole")" = 1 ]
