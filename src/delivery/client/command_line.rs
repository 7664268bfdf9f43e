//! MAIL and RCPT as lines of at most the length that every server takes.
//!
//! An extension lengthens a line by what its own RFC grants, and only where its parameter is in the line. A parameter that
//! can be left out is left out where it does not fit, so no line is ever too long.

/// A command line with a path, never longer than the server must take (RFC 5321 §4.5.3.1.4).
pub(super) struct Line {
    text: String,
    /// With its CR LF.
    limit: usize,
}

/// Whether a parameter went into the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    TooLittle,
}

/// Octets in a command line with its CR LF that every server takes (RFC 5321 §4.5.3.1.4). What
/// servers take is a minimum there; for what we send it is the maximum.
pub(super) const COMMAND_LIMIT: usize = 512;

pub(super) const MAIL: &str = "MAIL FROM:<";
pub(super) const RCPT: &str = "RCPT TO:<";
/// The octets of `>` and CR LF.
pub(super) const PATH_END: usize = 3;

impl Line {
    pub(super) fn new(command: &str, path: &str) -> Self {
        Self { text: format!("{command}{path}>"), limit: COMMAND_LIMIT }
    }

    /// A parameter of an extension that lengthens the line by `more`, which is never less than the
    /// parameter.
    pub(super) fn extended(&mut self, parameter: &str, more: usize) {
        self.text.push_str(parameter);
        self.limit += more;
    }

    /// A parameter that can be left out.
    pub(super) fn optional(&mut self, parameter: &str) -> Room {
        if self.text.len() + parameter.len() + 2 > self.limit {
            return Room::TooLittle;
        }
        self.text.push_str(parameter);
        Room::Enough
    }

    pub(super) fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}
