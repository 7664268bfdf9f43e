//! The queue's role: owns the spool, decides when a message goes out, and what its sender hears of it.
//!
//! A message comes in by `accept`, is durable in `store` (today `sqlite`), goes out by `dispatch` when `schedule` says so,
//! and `settle` decides what became of it; a report about it comes in by the same store, in the same step. Invariant:
//! a message is in the store from the moment it is acknowledged until every recipient is settled; all else here is
//! memory that a crash may take.

pub mod accept;
#[cfg(test)]
pub(crate) mod conformance;
pub mod control;
pub mod dispatch;
pub mod footprint;
pub mod message;
pub mod moment;
pub mod places;
mod receipts;
pub(crate) mod record;
pub mod report;
pub mod run;
pub mod schedule;
pub mod server;
pub mod settle;
pub mod spool;
pub mod sqlite;
pub mod store;
#[cfg(test)]
mod tests;
pub mod tickets;

pub use run::{QueueSettings, RunError, run, run_until};
