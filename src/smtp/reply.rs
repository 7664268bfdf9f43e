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

impl Reply {
    /// Whether it counts against a client's patience: not understood, out of order, or a login refused.
    pub fn is_a_client_fault(&self) -> bool {
        matches!(self.code, 500..=504 | 530 | 535 | 538)
    }
}

impl Refusal {
    const fn new(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self(Reply::new(code, subject, detail, text))
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        refusal.0
    }
}

/// What goes well.
impl Reply {
    pub const AUTHENTICATED: Self = Self::new(235, 7, 0, "Authentication succeeded");
    pub const BYE: Self = Self::new(221, 0, 0, "Bye");
    pub const GO_AHEAD: Self = Self::bare(354, "Send the message, end with <CR><LF>.<CR><LF>");
    pub const HELP: Self = Self::new(
        214,
        0,
        0,
        "This is a submission relay: EHLO, STARTTLS, AUTH PLAIN or LOGIN, MAIL, RCPT, DATA, RSET, NOOP, QUIT\nUse your login name and password",
    );
    pub const OK: Self = Self::new(250, 0, 0, "Ok");
    pub const RECIPIENT_OK: Self = Self::new(250, 1, 5, "Recipient ok");
    pub const SENDER_OK: Self = Self::new(250, 1, 0, "Sender ok");
    pub const START_TLS: Self = Self::new(220, 0, 0, "Ready to start TLS");
    /// RFC 5321 §3.5.3: neither yes nor no, so that names cannot be harvested.
    pub const VRFY: Self = Self::new(252, 1, 5, "Cannot verify, but will take mail for delivery");

    pub fn banner(host: &str) -> Self {
        Self { code: 220, status: None, text: Cow::Owned(format!("{host} ESMTP pamrelay")) }
    }

    /// Our name and what we can do; `offered` depends on the state of the session (RFC 5321 §4.1.1.1).
    pub fn ehlo(host: &str, message_size: u64, offered: &[&str]) -> Self {
        let mut text = format!("{host}\nPIPELINING\nSIZE {message_size}\n8BITMIME\nENHANCEDSTATUSCODES\nDSN\nSMTPUTF8\n");
        for keyword in offered {
            text.push_str(keyword);
            text.push('\n');
        }
        text.push_str("HELP");
        Self { code: 250, status: None, text: Cow::Owned(text) }
    }

    pub fn helo(host: &str) -> Self {
        Self { code: 250, status: None, text: Cow::Owned(host.to_owned()) }
    }

    /// A SASL challenge, already in base64 (RFC 4954 §4).
    pub const fn challenge(prompt: &'static str) -> Self {
        Self::bare(334, prompt)
    }

    pub fn queued(id: &impl std::fmt::Display) -> Self {
        let mut reply = Self::OK;
        reply.text = Cow::Owned(format!("Ok: queued as {id}"));
        reply
    }
}

/// What the peer did wrong, or may not do.
impl Refusal {
    pub const ALREADY_SECURE: Self = Self::new(503, 5, 1, "TLS is already active");
    pub const AUTH_CANCELLED: Self = Self::new(501, 7, 0, "Authentication cancelled");
    pub const AUTH_FIRST: Self = Self::new(530, 7, 0, "Authentication required");
    pub const AUTH_MALFORMED: Self = Self::new(501, 5, 2, "Cannot decode the response");
    /// RFC 4954 §4: once, and not inside a transaction.
    pub const AUTH_ONCE: Self = Self::new(503, 5, 1, "Already authenticated");
    /// RFC 4954 §4 and §6.
    pub const AUTH_NEEDS_TLS: Self = Self::new(538, 7, 11, "Encryption required: issue STARTTLS first");
    pub const AUTH_TOO_LONG: Self = Self::new(500, 5, 6, "Authentication exchange line is too long");
    pub const BAD_ADDRESS: Self = Self::new(501, 1, 3, "Bad recipient address syntax");
    pub const BAD_ARGUMENTS: Self = Self::new(501, 5, 4, "Syntax error in arguments");
    pub const BAD_PARAMETER: Self = Self::new(501, 5, 4, "Syntax error in a parameter");
    pub const BAD_SENDER: Self = Self::new(501, 1, 7, "Bad sender address syntax");
    pub const BARE_LINE_END: Self = Self::new(500, 5, 2, "Lines must end with <CR><LF>");
    pub const BARE_LINE_END_IN_TEXT: Self = Self::new(554, 6, 0, "The message has a bare <CR> or <LF>");
    pub const BINARY: Self = Self::new(500, 5, 2, "Command has characters that are not text");
    /// The same text for wrong, unknown, locked: nobody learns which names exist.
    pub const CREDENTIALS: Self = Self::new(535, 7, 8, "Authentication credentials invalid");
    pub const EHLO_FIRST: Self = Self::new(503, 5, 1, "Send EHLO first");
    pub const EXPIRED: Self = Self::new(535, 7, 13, "The password is right, but the account has expired: ask your administrator");
    pub const LITERAL: Self = Self::new(550, 7, 1, "Mail to address literals is not relayed");
    pub const LONG_LINE_IN_TEXT: Self = Self::new(554, 6, 0, "The message has a line of more than 65536 octets");
    pub const LOOP: Self = Self::new(554, 4, 6, "Too many hops: this message goes in circles");
    pub const MECHANISM: Self = Self::new(504, 5, 4, "Authentication mechanism not offered: use PLAIN or LOGIN");
    pub const MUST_CHANGE: Self = Self::new(535, 7, 8, "The password is right, but it has expired and must be changed first");
    pub const NEED_MAIL: Self = Self::new(503, 5, 1, "Send MAIL first");
    pub const NEED_RCPT: Self = Self::new(503, 5, 1, "Send RCPT first: no recipient yet");
    pub const NEEDS_SMTPUTF8: Self = Self::new(553, 6, 7, "Address is not US-ASCII: use the SMTPUTF8 parameter");
    pub const NESTED_MAIL: Self = Self::new(503, 5, 1, "Sender already given");
    pub const NO_DOMAIN: Self = Self::new(550, 1, 2, "Recipient address must have a domain");
    pub const NOT_OFFERED: Self = Self::new(502, 5, 1, "Command not offered here");
    pub const NOT_PERMITTED: Self = Self::new(535, 7, 1, "The password is right, but this account may not send mail here");
    pub const NOT_PERMITTED_NOW: Self = Self::new(550, 7, 1, "Not permitted: authenticate again");
    pub const NUL_IN_TEXT: Self = Self::new(554, 6, 0, "The message has a NUL octet");
    pub const RCPT_PARAMETER: Self = Self::new(555, 5, 4, "RCPT parameter not known");
    pub const MAIL_PARAMETER: Self = Self::new(555, 5, 4, "MAIL parameter not known");
    pub const SENDER_NO_DOMAIN: Self = Self::new(550, 1, 7, "Sender address must have a domain");
    /// RFC 3207 §4: all but EHLO, NOOP, QUIT and STARTTLS waits for TLS.
    pub const TLS_FIRST: Self = Self::new(530, 7, 0, "Must issue a STARTTLS command first");
    pub const TOO_LARGE: Self = Self::new(552, 3, 4, "Message is larger than this relay takes");
    pub const TOO_LONG: Self = Self::new(500, 5, 2, "Line too long");
    pub const UNKNOWN: Self = Self::new(500, 5, 1, "Command not recognised");
}

/// What is our trouble, or passes: the client should come back.
impl Refusal {
    pub const AUTH_UNAVAILABLE: Self = Self::new(454, 7, 0, "Authentication is not available now, try again later");
    pub const FULL: Self = Self::new(452, 3, 1, "No space for the message now, try again later");
    /// The same command in a session that logs in again succeeds, so the message must not go back to its sender.
    pub const LOGIN_EXPIRED: Self = Self::new(451, 7, 0, "Your login has expired: connect and log in again");
    pub const QUEUE_UNAVAILABLE: Self = Self::new(451, 3, 0, "Cannot queue the message now, try again later");
    pub const THROTTLED: Self = Self::new(454, 7, 0, "Too many attempts, try again later");
    pub const TOO_MANY_RECIPIENTS: Self = Self::new(452, 5, 3, "Too many recipients: send the rest in another message");
}

/// Replies after which the connection is closed (RFC 5321 §3.8).
impl Refusal {
    pub const ENDLESS_LINE: Self = Self::new(421, 5, 2, "Line does not end, closing connection");
    pub const HANGING_UP: Self = Self::new(421, 3, 2, "Shutting down, closing connection");
    pub const IDLE: Self = Self::new(421, 4, 2, "Waited too long, closing connection");
    pub const INJECTION: Self = Self::new(554, 7, 0, "Nothing may follow STARTTLS before the handshake, closing connection");
    pub const NO_LOGIN: Self = Self::new(421, 4, 2, "Not logged in for too long, closing connection");
    pub const OTHER_PROTOCOL: Self = Self::new(421, 5, 1, "This is a mail server, not one for HTTP, closing connection");
    pub const SESSION_OVER: Self = Self::new(421, 4, 2, "This session has lasted long enough, closing connection");
    pub const TLS_ON_PLAIN: Self = Self::new(421, 5, 1, "This port starts without TLS: use STARTTLS, closing connection");
    pub const TOO_MANY_COMMANDS: Self = Self::new(421, 7, 0, "Too many commands before a login, closing connection");
    pub const TOO_MANY_ERRORS: Self = Self::new(421, 7, 0, "Too many errors, closing connection");
    pub const TOO_MANY_SESSIONS: Self = Self::new(421, 7, 0, "Too many sessions, try again later");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_reply_has_code_and_status() {
        let mut out = String::new();

        Reply::HELP.write(&mut out);

        assert!(out.starts_with("214-2.0.0 This"), "{out}");
        assert!(out.ends_with("\r\n214 2.0.0 Use your login name and password\r\n"), "{out}");
    }

    #[test]
    fn the_status_follows_the_code() {
        let mut out = String::new();

        Reply::from(Refusal::CREDENTIALS).write(&mut out);
        Reply::challenge("VXNlcm5hbWU6").write(&mut out);

        assert_eq!(out, "535 5.7.8 Authentication credentials invalid\r\n334 VXNlcm5hbWU6\r\n");
    }
}
