//! queue
#[cfg(test)]
pub(crate) mod conformance;
pub mod message;
pub mod moment;
pub(crate) mod record;
pub mod spool;
pub mod sqlite;
pub mod store;
