//! What a header says of the body behind it (RFC 2045), as far as a conversion must know.

use super::header::{Field, fields};

/// One header with its body: a message, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Entity {
    /// In the order of their headers, from 0.
    pub(super) number: usize,
    pub(super) place: Place,
    pub(super) kind: Kind,
    pub(super) coding: Coding,
    pub(super) has_type: bool,
    pub(super) has_version: bool,
}

/// Where an entity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a message: the whole, or one inside message/rfc822.
    Message,
    Part,
    /// A part of a multipart/digest, which is a message unless it says otherwise (RFC 2046 §5.1.5).
    OfDigest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Octets with a meaning of their own.
    Other,
    Multipart {
        boundary: Vec<u8>,
        parts: Place,
    },
    /// A message follows, header and all.
    Message,
    /// It must stay octet by octet, because it is signed or encrypted, or because its type permits no encoding.
    Fixed,
}

/// Content-Transfer-Encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// None that changes octets: absent, 7bit.
    Identity,
    /// 8bit or binary, which is no longer true of what is converted.
    EightBit,
    QuotedPrintable,
    Base64,
    Unknown,
}

/// Longest boundary (RFC 2046 §5.1.1 has 70).
const BOUNDARY: usize = 250;

impl Entity {
    pub(super) fn of(number: usize, place: Place, header: &[u8]) -> Self {
        let (mut content_type, mut coding, mut has_version) = (None, Coding::Identity, false);
        for field in fields(header) {
            match field.name().as_str() {
                "content-type" if content_type.is_none() => content_type = Some(ContentType::of(&field)),
                "content-transfer-encoding" => coding = Coding::of(&field),
                "mime-version" => has_version = true,
                _ => {}
            }
        }
        let has_type = content_type.is_some();
        let kind = match content_type {
            Some(content_type) => content_type.kind(coding),
            None if place == Place::OfDigest => Kind::Message,
            None => Kind::Text,
        };
        let kind = match (kind, coding) {
            (Kind::Text | Kind::Other, Coding::Unknown) => Kind::Fixed,
            (kind, _) => kind,
        };
        Self { number, place, kind, coding, has_type, has_version }
    }
}

impl Coding {
    fn of(field: &Field<'_>) -> Self {
        match without_comments(&field.value()).trim().to_ascii_lowercase().as_str() {
            "" | "7bit" => Self::Identity,
            "8bit" | "binary" => Self::EightBit,
            "quoted-printable" => Self::QuotedPrintable,
            "base64" => Self::Base64,
            _ => Self::Unknown,
        }
    }

    fn is_identity(self) -> bool {
        match self {
            Self::Identity | Self::EightBit => true,
            Self::QuotedPrintable | Self::Base64 | Self::Unknown => false,
        }
    }
}

struct ContentType {
    main: String,
    sub: String,
    boundary: Option<Vec<u8>>,
}

impl ContentType {
    fn of(field: &Field<'_>) -> Self {
        let text = without_comments(&field.value());
        let (full, parameters) = text.split_once(';').unwrap_or((&text, ""));
        let (main, sub) = full.split_once('/').unwrap_or((full, ""));
        let word = |text: &str| text.trim().to_ascii_lowercase();
        Self { main: word(main), sub: word(sub), boundary: boundary(parameters) }
    }

    fn kind(self, coding: Coding) -> Kind {
        match (self.main.as_str(), self.sub.as_str()) {
            // What is signed must arrive as it was signed; what is encrypted needs no more (RFC 1847 §2.1, §2.2).
            ("multipart", "signed" | "encrypted") => Kind::Fixed,
            ("multipart", sub) => match self.boundary {
                Some(boundary) if coding.is_identity() => {
                    Kind::Multipart { boundary, parts: if sub == "digest" { Place::OfDigest } else { Place::Part } }
                }
                Some(_) | None => Kind::Fixed,
            },
            ("message", "rfc822" | "global") if coding.is_identity() => Kind::Message,
            // RFC 6532 §3.7, RFC 6533: the international ones may be encoded.
            ("message", sub) if sub.starts_with("global") => Kind::Other,
            ("message", _) => Kind::Fixed,
            (
                "application",
                "pkcs7-mime" | "x-pkcs7-mime" | "pkcs7-signature" | "x-pkcs7-signature" | "pgp-encrypted" | "pgp-signature",
            ) => Kind::Fixed,
            // A type that cannot be read is text/plain (RFC 2045 §5.2).
            ("text", _) | (_, "") => Kind::Text,
            _ => Kind::Other,
        }
    }
}

/// The boundary parameter, as a token or a quoted string.
fn boundary(parameters: &str) -> Option<Vec<u8>> {
    let lower = parameters.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let at = from + lower.get(from..)?.find("boundary")?;
        from = at + "boundary".len();
        let starts = lower.get(..at)?.trim_end().ends_with(';') || lower.get(..at)?.trim().is_empty();
        let Some(value) = parameters.get(from..)?.trim_start().strip_prefix('=').filter(|_| starts) else { continue };
        let value = value.trim_start();
        let text = match value.strip_prefix('"') {
            Some(quoted) => {
                let mut text = String::new();
                let mut letters = quoted.chars();
                loop {
                    match letters.next()? {
                        '"' => break text,
                        '\\' => text.push(letters.next()?),
                        c => text.push(c),
                    }
                }
            }
            None => value.split([';', ' ', '\t']).next()?.to_owned(),
        };
        let text = text.trim_end();
        return (!text.is_empty() && text.len() <= BOUNDARY && text.is_ascii()).then(|| text.as_bytes().to_vec());
    }
}

/// Comments go, quoted strings stay.
fn without_comments(value: &str) -> String {
    let (mut out, mut depth, mut quoted, mut escaped) = (String::new(), 0_u32, false, false);
    for c in value.chars() {
        let inside = depth > 0;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted || inside => escaped = true,
            '"' if !inside => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && inside => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(header: &str) -> Kind {
        Entity::of(0, Place::Message, header.as_bytes()).kind
    }

    #[test]
    fn a_boundary_is_found_however_it_is_written() {
        for (header, boundary) in [
            ("Content-Type: multipart/mixed; boundary=abc\r\n", "abc"),
            ("CONTENT-TYPE: Multipart/Mixed;\r\n\tBOUNDARY=\"a b\\\"c\"; x=y\r\n", "a b\"c"),
            ("Content-Type: multipart/mixed (a; boundary=no); charset=x ; boundary = \"a=b\"\r\n", "a=b"),
            ("Content-Type: multipart/mixed; x-boundary=no; boundary=abc;\r\n", "abc"),
        ] {
            assert_eq!(kind(header), Kind::Multipart { boundary: boundary.as_bytes().to_vec(), parts: Place::Part }, "{header}");
        }
    }

    #[test]
    fn what_is_signed_or_permits_no_encoding_is_fixed() {
        for header in [
            "Content-Type: multipart/signed; boundary=a\r\n",
            "Content-Type: multipart/encrypted; boundary=a\r\n",
            "Content-Type: multipart/mixed\r\n",
            "Content-Type: multipart/mixed; boundary=\"a\r\n",
            "Content-Type: application/pkcs7-mime\r\n",
            "Content-Type: message/partial\r\n",
            "Content-Type: text/plain\r\nContent-Transfer-Encoding: x-uuencode\r\n",
        ] {
            assert_eq!(kind(header), Kind::Fixed, "{header}");
        }
        assert_eq!(kind("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n"), Kind::Message);
        assert_eq!(kind("Content-Type: text\r\n"), Kind::Text);
        assert_eq!(kind("Content-Type: image/png\r\n"), Kind::Other);
        assert_eq!(kind(""), Kind::Text);
    }
}
