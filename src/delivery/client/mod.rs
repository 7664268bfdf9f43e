//! The SMTP client: `opening` and `transaction` decide, `connection` moves octets.

mod command_line;
pub(crate) mod connection;
pub(crate) mod content;
pub(crate) mod dialer;
pub(crate) mod features;
pub(crate) mod opening;
pub(crate) mod reply;
pub(crate) mod secrets;
pub(crate) mod stream;
pub(crate) mod stuffing;
pub(crate) mod tls;
pub(crate) mod transaction;
pub(crate) mod trouble;
