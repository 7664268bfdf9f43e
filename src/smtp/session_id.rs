//! Names for connections that are new.

use super::SessionId;

/// A name nobody has used: 64 bits from the system's generator.
pub fn fresh() -> SessionId {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the library's generator never runs dry once seeded");
    SessionId(u64::from_le_bytes(bytes))
}
