# Reads the log of `cargo test` and prints: passed failed skipped.
#
# Three things that the `test result:` lines do not tell: a test that could not do its work says `SKIPPED (why): name` and is counted as
# passed by libtest; a program with a harness of its own may have no such line; one (sandbox) counts its skipped ones itself.

function finish() {
    if (!summed) passed += good
    if (!counts_itself) { passed -= said; skipped += said }
    good = said = summed = counts_itself = 0
}

/^ *Running |^ *Doc-tests / { finish(); counts_itself = /tests\/sandbox\.rs/ }
/SKIPPED \(/ { said++ }
/^test .*ok$/ { good++ }
/^test result:/ {
    summed = 1
    gsub(/;/, "")
    for (i = 2; i < NF; i++) {
        if ($(i + 1) == "passed") passed += $i
        if ($(i + 1) == "failed") failed += $i
        if ($(i + 1) == "ignored") skipped += $i
    }
}
END { finish(); print passed + 0, failed + 0, skipped + 0 }
