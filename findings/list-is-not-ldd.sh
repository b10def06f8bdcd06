#!/bin/sh
# Guess:     `ld.so --list PROGRAM` lists what ldd(1) lists; where a library is
#            missing, both say so in its line.
# Behaviour: --list prints one error and no list, not even of what comes before
#            or after, and its status is 127. ldd lists everything, "not found"
#            among it, and its status is 0.
# Versions:  glibc 2.36, 2.41, 2.43.
# Source:    elf/rtld.c: ldd sets LD_TRACE_LOADED_OBJECTS, and only with that a
#            library that is missing is no error.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
for it in a b; do
    echo "int $it(void) { return 0; }" > "$it.c"
    cc -shared -fPIC -o "lib$it.so" "$it.c"
done
echo 'int a(void), b(void); int main(void) { return a() + b(); }' > main.c
cc -o main main.c -L. -la -lb
for linker in /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1; do
    [ ! -e "$linker" ] || break
done
export LD_LIBRARY_PATH=.
# The lines about the two libraries, and the status.
look() {
    status=0
    "$@" ./main > list 2> errors || status=$?
    ours=$(sed -n 's/^\t\(lib[ab].so => [^(]*[^ (]\).*/\1/p' list |
        paste -sd ' ' -)
    printf '%s: %s, %s errors, %s\n' "${1##*/}" "$status" \
        "$(grep -c . errors || :)" "$ours"
}
seen=$(
    look ldd
    look "$linker" --list
    rm liba.so
    look ldd
    look "$linker" --list
)
printf '%s\n%s\n' "$(getconf GNU_LIBC_VERSION)" "$seen"
name=${linker##*/}
both='liba.so => ./liba.so libb.so => ./libb.so'
[ "$seen" = "ldd: 0, 0 errors, $both
$name: 0, 0 errors, $both
ldd: 0, 0 errors, liba.so => not found libb.so => ./libb.so
$name: 127, 1 errors, " ]
