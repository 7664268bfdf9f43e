//! The parts of a stored message as bytes: its head, which never changes, and its progress.
//!
//! ```text
//! head      version 1 │ id (8) │ author │ trace field │ envelope │ crc32 (4)
//!           version 2 │ id (8) │ token of the hand-off (16) │ author │ trace field │ envelope │ crc32 (4)
//! author    0 uid (4) session (8) user   or   1 id (8) of the message reported about
//! progress  empty while nothing was tried, else
//!           version 1 │ warned (1) │ count (4) │ standings │ crc32 (4)
//! standing  0 new │ 1 deferred, account │ 2 delivered, optional account │ 3 failed
//! noted     version 1 │ id (8) │ number (4) │ optional account │ crc32 (4)
//! account   class digit (1) subject (2) detail (2) │ optional remote │ diagnostic │ origin (1) │ passed on (1)
//! ```
//!
//! Texts stand behind a 16-bit length, numbers are little-endian, envelopes are as in `handoff::codec`. Invariant: a
//! record with one changed or missing octet does not decode, and one with another message's id is not this message's.

use bytes::Bytes;

use super::message::{Author, Progress, Standing, Warned};
use super::store::Noted;
use crate::delivery::job::{Account, Origin, PassedOn, RecipientNo};
use crate::handoff::codec::{Input, put_envelope, put_optional, put_text, take_envelope};
use crate::handoff::{QueueId, Token};
use crate::smtp::SessionId;
use crate::smtp::envelope::Envelope;
use crate::smtp::status::{Class, EnhancedStatus};

const VERSION: u8 = 1;
/// Of a head with the token of its hand-off.
const WITH_TOKEN: u8 = 2;
/// Octets of a head that end with the token.
pub(crate) const START: usize = 1 + 8 + Token::OCTETS;
/// Longest text that is read back.
const TEXT_LIMIT: usize = u16::MAX as usize;

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) author: Author,
    pub(crate) trace: Bytes,
    pub(crate) envelope: Envelope,
}

pub(crate) fn put_head(id: QueueId, token: Option<&Token>, author: &Author, trace: &[u8], envelope: &Envelope) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.push(if token.is_some() { WITH_TOKEN } else { VERSION });
    out.extend_from_slice(&id.number().to_le_bytes());
    if let Some(token) = token {
        out.extend_from_slice(token.octets());
    }
    match author {
        Author::User { user, uid, session } => {
            out.push(0);
            out.extend_from_slice(&uid.to_le_bytes());
            out.extend_from_slice(&session.0.to_le_bytes());
            put_text(&mut out, user);
        }
        Author::Report { about } => {
            out.push(1);
            out.extend_from_slice(&about.number().to_le_bytes());
        }
    }
    crate::handoff::codec::put_bytes(&mut out, trace);
    put_envelope(&mut out, envelope);
    seal(out)
}

pub(crate) fn take_head(id: QueueId, bytes: &[u8]) -> Option<Head> {
    let mut from = Input(unseal(bytes)?);
    take_start(id, &mut from)?;
    let author = match from.u8()? {
        0 => {
            let (uid, session) = (from.u32()?, SessionId(from.u64()?));
            Author::User { user: from.text(TEXT_LIMIT)?.to_owned(), uid, session }
        }
        1 => Author::Report { about: QueueId::of_number(from.u64()?)? },
        _ => return None,
    };
    let trace = Bytes::copy_from_slice(from.bytes(TEXT_LIMIT)?);
    let envelope = take_envelope(&mut from)?;
    from.end()?;
    Some(Head { author, trace, envelope })
}

/// The token of the hand-off, if there is one, from the first [`START`] octets of a head.
pub(crate) fn take_token(id: QueueId, start: &[u8]) -> Option<Token> {
    take_start(id, &mut Input(start))?
}

/// What stands before the author: the token.
fn take_start(id: QueueId, from: &mut Input<'_>) -> Option<Option<Token>> {
    let version = from.u8()?;
    if from.u64()? != id.number() {
        return None;
    }
    match version {
        VERSION => Some(None),
        WITH_TOKEN => Some(Some(Token::of_octets(from.take(Token::OCTETS)?.try_into().ok()?))),
        _ => None,
    }
}

pub(crate) fn put_progress(progress: &Progress) -> Vec<u8> {
    if progress.is_fresh() {
        return Vec::new();
    }
    let mut out = vec![VERSION];
    out.push(match progress.warned {
        Warned::NotYet => 0,
        Warned::Once => 1,
    });
    out.extend_from_slice(&(progress.standings.len() as u32).to_le_bytes());
    for standing in &progress.standings {
        match standing {
            Standing::New => out.push(0),
            Standing::Deferred(account) => {
                out.push(1);
                put_account(&mut out, account);
            }
            Standing::Delivered { owed } => {
                out.push(2);
                put_optional(&mut out, owed.as_ref(), put_account);
            }
            Standing::Failed => out.push(3),
        }
    }
    seal(out)
}

pub(crate) fn take_progress(recipients: usize, bytes: &[u8]) -> Option<Progress> {
    if bytes.is_empty() {
        return Some(Progress::fresh(recipients));
    }
    let mut from = Input(unseal(bytes)?);
    if from.u8()? != VERSION {
        return None;
    }
    let warned = match from.u8()? {
        0 => Warned::NotYet,
        1 => Warned::Once,
        _ => return None,
    };
    if usize::try_from(from.u32()?).ok()? != recipients {
        return None;
    }
    let standings = (0..recipients).map(|_| take_standing(&mut from)).collect::<Option<Vec<_>>>()?;
    from.end()?;
    Some(Progress { standings, warned })
}

/// One delivered recipient, written while the attempt goes on.
pub(crate) fn put_noted(id: QueueId, noted: &Noted) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&id.number().to_le_bytes());
    out.extend_from_slice(&noted.no.0.to_le_bytes());
    put_optional(&mut out, noted.owed.as_ref(), put_account);
    seal(out)
}

pub(crate) fn take_noted(id: QueueId, bytes: &[u8]) -> Option<Noted> {
    let mut from = Input(unseal(bytes)?);
    if from.u8()? != VERSION || from.u64()? != id.number() {
        return None;
    }
    let noted = Noted { no: RecipientNo(from.u32()?), owed: from.optional(take_account)? };
    from.end()?;
    Some(noted)
}

fn take_standing(from: &mut Input<'_>) -> Option<Standing> {
    Some(match from.u8()? {
        0 => Standing::New,
        1 => Standing::Deferred(take_account(from)?),
        2 => Standing::Delivered { owed: from.optional(take_account)? },
        3 => Standing::Failed,
        _ => return None,
    })
}

fn put_account(out: &mut Vec<u8>, account: &Account) {
    out.push(account.status.class.digit());
    out.extend_from_slice(&account.status.subject.to_le_bytes());
    out.extend_from_slice(&account.status.detail.to_le_bytes());
    put_optional(out, account.remote.as_deref(), put_text);
    put_text(out, &account.diagnostic);
    out.push(match account.origin {
        Origin::Remote => 0,
        Origin::Local => 1,
    });
    out.push(match account.passed_on {
        PassedOn::WithDsn => 0,
        PassedOn::WithoutDsn => 1,
    });
}

fn take_account(from: &mut Input<'_>) -> Option<Account> {
    let class = match from.u8()? {
        2 => Class::Success,
        4 => Class::Transient,
        5 => Class::Permanent,
        _ => return None,
    };
    let status = EnhancedStatus::new(class, from.u16()?, from.u16()?);
    let remote = from.optional(|from| from.text(TEXT_LIMIT).map(str::to_owned))?;
    let diagnostic = from.text(TEXT_LIMIT)?.to_owned();
    let origin = match from.u8()? {
        0 => Origin::Remote,
        1 => Origin::Local,
        _ => return None,
    };
    let passed_on = match from.u8()? {
        0 => PassedOn::WithDsn,
        1 => PassedOn::WithoutDsn,
        _ => return None,
    };
    Some(Account { status, remote, diagnostic, origin, passed_on })
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (inner, sum) = bytes.split_last_chunk::<4>()?;
    (crc32fast::hash(inner) == u32::from_le_bytes(*sum)).then_some(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handoff::codec::tests::any_envelope;

    fn account(text: &str) -> Account {
        Account {
            status: EnhancedStatus::new(Class::Transient, 4, 1),
            remote: Some("relay.example[192.0.2.1]:587".into()),
            diagnostic: text.into(),
            origin: Origin::Remote,
            passed_on: PassedOn::WithoutDsn,
        }
    }

    fn id(number: u64) -> QueueId {
        QueueId::of_number(number).unwrap()
    }

    fn user() -> Author {
        Author::User { user: "alice".into(), uid: 1000, session: SessionId(7) }
    }

    fn progress() -> Progress {
        let standings = vec![
            Standing::New,
            Standing::Deferred(account("450 4.2.0 later")),
            Standing::Delivered { owed: Some(account("250 2.0.0 ok")) },
            Standing::Delivered { owed: None },
            Standing::Failed,
        ];
        Progress { standings, warned: Warned::Once }
    }

    proptest! {
        #[test]
        fn a_head_comes_back_as_it_was(envelope in any_envelope(), report in any::<bool>()) {
            let author = if report { Author::Report { about: id(5) } } else { user() };
            let token = (!report).then(Token::fresh);
            let bytes = put_head(id(9), token.as_ref(), &author, b"Received: x\r\n", &envelope);
            prop_assert_eq!(take_token(id(9), &bytes), token);

            let head = take_head(id(9), &bytes);

            prop_assert_eq!(head, Some(Head { author, trace: Bytes::from_static(b"Received: x\r\n"), envelope }));
            prop_assert_eq!(take_head(id(10), &bytes), None, "another message's head");
        }

        #[test]
        fn a_head_with_one_flipped_bit_or_cut_is_none(envelope in any_envelope(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let bytes = put_head(id(9), Some(&Token::fresh()), &user(), b"Received: x\r\n", &envelope);
            let at = at.index(bytes.len());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;

            prop_assert_eq!(take_head(id(9), &flipped), None);
            prop_assert_eq!(take_head(id(9), &bytes[..at]), None);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = take_head(id(9), &seal(bytes.clone()));
            let _ = take_progress(3, &seal(bytes));
        }
    }

    #[test]
    fn progress_comes_back_as_it_was() {
        let bytes = put_progress(&progress());

        assert_eq!(take_progress(5, &bytes), Some(progress()));
        assert_eq!(take_progress(4, &bytes), None, "it is about five recipients");
        assert_eq!(put_progress(&Progress::fresh(3)), Vec::<u8>::new());
        assert_eq!(take_progress(3, b""), Some(Progress::fresh(3)));
    }

    #[test]
    fn a_noted_delivery_comes_back_as_it_was_and_with_any_bit_flipped_or_cut_it_is_none() {
        for owed in [None, Some(account("250 2.0.0 ok"))] {
            let noted = Noted { no: RecipientNo(3), owed };
            let bytes = put_noted(id(9), &noted);

            assert_eq!(take_noted(id(9), &bytes), Some(noted));
            assert_eq!(take_noted(id(10), &bytes), None, "another message's");
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << bit;
                    assert_eq!(take_noted(id(9), &flipped), None, "octet {at}, bit {bit}");
                }
                assert_eq!(take_noted(id(9), &bytes[..at]), None, "cut at {at}");
            }
        }
    }

    #[test]
    fn progress_with_any_bit_flipped_or_cut_anywhere_is_none() {
        let bytes = put_progress(&progress());

        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(take_progress(5, &flipped), None, "octet {at}, bit {bit}");
            }
            assert!(at == 0 || take_progress(5, &bytes[..at]).is_none(), "cut at {at}");
        }
    }
}
