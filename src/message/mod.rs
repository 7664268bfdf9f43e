//! What pamrelay writes into or reads from a message itself; everything else passes through untouched.

pub mod hops;
pub mod message_id;
pub(crate) mod seven_bit;
pub mod start;
pub mod trace;
