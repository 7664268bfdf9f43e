//! The door from the front end to the queue: an opening, the body, and one answer.

use std::fmt;

/// The name of one accepted message. Only the queue makes one, when the message is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(String);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
