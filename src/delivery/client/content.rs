//! Reading a job's content, from memory or from its file, without ever blocking the runtime.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::features::Features;
use super::transaction::Needs;
use crate::delivery::job::{Body, Content, Job};
use crate::smtp::envelope::{BodyType, International};

/// Octets given at once.
const PIECE: usize = 64 * 1024;

/// The content in pieces, one after the other.
pub(crate) struct Pieces<'a> {
    content: &'a Content,
    /// Octets of the body given so far; `None` before the trace field was.
    at: Option<u64>,
    buffer: Vec<u8>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn of(content: &'a Content) -> Self {
        Self { content, at: None, buffer: Vec::new() }
    }

    /// The next piece; `None` at the end. A file that ends too early is an error, never a shorter message.
    pub(crate) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(at) = self.at else {
            self.at = Some(0);
            return Ok(Some(&self.content.trace));
        };
        match &self.content.body {
            Body::Memory(bytes) => {
                let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let piece = rest.get(..PIECE).unwrap_or(rest);
                self.at = Some(at + piece.len() as u64);
                Ok((!piece.is_empty()).then_some(piece))
            }
            Body::File { size, .. } if at >= *size => Ok(None),
            Body::File { file, size } => {
                let wanted = usize::try_from(*size - at).unwrap_or(PIECE).min(PIECE);
                self.buffer = read_at(file.clone(), at, wanted, std::mem::take(&mut self.buffer)).await?;
                self.at = Some(at + self.buffer.len() as u64);
                Ok(Some(&self.buffer))
            }
        }
    }
}

async fn read_at(file: Arc<File>, at: u64, wanted: usize, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let read = move || {
        buffer.resize(wanted, 0);
        file.read_exact_at(&mut buffer, at).map(|()| buffer)
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

/// What the content needs that the server does not offer. Looks into the content only if something is missing.
pub(crate) async fn needs(job: &Job, features: Features) -> io::Result<Needs> {
    let mut needs = Needs::default();
    let ask_eight_bit = job.body == BodyType::EightBitMime && !features.eight_bit;
    let ask_utf8 = job.international == International::Utf8 && !features.utf8;
    if !ask_eight_bit && !ask_utf8 {
        return Ok(needs);
    }
    let mut pieces = Pieces::of(&job.content);
    let mut header = HeaderEnd::default();
    while let Some(piece) = pieces.next().await? {
        let in_header = piece.get(..header.look(piece)).unwrap_or(piece);
        needs.utf8 |= !in_header.is_ascii();
        needs.eight_bit |= !piece.is_ascii();
        if needs.eight_bit && (header.found || needs.utf8) {
            break;
        }
    }
    Ok(needs)
}

/// Looks for the empty line that ends the header section, across pieces.
#[derive(Default)]
struct HeaderEnd {
    /// The end of what was seen so far, at most three octets.
    tail: Vec<u8>,
    found: bool,
}

impl HeaderEnd {
    /// How many octets of `piece` belong to the header section.
    fn look(&mut self, piece: &[u8]) -> usize {
        if self.found {
            return 0;
        }
        let seam = self.tail.len();
        let mut joined = std::mem::take(&mut self.tail);
        joined.extend_from_slice(piece.get(..3).unwrap_or(piece));
        let across = memchr::memmem::find(&joined, b"\r\n\r\n").map(|at| (at + 4).saturating_sub(seam));
        let end = across.or_else(|| memchr::memmem::find(piece, b"\r\n\r\n").map(|at| at + 4));
        self.found = end.is_some();
        self.tail = match piece.len().checked_sub(3) {
            Some(at) => piece.get(at..).unwrap_or_default().to_vec(),
            None => joined.get(joined.len().saturating_sub(3)..).unwrap_or_default().to_vec(),
        };
        end.unwrap_or(piece.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;

    use super::*;
    use crate::delivery::samples;

    async fn whole(content: &Content) -> io::Result<Vec<u8>> {
        let mut pieces = Pieces::of(content);
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await? {
            all.extend_from_slice(piece);
        }
        Ok(all)
    }

    fn in_file(text: &[u8], size: u64) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Content { trace: Bytes::from_static(b"T: x\r\n"), body: Body::File { file: Arc::new(file), size } }
    }

    #[tokio::test]
    async fn gives_the_trace_and_then_the_body_from_memory_or_file() {
        let text = b"0123456789abcdef\r\n".repeat(20_000);
        let wanted = [b"T: x\r\n", &text[..]].concat();
        let memory = Content { trace: Bytes::from_static(b"T: x\r\n"), body: Body::Memory(Bytes::from(text.clone())) };

        assert_eq!(whole(&memory).await.unwrap(), wanted);
        assert_eq!(whole(&in_file(&text, text.len() as u64)).await.unwrap(), wanted);
    }

    #[tokio::test]
    async fn a_file_cut_short_is_an_error() {
        assert!(whole(&in_file(b"abc\r\n", 6)).await.is_err());
    }

    #[tokio::test]
    async fn finds_out_what_the_content_needs() {
        for (text, eight_bit, utf8) in [
            ("Subject: x\r\n\r\nplain\r\n", false, false),
            ("Subject: x\r\n\r\nüber\r\n", true, false),
            ("Subject: ü\r\n\r\nplain\r\n", true, true),
            ("no header end ü", true, true),
        ] {
            let mut job = samples::job("a@b.example", &["c@d.example"]);
            job.body = BodyType::EightBitMime;
            job.international = International::Utf8;
            job.content.body = Body::Memory(Bytes::from_static(text.as_bytes()));

            assert_eq!(needs(&job, Features::default()).await.unwrap(), Needs { eight_bit, utf8 }, "{text}");
        }
    }

    #[test]
    fn finds_the_end_of_the_header_wherever_it_is_cut() {
        let text = b"A: b\r\n\r\nbody";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut end = HeaderEnd::default();

                let sum: usize = [&text[..first], &text[first..second], &text[second..]].iter().map(|piece| end.look(piece)).sum();

                assert_eq!(sum, 8, "{first} {second}");
            }
        }
    }
}
