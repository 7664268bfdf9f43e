//! Takes messages to where they belong: route, connect, send, one outcome for each recipient.
//!
//! The queue hands a `Job` over a channel and gets outcomes back over another; delivery never touches the spool
//! and the queue never opens a connection.
//!
//! ```text
//! Job ─▶ engine ─ routes ─▶ parcel ─▶ destination ─▶ worker ─ reach, client ─▶ server
//!                                                      └──── maildir ────────▶ disk
//!            Outcomes ◀── each recipient once ──────────┘
//! ```

pub(crate) mod client;
pub(crate) mod destination;
mod engine;
#[cfg(test)]
pub(crate) mod fake;
pub mod job;
pub(crate) mod maildir;
pub(crate) mod ourselves;
pub(crate) mod outages;
pub(crate) mod parcel;
pub(crate) mod pool;
pub(crate) mod reach;
mod reserved;
pub mod resolver;
pub mod route;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
mod waiting;
pub(crate) mod worker;

pub use client::connection::Timeouts;
pub use client::secrets::{Asked, NoSecrets, SecretError, Secrets};
pub use client::tls::{Trust, TrustError};
pub use engine::{Delivery, Settings};
pub use reserved::PrivateNetworks;
