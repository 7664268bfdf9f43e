#!/bin/bash
# `make test`: cargo test, then the system tests in a bed. The last line is the total of both; the status is 0 only if
# nothing failed.
#
#   test.sh SUDO LAYER "PACKAGE..."
set -uo pipefail
sudo=$1 layer=$2
read -ra packages <<<"$3"
bed=target/bed log=target/bed/cargo-test.log
if ! mkdir -p "$bed" || ! : >"$log"; then
    printf 'test.sh: %s cannot be written by you. Mend it: sudo chown -R "$USER" %s\n' "$log" "$bed" >&2
    exit 1
fi

# Root, or a sudo that asks nothing.
as_root=() has_root=yes
if [ "$(id -u)" != 0 ]; then
    read -ra as_root <<<"$sudo"; as_root+=(-n)
    "${as_root[@]}" true 2>/dev/null || has_root=no
fi

# 1. Units, dialogs, everything that cargo knows.
status=0
if [ -z "${TESTS:-}" ]; then
    # Built by the user, run by root: what needs root is tested too.
    if [ "$has_root" = yes ] && [ ${#as_root[@]} -gt 0 ]; then
        host=$(rustc -vV | sed -n 's/^host: //p')
        export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER=${as_root[*]} env PATH=$PATH"
    fi
    # Bounded, so that a test that hangs is a failure with a name (the last ones in the log) and not a night without an answer.
    timeout --foreground 40m cargo test --workspace --no-fail-fast 2>&1 | tee "$log"
    status=$((PIPESTATUS[0] | PIPESTATUS[1]))
fi
read -r passed failed skipped < <(awk -f tests/bed/count.awk "$log") || { passed=0 failed=0 skipped=0 status=1; }
# A program that does not compile, or one that dies, has no line of its own.
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi

# 2. The system tests: the whole relay, with real programs around it.
"${as_root[@]}" rm -f "$bed/system-totals" 2>/dev/null || rm -f "$bed/system-totals"
if [ "$has_root" = yes ]; then
    "${as_root[@]}" tests/bed/packages.sh layer "$layer" "${packages[@]}" &&
        "${as_root[@]}" env BED_PEOPLE=all TESTS="${TESTS:-}" PATH="$PATH" \
            tests/bed/enter.sh --net --layer "$layer" /usr/bin/python3 tests/system/run.py --totals "$bed/system-totals" || status=1
else
    /usr/bin/python3 tests/system/run.py --without-root --totals "$bed/system-totals" || status=1
fi
read -r more_passed more_failed more_skipped < <(cat "$bed/system-totals" 2>/dev/null || echo 0 1 0)

passed=$((passed + more_passed)) failed=$((failed + more_failed)) skipped=$((skipped + more_skipped))
[ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$status" = 0 ] && [ "$failed" = 0 ]
