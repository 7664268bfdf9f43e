//! The PAM helper: one question, one disposable worker, one verdict.

fn main() {}
