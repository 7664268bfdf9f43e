//! The queue's own socket for administrators: one JSON object on each line, both ways.
//!
//! ```text
//! {"do":"list","filter":{"state":"deferred","user":"alice"}}      → {"entry":{…}} for each, then {"done":{"count":2}}
//! {"do":"show","id":"01hq3…"}                                     → {"shown":{"entry":{…},"headers":"…"}}, {"done":{"count":1}}
//! {"do":"status"}                                                 → {"status":{"undelivered_reports":0}}, {"done":{"count":1}}
//! {"do":"retry"|"hold"|"release"|"delete","ids":["01hq3…"]}       → {"changed":["01hq3…"]}, {"done":{"count":1}}
//! {"do":"delete","filter":{"user":"alice"}}                       → the same, for all that match
//! anything that cannot be done                                    → {"error":"…"}
//! ```
//!
//! One request on each connection. An empty filter matches everything. Times are RFC 3339 in UTC; names are only ever
//! added. Invariant: only root and the queue's own user are listened to, and no body ever leaves by this door.

mod client;
mod protocol;
mod server;

pub use client::{Client, ClientError};
pub use protocol::{Entry, Filter, Note, RecipientEntry, RecipientState, Request, Shown, State, Status, Target};
pub use server::{ControlError, Role, bind, serve};
