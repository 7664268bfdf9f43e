//! The protocol as pure functions: bytes in, nouns out. No I/O, no clock, no state.
//!
//! Everything here is decided by an RFC; what pamrelay makes of it is decided in `session`.

pub mod address;
pub mod client_name;
pub mod command;
pub mod data;
pub mod envelope;
pub mod line;
pub mod params;
pub mod reply;
pub mod sasl;
pub mod session_id;
pub mod status;
pub mod xtext;

pub use pamrelay_authwire::SessionId;
