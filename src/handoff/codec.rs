//! Envelopes and traces as length-framed bytes, on the hand-off socket and in the spool.
//!
//! Numbers are little-endian, texts are UTF-8 behind their length. Invariant: whatever decodes has passed the same
//! parsers as on the SMTP side, so bytes from a front end that was taken over, or from a damaged disk, cannot make an
//! address or a field that a client could not have sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::bounds::MOST_RECIPIENTS;
use crate::message::trace::{Protocol, Trace};
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::command::COMMAND_LIMIT;
use crate::smtp::envelope::{BodyType, Envelope, EnvelopeId, International, Notify, NotifyOn, OriginalRecipient, Recipient, Ret};

/// Longest HELO argument, host name and TLS description that is read back.
const WORD_LIMIT: usize = 1024;
/// Longest address: that of the longest command line that carries one.
const ADDRESS_LIMIT: usize = COMMAND_LIMIT;

/// Bytes being read: every taker gives `None` once they run out or make no sense.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes behind a 16-bit length of at most `limit`.
    pub(crate) fn bytes(&mut self, limit: usize) -> Option<&'a [u8]> {
        let count = usize::from(self.u16()?);
        if count <= limit { self.take(count) } else { None }
    }

    pub(crate) fn text(&mut self, limit: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(limit)?).ok()
    }

    /// A flag octet, and the value behind it when it is 1.
    pub(crate) fn optional<T>(&mut self, value: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => value(self).map(Some),
            _ => None,
        }
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends bytes behind their 16-bit length. What is longer was never let in, so it is cut rather than framed wrongly.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = bytes.get(..usize::from(u16::MAX)).unwrap_or(bytes);
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub(crate) fn put_optional<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

pub(crate) fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    out.push(match envelope.body {
        BodyType::SevenBit => 0,
        BodyType::EightBitMime => 1,
    });
    out.push(match envelope.international {
        International::Ascii => 0,
        International::Utf8 => 1,
    });
    out.push(match envelope.ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    });
    put_optional(out, envelope.envid.as_ref(), |out, envid| put_text(out, envid.as_str()));
    put_display(out, &envelope.sender);
    out.extend_from_slice(&(envelope.recipients().len() as u32).to_le_bytes());
    for recipient in envelope.recipients() {
        put_recipient(out, recipient);
    }
}

pub(crate) fn take_envelope(from: &mut Input<'_>) -> Option<Envelope> {
    let body = match from.u8()? {
        0 => BodyType::SevenBit,
        1 => BodyType::EightBitMime,
        _ => return None,
    };
    let international = match from.u8()? {
        0 => International::Ascii,
        1 => International::Utf8,
        _ => return None,
    };
    let ret = match from.u8()? {
        0 => None,
        1 => Some(Ret::Full),
        2 => Some(Ret::Headers),
        _ => return None,
    };
    let envid = from.optional(|from| EnvelopeId::new(from.text(WORD_LIMIT)?))?;
    let sender = match from.text(ADDRESS_LIMIT)? {
        "" => ReversePath::Null,
        text => ReversePath::Mailbox(Mailbox::parse(text, international).ok()?),
    };
    let count = from.u32()?;
    if usize::try_from(count).ok()? > MOST_RECIPIENTS {
        return None;
    }
    let first = take_recipient(from, international)?;
    // Not allocated by the count, which is only a claim: the list grows as recipients really come.
    let mut rest = Vec::new();
    for _ in 1..count {
        rest.push(take_recipient(from, international)?);
    }
    (count > 0).then_some(Envelope { sender, first, rest, body, international, ret, envid })
}

/// NOTIFY in one octet: 0 not given, 1 NEVER, else 8 and the bits of the events.
fn put_recipient(out: &mut Vec<u8>, recipient: &Recipient) {
    out.push(match recipient.notify {
        Notify::Unspecified => 0,
        Notify::Never => 1,
        Notify::On(on) => 8 | u8::from(on.success) | u8::from(on.failure) << 1 | u8::from(on.delay) << 2,
    });
    put_display(out, &recipient.mailbox);
    put_optional(out, recipient.original.as_ref(), |out, original| {
        put_text(out, &original.kind);
        put_text(out, &original.address);
    });
}

fn take_recipient(from: &mut Input<'_>, international: International) -> Option<Recipient> {
    let notify = match from.u8()? {
        0 => Notify::Unspecified,
        1 => Notify::Never,
        bits @ 9..=15 => Notify::On(NotifyOn { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 }),
        _ => return None,
    };
    let mailbox = Mailbox::parse(from.text(ADDRESS_LIMIT)?, international).ok()?;
    let original = from.optional(|from| OriginalRecipient::new(from.text(WORD_LIMIT)?, from.text(WORD_LIMIT)?))?;
    Some(Recipient { mailbox, notify, original })
}

pub(crate) fn put_trace(out: &mut Vec<u8>, trace: &Trace) {
    put_text(out, &trace.helo);
    match trace.peer.ip() {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
    out.extend_from_slice(&trace.peer.port().to_le_bytes());
    out.push(match trace.protocol {
        Protocol::Esmtpsa => 0,
        Protocol::Utf8Smtpsa => 1,
    });
    put_optional(out, trace.tls.as_deref(), put_text);
    put_text(out, &trace.host);
}

pub(crate) fn take_trace(from: &mut Input<'_>) -> Option<Trace> {
    let helo = word(from)?;
    let address = match from.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from(from.array::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(from.array::<16>()?)),
        _ => return None,
    };
    let peer = SocketAddr::new(address, from.u16()?);
    let protocol = match from.u8()? {
        0 => Protocol::Esmtpsa,
        1 => Protocol::Utf8Smtpsa,
        _ => return None,
    };
    let tls = from.optional(word)?;
    let host = word(from)?;
    Some(Trace { helo, peer, protocol, tls, host })
}

/// Text without control characters, as every word is that a client can say.
fn word(from: &mut Input<'_>) -> Option<String> {
    from.text(WORD_LIMIT).filter(|text| !text.chars().any(char::is_control)).map(str::to_owned)
}

/// Writes a value's text without a `String` in between.
fn put_display(out: &mut Vec<u8>, value: &impl std::fmt::Display) {
    use std::io::Write as _;
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    write!(out, "{value}").expect("writing to a vector does not fail");
    let length = u16::try_from(out.len() - at - 2).expect("an address is shorter than 64 KiB by its parser");
    out[at..at + 2].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_mailbox() -> impl Strategy<Value = Mailbox> {
        ("[a-z0-9!#+]{1,20}(\\.[a-z0-9]{1,10})?", "[a-z0-9]{1,20}(\\.[a-z0-9]{1,10}){0,3}")
            .prop_map(|(local, domain)| Mailbox::parse(&format!("{local}@{domain}"), International::Ascii).unwrap())
    }

    fn any_notify() -> impl Strategy<Value = Notify> {
        prop_oneof![
            Just(Notify::Unspecified),
            Just(Notify::Never),
            (1_u8..8).prop_map(|bits| Notify::On(NotifyOn { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 })),
        ]
    }

    fn any_recipient() -> impl Strategy<Value = Recipient> {
        let original =
            proptest::option::of(("(rfc822|utf-8)", "[ -~]{1,60}").prop_map(|(kind, address)| OriginalRecipient { kind, address }));
        (any_mailbox(), any_notify(), original).prop_map(|(mailbox, notify, original)| Recipient { mailbox, notify, original })
    }

    pub(crate) fn any_envelope() -> impl Strategy<Value = Envelope> {
        let sender = prop_oneof![Just(ReversePath::Null), any_mailbox().prop_map(ReversePath::Mailbox)];
        let ret = prop_oneof![Just(None), Just(Some(Ret::Full)), Just(Some(Ret::Headers))];
        let envid = proptest::option::of("[ -~]{1,100}".prop_map(|text| EnvelopeId::new(&text).unwrap()));
        let body = prop_oneof![Just(BodyType::SevenBit), Just(BodyType::EightBitMime)];
        let international = prop_oneof![Just(International::Ascii), Just(International::Utf8)];
        (sender, any_recipient(), proptest::collection::vec(any_recipient(), 0..5), body, international, ret, envid).prop_map(
            |(sender, first, rest, body, international, ret, envid)| Envelope { sender, first, rest, body, international, ret, envid },
        )
    }

    pub(crate) fn any_trace() -> impl Strategy<Value = Trace> {
        let protocol = prop_oneof![Just(Protocol::Esmtpsa), Just(Protocol::Utf8Smtpsa)];
        let peer = (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| SocketAddr::new(address, port));
        ("\\PC{0,80}", peer, protocol, proptest::option::of("[ -~]{0,80}"), "[a-z.]{1,60}")
            .prop_map(|(helo, peer, protocol, tls, host)| Trace { helo, peer, protocol, tls, host })
    }

    proptest! {
        #[test]
        fn an_envelope_and_a_trace_come_back_as_they_were(envelope in any_envelope(), trace in any_trace()) {
            let mut bytes = Vec::new();
            put_envelope(&mut bytes, &envelope);
            put_trace(&mut bytes, &trace);

            let mut from = Input(&bytes);

            prop_assert_eq!(take_envelope(&mut from), Some(envelope));
            prop_assert_eq!(take_trace(&mut from), Some(trace));
            prop_assert_eq!(from.end(), Some(()));
        }

        #[test]
        fn no_cut_envelope_is_one(envelope in any_envelope(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            put_envelope(&mut bytes, &envelope);

            prop_assert_eq!(take_envelope(&mut Input(&bytes[..cut.index(bytes.len())])), None);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut from = Input(&bytes);
            if let Some(envelope) = take_envelope(&mut from) {
                prop_assert!(envelope.recipients().len() <= bytes.len());
            }
            let _ = take_trace(&mut Input(&bytes));
        }
    }

    #[test]
    fn an_address_with_a_line_end_is_refused() {
        let mut bytes = vec![0, 0, 0, 0];
        put_text(&mut bytes, "a@x.example\r\nDATA");
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.push(0);
        put_text(&mut bytes, "b@x.example");
        bytes.push(0);

        assert_eq!(take_envelope(&mut Input(&bytes)), None);
    }

    #[test]
    fn a_huge_count_allocates_nothing() {
        let mut bytes = vec![0, 0, 0, 0];
        put_text(&mut bytes, "");
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());

        assert_eq!(take_envelope(&mut Input(&bytes)), None);
    }
}
