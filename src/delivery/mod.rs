//! Takes messages to where they belong: route, connect, send, one outcome for each recipient.
//!
//! The queue hands a `Job` over a channel and gets outcomes back over another; delivery never touches the spool
//! and the queue never opens a connection.

pub mod job;
