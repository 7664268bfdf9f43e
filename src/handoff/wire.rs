//! Frames on the hand-off socket: a kind, a length, a payload.
//!
//! ```text
//! kind (1)  length (4, little-endian)  payload
//! 1 opening   2 chunk   3 end   4 is it in? (16 octets: the token)   5 how much may come in?   front to queue
//! 128 accepted (8 octets: the id)   129 refused (1 octet: why)                                queue to front
//! 130 absent, and it will be   131 room (8 octets: how many may come in)
//! ```
//!
//! Invariant: a length is checked against its kind before anything is allocated for it, and what does not decode
//! exactly ends the connection. Both sides come from one package, so there is one version and no negotiation.

use bytes::{Buf, Bytes, BytesMut};

use super::codec::{Input, put_bytes, put_envelope, put_optional, put_trace, take_envelope, take_trace};
use super::{Answer, Opening, Proof, QueueId, Refused, Token};
use crate::smtp::SessionId;

/// The only version of an opening.
const VERSION: u8 = 2;
/// Kind and length.
pub(crate) const HEADER: usize = 5;
/// Octets of body in one chunk.
pub(crate) const CHUNK_LIMIT: usize = 64 * 1024;
/// Octets of an opening: some thousand recipients with the longest of everything.
pub(crate) const OPENING_LIMIT: usize = 2 * 1024 * 1024;
/// Octets of a proof.
const PROOF_LIMIT: usize = 1024;

const OPENING: u8 = 1;
const CHUNK: u8 = 2;
const END: u8 = 3;
const ASK: u8 = 4;
const ROOM: u8 = 5;
const ACCEPTED: u8 = 128;
const REFUSED: u8 = 129;
const ABSENT: u8 = 130;
const ROOM_IS: u8 = 131;

/// One frame from the front end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Opening(Box<Opening>, Token),
    Chunk(Bytes),
    End,
    /// Whether the message with this token is in.
    Ask(Token),
    /// How many octets may come in.
    Room,
}

/// The peer does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("a frame of kind {kind} with {length} octets, more than there can be")]
    Length { kind: u8, length: u32 },
    #[error("a frame of kind {0} that does not decode")]
    Malformed(u8),
}

/// Takes one whole frame off the front of `buffer`; `None` when more must be read first.
pub(crate) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some((kind, length)) = header(buffer)? else { return Ok(None) };
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    buffer.advance(HEADER);
    let payload = buffer.split_to(length);
    let frame = match kind {
        OPENING => {
            let (opening, token) = take_opening(&payload).ok_or(FrameError::Malformed(OPENING))?;
            Frame::Opening(Box::new(opening), token)
        }
        ASK => Frame::Ask(take_token(&mut Input(&payload)).filter(|_| payload.len() == Token::OCTETS).ok_or(FrameError::Malformed(ASK))?),
        ROOM => Frame::Room,
        CHUNK => Frame::Chunk(payload.freeze()),
        END => Frame::End,
        other => return Err(FrameError::Kind(other)),
    };
    Ok(Some(frame))
}

/// Whether the frame at the front of `buffer` is longer than most: an opening with a great many recipients.
pub(crate) fn is_long(buffer: &[u8]) -> bool {
    matches!(header(buffer), Ok(Some((_, length))) if length > CHUNK_LIMIT)
}

/// How much the frame at the front of `buffer` still lacks, as far as one can tell; at most a chunk at a time, so that
/// an announced length costs nothing before the octets come.
pub(crate) fn missing(buffer: &[u8]) -> usize {
    match header(buffer) {
        Ok(Some((_, length))) => (HEADER + length).saturating_sub(buffer.len()).min(HEADER + CHUNK_LIMIT),
        Ok(None) | Err(_) => 0,
    }
}

/// Kind and length at the front of `buffer`, within the bounds of the kind.
fn header(buffer: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let Some(&kind) = buffer.first() else { return Ok(None) };
    let limit = match kind {
        OPENING => OPENING_LIMIT,
        CHUNK => CHUNK_LIMIT,
        ASK => Token::OCTETS,
        END | ROOM => 0,
        other => return Err(FrameError::Kind(other)),
    };
    let mut rest = Input(buffer.get(1..).unwrap_or_default());
    let Some(length) = rest.u32() else { return Ok(None) };
    match usize::try_from(length) {
        Ok(octets) if octets <= limit => Ok(Some((kind, octets))),
        Ok(_) | Err(_) => Err(FrameError::Length { kind, length }),
    }
}

/// Starts a frame whose length is not known yet; `close_frame` with its place fills it in.
fn open_frame(out: &mut Vec<u8>, kind: u8) -> usize {
    let at = out.len();
    out.extend_from_slice(&[kind, 0, 0, 0, 0]);
    at
}

/// Writes the length of the frame that began at `at` and goes to the end.
pub(crate) fn close_frame(out: &mut [u8], at: usize) {
    let length = (out.len() - at - HEADER) as u32;
    out[at + 1..at + HEADER].copy_from_slice(&length.to_le_bytes());
}

pub(crate) fn open_chunk(out: &mut Vec<u8>) -> usize {
    open_frame(out, CHUNK)
}

pub(crate) fn put_end(out: &mut Vec<u8>) {
    open_frame(out, END);
}

pub(crate) fn put_ask(out: &mut Vec<u8>, token: &Token) {
    let at = open_frame(out, ASK);
    out.extend_from_slice(token.octets());
    close_frame(out, at);
}

pub(crate) fn put_room(out: &mut Vec<u8>) {
    open_frame(out, ROOM);
}

fn take_token(from: &mut Input<'_>) -> Option<Token> {
    Some(Token::of_octets(from.take(Token::OCTETS)?.try_into().ok()?))
}

/// Appends the opening, or nothing and `false` if it is longer than the queue takes.
pub(crate) fn put_opening(out: &mut Vec<u8>, opening: &Opening, token: &Token) -> bool {
    let at = open_frame(out, OPENING);
    out.push(VERSION);
    out.extend_from_slice(token.octets());
    out.extend_from_slice(&opening.session.0.to_le_bytes());
    put_optional(out, opening.declared_size, |out, size| out.extend_from_slice(&size.to_le_bytes()));
    match &opening.proof {
        Proof::Ticket(bytes) => {
            out.push(1);
            put_bytes(out, bytes);
        }
    }
    put_trace(out, &opening.trace);
    put_envelope(out, &opening.envelope);
    if out.len() - at - HEADER > OPENING_LIMIT {
        out.truncate(at);
        return false;
    }
    close_frame(out, at);
    true
}

fn take_opening(payload: &[u8]) -> Option<(Opening, Token)> {
    let mut from = Input(payload);
    if from.u8()? != VERSION {
        return None;
    }
    let token = take_token(&mut from)?;
    let session = SessionId(from.u64()?);
    let declared_size = from.optional(Input::u64)?;
    let proof = match from.u8()? {
        1 => Proof::Ticket(from.bytes(PROOF_LIMIT)?.to_vec()),
        _ => return None,
    };
    let trace = take_trace(&mut from)?;
    let envelope = take_envelope(&mut from)?;
    from.end()?;
    Some((Opening { envelope, trace, proof, session, declared_size }, token))
}

/// The longest answer.
pub(crate) const ANSWER_LIMIT: usize = HEADER + 8;

fn put_answer(out: &mut Vec<u8>, answer: Answer) {
    let at = match answer {
        Answer::Accepted(id) => {
            let at = open_frame(out, ACCEPTED);
            out.extend_from_slice(&id.number().to_le_bytes());
            at
        }
        Answer::Refused(why) => {
            let at = open_frame(out, REFUSED);
            out.push(match why {
                Refused::Full => 1,
                Refused::TooLarge => 2,
                Refused::NotPermitted => 3,
                Refused::Fault => 4,
                Refused::LoginExpired => 5,
            });
            at
        }
    };
    close_frame(out, at);
}

/// What the queue says: to an end or a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Answer(Answer),
    /// The message is not in and will not come in.
    Absent,
    /// How many octets may come in.
    Room(u64),
}

pub(crate) fn put_said(out: &mut Vec<u8>, said: Said) {
    match said {
        Said::Answer(answer) => put_answer(out, answer),
        Said::Absent => _ = open_frame(out, ABSENT),
        Said::Room(octets) => {
            let at = open_frame(out, ROOM_IS);
            out.extend_from_slice(&octets.to_le_bytes());
            close_frame(out, at);
        }
    }
}

/// What has come of an answer so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Said(Said),
    /// Not all of it has come.
    Part,
    /// Not an answer, or more than one.
    Nonsense,
}

pub(crate) fn hear(bytes: &[u8]) -> Heard {
    let mut from = Input(bytes);
    let Some(kind) = from.u8() else { return Heard::Part };
    let wanted = match kind {
        ACCEPTED | ROOM_IS => 8,
        REFUSED => 1,
        ABSENT => 0,
        _ => return Heard::Nonsense,
    };
    let Some(length) = from.u32() else { return Heard::Part };
    match from.0.len() {
        _ if length != wanted => Heard::Nonsense,
        have if have < wanted as usize => Heard::Part,
        have if have > wanted as usize => Heard::Nonsense,
        _ => take_said(kind, &mut from).map_or(Heard::Nonsense, Heard::Said),
    }
}

fn take_said(kind: u8, from: &mut Input<'_>) -> Option<Said> {
    match kind {
        ACCEPTED => QueueId::of_number(from.u64()?).map(|id| Said::Answer(Answer::Accepted(id))),
        REFUSED => take_refused(from).map(|why| Said::Answer(Answer::Refused(why))),
        ABSENT => Some(Said::Absent),
        ROOM_IS => from.u64().map(Said::Room),
        _ => None,
    }
}

fn take_refused(from: &mut Input<'_>) -> Option<Refused> {
    Some(match from.u8()? {
        1 => Refused::Full,
        2 => Refused::TooLarge,
        3 => Refused::NotPermitted,
        4 => Refused::Fault,
        5 => Refused::LoginExpired,
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::codec::tests::{any_envelope, any_trace};
    use super::*;

    fn any_opening() -> impl Strategy<Value = Opening> {
        (any_envelope(), any_trace(), proptest::collection::vec(any::<u8>(), 0..400), any::<u64>(), any::<Option<u64>>()).prop_map(
            |(envelope, trace, ticket, session, declared_size)| Opening {
                envelope,
                trace,
                proof: Proof::Ticket(ticket),
                session: SessionId(session),
                declared_size,
            },
        )
    }

    const TOKEN: Token = Token::of_octets([7; Token::OCTETS]);

    fn message(opening: &Opening, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(put_opening(&mut out, opening, &TOKEN));
        for chunk in body.chunks(CHUNK_LIMIT) {
            let at = open_chunk(&mut out);
            out.extend_from_slice(chunk);
            close_frame(&mut out, at);
        }
        put_end(&mut out);
        out
    }

    proptest! {
        #[test]
        fn a_message_comes_back_whole_however_it_is_cut(opening in any_opening(), body in proptest::collection::vec(any::<u8>(), 0..2000), step in 1_usize..300) {
            let bytes = message(&opening, &body);
            let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());

            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    frames.push(frame);
                }
            }

            prop_assert!(buffer.is_empty());
            prop_assert_eq!(frames.pop(), Some(Frame::End));
            let mut frames = frames.into_iter();
            prop_assert_eq!(frames.next(), Some(Frame::Opening(Box::new(opening), TOKEN)));
            let mut got = Vec::new();
            for frame in frames {
                match frame {
                    Frame::Chunk(bytes) => got.extend_from_slice(&bytes),
                    Frame::Opening(..) | Frame::End | Frame::Ask(_) | Frame::Room => prop_assert!(false, "a second {frame:?}"),
                }
            }
            prop_assert_eq!(got, body);
        }

        #[test]
        fn a_flipped_bit_is_an_error_or_another_frame_but_never_a_panic(opening in any_opening(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = message(&opening, b"body");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;

            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_frame(&mut buffer) {}
        }

        #[test]
        fn hostile_bytes_never_panic_and_never_wait_for_more_than_a_frame(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_frame(&mut buffer) {}
            let _ = hear(&bytes);
        }
    }

    #[test]
    fn every_length_above_its_bound_is_refused_before_the_payload_comes() {
        for (kind, limit) in [(OPENING, OPENING_LIMIT), (CHUNK, CHUNK_LIMIT), (END, 0), (ASK, Token::OCTETS), (ROOM, 0)] {
            for length in [limit as u32 + 1, 1 << 31, u32::MAX] {
                let mut bytes = vec![kind];
                bytes.extend_from_slice(&length.to_le_bytes());

                assert_eq!(take_frame(&mut BytesMut::from(&bytes[..])), Err(FrameError::Length { kind, length }));
            }
        }
    }

    #[test]
    fn a_question_comes_back_as_it_was_and_no_shorter() {
        let mut bytes = Vec::new();
        put_ask(&mut bytes, &TOKEN);
        put_room(&mut bytes);
        let mut buffer = BytesMut::from(&bytes[..]);

        assert_eq!(take_frame(&mut buffer), Ok(Some(Frame::Ask(TOKEN))));
        assert_eq!(take_frame(&mut buffer), Ok(Some(Frame::Room)));
        assert_eq!(take_frame(&mut BytesMut::from(&[ASK, 1, 0, 0, 0, 9][..])), Err(FrameError::Malformed(ASK)));
    }

    #[test]
    fn an_unknown_kind_is_refused_at_its_first_octet() {
        for kind in [0, 6, 127, ACCEPTED, REFUSED, ABSENT, ROOM_IS, 255] {
            assert_eq!(take_frame(&mut BytesMut::from(&[kind][..])), Err(FrameError::Kind(kind)));
        }
    }

    #[test]
    fn an_answer_is_heard_only_when_it_is_whole_and_alone() {
        let id = QueueId::of_number(77).unwrap();
        let answers = [
            Said::Answer(Answer::Accepted(id)),
            Said::Answer(Answer::Refused(Refused::Full)),
            Said::Answer(Answer::Refused(Refused::TooLarge)),
            Said::Answer(Answer::Refused(Refused::NotPermitted)),
            Said::Answer(Answer::Refused(Refused::Fault)),
            Said::Answer(Answer::Refused(Refused::LoginExpired)),
            Said::Absent,
            Said::Room(u64::MAX),
        ];
        for answer in answers {
            let mut bytes = Vec::new();
            put_said(&mut bytes, answer);

            assert!(bytes.len() <= ANSWER_LIMIT);
            assert_eq!(hear(&bytes), Heard::Said(answer));
            for cut in 0..bytes.len() {
                assert_eq!(hear(&bytes[..cut]), Heard::Part);
            }
            bytes.push(0);
            assert_eq!(hear(&bytes), Heard::Nonsense);
        }
        assert_eq!(hear(&[REFUSED, 1, 0, 0, 0, 9]), Heard::Nonsense);
        assert_eq!(hear(&[ACCEPTED, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Heard::Nonsense, "no message is called 0");
        assert_eq!(hear(&[200]), Heard::Nonsense);
    }
}
