//! Header fields with octets above 127, in US-ASCII.
//!
//! ```text
//! Subject, any other text   words in encoded-words (RFC 2047 §5)
//! From, To and their kind   display names and comments in encoded-words; an address that is not US-ASCII: unfit
//! Content-Type, -Disposition  parameters in the form of RFC 2231 §4
//! Received                  octets become `?`
//! Message-ID, Date and such unfit
//! ```
//!
//! Invariant: a field without such octets is not touched. Text that is not UTF-8 has the charset `unknown-8bit` (RFC 1428).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Unfit;

/// Octets that go into one encoded-word: with the longest charset it has at most 75 characters (RFC 2047 §2).
const ENCODED: usize = 42;
/// Where a line is folded, if there is a blank.
const FOLD: usize = 76;
/// Characters of a parameter's value in one line.
const PARAMETER: usize = 60;

/// A field as it stands, with the lines that continue it and their ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) raw: &'a [u8],
}

/// The fields of a header section.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        loop {
            let line = rest.get(end..).unwrap_or_default();
            end = memchr::memmem::find(line, b"\r\n").map_or(rest.len(), |at| end + at + 2);
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (raw, after) = rest.split_at(end);
        rest = after;
        Some(Field { raw })
    })
}

impl<'a> Field<'a> {
    fn parts(&self) -> Option<(&'a [u8], &'a [u8])> {
        let at = memchr::memchr(b':', self.raw)?;
        Some((self.raw.get(..at)?, self.raw.get(at + 1..)?))
    }

    /// In small letters; empty if this is no field.
    pub(super) fn name(&self) -> String {
        let name = self.parts().map(|(name, _)| name.trim_ascii_end()).unwrap_or_default();
        String::from_utf8_lossy(name).to_ascii_lowercase()
    }

    /// In one line.
    pub(super) fn value(&self) -> String {
        let value = self.parts().map(|(_, value)| value).unwrap_or_default();
        String::from_utf8_lossy(value).replace("\r\n", "").trim().to_owned()
    }

    /// Appends the field in US-ASCII.
    pub(super) fn in_ascii(&self, out: &mut Vec<u8>) -> Result<(), Unfit> {
        if self.raw.is_ascii() {
            out.extend_from_slice(self.raw);
            return Ok(());
        }
        let (name, value) = self.parts().filter(|(name, _)| name.is_ascii()).ok_or(Unfit::Header)?;
        let value: Vec<u8> = value.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
        out.extend_from_slice(name);
        out.push(b':');
        match self.name().as_str() {
            "received" | "x-received" => {
                let masked = self.raw.get(name.len() + 1..).unwrap_or_default();
                out.extend(masked.iter().map(|octet| if octet.is_ascii() { *octet } else { b'?' }));
                return Ok(());
            }
            "from"
            | "sender"
            | "reply-to"
            | "to"
            | "cc"
            | "bcc"
            | "resent-from"
            | "resent-sender"
            | "resent-reply-to"
            | "resent-to"
            | "resent-cc"
            | "resent-bcc"
            | "disposition-notification-to"
            | "errors-to"
            | "return-receipt-to"
            | "mail-followup-to"
            | "mail-reply-to" => {
                write(&address_tokens(&value)?, name.len() + 1, out);
            }
            "content-type" | "content-disposition" => parameters(&value, out)?,
            "message-id"
            | "in-reply-to"
            | "references"
            | "date"
            | "content-id"
            | "mime-version"
            | "content-transfer-encoding"
            | "return-path"
            | "resent-date"
            | "resent-message-id"
            | "dkim-signature"
            | "delivered-to" => return Err(Unfit::Header),
            _ => write(&words(&value, Encode::Word), name.len() + 1, out),
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// A piece of a value, with the blanks before it.
struct Token {
    blanks: Vec<u8>,
    text: Vec<u8>,
    encode: Encode,
}

/// What is done with a token that is not US-ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encode {
    /// It becomes an encoded-word, together with its neighbours.
    Word,
    Never,
}

impl Token {
    fn is_encoded(&self) -> bool {
        self.encode == Encode::Word && !self.text.is_ascii()
    }
}

fn words(value: &[u8], encode: Encode) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let blanks = rest.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
        let (blanks, after) = rest.split_at(blanks);
        let word = after.iter().take_while(|octet| !octet.is_ascii_whitespace()).count();
        let (text, after) = after.split_at(word);
        tokens.push(Token { blanks: blanks.to_vec(), text: text.to_vec(), encode });
        rest = after;
    }
    tokens
}

/// A list of addresses (RFC 5322 §3.4), as far as it must be understood to find its display names and comments.
fn address_tokens(value: &[u8]) -> Result<Vec<Token>, Unfit> {
    let mut tokens = Vec::new();
    let mut rest = value;
    let mut behind_at = false;
    while !rest.is_empty() {
        let blanks = rest.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
        let (blanks, after) = rest.split_at(blanks);
        let blanks = blanks.to_vec();
        let Some(first) = after.first() else { break };
        let length = match first {
            b'"' => 1 + closed(after.get(1..).unwrap_or_default(), b'"').ok_or(Unfit::Header)?,
            b'(' => 1 + closed(after.get(1..).unwrap_or_default(), b')').ok_or(Unfit::Header)?,
            b'<' => 1 + memchr::memchr(b'>', after).ok_or(Unfit::Header)?,
            b',' | b';' | b':' | b'@' => 1,
            _ => after.iter().take_while(|octet| !octet.is_ascii_whitespace() && !b"\"(<,;:@".contains(octet)).count(),
        };
        let (text, after) = after.split_at(length);
        rest = after;
        let before_at = after.trim_ascii_start().first() == Some(&b'@');
        if text.is_ascii() {
            tokens.push(Token { blanks, text: text.to_vec(), encode: Encode::Never });
        } else if before_at || behind_at || *first == b'<' {
            return Err(Unfit::Header);
        } else if *first == b'(' {
            let inner = text.get(1..text.len() - 1).unwrap_or_default();
            tokens.push(Token { blanks, text: b"(".to_vec(), encode: Encode::Never });
            // As one text: words beside the encoded ones would need the escapes again.
            tokens.push(Token { blanks: Vec::new(), text: unescaped(inner), encode: Encode::Word });
            tokens.push(Token { blanks: Vec::new(), text: b")".to_vec(), encode: Encode::Never });
        } else {
            let inner = if *first == b'"' { unescaped(text.get(1..text.len() - 1).unwrap_or_default()) } else { text.to_vec() };
            tokens.push(Token { blanks, text: inner, encode: Encode::Word });
        }
        behind_at = *first == b'@';
    }
    Ok(tokens)
}

/// Octets up to and with the one that closes a quoted string or a comment.
fn closed(text: &[u8], end: u8) -> Option<usize> {
    let (mut escaped, mut depth) = (false, 0_u32);
    for (at, octet) in text.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' if end == b')' => depth += 1,
            octet if *octet == end && depth == 0 => return Some(at + 1),
            b')' if end == b')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let (mut out, mut escaped) = (Vec::with_capacity(text.len()), false);
    for octet in text {
        if *octet == b'\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            out.push(*octet);
        }
    }
    out
}

/// Writes tokens in lines that are not too long; encoded neighbours are one text, because blanks between encoded-words are
/// not shown (RFC 2047 §6.2).
fn write(tokens: &[Token], column: usize, out: &mut Vec<u8>) {
    let mut line = Line { column, out };
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        if !first.is_encoded() {
            line.put(&first.blanks, &first.text);
            rest = after;
            continue;
        }
        let run = rest.iter().take_while(|token| token.is_encoded()).count();
        let (run, after) = rest.split_at(run);
        rest = after;
        // The blanks beside an encoded-word that was there before would not be shown: they go into ours.
        let behind_another = is_encoded_word(last_word(line.out));
        let mut text = if behind_another { first.blanks.clone() } else { Vec::new() };
        text.extend_from_slice(&first.text);
        for token in run.get(1..).unwrap_or_default() {
            text.extend_from_slice(&token.blanks);
            text.extend_from_slice(&token.text);
        }
        if let Some(next) = rest.first().filter(|next| is_encoded_word(&next.text)) {
            text.extend_from_slice(&next.blanks);
        }
        // An encoded-word stands alone between blanks or in a comment.
        let inside = line.out.last() == Some(&b'(');
        let mut blanks: &[u8] = if first.blanks.is_empty() && !inside { b" " } else { &first.blanks };
        let charset = charset(&text);
        for piece in pieces(&text) {
            line.put(blanks, format!("=?{charset}?b?{}?=", STANDARD.encode(piece)).as_bytes());
            blanks = b" ";
        }
        let glued =
            rest.first().is_some_and(|next| next.blanks.is_empty() && !matches!(next.text.first(), Some(b',' | b';' | b':' | b')')));
        if glued {
            line.put(b"", b" ");
        }
    }
}

/// What was written last, back to a blank.
fn last_word(out: &[u8]) -> &[u8] {
    out.rsplit(u8::is_ascii_whitespace).next().unwrap_or_default()
}

fn last_line(out: &[u8]) -> &[u8] {
    out.rsplit(|octet| *octet == b'\n').next().unwrap_or_default()
}

fn is_encoded_word(text: &[u8]) -> bool {
    text.starts_with(b"=?") && text.ends_with(b"?=")
}

struct Line<'o> {
    column: usize,
    out: &'o mut Vec<u8>,
}

impl Line<'_> {
    fn put(&mut self, blanks: &[u8], text: &[u8]) {
        let width = blanks.len() + text.len();
        if self.column + width > FOLD && !blanks.is_empty() && !text.is_empty() {
            self.out.extend_from_slice(b"\r\n");
            self.column = 0;
        }
        self.out.extend_from_slice(blanks);
        self.out.extend_from_slice(text);
        self.column += width;
    }
}

fn charset(text: &[u8]) -> &'static str {
    if std::str::from_utf8(text).is_ok() { "utf-8" } else { "unknown-8bit" }
}

/// The text in pieces for encoded-words, none of which ends inside a character (RFC 2047 §5).
fn pieces(text: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > ENCODED {
        let end = (ENCODED - 3..=ENCODED).rev().find(|at| rest.get(*at).is_none_or(|octet| octet & 0xc0 != 0x80));
        let (piece, after) = rest.split_at(end.unwrap_or(ENCODED));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// `attachment; filename="ü.pdf"` with its parameters in the form of RFC 2231 §4, in several lines where they are long.
fn parameters(value: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
    for (at, part) in split_at_semicolons(value).into_iter().enumerate() {
        if at > 0 {
            out.push(b';');
        }
        if part.is_ascii() {
            let (column, shown) = (last_line(out).len(), part.trim_ascii());
            if at > 0 && column + part.len() > FOLD && !shown.is_empty() {
                out.extend_from_slice(b"\r\n\t");
                out.extend_from_slice(shown);
            } else {
                out.extend_from_slice(part);
            }
            continue;
        }
        let equals = memchr::memchr(b'=', part).filter(|_| at > 0).ok_or(Unfit::Header)?;
        let (name, text) = (part.get(..equals).unwrap_or_default().trim_ascii(), part.get(equals + 1..).unwrap_or_default().trim_ascii());
        let bare = name.is_ascii() && !name.is_empty() && name.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-');
        if !bare || name.eq_ignore_ascii_case(b"boundary") {
            return Err(Unfit::Header);
        }
        let text = match text.strip_prefix(b"\"").map(|rest| rest.strip_suffix(b"\"")) {
            Some(Some(quoted)) => unescaped(quoted),
            Some(None) => return Err(Unfit::Header),
            None => text.to_vec(),
        };
        let name = String::from_utf8_lossy(name);
        let encoded = percent(&text);
        let mut lines: Vec<String> = vec![String::new()];
        for unit in encoded {
            if lines.last().is_some_and(|line| line.len() + unit.len() > PARAMETER) {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push_str(&unit);
            }
        }
        let charset = charset(&text);
        match lines.as_slice() {
            [only] => out.extend_from_slice(format!("\r\n\t{name}*={charset}''{only}").as_bytes()),
            lines => {
                for (number, line) in lines.iter().enumerate() {
                    let (charset, end) = (
                        if number == 0 { format!("{charset}''") } else { String::new() },
                        if number + 1 == lines.len() { "" } else { ";" },
                    );
                    out.extend_from_slice(format!("\r\n\t{name}*{number}*={charset}{line}{end}").as_bytes());
                }
            }
        }
    }
    Ok(())
}

fn percent(text: &[u8]) -> Vec<String> {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
    text.iter().map(|octet| if plain(*octet) { char::from(*octet).to_string() } else { format!("%{octet:02X}") }).collect()
}

fn split_at_semicolons(value: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, octet) in value.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                parts.push(value.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(value.get(from..).unwrap_or_default());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascii(raw: &[u8]) -> Result<String, Unfit> {
        let mut out = Vec::new();
        let field = fields(raw).next().unwrap();
        field.in_ascii(&mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn text_addresses_and_parameters_are_encoded_each_in_its_way() {
        for (raw, wanted) in [
            ("Subject: plain  text\r\n", "Subject: plain  text\r\n"),
            ("Subject: der Fluß ist tief\r\n", "Subject: der =?utf-8?b?Rmx1w58=?= ist tief\r\n"),
            ("Subject: =?utf-8?q?a?= ü =?utf-8?q?b?=\r\n", "Subject: =?utf-8?q?a?= =?utf-8?b?IMO8IA==?= =?utf-8?q?b?=\r\n"),
            ("From: x@b.example (ü \\) <y@b.example>, \\()\r\n", "From: x@b.example (=?utf-8?b?w7wgKSA8eUBiLmV4YW1wbGU+LCAo?=)\r\n"),
            ("Subject: Grüße für\r\n alle\r\n", "Subject: =?utf-8?b?R3LDvMOfZSBmw7xy?= alle\r\n"),
            ("From: Jürgen Groß <j@b.example>\r\n", "From: =?utf-8?b?SsO8cmdlbiBHcm/Dnw==?= <j@b.example>\r\n"),
            (
                "To: \"Müller, Jörg\" <m@b.example>, x@b.example (für)\r\n",
                "To: =?utf-8?b?TcO8bGxlciwgSsO2cmc=?= <m@b.example>, x@b.example (=?utf-8?b?ZsO8cg==?=)\r\n",
            ),
            ("To: Bücher<m@b.example>\r\n", "To: =?utf-8?b?QsO8Y2hlcg==?= <m@b.example>\r\n"),
            (
                "Content-Disposition: attachment; filename=\"ü 1.pdf\"; size=3\r\n",
                "Content-Disposition: attachment;\r\n\tfilename*=utf-8''%C3%BC%201.pdf; size=3\r\n",
            ),
            ("Received: from MÜLLER\r\n\tby x\r\n", "Received: from M??LLER\r\n\tby x\r\n"),
        ] {
            assert_eq!(ascii(raw.as_bytes()).unwrap_or_default(), wanted);
        }
    }

    #[test]
    fn what_is_no_text_for_people_is_unfit() {
        for raw in [
            "From: jürgen@b.example\r\n",
            "From: <j@bücher.example>\r\n",
            "To: x@bücher\r\n",
            "Message-ID: <ü@b>\r\n",
            "Sübject: x\r\n",
            "ü\r\n",
            "To: \"ü\r\n",
        ] {
            assert!(ascii(raw.as_bytes()).is_err(), "{raw}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters_and_lines_stay_short() {
        let got = ascii(format!("Subject: {}\r\n", "語".repeat(100)).as_bytes()).unwrap();

        let words: Vec<_> = got.trim_end().trim_start_matches("Subject:").split_whitespace().collect();
        assert!(words.iter().all(|word| word.len() <= 75) && got.split("\r\n").all(|line| line.len() <= 78), "{got}");
        for word in words {
            let text = STANDARD.decode(word.trim_start_matches("=?utf-8?b?").trim_end_matches("?=")).unwrap();
            assert!(String::from_utf8(text).is_ok());
        }
        let long = ascii(format!("Content-Type: a/b; name=\"{}\"\r\n", "ü".repeat(100)).as_bytes()).unwrap();
        assert!(long.contains("name*0*=utf-8''%C3%BC") && long.contains(";\r\n\tname*1*=%"), "{long}");
        assert!(ascii(b"Subject: \xe4\r\n").unwrap().contains("=?unknown-8bit?b?5A==?="));
    }
}
