//! Dot-stuffing on the way out (RFC 5321 §4.5.2), in one pass.
//!
//! Whatever the content is and however it is cut into pieces, the result has no line that is a lone dot but the one
//! that ends it. Only CR LF ends a line here, as it does in what the front end let in.

use memchr::memmem::Finder;

/// Copies content in pieces and remembers how the last one ended.
#[derive(Debug)]
pub(crate) struct Stuffing {
    finder: Finder<'static>,
    tail: Tail,
}

/// What the octets so far end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// At the start of a line: nothing yet, or CR LF.
    LineStart,
    Cr,
    Other,
}

impl Stuffing {
    pub(crate) fn new() -> Self {
        Self { finder: Finder::new(b"\r\n."), tail: Tail::LineStart }
    }

    /// Gets ready for another message.
    pub(crate) fn restart(&mut self) {
        self.tail = Tail::LineStart;
    }

    /// Appends `piece` to `out`, each dot at the start of a line doubled.
    pub(crate) fn copy(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        // A line end may lie across two pieces.
        match (self.tail, piece) {
            (Tail::LineStart, [b'.', ..]) => out.push(b'.'),
            (Tail::Cr, [b'\n', b'.', ..]) => {
                out.extend_from_slice(b"\n.");
                rest = piece.get(1..).unwrap_or_default();
            }
            _ => {}
        }
        while let Some(at) = self.finder.find(rest) {
            let (line, after) = rest.split_at(at + 2);
            out.extend_from_slice(line);
            out.push(b'.');
            rest = after;
        }
        out.extend_from_slice(rest);
        self.tail = match (self.tail, piece) {
            (tail, []) => tail,
            (Tail::Cr, [b'\n']) => Tail::LineStart,
            (_, [.., b'\r', b'\n']) => Tail::LineStart,
            (_, [.., b'\r']) => Tail::Cr,
            (Tail::LineStart | Tail::Cr | Tail::Other, _) => Tail::Other,
        };
    }

    /// Ends the content: its last line first, if it has no end.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        let end: &[u8] = match self.tail {
            Tail::LineStart => b".\r\n",
            Tail::Cr | Tail::Other => b"\r\n.\r\n",
        };
        out.extend_from_slice(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut stuffing = Stuffing::new();
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| stuffing.copy(piece, &mut out));
        stuffing.finish(&mut out);
        out
    }

    #[test]
    fn doubles_the_dot_that_starts_a_line_and_no_other() {
        assert_eq!(stuffed(&[b".a\r\nb.c\r\n..\r\n.\r\n"]), b"..a\r\nb.c\r\n...\r\n..\r\n.\r\n");
        assert_eq!(stuffed(&[b"a\n.b\r.c\r\n"]), b"a\n.b\r.c\r\n.\r\n");
    }

    #[test]
    fn ends_a_line_that_has_no_end() {
        assert_eq!(stuffed(&[]), b".\r\n");
        assert_eq!(stuffed(&[b"a"]), b"a\r\n.\r\n");
        assert_eq!(stuffed(&[b"a\r"]), b"a\r\r\n.\r\n");
    }

    #[test]
    fn every_short_text_cut_anywhere_is_read_back_by_a_receiver() {
        const ALPHABET: [u8; 4] = [b'\r', b'\n', b'.', b'x'];
        for number in 0..4_u32.pow(7) {
            let text: Vec<u8> = (0..7).map(|digit| ALPHABET[(number >> (digit * 2)) as usize & 3]).collect();
            let whole = stuffed(&[&text]);
            for cut in 0..=text.len() {
                assert_eq!(stuffed(&[&text[..cut], &text[cut..]]), whole, "{text:?} at {cut}");
            }
            let (content, rest) = receive(&whole).unwrap();
            assert!(rest.is_empty());
            assert!(content == text || content == [&text[..], b"\r\n"].concat(), "{text:?} came as {content:?}");
        }
    }

    /// What a server with strict line ends makes of it: the content, and what is left after the end.
    fn receive(wire: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        let mut content = Vec::new();
        let mut rest = wire;
        loop {
            let end = memchr::memmem::find(rest, b"\r\n")?;
            let (line, after) = rest.split_at(end + 2);
            rest = after;
            match line {
                b".\r\n" => return Some((content, rest)),
                [b'.', line @ ..] => content.extend_from_slice(line),
                line => content.extend_from_slice(line),
            }
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_octets(text in "[\r\n.x]{0,40}", cuts in proptest::collection::vec(0_usize..40, 0..6)) {
            let text = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();

            prop_assert_eq!(stuffed(&pieces), stuffed(&[text]));
        }
    }
}
