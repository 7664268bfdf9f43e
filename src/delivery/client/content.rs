//! Reading a job's content, from memory or from its file, without ever blocking the runtime.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::features::Features;
use super::transaction::Needs;
use crate::delivery::job::{Body, Content, Job};
use crate::message::seven_bit::{Conversion, Headers, Plan, Survey};
use crate::message::start::Start;
use crate::smtp::envelope::{BodyType, International};

/// Octets given at once.
const PIECE: usize = 64 * 1024;

/// How one server gets a content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing {
    start: Start,
    /// Set where it is converted to 7 bits.
    plan: Option<Arc<Plan>>,
    /// Octets that go out, which a conversion can make three times as many as are stored.
    pub(super) size: u64,
}

/// The content in pieces, one after the other.
pub(crate) struct Pieces<'a> {
    stored: Stored<'a>,
    conversion: Option<Conversion>,
    converted: Vec<u8>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn of(content: &'a Content, outgoing: &Outgoing) -> Self {
        let stored = Stored { content, start: outgoing.start, at: At::Trace, buffer: Vec::new() };
        Self { stored, conversion: outgoing.plan.clone().map(Conversion::new), converted: Vec::new() }
    }

    /// The next piece; `None` at the end. A file that ends too early is an error, never a shorter message.
    pub(crate) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(conversion) = &mut self.conversion else { return self.stored.next().await };
        self.converted.clear();
        while self.converted.is_empty() {
            let Some(piece) = self.stored.next().await? else {
                conversion.finish(&mut self.converted).map_err(io::Error::other)?;
                self.conversion = None;
                break;
            };
            conversion.read(piece, &mut self.converted).map_err(io::Error::other)?;
        }
        Ok((!self.converted.is_empty()).then_some(&self.converted))
    }
}

/// The octets as they are stored, with what goes between our field and the text.
struct Stored<'a> {
    content: &'a Content,
    start: Start,
    at: At,
    buffer: Vec<u8>,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum At {
    Trace,
    Separator,
    /// This octet of the body.
    Body(u64),
}

impl Stored<'_> {
    async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let at = match self.at {
            At::Trace => {
                self.at = At::Separator;
                return Ok(Some(&self.content.trace));
            }
            At::Separator => {
                self.at = At::Body(self.start.skip as u64);
                return Ok(Some(self.start.separator.octets()));
            }
            At::Body(at) => at,
        };
        match &self.content.body {
            Body::Memory(bytes) => {
                let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let piece = rest.get(..PIECE).unwrap_or(rest);
                self.at = At::Body(at + piece.len() as u64);
                Ok((!piece.is_empty()).then_some(piece))
            }
            Body::File { size, .. } if at >= *size => Ok(None),
            Body::File { file, size } => {
                let wanted = usize::try_from(*size - at).unwrap_or(PIECE).min(PIECE);
                self.buffer = read_at(file.clone(), at, wanted, std::mem::take(&mut self.buffer)).await?;
                self.at = At::Body(at + self.buffer.len() as u64);
                Ok(Some(&self.buffer))
            }
        }
    }
}

/// Where the body begins, found without blocking the runtime.
async fn start(content: &Content) -> io::Result<Start> {
    match &content.body {
        Body::Memory(_) => content.start(),
        Body::File { .. } => {
            let content = content.clone();
            tokio::task::spawn_blocking(move || content.start()).await.map_err(io::Error::other)?
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

/// How the content goes to a server, and what it then needs that the server does not offer. That is judged on the client's
/// text; our own field is US-ASCII. Looks through the content only if something is missing, or if nobody said what it is.
pub(crate) async fn prepare(job: &Job, features: Features) -> io::Result<(Outgoing, Needs)> {
    let start = start(&job.content).await?;
    let mut outgoing = Outgoing { start, plan: None, size: job.content.size_from(start) };
    let mut needs = Needs { size: Some(outgoing.size), ..Needs::default() };
    let ask_eight_bit = !features.eight_bit || job.body == BodyType::SevenBit;
    let ask_utf8 = job.international == International::Utf8 && !features.utf8;
    if !ask_eight_bit && !ask_utf8 {
        return Ok((outgoing, needs));
    }
    let mut pieces = Pieces::of(&job.content, &outgoing);
    let mut header = HeaderEnd::default();
    while let Some(piece) = pieces.next().await? {
        let in_header = piece.get(..header.look(piece)).unwrap_or(piece);
        needs.utf8 |= !in_header.is_ascii();
        needs.eight_bit |= !piece.is_ascii();
        if needs.eight_bit && (header.found || needs.utf8 || !ask_utf8) {
            break;
        }
    }
    let is_lost_anyway = ask_utf8 && needs.utf8;
    if needs.eight_bit && !features.eight_bit && !is_lost_anyway {
        convert(job, features, &mut outgoing, &mut needs).await?;
    }
    Ok((outgoing, needs))
}

/// Finds out how the content can be written in 7 bits, and how long it is then (RFC 6152 §3).
async fn convert(job: &Job, features: Features, outgoing: &mut Outgoing, needs: &mut Needs) -> io::Result<()> {
    let in_utf8 = job.international == International::Utf8 && features.utf8;
    let mut survey = Survey::new(if in_utf8 { Headers::Utf8 } else { Headers::Ascii });
    let mut pieces = Pieces::of(&job.content, outgoing);
    let mut surveyed = Ok(());
    while let Some(piece) = pieces.next().await?
        && surveyed.is_ok()
    {
        surveyed = survey.read(piece);
    }
    match surveyed.and_then(|()| survey.finish()) {
        Ok(plan) => outgoing.plan = Some(Arc::new(plan)),
        Err(unfit) => {
            needs.unfit = Some(unfit);
            return Ok(());
        }
    }
    let mut size = 0;
    let mut pieces = Pieces::of(&job.content, outgoing);
    while let Some(piece) = pieces.next().await? {
        size += piece.len() as u64;
    }
    outgoing.size = size;
    *needs = Needs { size: Some(size), ..Needs::default() };
    Ok(())
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
        let outgoing = Outgoing { start: start(content).await?, ..Outgoing::default() };
        let mut pieces = Pieces::of(content, &outgoing);
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
        let text = b"X: 0123456789abcdef\r\n".repeat(20_000);
        let wanted = [b"T: x\r\n", &text[..]].concat();
        let memory = Content { trace: Bytes::from_static(b"T: x\r\n"), body: Body::Memory(Bytes::from(text.clone())) };

        assert_eq!(whole(&memory).await.unwrap(), wanted);
        assert_eq!(whole(&in_file(&text, text.len() as u64)).await.unwrap(), wanted);
    }

    #[tokio::test]
    async fn a_file_cut_short_is_an_error() {
        assert!(whole(&in_file(b"a:c\r\n", 6)).await.is_err());
    }

    #[tokio::test]
    async fn finds_out_what_the_content_needs() {
        let eight_bit_only = Features { eight_bit: true, ..Features::default() };
        for (text, eight_bit, utf8) in [
            ("Subject: x\r\n\r\nplain\r\n", false, false),
            ("Subject: x\r\n\r\nüber\r\n", true, false),
            ("Subject: ü\r\n\r\nplain\r\n", true, true),
            ("X: no header end ü", true, true),
            ("no header ü", true, false),
        ] {
            let mut job = samples::job("a@b.example", &["c@d.example"]);
            job.body = BodyType::EightBitMime;
            job.international = International::Utf8;
            job.content.body = Body::Memory(Bytes::from_static(text.as_bytes()));

            let (_, needs) = prepare(&job, eight_bit_only).await.unwrap();
            assert_eq!((needs.eight_bit, needs.utf8), (eight_bit, utf8), "{text}");

            // What is only 8-bit is converted, and needs nothing any more.
            let (_, needs) = prepare(&job, Features::default()).await.unwrap();
            assert_eq!((needs.eight_bit, needs.utf8), (utf8, utf8), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_converted_is_ascii_and_as_long_as_is_said() {
        let text = ["Subject: Grüße\r\n\r\n".to_owned(), "ein für alle mal\r\n".repeat(20_000)].concat();
        let mut job = samples::job("a@b.example", &["c@d.example"]);
        for body in [Body::Memory(Bytes::from(text.clone())), samples::in_file(text.as_bytes())] {
            job.content.body = body;

            let (outgoing, needs) = prepare(&job, Features::default()).await.unwrap();

            let (mut pieces, mut all) = (Pieces::of(&job.content, &outgoing), Vec::new());
            while let Some(piece) = pieces.next().await.unwrap() {
                all.extend_from_slice(piece);
            }
            assert!(all.is_ascii() && all.starts_with(b"Received: x\r\nSubject: =?utf-8?b?"));
            assert_eq!(needs, Needs { size: Some(all.len() as u64), ..Needs::default() });
            assert_eq!(outgoing.size, all.len() as u64, "its time is that of what is sent");
        }
    }

    #[tokio::test]
    async fn a_text_without_a_header_is_kept_apart_from_our_field_and_its_size_is_that_of_what_is_sent() {
        for (text, sent) in [
            (" folded\r\n\r\nbody\r\n", "T: x\r\n\r\n folded\r\n\r\nbody\r\n"),
            ("From a Fri\r\n>From b\r\nX: y\r\n\r\nbody\r\n", "T: x\r\nX: y\r\n\r\nbody\r\n"),
            ("From a Fri\r\n", "T: x\r\n"),
            ("", "T: x\r\n"),
        ] {
            let mut job = samples::job("a@b.example", &["c@d.example"]);
            for content in [
                Content { trace: Bytes::from_static(b"T: x\r\n"), body: Body::Memory(Bytes::from_static(text.as_bytes())) },
                in_file(text.as_bytes(), text.len() as u64),
            ] {
                job.content = content;

                let (_, needs) = prepare(&job, Features::default()).await.unwrap();

                assert_eq!(String::from_utf8(whole(&job.content).await.unwrap()).unwrap(), sent);
                assert_eq!(needs.size, Some(sent.len() as u64));
                assert_eq!(job.content.beginning(1000).unwrap(), sent.as_bytes());
                assert_eq!(job.content.beginning(9).unwrap(), &sent.as_bytes()[..sent.len().min(9)]);
            }
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
