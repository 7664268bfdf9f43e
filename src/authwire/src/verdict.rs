//! The answer: who the user is, or why not.
//!
//! ```text
//! 0 version  1 outcome  2 length of the rest  4 id  12 …
//!   accept:    uid, user, groups, ticket
//!   otherwise: phase, PAM code, reason
//! ```
//!
//! Invariant: only the complete accept frame accepts; every byte that is not understood is a refusal
//! to decode, and the asker then answers the client as if the helper were away.

use std::fmt;

use crate::VERSION;
use crate::cursor::{Reader, put_text};
use crate::ticket::MAX_TICKET;

/// The longest verdict frame.
pub const MAX_VERDICT: usize = 9216;
/// The longest name of a user or group.
pub const MAX_NAME: usize = 255;
/// The most groups a verdict names: no more can be configured.
pub const MAX_GROUPS: usize = 32;

const HEADER: usize = 4;

/// One answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The question's own id.
    pub id: u64,
    pub outcome: Outcome,
}

/// What was decided. The front end has one reply for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accept(Accepted),
    /// Wrong password, unknown user, locked, not fit for PAM: all the same to the client (535).
    Reject(Cause),
    /// Too many failures lately; PAM was not asked.
    Throttled(Cause),
    /// The password is right and must be changed first.
    MustChange(Cause),
    /// The password is right and the account has expired.
    Expired(Cause),
    /// The password is right and the account may not send.
    NotPermitted(Cause),
    /// No answer could be found; never held against the user.
    Unavailable(Cause),
}

/// The account, as PAM and the name service know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub user: String,
    pub uid: u32,
    /// Those configured groups that the user is in.
    pub groups: Vec<String>,
    /// An encoded [`Ticket`](crate::Ticket).
    pub ticket: Vec<u8>,
}

/// Why it was not an accept, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    pub phase: Phase,
    /// What PAM returned in that phase; 0 where PAM was not asked.
    pub code: i32,
    pub reason: Reason,
}

/// A fieldless enum that travels as one byte and is logged as one word.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $byte:literal $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            pub(crate) fn byte(self) -> u8 {
                match self { $(Self::$variant => $byte,)+ }
            }

            pub(crate) fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($byte => Some(Self::$variant),)+ _ => None }
            }

            /// The word in the log.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$variant,)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// How far the question came.
    Phase {
        /// The helper's own look at name and password.
        Check = 1 "check",
        /// The helper's count of failures.
        Limit = 2 "limit",
        /// Waiting for a worker, or starting one.
        Start = 3 "start",
        /// `pam_authenticate`.
        Auth = 4 "auth",
        /// `pam_acct_mgmt`.
        Account = 5 "acct",
        /// The name service, after PAM said yes.
        Identity = 6 "identity",
        /// A worker that did not say how far it came.
        Worker = 7 "worker",
    }
}

words! {
    /// What was found there.
    Reason {
        /// No name that may reach PAM.
        BadName = 1 "bad-name",
        /// No password that may reach PAM.
        BadPassword = 2 "bad-password",
        /// PAM refused name and password; it does not say which.
        Refused = 3 "refused",
        /// PAM wanted a second secret: a new password or another factor.
        AskedForMore = 4 "asked-for-more",
        /// PAM said yes without having asked for the password.
        NeverAsked = 5 "never-asked",
        /// Root never sends mail through the relay.
        Root = 6 "root",
        /// The account's uid is below `min_uid`.
        BelowMinUid = 7 "below-min-uid",
        /// The account is in none of the groups that may send.
        NotInGroups = 8 "not-in-groups",
        /// The account phase refused.
        AccountRefused = 9 "account-refused",
        AccountExpired = 10 "account-expired",
        /// The password has to be changed.
        PasswordAged = 11 "password-aged",
        /// PAM knows the account and the name service does not.
        NoSuchUid = 12 "no-such-uid",
        /// Too many failures for this account.
        AccountFailures = 13 "account-failures",
        /// Too many failures in all.
        AllFailures = 14 "all-failures",
        /// Too many questions are waiting, or this one waited too long.
        Busy = 15 "busy",
        Deadline = 16 "deadline",
        /// The worker ended without an answer.
        Crashed = 17 "crashed",
        /// The worker's answer was not one.
        Garbled = 18 "garbled",
        /// No worker could be started.
        NoWorker = 19 "no-worker",
        /// The PAM service file is gone or incomplete.
        NoService = 20 "no-service",
        /// The back end, the name service or a module is out of order.
        Fault = 21 "fault",
        /// Too many failures from the client's network.
        PeerFailures = 22 "peer-failures",
        /// The same wrong password as before: PAM's answer is still known.
        SameAgain = 23 "same-again",
        /// The guest service does not answer for people with an account on this host.
        NoGuest = 24 "no-guest",
        /// The helper knows no listener of this name.
        NoListener = 25 "no-listener",
        /// The client went away while its question waited: nobody hears this, but it is counted in the log.
        Abandoned = 26 "abandoned",
    }
}

words! {
    /// An outcome without its particulars.
    OutcomeKind {
        Accept = 1 "accept",
        Reject = 2 "reject",
        Throttled = 3 "throttled",
        MustChange = 4 "must-change",
        Expired = 5 "expired",
        NotPermitted = 6 "not-permitted",
        Unavailable = 7 "unavailable",
    }
}

impl OutcomeKind {
    /// What the client hears: reply code and enhanced status (RFC 4954 §6). Whatever a guesser may not tell apart has
    /// one and the same.
    pub fn reply(self) -> &'static str {
        match self {
            Self::Accept => "235 2.7.0",
            Self::Reject | Self::MustChange => "535 5.7.8",
            Self::Expired => "535 5.7.13",
            Self::NotPermitted => "535 5.7.1",
            Self::Throttled | Self::Unavailable => "454 4.7.0",
        }
    }
}

impl Outcome {
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Accept(_) => OutcomeKind::Accept,
            Self::Reject(_) => OutcomeKind::Reject,
            Self::Throttled(_) => OutcomeKind::Throttled,
            Self::MustChange(_) => OutcomeKind::MustChange,
            Self::Expired(_) => OutcomeKind::Expired,
            Self::NotPermitted(_) => OutcomeKind::NotPermitted,
            Self::Unavailable(_) => OutcomeKind::Unavailable,
        }
    }

    /// The word in the log.
    pub fn word(&self) -> &'static str {
        self.kind().word()
    }

    /// Why it is not an accept.
    pub fn cause(&self) -> Option<Cause> {
        match *self {
            Self::Accept(_) => None,
            Self::Reject(cause)
            | Self::Throttled(cause)
            | Self::MustChange(cause)
            | Self::Expired(cause)
            | Self::NotPermitted(cause)
            | Self::Unavailable(cause) => Some(cause),
        }
    }
}

impl Verdict {
    /// The bytes to send, or `None` if a name or the ticket is longer than any can be.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![VERSION, self.outcome.kind().byte(), 0, 0];
        out.extend_from_slice(&self.id.to_le_bytes());
        match &self.outcome {
            Outcome::Accept(accepted) => accepted.encode(&mut out)?,
            Outcome::Reject(cause)
            | Outcome::Throttled(cause)
            | Outcome::MustChange(cause)
            | Outcome::Expired(cause)
            | Outcome::NotPermitted(cause)
            | Outcome::Unavailable(cause) => cause.encode(&mut out),
        }
        let rest = u16::try_from(out.len() - HEADER).ok().filter(|_| out.len() <= MAX_VERDICT)?;
        out.get_mut(2..HEADER)?.copy_from_slice(&rest.to_le_bytes());
        Some(out)
    }

    /// Reads exactly one verdict; a byte too few, too many or unknown is `None`.
    pub fn decode(frame: &[u8]) -> Option<Self> {
        if frame.len() > MAX_VERDICT {
            return None;
        }
        let mut rest = Reader(frame);
        if rest.u8()? != VERSION {
            return None;
        }
        let outcome = OutcomeKind::from_byte(rest.u8()?)?;
        if usize::from(rest.u16()?) != rest.0.len() {
            return None;
        }
        let id = rest.u64()?;
        let outcome = match outcome {
            OutcomeKind::Accept => Outcome::Accept(Accepted::decode(&mut rest)?),
            OutcomeKind::Reject => Outcome::Reject(Cause::decode(&mut rest)?),
            OutcomeKind::Throttled => Outcome::Throttled(Cause::decode(&mut rest)?),
            OutcomeKind::MustChange => Outcome::MustChange(Cause::decode(&mut rest)?),
            OutcomeKind::Expired => Outcome::Expired(Cause::decode(&mut rest)?),
            OutcomeKind::NotPermitted => Outcome::NotPermitted(Cause::decode(&mut rest)?),
            OutcomeKind::Unavailable => Outcome::Unavailable(Cause::decode(&mut rest)?),
        };
        rest.end()?;
        Some(Self { id, outcome })
    }
}

impl Accepted {
    fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        if self.groups.len() > MAX_GROUPS || self.ticket.len() > MAX_TICKET {
            return None;
        }
        out.extend_from_slice(&self.uid.to_le_bytes());
        put_text(out, &self.user)?;
        out.push(u8::try_from(self.groups.len()).ok()?);
        for group in &self.groups {
            put_text(out, group)?;
        }
        out.extend_from_slice(&u16::try_from(self.ticket.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&self.ticket);
        Some(())
    }

    fn decode(rest: &mut Reader<'_>) -> Option<Self> {
        let uid = rest.u32()?;
        let user = rest.text()?;
        let count = usize::from(rest.u8()?);
        if user.is_empty() || count > MAX_GROUPS {
            return None;
        }
        let groups = (0..count).map(|_| rest.text().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
        let ticket_len = usize::from(rest.u16()?);
        if ticket_len > MAX_TICKET {
            return None;
        }
        let ticket = rest.bytes(ticket_len)?.to_vec();
        Some(Self { user: user.to_owned(), uid, groups, ticket })
    }
}

impl Cause {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.push(self.phase.byte());
        out.extend_from_slice(&self.code.to_le_bytes());
        out.push(self.reason.byte());
    }

    pub(crate) fn decode(rest: &mut Reader<'_>) -> Option<Self> {
        Some(Self { phase: Phase::from_byte(rest.u8()?)?, code: rest.i32()?, reason: Reason::from_byte(rest.u8()?)? })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phase={} code={} reason={}", self.phase, self.code, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(user: &str, groups: usize) -> Verdict {
        let groups = (0..groups).map(|n| format!("{n:0>255}")).collect();
        let accepted = Accepted { user: user.into(), uid: 1000, groups, ticket: vec![9; MAX_TICKET] };
        Verdict { id: 1, outcome: Outcome::Accept(accepted) }
    }

    fn every_outcome() -> Vec<Verdict> {
        let cause = Cause { phase: Phase::Auth, code: -1, reason: Reason::Refused };
        let refusals =
            [Outcome::Reject, Outcome::Throttled, Outcome::MustChange, Outcome::Expired, Outcome::NotPermitted, Outcome::Unavailable];
        let refusals = refusals.iter().map(|outcome| Verdict { id: u64::MAX, outcome: outcome(cause) });
        refusals.chain([accept("alice", 0), accept(&"u".repeat(255), MAX_GROUPS)]).collect()
    }

    #[test]
    fn every_outcome_comes_back_as_it_was() {
        for verdict in every_outcome() {
            let frame = verdict.encode().unwrap();

            assert!(frame.len() <= MAX_VERDICT);
            assert_eq!(Verdict::decode(&frame).as_ref(), Some(&verdict));
        }
    }

    #[test]
    fn every_phase_and_reason_has_a_byte_of_its_own() {
        for &phase in Phase::ALL {
            assert_eq!(Phase::from_byte(phase.byte()), Some(phase));
        }
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_byte(reason.byte()), Some(reason));
        }
        for &kind in OutcomeKind::ALL {
            assert_eq!(OutcomeKind::from_byte(kind.byte()), Some(kind));
        }
    }

    #[test]
    fn no_cut_or_lengthened_frame_is_a_verdict() {
        for verdict in every_outcome() {
            let frame = verdict.encode().unwrap();

            for cut in 0..frame.len() {
                assert_eq!(Verdict::decode(&frame[..cut]), None, "{verdict:?} cut at {cut}");
            }
            assert_eq!(Verdict::decode(&[&frame[..], b"x"].concat()), None);
        }
    }

    #[test]
    fn unknown_bytes_are_refused_and_never_become_an_accept() {
        let frame = Verdict { id: 3, outcome: every_outcome().remove(0).outcome }.encode().unwrap();

        for at in 0..frame.len() {
            for byte in 0..=255 {
                let mut altered = frame.clone();
                altered[at] = byte;
                let accepted = Verdict::decode(&altered).is_some_and(|v| matches!(v.outcome, Outcome::Accept(_)));
                assert!(!accepted, "byte {at} = {byte}");
            }
        }
        for kind in [0, 8, 255] {
            let mut altered = frame.clone();
            altered[1] = kind;
            assert_eq!(Verdict::decode(&altered), None);
        }
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        assert_eq!(accept(&"u".repeat(256), 0).encode(), None);
        assert_eq!(accept("u", MAX_GROUPS + 1).encode(), None);
    }
}
