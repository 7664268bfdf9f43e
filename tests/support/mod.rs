//! What several test programs share: a relay to talk to and a client that talks.

pub mod client;
pub mod helper;
pub mod relay;
