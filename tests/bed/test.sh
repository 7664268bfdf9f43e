#!/bin/bash
# `make test`: cargo test, then the system tests in a bed. The last line is the total of both; the status is 0 only if
# nothing failed.
#
#   test.sh SUDO LAYER "PACKAGE..."
set -uo pipefail
sudo=$1 layer=$2
read -ra packages <<<"$3"
bed=target/bed
mkdir -p "$bed"
failures=0

# 1. Units, dialogs, everything that cargo knows.
if [ -z "${TESTS:-}" ]; then
    # Bounded, so that a test that hangs is a failure with a name (the last ones in the log) and not a night without an answer.
    timeout --foreground 40m cargo test --workspace --no-fail-fast 2>&1 | tee "$bed/cargo-test.log"
    status=${PIPESTATUS[0]}
else
    : >"$bed/cargo-test.log"; status=0
fi
read -r passed failed skipped < <(awk '/^test result:/ { gsub(/;/, ""); for (i = 2; i < NF; i++) {
    if ($(i + 1) == "passed") p += $i; if ($(i + 1) == "failed") f += $i; if ($(i + 1) == "ignored") s += $i } }
    END { print p + 0, f + 0, s + 0 }' "$bed/cargo-test.log")
# A program that does not compile, or one that dies, has no line of its own.
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi

# 2. The system tests: the whole relay, with real programs around it.
rm -f "$bed/system-totals"
as_root=(/bin/true)
[ "$(id -u)" = 0 ] || { read -ra as_root <<<"$sudo"; as_root+=(-n); }
if [ "$(id -u)" = 0 ] || "${as_root[@]}" true 2>/dev/null; then
    [ "$(id -u)" = 0 ] && as_root=()
    "${as_root[@]}" tests/bed/packages.sh layer "$layer" "${packages[@]}" &&
        "${as_root[@]}" env BED_PEOPLE=all TESTS="${TESTS:-}" PATH="$PATH" \
            tests/bed/enter.sh --net --layer "$layer" /usr/bin/python3 tests/system/run.py --totals "$bed/system-totals" || failures=1
else
    /usr/bin/python3 tests/system/run.py --without-root --totals "$bed/system-totals" || failures=1
fi
read -r more_passed more_failed more_skipped < <(cat "$bed/system-totals" 2>/dev/null || echo 0 1 0)

passed=$((passed + more_passed)) failed=$((failed + more_failed)) skipped=$((skipped + more_skipped))
[ "$failures" = 0 ] || [ "$failed" -gt 0 ] || failed=1
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
