#!/bin/bash
# Runs one command in a bed: namespaces in which /etc, /run, the spool, the users, host and domain name are private, thrown
# away with the command. Nothing of the machine's own users, /etc or mail set-up is touched, and every process started inside ends
# with it.
#
#   enter.sh [--net] [--var] [--layer DIR] [--spool DIR] COMMAND...
#
#   --net        a network of its own, with nothing but loopback (without it: the machine's)
#   --var        a /var of its own, with nothing but what the layer's packages ship (without it: only /var/spool and /var/mail)
#   --layer DIR  Debian packages unpacked by packages.sh, laid over /usr and /etc
#   --spool DIR  a directory on a real disk for /var/spool (without it: memory)
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../.." && pwd)
spaces=(--mount --propagation private --pid --fork --kill-child --mount-proc --ipc --uts)
layer='' spool='' var=''

while [ $# -gt 0 ]; do
    case $1 in
        --net) spaces+=(--net); shift ;;
        --var) var=private; shift ;;
        --layer) layer=$(realpath -- "$2"); shift 2 ;;
        --spool) mkdir -p -- "$2"; spool=$(realpath -- "$2"); shift 2 ;;
        --) shift; break ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || { printf 'usage: enter.sh [--net] [--var] [--layer DIR] [--spool DIR] COMMAND...\n' >&2; exit 2; }
[ "$(id -u)" = 0 ] || { printf 'enter.sh: needs root\n' >&2; exit 1; }

# A bed that was killed could not take its machine's group away (machine.py). Number by number: this is the last place that sees all processes.
while read -r _ mounted type _; do
    [ "$type" = cgroup2 ] || continue
    for group in "$mounted"/pamrelay-*; do
        if [ -d "$group" ] && { [ "${group##*-}" = $$ ] || [ ! -e "/proc/${group##*-}" ]; }; then
            find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        fi
    done
done </proc/mounts

# While this descriptor is open, in us and in the bed's first process, nobody unpacks the layer anew (packages.sh).
if [ -n "$layer" ]; then
    exec {in_use}>>"$layer.lock"
    flock --shared "$in_use"
fi

mkdir -p "$root/target/bed/private"
export BED_ROOT=$root BED_PRIVATE=$root/target/bed/private BED_LAYER=$layer BED_SPOOL=$spool BED_VAR=$var BED_OUTER_PID=$$
exec unshare "${spaces[@]}" /bin/bash "$here/inside.sh" "$@"
