//! What several test programs share: a relay to talk to and a client that talks.

pub(crate) mod client;
pub(crate) mod helper;
pub(crate) mod relay;
