//! The start of a connection, from the banner to the first MAIL: replies in, commands out. Pure.
//!
//! ```text
//! banner ─ EHLO ─┬─ STARTTLS ─ (handshake) ─ EHLO ─┬─ AUTH ─┬─ ready
//!      HELO ─────┘                                 └────────┘
//! ```
//!
//! A password crosses only an encrypted connection, unless the configuration says `tls: none`; and
//! nothing the server said before the handshake is believed after it (RFC 3207 §4.2). A refusal
//! here is about the connection and never about a message: it becomes a `Trouble`, which defers.
//!
//! AUTH PLAIN is preferred, AUTH LOGIN is next: where a server offers both and refuses the
//! mechanism itself (504 or 534, RFC 4954 §4 and §6), the other one is tried.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::command_line::COMMAND_LIMIT;
use super::features::Features;
use super::reply::{Meaning, Reply};
use super::trouble::{Kind, Trouble};
use crate::delivery::route::TlsDemand;
use crate::smtp::command::AUTH_LIMIT;

#[derive(Debug)]
pub(crate) struct Opening {
    hostname: String,
    demand: TlsDemand,
    /// Before the banner.
    start: Cover,
    cover: Cover,
    login: Wish,
    stage: Stage,
    features: Features,
    /// What AUTH sends at each 334, the last one first; wiped when dropped.
    parts: Vec<Zeroizing<String>>,
    /// The secret in each form in which it went out or is going to: some servers repeat a command
    /// that they refuse, and their words are logged.
    said: Vec<Zeroizing<String>>,
}

/// Whether the connection is encrypted by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cover {
    Clear,
    Encrypted,
}

/// Whether we are to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Login,
    NoLogin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Banner,
    Ehlo,
    Helo,
    StartTls,
    /// The handshake is the driver's.
    Handshake,
    /// The secret is the driver's to get.
    Secret,
    Auth,
    Ready,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send what was appended, then read a reply.
    Send,
    /// Make the connection a TLS one, then call `secured`.
    Secure,
    /// Get the secret, then call `login`.
    Secret,
    Ready(Features),
}

impl Opening {
    /// `cover` is `Encrypted` where TLS came before the first octet of SMTP.
    pub(crate) fn new(hostname: &str, demand: TlsDemand, cover: Cover, login: Wish) -> Self {
        let (hostname, stage) = (hostname.to_owned(), Stage::Banner);
        Self { hostname, demand, start: cover, cover, login, stage, features: Features::default(), parts: Vec::new(), said: Vec::new() }
    }

    pub(crate) fn reply(&mut self, reply: &Reply<'_>, out: &mut Vec<u8>) -> Result<Step, Trouble> {
        self.answer(reply, out).map_err(|trouble| self.placed(trouble))
    }

    fn answer(&mut self, reply: &Reply<'_>, out: &mut Vec<u8>) -> Result<Step, Trouble> {
        match self.stage {
            Stage::Banner if reply.is(220) => Ok(self.hello("EHLO", Stage::Ehlo, out)),
            Stage::Ehlo if reply.meaning() == Meaning::Yes => {
                self.features = Features::of(reply);
                self.after_hello(out)
            }
            Stage::Ehlo if self.may_say_helo(reply) => Ok(self.hello("HELO", Stage::Helo, out)),
            Stage::Helo if reply.meaning() == Meaning::Yes => self.after_hello(out),
            Stage::StartTls if reply.is(220) => {
                self.stage = Stage::Handshake;
                Ok(Step::Secure)
            }
            Stage::Auth if reply.is(334) => match self.parts.pop() {
                Some(part) => {
                    out.extend_from_slice(part.as_bytes());
                    out.extend_from_slice(b"\r\n");
                    Ok(Step::Send)
                }
                None => Err(Trouble::unexpected(self.doing(), reply)),
            },
            Stage::Auth if reply.is(235) => Ok(self.ready()),
            Stage::Auth if (reply.is(504) || reply.is(534)) && self.features.auth_plain && self.features.auth_login => {
                self.features.auth_plain = false;
                self.stage = Stage::Secret;
                Ok(Step::Secret)
            }
            Stage::Auth => Err(Trouble::of_reply(self.doing(), reply).of_kind(Kind::Login)),
            Stage::Banner | Stage::Ehlo | Stage::Helo | Stage::StartTls => Err(Trouble::of_reply(self.doing(), reply)),
            Stage::Handshake | Stage::Secret | Stage::Ready => Err(Trouble::protocol("the server spoke out of turn")),
        }
    }

    /// What the next reply answers, for words.
    pub(crate) fn doing(&self) -> &'static str {
        match self.stage {
            Stage::Banner => "greeting",
            Stage::Ehlo => "EHLO",
            Stage::Helo => "HELO",
            Stage::StartTls | Stage::Handshake => "STARTTLS",
            Stage::Secret | Stage::Auth | Stage::Ready => "AUTH",
        }
    }

    /// Whether the word STARTTLS is not answered yet.
    pub(crate) fn awaits_tls(&self) -> bool {
        self.stage == Stage::StartTls
    }

    /// The trouble with its meaning for TLS at this stage, and with what was sent to log in hidden
    /// in its words. A server that refuses STARTTLS, hangs up or stays silent at it has
    /// not begun TLS. One that hangs up before its first word through TLS has refused our side of
    /// the handshake: TLS 1.3 has no earlier place for that.
    pub(crate) fn placed(&self, trouble: Trouble) -> Trouble {
        let trouble = trouble.without(&self.said);
        let just_secured = (self.stage, self.cover, self.start) == (Stage::Ehlo, Cover::Encrypted, Cover::Clear);
        if self.stage == Stage::StartTls {
            trouble.of_kind(Kind::NoTls)
        } else if just_secured && trouble.kind == Kind::Lost {
            trouble.of_kind(Kind::Handshake)
        } else {
            trouble
        }
    }

    /// RFC 5321 §3.2: a server that does not know EHLO may know HELO. Without EHLO there is neither
    /// TLS nor AUTH.
    fn may_say_helo(&self, reply: &Reply<'_>) -> bool {
        // A host that takes no mail at all (RFC 7504 §2) takes none after HELO either.
        let no_mail = reply.is(521) || reply.is(556);
        let unknown = reply.meaning() == Meaning::Never && !reply.is_about_the_opening() && !no_mail;
        unknown && self.demand != TlsDemand::Required && self.login == Wish::NoLogin
    }

    /// The handshake is done: everything begins again.
    pub(crate) fn secured(&mut self, out: &mut Vec<u8>) -> Step {
        self.cover = Cover::Encrypted;
        self.features = Features::default();
        self.hello("EHLO", Stage::Ehlo, out)
    }

    /// The secret is there. `out` holds it afterwards and is wiped by the driver. What would make a
    /// command line longer than the 512 octets of RFC 5321 §4.5.3.1.4 waits for the server's 334
    /// (RFC 4954 §4).
    pub(crate) fn login(&mut self, user: &str, secret: &Zeroizing<String>, out: &mut Vec<u8>) -> Result<Step, Trouble> {
        self.stage = Stage::Auth;
        if self.features.auth_plain {
            let plain = Zeroizing::new(format!("\0{user}\0{}", secret.as_str()));
            let plain = encoded(&plain);
            self.said = vec![secret.clone(), plain.clone()];
            out.extend_from_slice(b"AUTH PLAIN");
            if out.len() + 1 + plain.len() + 2 <= COMMAND_LIMIT {
                out.push(b' ');
                out.extend_from_slice(plain.as_bytes());
                self.parts = Vec::new();
            } else {
                self.parts = vec![plain];
            }
        } else {
            out.extend_from_slice(b"AUTH LOGIN");
            self.parts = vec![encoded(secret), encoded(user)];
            self.said = vec![secret.clone(), encoded(secret)];
        }
        out.extend_from_slice(b"\r\n");
        if self.parts.iter().any(|part| part.len() + 2 > AUTH_LIMIT) {
            return Err(Trouble::secret(&format_args!("it does not fit into a line of {AUTH_LIMIT} octets")));
        }
        Ok(Step::Send)
    }

    fn hello(&mut self, verb: &str, stage: Stage, out: &mut Vec<u8>) -> Step {
        self.stage = stage;
        for word in [verb, " ", &self.hostname, "\r\n"] {
            out.extend_from_slice(word.as_bytes());
        }
        Step::Send
    }

    fn after_hello(&mut self, out: &mut Vec<u8>) -> Result<Step, Trouble> {
        match (self.cover, self.demand) {
            (Cover::Encrypted, _) | (Cover::Clear, TlsDemand::None) => self.after_tls(),
            (Cover::Clear, TlsDemand::Opportunistic | TlsDemand::Required) if self.features.starttls => {
                out.extend_from_slice(b"STARTTLS\r\n");
                self.stage = Stage::StartTls;
                Ok(Step::Send)
            }
            (Cover::Clear, TlsDemand::Opportunistic) => self.after_tls(),
            (Cover::Clear, TlsDemand::Required) => Err(Trouble::security("TLS is required, but the server does not offer STARTTLS")),
        }
    }

    fn after_tls(&mut self) -> Result<Step, Trouble> {
        match self.login {
            Wish::NoLogin => Ok(self.ready()),
            Wish::Login if self.cover == Cover::Clear && self.demand != TlsDemand::None => {
                Err(Trouble::security("the password is not sent without TLS, which the server does not offer"))
            }
            Wish::Login if !self.features.auth_plain && !self.features.auth_login => {
                Err(Trouble::security("a login is configured, but the server offers neither AUTH PLAIN nor AUTH LOGIN"))
            }
            Wish::Login => {
                self.stage = Stage::Secret;
                Ok(Step::Secret)
            }
        }
    }

    fn ready(&mut self) -> Step {
        self.said.clear();
        self.stage = Stage::Ready;
        Step::Ready(self.features)
    }
}

fn encoded(text: &str) -> Zeroizing<String> {
    // Room for all from the start: a string that grows leaves copies behind.
    let mut code = Zeroizing::new(String::with_capacity(text.len().div_ceil(3) * 4));
    STANDARD.encode_string(text, &mut code);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::status::Class;

    struct Play {
        opening: Opening,
        said: Vec<u8>,
    }

    impl Play {
        fn new(demand: TlsDemand, cover: Cover, login: Wish) -> Self {
            Self { opening: Opening::new("us.example", demand, cover, login), said: Vec::new() }
        }

        fn hears(&mut self, code: u16, text: &str) -> Result<Step, Trouble> {
            self.said.clear();
            self.opening.reply(&Reply::of(code, text), &mut self.said)
        }

        fn said(&self) -> &str {
            std::str::from_utf8(&self.said).unwrap()
        }

        fn logs_in(&mut self) {
            self.logs_in_with("pw").unwrap();
        }

        fn logs_in_with(&mut self, secret: &str) -> Result<Step, Trouble> {
            self.said.clear();
            self.opening.login("us", &Zeroizing::new(secret.into()), &mut self.said)
        }
    }

    #[test]
    fn says_ehlo_and_is_ready() {
        let mut play = Play::new(TlsDemand::Opportunistic, Cover::Clear, Wish::NoLogin);

        assert_eq!(play.hears(220, "hi"), Ok(Step::Send));
        assert_eq!(play.said(), "EHLO us.example\r\n");
        assert_eq!(play.hears(250, "x\nPIPELINING"), Ok(Step::Ready(Features { pipelining: true, ..Features::default() })));
    }

    #[test]
    fn falls_back_to_helo_only_where_neither_tls_nor_a_login_is_needed() {
        let mut play = Play::new(TlsDemand::Opportunistic, Cover::Clear, Wish::NoLogin);
        play.hears(220, "").unwrap();
        assert_eq!(play.hears(502, ""), Ok(Step::Send));
        assert_eq!(play.said(), "HELO us.example\r\n");
        assert_eq!(play.hears(250, "x"), Ok(Step::Ready(Features::default())));

        for (demand, login) in [(TlsDemand::Required, Wish::NoLogin), (TlsDemand::None, Wish::Login)] {
            let mut play = Play::new(demand, Cover::Clear, login);
            play.hears(220, "").unwrap();
            assert!(play.hears(502, "").is_err());
        }
    }

    #[test]
    fn believes_nothing_from_before_the_handshake() {
        let mut play = Play::new(TlsDemand::Required, Cover::Clear, Wish::NoLogin);
        play.hears(220, "").unwrap();
        assert_eq!(play.hears(250, "x\nSTARTTLS\nDSN\nAUTH PLAIN"), Ok(Step::Send));
        assert_eq!(play.said(), "STARTTLS\r\n");
        assert_eq!(play.hears(220, "go"), Ok(Step::Secure));

        play.opening.secured(&mut play.said);
        assert_eq!(play.hears(250, "x\nSIZE"), Ok(Step::Ready(Features::of(&Reply::of(250, "x\nSIZE")))));
    }

    #[test]
    fn required_tls_that_is_not_offered_is_trouble_and_opportunistic_is_not() {
        for (demand, fine) in [(TlsDemand::Required, false), (TlsDemand::Opportunistic, true)] {
            let mut play = Play::new(demand, Cover::Clear, Wish::NoLogin);
            play.hears(220, "").unwrap();

            assert_eq!(matches!(play.hears(250, "x"), Ok(Step::Ready(_))), fine, "{demand:?}");
        }
    }

    #[test]
    fn whatever_refuses_starttls_ends_the_connection_as_one_without_tls() {
        for code in [454, 421, 500, 502, 504, 530, 523, 534, 535, 538, 554, 250, 354] {
            for demand in [TlsDemand::Required, TlsDemand::Opportunistic] {
                let mut play = Play::new(demand, Cover::Clear, Wish::NoLogin);
                play.hears(220, "").unwrap();
                play.hears(250, "x\nSTARTTLS").unwrap();

                let trouble = play.hears(code, "2.0.0 x").unwrap_err();

                assert_eq!((trouble.kind, trouble.account("r").status.class), (Kind::NoTls, Class::Transient), "{code} {demand:?}");
            }
        }
    }

    #[test]
    fn replies_about_the_connection_do_not_lead_to_helo() {
        for code in [530, 523, 538, 534, 535, 454, 504] {
            let mut play = Play::new(TlsDemand::Opportunistic, Cover::Clear, Wish::NoLogin);
            play.hears(220, "").unwrap();

            let trouble = play.hears(code, "").unwrap_err();

            assert_eq!(trouble.account("r").status.class, Class::Transient, "{code}");
        }
    }

    #[test]
    fn a_host_that_never_takes_mail_is_not_asked_a_second_time_with_helo() {
        for code in [521, 556] {
            let mut play = Play::new(TlsDemand::Opportunistic, Cover::Clear, Wish::NoLogin);
            play.hears(220, "").unwrap();

            assert_eq!(play.hears(code, "no mail here").unwrap_err().kind, Kind::NoMail, "{code}");
        }
    }

    #[test]
    fn a_reply_that_answers_nothing_is_a_protocol_error_for_now() {
        let banner = |code, text: &str| Play::new(TlsDemand::None, Cover::Clear, Wish::NoLogin).hears(code, text);
        let ehlo = |code, text: &str| {
            let mut play = Play::new(TlsDemand::None, Cover::Clear, Wish::NoLogin);
            play.hears(220, "").unwrap();
            play.hears(code, text)
        };
        for end in [banner(250, "2.0.0 x"), banner(354, ""), ehlo(220, "x"), ehlo(354, "2.0.0 x"), ehlo(235, "2.7.0 x"), ehlo(334, "")] {
            assert_eq!(end.unwrap_err().account("r").status.to_string(), "4.5.0");
        }
    }

    #[test]
    fn keeps_the_password_to_itself_without_tls_unless_told_so() {
        let offer = "x\nAUTH PLAIN LOGIN";
        for (demand, cover, asks) in [
            (TlsDemand::Opportunistic, Cover::Clear, false),
            (TlsDemand::None, Cover::Clear, true),
            (TlsDemand::Required, Cover::Encrypted, true),
        ] {
            let mut play = Play::new(demand, cover, Wish::Login);
            play.hears(220, "").unwrap();
            assert_eq!(play.hears(250, offer) == Ok(Step::Secret), asks, "{demand:?}");
        }
    }

    #[test]
    fn logs_in_by_plain_or_by_login() {
        let mut play = Play::new(TlsDemand::Required, Cover::Encrypted, Wish::Login);
        play.hears(220, "").unwrap();
        play.hears(250, "x\nAUTH LOGIN PLAIN").unwrap();
        play.logs_in();
        assert_eq!(play.said(), "AUTH PLAIN AHVzAHB3\r\n");
        assert!(matches!(play.hears(235, ""), Ok(Step::Ready(_))));

        let mut play = Play::new(TlsDemand::Required, Cover::Encrypted, Wish::Login);
        play.hears(220, "").unwrap();
        play.hears(250, "x\nAUTH LOGIN").unwrap();
        play.logs_in();
        assert_eq!(play.said(), "AUTH LOGIN\r\n");
        play.hears(334, "VXNlcm5hbWU6").unwrap();
        assert_eq!(play.said(), "dXM=\r\n");
        play.hears(334, "UGFzc3dvcmQ6").unwrap();
        assert_eq!(play.said(), "cHc=\r\n");
        assert!(play.hears(334, "more?").is_err());
    }

    #[test]
    fn a_mechanism_that_is_refused_is_followed_by_the_other_one() {
        for code in [504, 534] {
            for offer in ["x\nAUTH PLAIN LOGIN", "x\nAUTH LOGIN PLAIN"] {
                let mut play = Play::new(TlsDemand::Required, Cover::Encrypted, Wish::Login);
                play.hears(220, "").unwrap();
                play.hears(250, offer).unwrap();
                play.logs_in();
                assert!(play.said().starts_with("AUTH PLAIN "));

                assert_eq!(play.hears(code, "x"), Ok(Step::Secret));
                play.logs_in();
                assert_eq!(play.said(), "AUTH LOGIN\r\n");
                assert!(play.hears(code, "x").is_err(), "there is no third");
            }
            for offer in ["x\nAUTH PLAIN", "x\nAUTH LOGIN"] {
                let mut play = Play::new(TlsDemand::Required, Cover::Encrypted, Wish::Login);
                play.hears(220, "").unwrap();
                play.hears(250, offer).unwrap();
                play.logs_in();

                assert_eq!(play.hears(code, "x").unwrap_err().account("r").status.class, Class::Transient);
            }
        }
    }

    #[test]
    fn no_login_makes_a_command_line_longer_than_512_octets() {
        // With the 4 octets of `us` and two NULs, 368 become 496 in base64, and the line is 509
        // octets long.
        for (length, with_initial) in [(1, true), (367, true), (368, true), (369, false), (700, false), (9000, false)] {
            let mut play = Play::new(TlsDemand::Required, Cover::Encrypted, Wish::Login);
            play.hears(220, "").unwrap();
            play.hears(250, "x\nAUTH PLAIN").unwrap();
            let secret = "p".repeat(length);

            play.logs_in_with(&secret).unwrap();

            assert_eq!(play.said() != "AUTH PLAIN\r\n", with_initial, "{length}");
            assert!(play.said().len() <= COMMAND_LIMIT);
            let line = if with_initial {
                play.said().strip_prefix("AUTH PLAIN ").unwrap().to_owned()
            } else {
                assert_eq!(play.hears(334, ""), Ok(Step::Send));
                play.said().to_owned()
            };
            assert_eq!(STANDARD.decode(line.trim_end()).unwrap(), format!("\0us\0{secret}").as_bytes());
            assert!(matches!(play.hears(235, ""), Ok(Step::Ready(_))));
        }
        for offer in ["x\nAUTH PLAIN", "x\nAUTH LOGIN"] {
            let mut play = Play::new(TlsDemand::Required, Cover::Encrypted, Wish::Login);
            play.hears(220, "").unwrap();
            play.hears(250, offer).unwrap();
            let trouble = play.logs_in_with(&"p".repeat(9300)).unwrap_err();

            assert_eq!(trouble.account("r").status.to_string(), "4.3.5");
        }
    }

    #[test]
    fn a_server_that_repeats_the_login_does_not_bring_the_secret_into_logs_and_reports() {
        let secret = "correct horse battery";
        for offer in ["x\nAUTH PLAIN", "x\nAUTH LOGIN"] {
            let login = |text: &str| {
                let mut play = Play::new(TlsDemand::Required, Cover::Encrypted, Wish::Login);
                play.hears(220, "").unwrap();
                play.hears(250, offer).unwrap();
                play.logs_in_with(secret).unwrap();
                while play.said() == "AUTH LOGIN\r\n" || play.said() == "dXM=\r\n" {
                    play.hears(334, "").unwrap();
                }
                let line = play.said().trim_end().to_owned();
                let cut = line.get(..line.len() - 7).unwrap().to_owned();
                let text = text.replace("LINE", &line).replace("CUT", &cut).replace("SECRET", secret);
                (play.hears(501, &text).unwrap_err().account("r").diagnostic, line)
            };
            for text in ["5.5.4 bad command: LINE", "bad: \"LINE\"", "bad: CUT", "<SECRET>"] {
                let (words, line) = login(text);

                let code = line.rsplit(' ').next().unwrap();
                assert!(words.starts_with("501 ") && words.contains("(hidden)"), "{text} {words}");
                assert!(!words.contains(secret) && !words.contains(&code[8..18]), "{text} {words}");
            }
            assert_eq!(login("5.7.8 wrong password").0, "501 5.7.8 wrong password (in reply to AUTH)");
        }
    }

    #[test]
    fn a_refused_login_or_greeting_is_trouble_for_now_not_for_good() {
        let mut play = Play::new(TlsDemand::None, Cover::Clear, Wish::Login);
        play.hears(220, "").unwrap();
        play.hears(250, "x\nAUTH PLAIN").unwrap();
        play.logs_in();
        let trouble = play.hears(535, "5.7.8 no").unwrap_err();
        assert_eq!(trouble.kind, Kind::Login);
        assert_eq!(trouble.account("r").status.to_string(), "4.7.8");

        let trouble = Play::new(TlsDemand::None, Cover::Clear, Wish::NoLogin).hears(554, "go away").unwrap_err();
        assert_eq!(trouble.account("r").status.to_string(), "4.0.0");
    }

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_a_server_says_no_password_crosses_in_clear_and_required_means_encrypted(
            required: bool,
            logs_in: bool,
            replies in proptest::collection::vec((
                prop_oneof![Just(220_u16), Just(250), Just(334), Just(235), 200_u16..600],
                "(x\nSTARTTLS\nAUTH PLAIN|x\nAUTH LOGIN|x\nSTARTTLS|x)",
            ), 0..10),
        ) {
            let demand = if required { TlsDemand::Required } else { TlsDemand::Opportunistic };
            let mut play = Play::new(demand, Cover::Clear, if logs_in { Wish::Login } else { Wish::NoLogin });
            let (mut encrypted, mut logged_in) = (false, false);
            for (code, text) in replies {
                match play.hears(code, &text) {
                    Ok(Step::Send) => {}
                    Ok(Step::Secure) => {
                        prop_assert!(!encrypted);
                        encrypted = true;
                        play.opening.secured(&mut play.said);
                    }
                    Ok(Step::Secret) => {
                        prop_assert!(encrypted && logs_in);
                        play.logs_in();
                        logged_in = true;
                    }
                    Ok(Step::Ready(_)) => {
                        prop_assert!(encrypted || !required);
                        prop_assert!(logged_in == logs_in);
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}
