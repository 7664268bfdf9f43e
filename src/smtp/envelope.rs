//! Who a message is from and for, and what its sender wants to hear of it (RFC 5321 §2.3.1, RFC 3461 §4).

use std::fmt;

use super::address::{Mailbox, ReversePath};

/// A mail transaction that is ready for DATA: there is always at least one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub sender: ReversePath,
    pub first: Recipient,
    pub rest: Vec<Recipient>,
    pub body: BodyType,
    pub international: International,
    pub ret: Option<Ret>,
    pub envid: Option<EnvelopeId>,
}

impl Envelope {
    pub fn recipients(&self) -> impl ExactSizeIterator<Item = &Recipient> + Clone {
        OneAndMore { first: Some(&self.first), rest: self.rest.iter() }
    }
}

/// One recipient and what to report of it (RFC 3461 §4.1, §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub mailbox: Mailbox,
    pub notify: Notify,
    pub original: Option<OriginalRecipient>,
}

/// The NOTIFY parameter (RFC 3461 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Not given: failures are reported, delays as the relay sees fit.
    Unspecified,
    Never,
    On(NotifyOn),
}

/// The events a sender asked to hear of; at least one is set when it came from a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotifyOn {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    pub const fn of_success(self) -> bool {
        matches!(self, Self::On(NotifyOn { success: true, .. }))
    }

    pub const fn of_failure(self) -> bool {
        matches!(self, Self::Unspecified | Self::On(NotifyOn { failure: true, .. }))
    }

    pub const fn of_delay(self) -> bool {
        matches!(self, Self::Unspecified | Self::On(NotifyOn { delay: true, .. }))
    }
}

/// As the NOTIFY value is written on the wire; empty when it was not given.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified => Ok(()),
            Self::Never => f.write_str("NEVER"),
            Self::On(on) => {
                let words = [(on.success, "SUCCESS"), (on.failure, "FAILURE"), (on.delay, "DELAY")];
                let wanted: Vec<_> = words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
                f.write_str(&wanted.join(","))
            }
        }
    }
}

/// The ORCPT parameter, decoded: an address type and an address in it (RFC 3461 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalRecipient {
    /// `rfc822` or `utf-8` as a rule; an atom.
    pub kind: String,
    /// Printable text without line ends: the parser lets nothing else through.
    pub address: String,
}

impl OriginalRecipient {
    /// An atom of at most 64 octets and a printable address of at most 500 (RFC 3461 §4.2).
    pub fn new(kind: &str, address: &str) -> Option<Self> {
        let is_atom = (1..=64).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let printable = (1..=500).contains(&address.len()) && !address.chars().any(char::is_control);
        (is_atom && printable).then(|| Self { kind: kind.to_owned(), address: address.to_owned() })
    }
}

/// The RET parameter: how much of the message a failure report gives back (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

/// The ENVID parameter, decoded: printable US-ASCII, at most 100 octets (RFC 3461 §4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeId(String);

impl EnvelopeId {
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        ((1..=100).contains(&text.len()) && printable).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The BODY parameter (RFC 6152 §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
}

/// Whether the SMTPUTF8 parameter was given (RFC 6531 §3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum International {
    #[default]
    Ascii,
    Utf8,
}

#[derive(Clone)]
struct OneAndMore<'a> {
    first: Option<&'a Recipient>,
    rest: std::slice::Iter<'a, Recipient>,
}

impl<'a> Iterator for OneAndMore<'a> {
    type Item = &'a Recipient;

    fn next(&mut self) -> Option<&'a Recipient> {
        self.first.take().or_else(|| self.rest.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.first.is_some()) + self.rest.len();
        (left, Some(left))
    }
}

impl ExactSizeIterator for OneAndMore<'_> {}
