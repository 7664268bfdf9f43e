//! Every reply the front end gives, on one page: code, enhanced status (RFC 2034, RFC 3463), text.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::status::{Class, EnhancedStatus};

/// One reply to one command (RFC 5321 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// Not in 220, 221's banner, 250 to EHLO, 334 and 354 (RFC 2034 §4).
    pub status: Option<EnhancedStatus>,
    pub text: Cow<'static, str>,
}

/// The peer asked for what cannot be done; the session goes on unless the code is 421.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub Reply);

impl Reply {
    pub const fn bare(code: u16, text: &'static str) -> Self {
        Self { code, status: None, text: Cow::Borrowed(text) }
    }

    /// `class` follows from the code; `subject.detail` as in RFC 3463 §3.
    pub const fn new(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        let class = match Class::of_code(code) {
            Some(class) => class,
            None => panic!("a reply with an enhanced status is 2yz, 4yz or 5yz"),
        };
        Self { code, status: Some(EnhancedStatus::new(class, subject, detail)), text: Cow::Borrowed(text) }
    }

    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Appends the reply as it goes on the wire. Line ends inside the text start a new line of a multi-line reply.
    pub fn write(&self, out: &mut String) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            let _ = write!(out, "{}{separator}", self.code);
            if let Some(status) = self.status {
                let _ = write!(out, "{status} ");
            }
            out.push_str(line);
            out.push_str("\r\n");
        }
    }
}

impl Refusal {
    const fn new(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self(Reply::new(code, subject, detail, text))
    }
}
