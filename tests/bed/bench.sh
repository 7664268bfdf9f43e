#!/bin/bash
# `make bench` and `make bench-peer`: the release programs in a bed whose spool is on a real disk, under target/.
#
#   bench.sh SUDO none
#   bench.sh SUDO too LAYER
set -euo pipefail
read -ra sudo <<<"$1"
peer=$2
options=(--net --spool target/bed/bench-spool)
[ -z "${3:-}" ] || options+=(--layer "$3")

load=$(cargo build --release --bench load --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/load-[^"]*\)".*/\1/p' | tail -1)
[ -x "$load" ] || { echo "bench: the load program was not built" >&2; exit 1; }

kind=$(findmnt --noheadings --output FSTYPE --target target/bed || true)
case $kind in tmpfs | ramfs) echo "bench: target/ is in memory: the rates below owe nothing to a disk" >&2 ;; esac
"${sudo[@]}" env BED_PEOPLE=all BED_BINARIES="$PWD/target/release" ROUNDS="${ROUNDS:-3}" SECONDS_EACH="${SECONDS_EACH:-5}" ONLY="${ONLY:-}" \
    tests/bed/enter.sh "${options[@]}" /usr/bin/python3 benches/bench.py --load "$load" --peer "$peer"
