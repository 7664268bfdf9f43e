//! Where a message begins in the text that a client sent.
//!
//! Our trace field stands before that text. So the text must not go on inside our field (a first line that starts with a
//! blank), nor break the header (a line without a colon, the `From ` line of a mailbox file): mailbox lines are left out, and
//! an empty line is put before a text whose first line is no header field (RFC 5322 §2.2, §3.5). Nothing else of the text is
//! changed, and nothing is changed where it is stored: this is asked again whenever a message is read.

/// Octets of a text that are looked at: a line is never longer (`smtp::data`).
pub const LOOK: usize = 64 * 1024;

/// How the text follows the trace field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Octets of the text that are left out.
    pub skip: usize,
    pub separator: Separator,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Separator {
    /// The text's own header follows.
    #[default]
    None,
    /// The text has no header.
    EmptyLine,
}

impl Separator {
    pub fn octets(self) -> &'static [u8] {
        match self {
            Self::None => b"",
            Self::EmptyLine => b"\r\n",
        }
    }
}

impl Start {
    /// `text` is the beginning of the client's text: all of it, or its first `LOOK` octets.
    pub fn of(text: &[u8]) -> Self {
        let mut skip = 0;
        loop {
            let rest = text.get(skip..).unwrap_or_default();
            if rest.is_empty() || rest.starts_with(b"\r\n") || is_field(rest) {
                return Self { skip, separator: Separator::None };
            }
            match memchr::memmem::find(rest, b"\r\n").filter(|_| is_mailbox_line(rest)) {
                Some(end) => skip += end + 2,
                None => return Self { skip, separator: Separator::EmptyLine },
            }
        }
    }
}

/// Whether a field begins here: a name of printable US-ASCII, then a colon, with blanks before it in old mail
/// (RFC 5322 §2.2, §4.5).
fn is_field(text: &[u8]) -> bool {
    let name = text.iter().take_while(|octet| matches!(octet, b'!'..=b'9' | b';'..=b'~')).count();
    let after = text.get(name..).unwrap_or_default().iter().find(|octet| !matches!(octet, b' ' | b'\t'));
    name > 0 && after == Some(&b':')
}

/// `From ann@a.example Fri Nov 20 11:12:13 2026`, which programs that send whole mailbox files leave in front.
fn is_mailbox_line(text: &[u8]) -> bool {
    text.starts_with(b"From ") || text.starts_with(b">From ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str) -> (usize, bool) {
        let start = Start::of(text.as_bytes());
        (start.skip, start.separator == Separator::EmptyLine)
    }

    #[test]
    fn a_text_with_a_header_and_an_empty_text_stay_as_they_are() {
        for text in
            ["", "\r\n", "\r\nbody\r\n", "Subject: x\r\n\r\nbody\r\n", "X:\r\n", "From : a@b.example\r\n", "From:a\r\n", "!#~: x\r\n"]
        {
            assert_eq!(start(text), (0, false), "{text:?}");
        }
    }

    #[test]
    fn an_empty_line_goes_before_a_first_line_that_is_no_field() {
        for text in [
            " folded\r\nSubject: x\r\n",
            "\tfolded: x\r\n",
            "  \r\nSubject: x\r\n",
            "no colon\r\n",
            "no colon",
            "two words: x\r\n",
            ": no name\r\n",
            "Sübject: x\r\n",
            "name\r\n: next line\r\n",
            "From",
            "From x without an end",
        ] {
            assert_eq!(start(text), (0, true), "{text:?}");
        }
    }

    #[test]
    fn lines_of_a_mailbox_file_go_however_many_there_are() {
        let line = "From ann@a.example Fri Nov 20 11:12:13 2026\r\n";
        let quoted = format!(">{line}");

        assert_eq!(start(&format!("{line}Subject: x\r\n")), (line.len(), false));
        assert_eq!(start(&format!("{line}{quoted}{line}Subject: x\r\n")), (3 * line.len() + 1, false));
        assert_eq!(start(&format!("{quoted} folded\r\n")), (quoted.len(), true));
        assert_eq!(start(&format!("{line}\r\nbody\r\n")), (line.len(), false));
        assert_eq!(start(line), (line.len(), false));
    }
}
