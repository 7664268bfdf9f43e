#!/bin/bash
# `make test`: cargo test, then the system tests in a bed, then each back end of PAM (tests/pam/suites) in a bed of its
# own. The last line is the total of all; the status is 0 only if nothing failed.
#
#   test.sh SUDO LAYER "PACKAGE..."
set -uo pipefail
sudo=$1 layer=$2
read -ra packages <<<"$3"
bed=target/bed log=target/bed/cargo-test-$$.log # by number: a second make test here has files of its own
if ! mkdir -p "$bed" || ! : >"$log"; then
    printf 'test.sh: %s cannot be written by you. Mend it: sudo chown -R "$USER" %s\n' "$log" "$bed" >&2
    exit 1
fi
trap 'mv -f "$log" target/bed/cargo-test.log; rm -f target/bed/totals-*-$$' EXIT

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

# 2. The system tests: the whole relay, with real programs around it. Then the back ends of PAM, each in a bed of its own.
suite() { # NAME DIRECTORY FILES PACKAGE...
    local name=$1 directory=$2 files=$3; shift 3
    local totals=$bed/totals-$name-$$ cause began=$SECONDS unpacked chosen options=(--net) run=(/usr/bin/python3 tests/system/run.py --suite "$directory" --files "$files")
    rm -f "$totals" # the directory is ours, whoever made the file
    if [ -n "${TESTS:-}" ]; then
        "${run[@]}" --any && chosen=0 || chosen=$?
        [ "$chosen" != 3 ] || return 0 # run.py's NOTHING; anything else that is no 0 left no totals
        if [ "$chosen" != 0 ]; then status=1; count_in "$totals"; return 0; fi
    fi
    if [ "$has_root" = no ]; then
        "${run[@]}" --without-root --totals "$totals" || status=1
        count_in "$totals"
        return 0
    fi

    if [ $# -gt 0 ]; then
        options+=(--layer "$bed/$name")
        # On standard output there is nothing but the cause of a failure.
        if ! cause=$("${as_root[@]}" env ${PACKAGES_PATIENCE:+PACKAGES_PATIENCE="$PACKAGES_PATIENCE"} tests/bed/packages.sh layer "$bed/$name" "$@"); then
            printf 'FAILED  %s: its packages could not be had: %s\n' "$name" "${cause:-see above}"
            failed=$((failed + 1)) status=1
            return 0
        fi
    fi
    [ "$directory" = tests/system ] || options+=(--var)
    unpacked=$SECONDS
    "${as_root[@]}" env BED_PEOPLE=all TESTS="${TESTS:-}" PATH="$PATH" \
        tests/bed/enter.sh "${options[@]}" "${run[@]}" --totals "$totals" || status=1
    printf '%s: %d s, after %d s for its packages\n' "$name" $((SECONDS - unpacked)) $((unpacked - began))
    count_in "$totals"
}

# A suite that left no totals is one failure.
count_in() {
    local more_passed more_failed more_skipped
    read -r more_passed more_failed more_skipped < <(cat "$1" 2>/dev/null || echo 0 1 0)
    passed=$((passed + more_passed)) failed=$((failed + more_failed)) skipped=$((skipped + more_skipped))
}

# A file that no line of tests/pam/suites names would never run, and one that two name would run twice.
for file in tests/pam/test_*.py; do
    named=0
    while read -r name _; do
        # shellcheck disable=SC2053 # a pattern
        [[ ${file##*/} != test_${name}[._]* ]] || named=$((named + 1))
    done < <(grep -v '^#' tests/pam/suites)
    if [ "$named" != 1 ]; then
        printf 'FAILED  %s: named by %d lines of tests/pam/suites\n' "$file" "$named"
        failed=$((failed + 1)) status=1
    fi
done

suite "$(basename "$layer")" tests/system 'test_*.py' "${packages[@]}"
while read -r name needs; do
    read -ra needs <<<"$needs"
    suite "pam-$name" tests/pam "test_${name}[._]*" "${needs[@]}" </dev/null
done < <(grep -v '^#' tests/pam/suites)

if [ $((passed + failed + skipped)) = 0 ]; then printf 'no test is named so: %s\n' "${TESTS:-}"; status=1; fi
[ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$status" = 0 ] && [ "$failed" = 0 ]
