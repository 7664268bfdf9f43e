//! The `pamrelay` program: arguments choose a role or a question to one.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// A password that was freed is gone: what the allocator takes back, it wipes.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    pamrelay::cli::main()
}
