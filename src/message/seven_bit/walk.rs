//! Walks through a message line by line and says what each line is (RFC 2046 §5.1): header, body, or frame between parts.
//!
//! ```text
//! Header ──empty line──▶ Body ──delimiter──▶ Header of the next part
//!    │                                └─last delimiter──▶ Aside
//!    └─ multipart ─▶ Aside (preamble) ──delimiter──▶ Header
//! ```
//!
//! Invariant: what is held is one header section, one line and the boundaries above it, each within its bound.

use super::Unfit;
use super::entity::{Entity, Kind, Place};

/// Octets in one header section.
const HEADER: usize = 256 * 1024;
/// Octets in one line: more than the front end lets in.
const LINE: usize = 128 * 1024;
/// Multiparts inside each other.
const DEPTH: usize = 32;
/// Messages and parts in all.
const ENTITIES: usize = 10_000;

/// What is done with what is found. Line ends are CR LF, or nothing at the end of a text that has none.
pub(super) trait Work {
    /// A header section is complete; `end` is the empty line behind it, if there is one.
    fn header(&mut self, entity: &Entity, raw: &[u8], end: &[u8]) -> Result<(), Unfit>;
    /// A line of a body that has no parts.
    fn body(&mut self, line: &[u8], end: &[u8]);
    /// That body is complete. With `Left::ForDelimiter` its last line end belongs to the delimiter.
    fn leave(&mut self, entity: &Entity, left: Left) -> Result<(), Unfit>;
    /// A delimiter.
    fn frame(&mut self, line: &[u8], end: &[u8]);
    /// A line before the first part or after the last, which no reader shows.
    fn aside(&mut self, line: &[u8], end: &[u8]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    ForDelimiter,
    AtEnd,
}

pub(super) struct Walker<W> {
    pub(super) work: W,
    /// A line whose end has not come.
    rest: Vec<u8>,
    levels: Vec<Level>,
    state: State,
    entities: usize,
}

struct Level {
    boundary: Vec<u8>,
    parts: Place,
    preamble: Preamble,
}

/// What stands before the first delimiter of a multipart. Readers show it if no delimiter follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preamble {
    Ascii,
    EightBit,
    /// There was a delimiter.
    Over,
}

enum State {
    Header { place: Place, raw: Vec<u8> },
    Body(Entity),
    Aside,
}

impl<W: Work> Walker<W> {
    pub(super) fn new(work: W) -> Self {
        let state = State::Header { place: Place::Message, raw: Vec::new() };
        Self { work, rest: Vec::new(), levels: Vec::new(), state, entities: 0 }
    }

    pub(super) fn read(&mut self, octets: &[u8]) -> Result<(), Unfit> {
        self.rest.extend_from_slice(octets);
        let text = std::mem::take(&mut self.rest);
        let mut from = 0;
        while let Some(at) = text.get(from..).and_then(|rest| memchr::memmem::find(rest, b"\r\n")) {
            self.line(text.get(from..from + at).unwrap_or_default(), b"\r\n")?;
            from += at + 2;
        }
        self.rest = text;
        self.rest.drain(..from);
        if self.rest.len() > LINE { Err(Unfit::Structure) } else { Ok(()) }
    }

    /// The message is complete.
    pub(super) fn finish(&mut self) -> Result<(), Unfit> {
        let text = std::mem::take(&mut self.rest);
        if !text.is_empty() {
            self.line(&text, b"")?;
        }
        self.all_have_parts(0)?;
        self.leave(Left::AtEnd)
    }

    fn line(&mut self, line: &[u8], end: &[u8]) -> Result<(), Unfit> {
        if let Some((level, is_last)) = self.delimiter(line) {
            self.leave(Left::ForDelimiter)?;
            self.work.frame(line, end);
            let parts = self.levels.get(level).map_or(Place::Part, |level| level.parts);
            self.all_have_parts(level + usize::from(!is_last))?;
            if is_last {
                self.levels.truncate(level);
                self.state = State::Aside;
            } else {
                self.levels.truncate(level + 1);
                if let Some(level) = self.levels.last_mut() {
                    level.preamble = Preamble::Over;
                }
                self.state = State::Header { place: parts, raw: Vec::new() };
            }
            return Ok(());
        }
        match &mut self.state {
            State::Header { raw, .. } if !line.is_empty() => {
                raw.extend_from_slice(line);
                raw.extend_from_slice(end);
                if raw.len() > HEADER { Err(Unfit::Structure) } else { Ok(()) }
            }
            State::Header { .. } => self.end_header(end),
            State::Body(_) => {
                self.work.body(line, end);
                Ok(())
            }
            State::Aside => {
                if let Some(level) = self.levels.last_mut().filter(|level| level.preamble == Preamble::Ascii && !line.is_ascii()) {
                    level.preamble = Preamble::EightBit;
                }
                self.work.aside(line, end);
                Ok(())
            }
        }
    }

    /// Whether the multiparts from this level on, which end here, have lost no 8-bit text that readers show.
    fn all_have_parts(&self, from: usize) -> Result<(), Unfit> {
        let ending = self.levels.get(from..).unwrap_or_default();
        if ending.iter().any(|level| level.preamble == Preamble::EightBit) { Err(Unfit::Structure) } else { Ok(()) }
    }

    /// The level whose delimiter this line is, the innermost first, and whether it is the last one there. Blanks behind it do
    /// not count (RFC 2046 §5.1.1).
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let name = line.strip_prefix(b"--").filter(|_| !self.levels.is_empty())?;
        let name = name.trim_ascii_end();
        self.levels.iter().enumerate().rev().find_map(|(at, level)| match name.strip_prefix(level.boundary.as_slice()) {
            Some(b"") => Some((at, false)),
            Some(b"--") => Some((at, true)),
            Some(_) | None => None,
        })
    }

    fn end_header(&mut self, end: &[u8]) -> Result<(), Unfit> {
        let State::Header { place, raw } = std::mem::replace(&mut self.state, State::Aside) else { return Ok(()) };
        let entity = Entity::of(self.entities, place, &raw);
        self.entities += 1;
        if self.entities > ENTITIES {
            return Err(Unfit::Structure);
        }
        self.work.header(&entity, &raw, end)?;
        self.state = match &entity.kind {
            Kind::Text | Kind::Other | Kind::Fixed => State::Body(entity),
            Kind::Message => State::Header { place: Place::Message, raw: Vec::new() },
            Kind::Multipart { .. } if self.levels.len() >= DEPTH => return Err(Unfit::Structure),
            Kind::Multipart { boundary, parts } => {
                self.levels.push(Level { boundary: boundary.clone(), parts: *parts, preamble: Preamble::Ascii });
                State::Aside
            }
        };
        Ok(())
    }

    fn leave(&mut self, left: Left) -> Result<(), Unfit> {
        match &self.state {
            State::Header { raw, .. } if raw.is_empty() => {}
            State::Header { .. } => self.end_header(b"")?,
            State::Body(_) | State::Aside => {}
        }
        match std::mem::replace(&mut self.state, State::Aside) {
            State::Body(entity) => self.work.leave(&entity, left),
            State::Header { .. } | State::Aside => Ok(()),
        }
    }
}
