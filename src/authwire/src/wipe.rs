//! Forgetting secrets without `unsafe` and without dependencies.
//!
//! A volatile write needs `unsafe`, and `zeroize` would be a dependency of everything that speaks this
//! format. [`std::hint::black_box`] is told a pointer to the cleared bytes, so the compiler must assume
//! they are read and may not drop the clearing as a dead store; the fence keeps it before what follows.
//! Invariant: a buffer that is wiped was never reallocated, so no older copy lies elsewhere.

use std::hint::black_box;
use std::sync::atomic::{Ordering, compiler_fence};

/// Overwrites `bytes` with zeros in a way that the optimiser keeps.
#[inline(never)]
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    black_box(bytes.as_ptr());
    black_box(bytes);
    compiler_fence(Ordering::SeqCst);
}
