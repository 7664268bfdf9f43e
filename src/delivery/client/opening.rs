//! The start of a connection, from the banner to the first MAIL: replies in, commands out. Pure.
//!
//! ```text
//! banner ─ EHLO ─┬─ STARTTLS ─ (handshake) ─ EHLO ─┬─ AUTH ─┬─ ready
//!      HELO ─────┘                                 └────────┘
//! ```
//!
//! A password crosses only an encrypted connection, unless the configuration says `tls: none`; and nothing the server
//! said before the handshake is believed after it (RFC 3207 §4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::features::Features;
use super::reply::Reply;
use super::trouble::Trouble;
use crate::delivery::route::TlsDemand;

#[derive(Debug)]
pub(crate) struct Opening {
    hostname: String,
    demand: TlsDemand,
    cover: Cover,
    login: Wish,
    stage: Stage,
    features: Features,
    /// What AUTH LOGIN sends next; wiped when dropped.
    parts: Vec<Zeroizing<String>>,
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
        Self { hostname: hostname.to_owned(), demand, cover, login, stage: Stage::Banner, features: Features::default(), parts: Vec::new() }
    }

    pub(crate) fn reply(&mut self, reply: &Reply<'_>, out: &mut Vec<u8>) -> Result<Step, Trouble> {
        match self.stage {
            Stage::Banner if reply.code == 220 => Ok(self.hello("EHLO", Stage::Ehlo, out)),
            Stage::Ehlo if reply.is_positive() => {
                self.features = Features::of(reply);
                self.after_hello(out)
            }
            // RFC 5321 §3.2: a server that does not know EHLO may know HELO. Without EHLO there is neither TLS nor AUTH.
            Stage::Ehlo if reply.is_permanent() && self.demand != TlsDemand::Required && self.login == Wish::NoLogin => {
                Ok(self.hello("HELO", Stage::Helo, out))
            }
            Stage::Helo if reply.is_positive() => self.after_hello(out),
            Stage::StartTls if reply.code == 220 => {
                self.stage = Stage::Handshake;
                Ok(Step::Secure)
            }
            Stage::StartTls if self.demand == TlsDemand::Opportunistic && reply.code != 421 => self.after_tls(),
            Stage::Auth if reply.code == 334 => match self.parts.pop() {
                Some(part) => {
                    out.extend_from_slice(part.as_bytes());
                    out.extend_from_slice(b"\r\n");
                    Ok(Step::Send)
                }
                None => Err(Trouble::of_reply("AUTH", reply)),
            },
            Stage::Auth if reply.code == 235 => Ok(self.ready()),
            Stage::Banner => Err(Trouble::of_reply("greeting", reply)),
            Stage::Ehlo | Stage::Helo => Err(Trouble::of_reply("EHLO", reply)),
            Stage::StartTls => Err(Trouble::of_reply("STARTTLS", reply)),
            Stage::Auth => Err(Trouble::of_reply("AUTH", reply)),
            Stage::Handshake | Stage::Secret | Stage::Ready => Err(Trouble::protocol("the server spoke out of turn")),
        }
    }

    /// The handshake is done: everything begins again.
    pub(crate) fn secured(&mut self, out: &mut Vec<u8>) -> Step {
        self.cover = Cover::Encrypted;
        self.features = Features::default();
        self.hello("EHLO", Stage::Ehlo, out)
    }

    /// The secret is there. `out` holds it afterwards and is wiped by the driver.
    pub(crate) fn login(&mut self, user: &str, secret: &Zeroizing<String>, out: &mut Vec<u8>) -> Step {
        self.stage = Stage::Auth;
        if self.features.auth_plain {
            let plain = Zeroizing::new(format!("\0{user}\0{}", secret.as_str()));
            out.extend_from_slice(b"AUTH PLAIN ");
            out.extend_from_slice(encoded(&plain).as_bytes());
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(b"AUTH LOGIN\r\n");
            self.parts = vec![encoded(secret), encoded(user)];
        }
        Step::Send
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
            self.said.clear();
            self.opening.login("us", &Zeroizing::new("pw".into()), &mut self.said);
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
    fn required_tls_that_is_not_offered_or_refused_is_trouble_and_opportunistic_is_not() {
        for (offer, code) in [("x", None), ("x\nSTARTTLS", Some(454))] {
            for (demand, fine) in [(TlsDemand::Required, false), (TlsDemand::Opportunistic, true)] {
                let mut play = Play::new(demand, Cover::Clear, Wish::NoLogin);
                play.hears(220, "").unwrap();
                let mut end = play.hears(250, offer);
                if let Some(code) = code {
                    end = play.hears(code, "");
                }
                assert_eq!(matches!(end, Ok(Step::Ready(_))), fine, "{demand:?} {offer}");
            }
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
    fn a_refused_login_or_greeting_is_trouble_for_now_not_for_good() {
        let mut play = Play::new(TlsDemand::None, Cover::Clear, Wish::Login);
        play.hears(220, "").unwrap();
        play.hears(250, "x\nAUTH PLAIN").unwrap();
        play.logs_in();
        let trouble = play.hears(535, "5.7.8 no").unwrap_err();
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
