//! The key role without its cage: the permission law, the store, and handshakes signed from afar.

use std::io::Write as _;

#[path = "support/pki.rs"]
mod pki;

#[path = "keys/handshake.rs"]
mod handshake;
#[path = "keys/law.rs"]
mod law;
#[path = "keys/store.rs"]
mod store;

/// Says that a test cannot do its work here, and is what such a test returns.
fn needs_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skipped("root", test);
    }
    is_root
}

/// Past the capture of tests that pass, which would hide it; tests/bed/count.awk counts it.
fn skipped(needs: &str, test: &str) {
    let _ = writeln!(std::io::stdout(), "SKIPPED (needs {needs}): {test}");
}
