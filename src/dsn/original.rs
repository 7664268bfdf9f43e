//! The third part: as much of the original as its sender wants back, and what little of it the report itself uses.

use super::{FULL_LIMIT, Kind, Original, Part, is_plain};
use crate::message::seven_bit;
use crate::smtp::envelope::{International, Ret};

/// A Message-ID longer than this is not repeated.
const MESSAGE_ID: usize = 250;

/// What is US-ASCII goes back as it is. Of the rest, an international message (RFC 6532 §3.7) and the header of any go back
/// octet by octet in an encoding; a message/rfc822 may have none (RFC 2046 §5.2.1), so its parts are encoded instead, and
/// if they may not be, the header must do.
pub(super) fn part(original: &Original<'_>, kind: Kind<'_>) -> Part {
    let head = header(original.text);
    // Octets above 127 in a header have a meaning only where SMTPUTF8 gave them one (RFC 6533 §4).
    let global = original.international == International::Utf8 && !head.is_ascii();
    let full = is_full(original, kind);
    match (full, global) {
        (true, true) => return Part::of_octets(MESSAGE, "message/global", original.text),
        (true, false) if is_plain(original.text) => {
            return Part { description: MESSAGE, kind: "message/rfc822", coding: "7bit", body: original.text.to_vec() };
        }
        (true, false) => {}
        (false, true) => return Part::of_octets(HEADER, "message/global-headers", head),
        (false, false) => {}
    }
    if full
        && let Ok(body) = seven_bit::convert(original.text)
        && is_plain(&body)
    {
        return Part { description: MESSAGE, kind: "message/rfc822", coding: "7bit", body };
    }
    // RFC 6522 §4: a header that is not legal 7-bit text is quoted-printable.
    Part::of_text(HEADER, "text/rfc822-headers", head.to_vec())
}

const MESSAGE: &str = "Undelivered message";
const HEADER: &str = "Message header";

/// Only a failure gives the message back (RFC 3461 §4.3), and only if all of it is at hand and small enough.
fn is_full(original: &Original<'_>, kind: Kind<'_>) -> bool {
    let failure = match kind {
        Kind::Failure => true,
        Kind::Delay { .. } | Kind::Success => false,
    };
    let whole = original.text.len() as u64 == original.size && original.size <= FULL_LIMIT;
    failure && whole && original.ret != Some(Ret::Headers)
}

/// The header section with the end of its last line. A section that is cut loses its last, incomplete line.
fn header(text: &[u8]) -> &[u8] {
    let limit = usize::try_from(FULL_LIMIT).unwrap_or(usize::MAX);
    let text = text.get(..limit).unwrap_or(text);
    if text.starts_with(b"\r\n") {
        return &[];
    }
    let end = match memchr::memmem::find(text, b"\r\n\r\n") {
        Some(at) => at + 2,
        None => memchr::memmem::rfind(text, b"\r\n").map_or(0, |at| at + 2),
    };
    text.get(..end).unwrap_or_default()
}

/// The original's Message-ID, if it is one that can stand in a header of ours as it is.
pub(super) fn message_id(text: &[u8]) -> Option<&str> {
    let mut lines = header(text).split(|octet| *octet == b'\n');
    let field = lines.find(|line| line.get(..11).is_some_and(|name| name.eq_ignore_ascii_case(b"message-id:")))?;
    let value = std::str::from_utf8(field.get(11..)?).ok()?.trim();
    let inner = value.strip_prefix('<')?.strip_suffix('>')?;
    let clean = inner.bytes().all(|octet| matches!(octet, b'!'..=b'~') && !matches!(octet, b'<' | b'>'));
    (clean && !inner.is_empty() && value.len() <= MESSAGE_ID).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_at_the_empty_line_or_at_the_last_whole_line() {
        assert_eq!(header(b"A: b\r\nC: d\r\n\r\nbody\r\n\r\n"), b"A: b\r\nC: d\r\n");
        assert_eq!(header(b"A: b\r\nC: cut of"), b"A: b\r\n");
        assert_eq!(header(b"\r\nbody\r\n\r\n"), b"");
        assert_eq!(header(b"no line end"), b"");
    }

    #[test]
    fn only_a_message_id_in_order_is_repeated() {
        assert_eq!(message_id(b"A: b\r\nmessage-ID: <x@y>\r\n\r\n"), Some("<x@y>"));
        for text in ["Message-ID: x@y\r\n", "Message-ID: <x y>\r\n", "Message-ID: <>\r\n", "A: b\r\n\r\nMessage-ID: <x@y>\r\n", ""] {
            assert_eq!(message_id(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(message_id(format!("Message-ID: <{}>\r\n", "x".repeat(300)).as_bytes()), None);
    }
}
