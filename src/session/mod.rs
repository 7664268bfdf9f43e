//! One client connection, from greeting to QUIT, without sockets or clocks.
//!
//! ```text
//! Plain --STARTTLS--> Secured --AUTH--> Authenticated --MAIL--> Addressing --RCPT--> Addressed --DATA--> Receiving
//!                       |  ^                 ^                                                              |
//!                       v  |                 +--------------------------------------------------------------+
//!                    Challenged
//! ```
//!
//! Each state is a struct holding only what is true in it, and a transition consumes the old one. `Plain` holds
//! nothing at all: forgetting what was said before TLS (RFC 3207 §4.2) is not a step to remember.

mod argument;
mod authenticated;
pub mod driver;
mod hello;
mod plain;
mod secured;
mod transaction;

pub use authenticated::{Admitting, Authenticated};
pub use plain::Plain;
pub use secured::{Challenged, Checking, Secured, TlsPeer};
pub use transaction::{Addressed, Addressing, Receiving};

use crate::smtp::address::Domain;
use crate::smtp::command::{AUTH_LIMIT, COMMAND_LIMIT, Command, CommandError};
use crate::smtp::line::LineFault;
use crate::smtp::reply::{Refusal, Reply};
use crate::smtp::sasl::Credentials;

/// What a session knows of the configuration.
#[derive(Clone, Debug)]
pub struct Site {
    pub host: String,
    /// The same as a domain, for `<Postmaster>`.
    pub domain: Domain,
    /// Octets in a message.
    pub message_size: u64,
    /// Recipients of one message; at least 100 (RFC 5321 §4.5.3.1.8).
    pub recipients: usize,
}

#[derive(Debug)]
pub enum Session {
    Plain(Plain),
    Secured(Secured),
    /// The next line is an answer to a challenge, not a command.
    Challenged(Challenged),
    Authenticated(Authenticated),
    Addressing(Addressing),
    Addressed(Box<Addressed>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// It has not long to say who it is.
    Stranger,
    User,
}

/// What the driver has to do next.
#[derive(Debug)]
pub enum Step {
    Reply(Session, Reply),
    /// Say 220, shake hands, go on with `Plain::secured`.
    StartTls(Plain),
    /// Ask the helper, go on with `Checking::settle`.
    Check(Checking, Credentials),
    /// Ask the queue whether it has room, go on with `Admitting::settle`.
    Admit(Admitting),
    /// Say 354, read the text, go on with `Receiving::settle`.
    Receive(Receiving),
    /// An AUTH that comes to no question: say this, and note it.
    NoLogin(Session, Refusal),
    /// Say this and close.
    Close(Reply),
}

impl Session {
    /// One line from the client, without its CR LF, or why there is none.
    pub fn line(self, line: Result<&[u8], LineFault>, site: &Site) -> Step {
        match (self, line) {
            (_, Err(LineFault::Endless)) => Step::Close(Refusal::ENDLESS_LINE.into()),
            (Self::Challenged(state), Ok(response)) => state.response(response),
            (Self::Challenged(state), Err(fault)) => state.unreadable(fault),
            (state, Err(LineFault::BareLineEnd)) => state.stays(Refusal::BARE_LINE_END),
            (state, Err(LineFault::TooLong)) => state.stays(Refusal::TOO_LONG),
            (state, Ok(line)) => match Command::parse(line) {
                Ok(command) => state.command(command, site),
                Err(error) => state.misunderstood(error),
            },
        }
    }

    /// Octets a line may have in this state, CR LF included.
    pub fn line_limit(&self) -> usize {
        match self {
            Self::Secured(_) | Self::Challenged(_) => AUTH_LIMIT,
            // AUTH is answered in the clear too, but there is no reason to take in a whole password for that.
            Self::Plain(_) | Self::Authenticated(_) | Self::Addressing(_) | Self::Addressed(_) => COMMAND_LIMIT,
        }
    }

    /// Who is speaking, as far as is known.
    pub fn who(&self) -> Who {
        match self {
            Self::Plain(_) | Self::Secured(_) | Self::Challenged(_) => Who::Stranger,
            Self::Authenticated(_) | Self::Addressing(_) | Self::Addressed(_) => Who::User,
        }
    }

    fn command(self, command: Command<'_>, site: &Site) -> Step {
        match self {
            Self::Plain(state) => state.command(command, site),
            Self::Secured(state) => state.command(command, site),
            Self::Challenged(state) => Self::Challenged(state).stays(Refusal::UNKNOWN),
            Self::Authenticated(state) => state.command(command, site),
            Self::Addressing(state) => state.command(command, site),
            Self::Addressed(state) => state.command(command, site),
        }
    }

    fn misunderstood(self, error: CommandError) -> Step {
        match error {
            CommandError::Unknown => self.stays(Refusal::UNKNOWN),
            CommandError::Binary => self.stays(Refusal::BINARY),
            CommandError::Arguments => self.stays(Refusal::BAD_ARGUMENTS),
            CommandError::TooLong => self.stays(Refusal::TOO_LONG),
            CommandError::OtherProtocol => Step::Close(Refusal::OTHER_PROTOCOL.into()),
        }
    }

    fn stays(self, refusal: Refusal) -> Step {
        Step::Reply(self, refusal.into())
    }
}

/// A step that answers and stays in, or goes to, `state`.
fn answer(state: impl Into<Session>, reply: impl Into<Reply>) -> Step {
    Step::Reply(state.into(), reply.into())
}

macro_rules! states {
    ($($state:ident),*) => {$(
        impl From<$state> for Session {
            fn from(state: $state) -> Self {
                Self::$state(state)
            }
        }
    )*};
}
states!(Plain, Secured, Challenged, Authenticated, Addressing);

impl From<Addressed> for Session {
    fn from(state: Addressed) -> Self {
        Self::Addressed(Box::new(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Answer;
    use crate::handoff::Room;
    use pamrelay_authwire::{Accepted, Cause, Outcome, Phase, Reason};
    use proptest::prelude::*;

    const WRONG: Cause = Cause { phase: Phase::Auth, code: 7, reason: Reason::Refused };

    fn site() -> Site {
        Site { host: "mail.example".into(), domain: Domain::parse("mail.example").unwrap(), message_size: 1000, recipients: 100 }
    }

    /// Lines near the protocol, and now and then anything at all.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            "EHLO a.example",
            "HELO a.example",
            "AUTH PLAIN AGFubgBzZWNyZXQ=",
            "AUTH PLAIN",
            "AUTH LOGIN YW5u",
            "AUTH LOGIN",
            "c2VjcmV0",
            "*",
            "=",
            "MAIL FROM:<a@b.example>",
            "MAIL FROM:<> SIZE=9999",
            "RCPT TO:<c@d.example>",
            "DATA",
            "RSET",
            "NOOP",
            "VRFY a",
            "HELP",
            "EXPN x",
            "STARTTLS",
            "",
        ]);
        prop_oneof![9 => word.prop_map(|word| word.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..20)]
    }

    /// Plays lines against a session as the driver would, with a helper that refuses everybody.
    fn play(mut session: Session, lines: &[Vec<u8>], mut seen: impl FnMut(&Step)) {
        for line in lines {
            let step = session.line(Ok(line), &site());
            seen(&step);
            session = match step {
                Step::Reply(next, _) => next,
                Step::NoLogin(next, _) => next,
                Step::StartTls(plain) => plain.into(),
                Step::Check(checking, _) => checking.settle(Answer::from(Outcome::Reject(WRONG))).0,
                Step::Admit(admitting) => admitting.settle(Room::Enough).0,
                Step::Receive(_) | Step::Close(_) => return,
            };
        }
    }

    #[test]
    fn what_a_client_hears_of_a_verdict_is_what_the_helper_logs() {
        let causes: [fn(Cause) -> Outcome; 6] =
            [Outcome::Reject, Outcome::Throttled, Outcome::MustChange, Outcome::Expired, Outcome::NotPermitted, Outcome::Unavailable];
        let accepted = Accepted { user: "ann".into(), uid: 1000, groups: vec![], ticket: vec![1] };
        let outcomes = causes.iter().map(|outcome| outcome(WRONG)).chain([Outcome::Accept(accepted)]);
        for outcome in outcomes {
            let tls = TlsPeer { version: "TLS1.3", cipher: String::new() };
            let greeted = Session::Secured(Plain.secured(tls)).line(Ok(b"EHLO a.example"), &site());
            let Step::Reply(session, _) = greeted else { panic!("no greeting") };
            let Step::Check(checking, _) = session.line(Ok(b"AUTH PLAIN AGFubgBzZWNyZXQ="), &site()) else { panic!("no question") };
            let logged = outcome.kind().reply();

            let (_, reply) = checking.settle(Answer::from(outcome));

            let mut said = String::new();
            reply.write(&mut said);
            assert!(said.starts_with(&format!("{logged} ")), "{said} {logged}");
        }
    }

    #[test]
    fn recipients_that_the_queue_could_not_take_in_one_piece_are_asked_for_in_another_message() {
        let tls = TlsPeer { version: "TLS1.3", cipher: String::new() };
        let site = Site { recipients: 5000, ..site() };
        let next = |session: Session, line: &str| match session.line(Ok(line.as_bytes()), &site) {
            Step::Reply(session, reply) => (session, reply.code),
            Step::Admit(admitting) => (admitting.settle(Room::Enough).0, 250),
            step => panic!("{step:?}"),
        };
        let (session, _) = next(Session::Secured(Plain.secured(tls)), "EHLO a.example");
        let Step::Check(checking, _) = session.line(Ok(b"AUTH PLAIN AGFubgBzZWNyZXQ="), &site) else { panic!("no question") };
        let accepted = Accepted { user: "ann".into(), uid: 1000, groups: vec![], ticket: vec![1] };
        let (session, _) = checking.settle(Answer::from(Outcome::Accept(accepted)));
        let (mut session, _) = next(session, "MAIL FROM:<a@b.example>");
        let (mut taken, mut code) = (0, 250);
        while code == 250 {
            (session, code) = next(session, &format!("RCPT TO:<{taken:0>480}@b.example> ORCPT=rfc822;{}", "x".repeat(500)));
            taken += u32::from(code == 250);
        }

        assert_eq!(code, 452);
        assert!((1000..2500).contains(&taken), "{taken}");
        let Step::Receive(receiving) = session.line(Ok(b"DATA"), &site) else { panic!("DATA is due") };
        let mut octets = Vec::new();
        crate::handoff::codec::put_envelope(&mut octets, &receiving.envelope);
        assert!(octets.len() < crate::handoff::OPENING_LIMIT, "{}", octets.len());
    }

    proptest! {
        #[test]
        fn nothing_said_in_the_clear_is_a_login_or_a_message(lines in prop::collection::vec(line(), 0..20)) {
            play(Session::Plain(Plain), &lines, |step| {
                assert!(!matches!(step, Step::Check(..) | Step::Admit(_) | Step::Receive(_)), "{step:?}");
            });
        }

        #[test]
        fn who_is_not_accepted_never_gets_to_send(lines in prop::collection::vec(line(), 0..40)) {
            let tls = TlsPeer { version: "TLS1.3", cipher: String::new() };
            play(Session::Secured(Plain.secured(tls)), &lines, |step| {
                assert!(!matches!(step, Step::Receive(_) | Step::Admit(_)), "{step:?}");
                if let Step::Reply(session, reply) = step {
                    assert!(!matches!(session, Session::Authenticated(_) | Session::Addressing(_) | Session::Addressed(_)));
                    assert_ne!(reply.code, 235);
                }
            });
        }
    }
}
