//! Mail with octets above 127, for servers that take none of them (RFC 6152 §3).
//!
//! ```text
//! message ─▶ Survey ─▶ Plan, or why it cannot be done
//! message + Plan ─▶ Conversion ─▶ the same message in 7 bits
//! ```
//!
//! The message is read twice, because the header of a part says how its body is encoded. Text becomes quoted-printable, or
//! base64 where most of it is beyond ASCII; other octets become base64; headers are seen to in `header`. Parts that are
//! US-ASCII already stay as they are. What is signed or encrypted is not touched: where that has such octets, the message
//! cannot be converted. A DKIM signature does not keep a message from being converted: RFC 6376 §5.3 leaves it to the signer
//! to sign only what needs no conversion, and mail without a valid signature is better than none.
//!
//! Invariant: whatever the message is, what comes out is US-ASCII, and memory is bounded (`walk`). A library that parses
//! mail would hold all of the message.

pub(crate) mod encode;
mod entity;
mod header;
mod walk;

use std::sync::Arc;

use encode::{Base64, quoted_printable, repaired};
use entity::{Coding, Entity, Kind, Place};
use walk::{Left, Walker, Work};

/// Why a message cannot be written in 7 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("the message has 8-bit text in a part that is signed, encrypted or may not be encoded, and the next server takes no such text")]
    Fixed,
    #[error("the message has 8-bit octets in its header that cannot be encoded, and the next server takes no such octets")]
    Header,
    #[error("the message has 8-bit text, which the next server does not take, and parts that are too many, too deep or not marked off")]
    Structure,
}

/// What is done with each body.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    treatments: Vec<Treatment>,
    headers: Headers,
}

/// What a header may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    Ascii,
    /// UTF-8, because SMTPUTF8 is in use.
    Utf8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    AsItIs,
    QuotedPrintable(Charset),
    Base64(Charset),
    /// Quoted-printable with raw octets in it.
    Repair,
}

/// What a text without a charset has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Charset {
    Utf8,
    Unknown,
}

/// Both passes over a message in memory.
pub(crate) fn convert(text: &[u8]) -> Result<Vec<u8>, Unfit> {
    let mut survey = Survey::new(Headers::Ascii);
    survey.read(text)?;
    let mut conversion = Conversion::new(Arc::new(survey.finish()?));
    let mut out = Vec::with_capacity(text.len() + text.len() / 4);
    conversion.read(text, &mut out)?;
    conversion.finish(&mut out)?;
    Ok(out)
}

/// The first pass.
pub(crate) struct Survey(Walker<Counter>);

struct Counter {
    plan: Plan,
    octets: u64,
    high: u64,
    charset: Charset,
}

impl Survey {
    pub(crate) fn new(headers: Headers) -> Self {
        let plan = Plan { treatments: Vec::new(), headers };
        Self(Walker::new(Counter { plan, octets: 0, high: 0, charset: Charset::Utf8 }))
    }

    pub(crate) fn read(&mut self, octets: &[u8]) -> Result<(), Unfit> {
        self.0.read(octets)
    }

    pub(crate) fn finish(mut self) -> Result<Plan, Unfit> {
        self.0.finish()?;
        Ok(self.0.work.plan)
    }
}

impl Work for Counter {
    fn header(&mut self, entity: &Entity, raw: &[u8], _: &[u8]) -> Result<(), Unfit> {
        self.plan.treatments.resize(entity.number + 1, Treatment::AsItIs);
        (self.octets, self.high, self.charset) = (0, 0, Charset::Utf8);
        rewritten(entity, Treatment::AsItIs, self.plan.headers, raw).map(|_| ())
    }

    fn body(&mut self, line: &[u8], _: &[u8]) {
        self.octets += line.len() as u64;
        if !line.is_ascii() {
            self.high += line.iter().filter(|octet| !octet.is_ascii()).count() as u64;
            if std::str::from_utf8(line).is_err() {
                self.charset = Charset::Unknown;
            }
        }
    }

    fn leave(&mut self, entity: &Entity, _: Left) -> Result<(), Unfit> {
        if self.high == 0 {
            return Ok(());
        }
        let treatment = match (&entity.kind, entity.coding) {
            (Kind::Text | Kind::Other, Coding::QuotedPrintable) => Treatment::Repair,
            (Kind::Text, Coding::Identity | Coding::EightBit) if self.high * 3 < self.octets => Treatment::QuotedPrintable(self.charset),
            (Kind::Text | Kind::Other, Coding::Identity | Coding::EightBit) => Treatment::Base64(self.charset),
            (Kind::Text | Kind::Other, Coding::Base64 | Coding::Unknown) | (Kind::Fixed, _) => return Err(Unfit::Fixed),
            // They have no body of their own.
            (Kind::Message | Kind::Multipart { .. }, _) => Treatment::AsItIs,
        };
        if let Some(place) = self.plan.treatments.get_mut(entity.number) {
            *place = treatment;
        }
        Ok(())
    }

    fn frame(&mut self, _: &[u8], _: &[u8]) {}

    fn aside(&mut self, _: &[u8], _: &[u8]) {}
}

/// The second pass.
pub(crate) struct Conversion(Walker<Writer>);

struct Writer {
    plan: Arc<Plan>,
    treatment: Treatment,
    base64: Base64,
    /// A line end that belongs to the body unless a delimiter follows.
    pending: &'static [u8],
    out: Vec<u8>,
}

impl Conversion {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let writer = Writer { plan, treatment: Treatment::AsItIs, base64: Base64::default(), pending: b"", out: Vec::new() };
        Self(Walker::new(writer))
    }

    /// Appends what can be written by now.
    pub(crate) fn read(&mut self, octets: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        self.0.read(octets)?;
        out.append(&mut self.0.work.out);
        Ok(())
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Unfit> {
        self.0.finish()?;
        out.append(&mut self.0.work.out);
        Ok(())
    }
}

impl Writer {
    /// Octets that no reader shows and that have no encoding.
    fn masked(&mut self, line: &[u8], end: &[u8]) {
        self.out.extend(line.iter().map(|octet| if octet.is_ascii() { *octet } else { b'?' }));
        self.out.extend_from_slice(end);
    }
}

impl Work for Writer {
    fn header(&mut self, entity: &Entity, raw: &[u8], end: &[u8]) -> Result<(), Unfit> {
        self.treatment = self.plan.treatments.get(entity.number).copied().unwrap_or(Treatment::AsItIs);
        self.out.extend_from_slice(&rewritten(entity, self.treatment, self.plan.headers, raw)?);
        self.out.extend_from_slice(end);
        Ok(())
    }

    fn body(&mut self, line: &[u8], end: &[u8]) {
        match self.treatment {
            Treatment::AsItIs => self.masked(line, end),
            Treatment::QuotedPrintable(_) => {
                quoted_printable(line, &mut self.out);
                self.out.extend_from_slice(end);
            }
            Treatment::Repair => {
                repaired(line, &mut self.out);
                self.out.extend_from_slice(end);
            }
            Treatment::Base64(_) => {
                self.base64.write(self.pending, &mut self.out);
                self.base64.write(line, &mut self.out);
                self.pending = if end.is_empty() { b"" } else { b"\r\n" };
            }
        }
    }

    fn leave(&mut self, _: &Entity, left: Left) -> Result<(), Unfit> {
        let pending = std::mem::take(&mut self.pending);
        match left {
            Left::ForDelimiter => {}
            Left::AtEnd => self.base64.write(pending, &mut self.out),
        }
        self.base64.finish(&mut self.out);
        self.treatment = Treatment::AsItIs;
        Ok(())
    }

    fn frame(&mut self, line: &[u8], end: &[u8]) {
        self.masked(line, end);
    }

    fn aside(&mut self, line: &[u8], end: &[u8]) {
        self.masked(line, end);
    }
}

/// A header section in US-ASCII that says how its body is encoded now.
fn rewritten(entity: &Entity, treatment: Treatment, headers: Headers, raw: &[u8]) -> Result<Vec<u8>, Unfit> {
    let (coding, charset) = match treatment {
        Treatment::AsItIs | Treatment::Repair => (None, None),
        Treatment::QuotedPrintable(charset) => (Some("quoted-printable"), Some(charset)),
        Treatment::Base64(charset) => (Some("base64"), Some(charset)),
    };
    // What is fixed is as its author wrote it. Of all else nothing is 8-bit any more.
    let relabelled = coding.is_some() || (entity.coding == Coding::EightBit && entity.kind != Kind::Fixed);
    let mut out = Vec::with_capacity(raw.len() + 128);
    for field in header::fields(raw) {
        if relabelled && field.name() == "content-transfer-encoding" {
            continue;
        }
        match headers {
            Headers::Ascii => field.in_ascii(&mut out)?,
            Headers::Utf8 => out.extend_from_slice(field.raw),
        }
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    if coding.is_some() && !entity.has_version && entity.place == Place::Message {
        out.extend_from_slice(b"MIME-Version: 1.0\r\n");
    }
    match charset.filter(|_| !entity.has_type) {
        Some(Charset::Utf8) => out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n"),
        // RFC 1428 §3.
        Some(Charset::Unknown) => out.extend_from_slice(b"Content-Type: text/plain; charset=unknown-8bit\r\n"),
        None => {}
    }
    if relabelled {
        out.extend_from_slice(format!("Content-Transfer-Encoding: {}\r\n", coding.unwrap_or("7bit")).as_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
