//! The `pamrelay` program: arguments choose a role or a question to one.
#![forbid(unsafe_code)]

fn main() {}
