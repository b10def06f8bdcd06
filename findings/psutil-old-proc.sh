#!/bin/sh
# Guess:     in a new PID namespace, with the /proc of the old one, psutil fails,
#            or says what it can about the process that asks.
# Behaviour: Process() is PID 1 there, and psutil describes, without an error,
#            the process that is PID 1 *outside*: another name, another command
#            line, a start long ago. is_running() is True.
# Versions:  psutil 5.9.8 and 7.0.0 (PyPI); Linux 5.10 to 7.3.
# Source:    psutil takes os.getpid() and reads /proc/1/...: _pslinux.py.
#            proc(5): a /proc shows the PID namespace of who mounted it.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/look.py" <<'PYTHON'
import psutil

me = psutil.Process()
with open("/proc/1/comm") as one:
    same = me.name() == one.read().strip()[:15]
itself = any("look.py" in word for word in me.cmdline())
print(f"PID {me.pid}: the outside's PID 1: {same}, itself: {itself},",
      f"running: {me.is_running()}")
PYTHON
python3 -m venv "$dir/venv"
for version in 5.9.8 7.0.0; do
    "$dir/venv/bin/pip" install -q --disable-pip-version-check \
        "psutil==$version"
    echo "psutil $version"
    unshare --user --map-root-user --pid --fork \
        "$dir/venv/bin/python" "$dir/look.py"
done > "$dir/seen"
cat > "$dir/expected" <<'SEEN'
psutil 5.9.8
PID 1: the outside's PID 1: True, itself: False, running: True
psutil 7.0.0
PID 1: the outside's PID 1: True, itself: False, running: True
SEEN
diff "$dir/expected" "$dir/seen" && cat "$dir/seen"
