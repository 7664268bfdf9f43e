//! pamrelay: a submission relay for Unix sites. A tour in the order a message travels:
//!
//! 1. [`front`] listens, counts and shakes hands; [`session`] is one client, from greeting to QUIT, and speaks [`smtp`].
//! 2. [`auth`] asks root about a password, and gets a verdict with a ticket; [`keys`] signs handshakes.
//! 3. [`handoff`] carries envelope, text and ticket to the queue; [`message`] is what we add to it.
//! 4. [`queue`] makes it durable, and only then is it ours; it decides when a message is tried and what becomes of it.
//! 5. [`delivery`] takes it to the next server; [`dsn`] tells the sender what did not work, through the queue again.
//!
//! Around it: [`config`] is what may be said in the configuration, [`cli`] what may be said on the command line, [`run`]
//! starts the roles and keeps them, [`sandbox`] closes a role in, [`guests`] are people without an account, `replace` writes
//! files anew, `directory` makes directories and gives them away, `sockets` binds what roles listen on, [`watch`] reads files
//! that others replace, `visible` makes text safe to look at, [`log`] says what happened.
#![forbid(unsafe_code)]
// They panic when nobody reads; `cli::out` says what is to be said.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod auth;
pub mod cli;
pub mod config;
pub mod delivery;
mod directory;
pub mod dsn;
pub mod front;
pub mod guests;
pub mod handoff;
pub mod keys;
pub mod log;
pub mod message;
pub mod queue;
mod replace;
pub mod run;
pub mod sandbox;
pub mod session;
pub mod smtp;
mod sockets;
mod visible;
pub mod watch;
