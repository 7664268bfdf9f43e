//! The frames between the key process and those who ask it.
//!
//! ```text
//! question: op u8, length u16, body        answer: kind u8, length u32, body
//! ```
//!
//! Invariant: a length is compared with its bound before anything is allocated for it, a body must be used up to
//! its last byte, and an unknown op, kind or value is an error, never a default.

use std::io::{self, Read};

use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{signer::Purpose, store::Generation};

/// The longest text in a question to sign.
pub const LONGEST_TEXT: usize = 256;
const LONGEST_QUESTION: usize = 1 + 8 + 2 + LONGEST_TEXT;
const LONGEST_ANSWER: usize = 256 * 1024;
const QUESTION_HEAD: usize = 3;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The chain and schemes of a key.
    Describe(Purpose),
    /// A signature by a key.
    Sign { purpose: Purpose, generation: Generation, scheme: SignatureScheme, text: Vec<u8> },
    /// A smart host's secret.
    Secret(String),
}

/// What can be answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Description(Description),
    /// The signature, and which generation is current by now.
    Signature {
        current: Generation,
        signature: Vec<u8>,
    },
    Secret(Zeroizing<String>),
    Refused(Reason),
}

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub generation: Generation,
    pub schemes: Vec<SignatureScheme>,
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why an answer is no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("this process may not ask for that")]
    NotPermitted,
    #[error("there is no such key or secret")]
    Unknown,
    #[error("the text is not one this key signs")]
    Unrecognised,
    #[error("that certificate is no longer in use")]
    Stale,
    #[error("the key could not sign")]
    Failed,
}

/// Bytes that are no frame of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of the key process: {0}")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

const DESCRIBE: u8 = 1;
const SIGN: u8 = 2;
const SECRET: u8 = 3;
const REFUSED: u8 = 4;

impl Question {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(LONGEST_QUESTION + QUESTION_HEAD);
        let op = match self {
            Self::Describe(purpose) => {
                body.push(purpose_code(*purpose));
                DESCRIBE
            }
            Self::Sign { purpose, generation, scheme, text } => {
                body.push(purpose_code(*purpose));
                body.extend(generation.0.to_be_bytes());
                body.extend(u16::from(*scheme).to_be_bytes());
                body.extend(text);
                SIGN
            }
            Self::Secret(name) => {
                body.extend(name.as_bytes());
                SECRET
            }
        };
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX); // longer ones are refused by the bound anyway
        let mut frame = Vec::with_capacity(QUESTION_HEAD + body.len());
        frame.push(op);
        frame.extend(length.to_be_bytes());
        frame.extend(body);
        frame
    }

    /// Reads one question; `None` when the peer hung up between two.
    pub fn read(mut from: impl Read) -> io::Result<Option<Self>> {
        let mut buffer = [0; QUESTION_HEAD + LONGEST_QUESTION + 1]; // one more, to see what comes behind
        let mut held = 0;
        loop {
            let known = buffer.get(..held).unwrap_or_default();
            let whole = match known.first_chunk::<QUESTION_HEAD>() {
                Some([op, high, low]) => {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    if !matches!(*op, DESCRIBE | SIGN | SECRET) {
                        return Err(Malformed("unknown op").into());
                    }
                    if length > LONGEST_QUESTION {
                        return Err(Malformed("question too long").into());
                    }
                    Some(QUESTION_HEAD + length)
                }
                None => None,
            };
            match whole {
                // One question at a time: what comes behind it before the answer is no client of ours.
                Some(whole) if held > whole => return Err(Malformed("bytes behind the question").into()),
                Some(whole) if held == whole => break,
                Some(_) | None => {}
            }
            let room = buffer.get_mut(held..).unwrap_or_default();
            match from.read(room) {
                Ok(0) if held == 0 => return Ok(None),
                Ok(0) => return Err(Malformed("question cut short").into()),
                Ok(count) => held += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let frame = buffer.get(..held).unwrap_or_default();
        let (head, body) = frame.split_first_chunk::<QUESTION_HEAD>().ok_or(Malformed("no head"))?;
        Ok(Some(Self::decode(head[0], body)?))
    }

    fn decode(op: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut left = Left(body);
        match op {
            DESCRIBE => {
                let purpose = left.purpose()?;
                left.end()?;
                Ok(Self::Describe(purpose))
            }
            SIGN => Ok(Self::Sign {
                purpose: left.purpose()?,
                generation: left.generation()?,
                scheme: SignatureScheme::from(left.u16()?),
                text: left.0.to_vec(),
            }),
            SECRET => {
                let name = std::str::from_utf8(body).map_err(|_| Malformed("a name that is not text"))?;
                Ok(Self::Secret(name.to_owned()))
            }
            _ => Err(Malformed("unknown op")),
        }
    }
}

impl Answer {
    /// The frame, in memory that is wiped: it may hold a secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let room = match self {
            Self::Description(description) => {
                64 + description.chain.iter().map(|der| der.len() + 3).sum::<usize>() + 2 * description.schemes.len()
            }
            Self::Signature { signature, .. } => 32 + signature.len(),
            Self::Secret(secret) => 16 + secret.len(),
            Self::Refused(_) => 16,
        };
        let mut frame = Zeroizing::new(Vec::with_capacity(room));
        frame.extend([0; 5]);
        let kind = match self {
            Self::Description(description) => {
                frame.extend(description.generation.0.to_be_bytes());
                frame.push(u8::try_from(description.schemes.len()).unwrap_or(u8::MAX));
                for scheme in &description.schemes {
                    frame.extend(u16::from(*scheme).to_be_bytes());
                }
                for certificate in &description.chain {
                    let length = u32::try_from(certificate.len()).unwrap_or(u32::MAX);
                    frame.extend(length.to_be_bytes());
                    frame.extend(certificate.as_ref());
                }
                DESCRIBE
            }
            Self::Signature { current, signature } => {
                frame.extend(current.0.to_be_bytes());
                frame.extend(signature);
                SIGN
            }
            Self::Secret(secret) => {
                frame.extend(secret.as_bytes());
                SECRET
            }
            Self::Refused(reason) => {
                frame.push(reason_code(*reason));
                REFUSED
            }
        };
        let length = u32::try_from(frame.len().saturating_sub(5)).unwrap_or(u32::MAX);
        if let Some((head, _)) = frame.split_first_chunk_mut::<5>() {
            let [a, b, c, d] = length.to_be_bytes();
            *head = [kind, a, b, c, d];
        }
        frame
    }

    /// The kind of an answer and the length of its body, from its first five bytes.
    pub fn head(head: [u8; 5]) -> Result<(u8, usize), Malformed> {
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed("answer too long"))?;
        if length > LONGEST_ANSWER {
            return Err(Malformed("answer too long"));
        }
        Ok((kind, length))
    }

    pub fn decode(kind: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut left = Left(body);
        match kind {
            DESCRIBE => {
                let generation = left.generation()?;
                let count = left.u8()?;
                let mut schemes = Vec::with_capacity(usize::from(count));
                for _ in 0..count {
                    schemes.push(SignatureScheme::from(left.u16()?));
                }
                let mut chain = Vec::new();
                while !left.0.is_empty() {
                    let length = usize::try_from(left.u32()?).map_err(|_| Malformed("certificate too long"))?;
                    chain.push(CertificateDer::from(left.take(length)?.to_vec()));
                }
                if chain.is_empty() {
                    return Err(Malformed("no certificate"));
                }
                Ok(Self::Description(Description { generation, schemes, chain }))
            }
            SIGN => Ok(Self::Signature { current: left.generation()?, signature: left.0.to_vec() }),
            SECRET => {
                let text = std::str::from_utf8(body).map_err(|_| Malformed("a secret that is not text"))?;
                Ok(Self::Secret(Zeroizing::new(text.to_owned())))
            }
            REFUSED => {
                let reason = reason_of(left.u8()?)?;
                left.end()?;
                Ok(Self::Refused(reason))
            }
            _ => Err(Malformed("unknown kind of answer")),
        }
    }
}

fn purpose_code(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Server => 1,
        Purpose::Client => 2,
    }
}

fn reason_code(reason: Reason) -> u8 {
    match reason {
        Reason::NotPermitted => 1,
        Reason::Unknown => 2,
        Reason::Unrecognised => 3,
        Reason::Stale => 4,
        Reason::Failed => 5,
    }
}

fn reason_of(code: u8) -> Result<Reason, Malformed> {
    [Reason::NotPermitted, Reason::Unknown, Reason::Unrecognised, Reason::Stale, Reason::Failed]
        .into_iter()
        .find(|reason| reason_code(*reason) == code)
        .ok_or(Malformed("unknown reason"))
}

/// What is left of a body.
struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed("body cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("body cut short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn generation(&mut self) -> Result<Generation, Malformed> {
        self.array().map(|bytes| Generation(u64::from_be_bytes(bytes)))
    }

    fn purpose(&mut self) -> Result<Purpose, Malformed> {
        match self.u8()? {
            1 => Ok(Purpose::Server),
            2 => Ok(Purpose::Client),
            _ => Err(Malformed("unknown purpose")),
        }
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> Vec<Question> {
        vec![
            Question::Describe(Purpose::Server),
            Question::Sign {
                purpose: Purpose::Client,
                generation: Generation(7),
                scheme: SignatureScheme::ED25519,
                text: vec![3; LONGEST_TEXT],
            },
            Question::Secret("relay.secret".into()),
        ]
    }

    #[test]
    fn a_question_arrives_as_it_was_sent_however_it_is_cut() {
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(into.len()).min(1);
                self.0.read(&mut into[..count])
            }
        }

        for question in questions() {
            let frame = question.encode();

            assert_eq!(Question::read(&frame[..]).unwrap(), Some(question.clone()));
            assert_eq!(Question::read(Drip(&frame)).unwrap(), Some(question));
        }
        assert_eq!(Question::read(&b""[..]).unwrap(), None);
    }

    #[test]
    fn a_question_cut_short_lengthened_or_unknown_is_refused() {
        for question in questions() {
            let frame = question.encode();
            for cut in 1..frame.len() {
                assert!(Question::read(&frame[..cut]).is_err(), "{question:?} cut at {cut}");
            }
            let doubled = [&frame[..], &frame[..]].concat();
            assert!(Question::read(&doubled[..]).is_err());
        }
        for frame in [&[9, 0, 0][..], &[1, 0, 1, 3], &[1, 0, 2, 1, 1], &[2, 255, 255], &[3, 0, 1, 0xff], &[1, 0, 0]] {
            assert!(Question::read(frame).is_err(), "{frame:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_at_all_make_a_question_or_an_answer_misbehave(kind in 0u8..6, bytes in proptest::collection::vec(0u8.., 0..400)) {
            if let Ok(Some(question)) = Question::read(&bytes[..]) {
                assert_eq!(question.encode(), bytes);
            }
            if let Ok(answer) = Answer::decode(kind, &bytes) {
                assert_eq!(answer.encode()[5..], bytes);
            }
        }
    }

    #[test]
    fn an_answer_arrives_as_it_was_sent_and_not_otherwise() {
        let answers = [
            Answer::Description(Description {
                generation: Generation(u64::MAX),
                schemes: vec![SignatureScheme::ED25519, SignatureScheme::RSA_PSS_SHA256],
                chain: vec![CertificateDer::from(vec![1; 900]), CertificateDer::from(vec![2; 3])],
            }),
            Answer::Signature { current: Generation(1), signature: vec![4; 70] },
            Answer::Secret(Zeroizing::new("s3cret".into())),
            Answer::Refused(Reason::Stale),
        ];
        for answer in answers {
            let frame = answer.encode();
            let (head, body) = frame.split_first_chunk::<5>().unwrap();
            let (kind, length) = Answer::head(*head).unwrap();

            assert_eq!(length, body.len());
            assert_eq!(Answer::decode(kind, body).unwrap(), answer);
            assert!(Answer::decode(9, body).is_err());
        }
        assert!(Answer::head([1, 0, 4, 0, 1]).is_err());
        assert!(Answer::decode(REFUSED, &[6]).is_err());
        assert!(Answer::decode(DESCRIBE, &[0; 8]).is_err());
    }
}
