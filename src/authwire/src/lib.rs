//! The one question the front end may ask root, and its answer, as bytes.
//!
//! ```text
//! front ──Question──▶ pamrelay-auth ──Verdict────▶ front ──Ticket──▶ queue
//! root  ──Order─────▶ pamrelay-auth ──Statement──▶ root
//! ```
//!
//! One connection carries one question and one verdict, then both sides close. Every frame has a
//! version, a kind and lengths that are checked against a constant before a byte is copied; what
//! does not decode exactly is refused. The [`Ticket`] in an accepting verdict is opaque to the front
//! and proves to the queue who the user is; the keys behind it are a small file, [`TicketKeys`].
//!
//! Beside the frames it has what all programs must read alike: the rules for names, [`NameRule`]; what can be a name or a
//! password, and which names mean the same account, [`spelling`]; which addresses are one [`network()`] and which one
//! [`site()`]; how a session is written, [`SessionId`].
//!
//! The crate has no dependencies, because root runs it: MACs are computed by its callers, and secrets
//! are wiped with safe code (see [`wipe`]).
#![forbid(unsafe_code)]

mod cursor;
mod names;
mod network;
mod order;
mod question;
mod session_id;
pub mod spelling;
mod statement;
mod ticket;
mod ticket_keys;
mod verdict;
mod wipe;

pub use names::{NameRule, rewrite};
pub use network::{network, site};
pub use order::{Logins, MAX_ORDER, Order, Subject};
pub use question::{FrameLen, MAX_LISTENER, MAX_PASSWORD, MAX_QUESTION, MAX_USER, Question, QuestionFrame};
pub use session_id::SessionId;
pub use statement::{Attempt, Held, HeldSubject, MAX_STATEMENT, MAX_TEXT, Statement, Status};
pub use ticket::{MAC_LEN, MAX_TICKET, Ticket};
pub use ticket_keys::{KEY_LEN, TicketKey, TicketKeys};
pub use verdict::{Accepted, Cause, MAX_GROUPS, MAX_NAME, MAX_VERDICT, Outcome, OutcomeKind, Phase, Reason, Verdict};
pub use wipe::wipe;

/// The only version there is. Both programs come from one package, so no older one is understood.
pub const VERSION: u8 = 1;

/// What the second byte of a frame to the helper says.
const QUESTION: u8 = 1;
const ORDER: u8 = 2;
