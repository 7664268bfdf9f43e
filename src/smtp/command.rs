//! One command line, parsed (RFC 5321 §4.1.1, RFC 3207, RFC 4954).
//!
//! A `Command` borrows from its line. What has a grammar of its own (paths, parameters, SASL) is left to its module.

use super::address::{AddressError, ForwardPath, ReversePath};
use super::client_name::ClientName;
use super::params::{MailParams, ParamError, RcptParams};

/// Octets in a command line with its CR LF. RFC 5321 §4.5.3.1.4 and the extensions of MAIL and RCPT (RFC 1870 §4, RFC 3461
/// §4, RFC 6531 §3.1) ask for less; those numbers are minima (RFC 5321 §4.5.3.1).
pub const COMMAND_LIMIT: usize = 2048;
/// The same for AUTH and its responses (RFC 4954 §4).
pub const AUTH_LIMIT: usize = 12_288;

#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Auth {
        mechanism: &'a str,
        initial: Option<&'a str>,
    },
    Data,
    Ehlo(ClientName),
    Helo(ClientName),
    Help,
    Mail {
        path: &'a str,
        params: &'a str,
    },
    Noop,
    Quit,
    Rcpt {
        path: &'a str,
        params: &'a str,
    },
    Rset,
    StartTls,
    Vrfy,
    /// Known to the standards, not offered here: EXPN, ETRN, TURN, BDAT and such.
    NotOffered,
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// Not a verb we ever heard of.
    Unknown,
    /// Control characters, or not UTF-8.
    Binary,
    /// The verb is known and what follows does not fit it.
    Arguments,
    TooLong,
    /// A browser or a scanner: a request line of another protocol.
    OtherProtocol,
}

impl<'a> Command<'a> {
    /// `line` is without its CR LF.
    pub fn parse(line: &'a [u8]) -> Result<Self, CommandError> {
        if let Some(hello) = Self::hello(line) {
            return if line.len() + 2 > COMMAND_LIMIT { Err(CommandError::TooLong) } else { hello };
        }
        let text = std::str::from_utf8(line).map_err(|_| CommandError::Binary)?;
        if text.chars().any(|c| c.is_control()) {
            return Err(CommandError::Binary);
        }
        let text = text.trim_end_matches(' ');
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let command = Self::of_verb(&verb.to_ascii_uppercase(), rest.trim_start_matches(' '), text)?;
        if line.len() + 2 > command.limit() { Err(CommandError::TooLong) } else { Ok(command) }
    }

    /// EHLO or HELO, whatever octets their name has (RFC 5321 §4.1.4). The verb alone is no greeting: a name is due
    /// (RFC 5321 §4.1.1.1).
    fn hello(line: &[u8]) -> Option<Result<Self, CommandError>> {
        let (verb, rest) = line.split_at_checked(4)?;
        let greeting = match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" => Self::Ehlo,
            b"HELO" => Self::Helo,
            _ => return None,
        };
        match rest {
            [] => Some(Err(CommandError::Arguments)),
            [b' ' | b'\t', name @ ..] => Some(Ok(greeting(ClientName::of(name)))),
            _ => None,
        }
    }

    fn of_verb(verb: &str, rest: &'a str, text: &'a str) -> Result<Self, CommandError> {
        match verb {
            "AUTH" => auth(rest),
            "DATA" => alone(Self::Data, rest),
            "HELP" => Ok(Self::Help),
            "MAIL" => path_and_params(rest, "FROM:").map(|(path, params)| Self::Mail { path, params }),
            "NOOP" => Ok(Self::Noop),
            "QUIT" => alone(Self::Quit, rest),
            "RCPT" => path_and_params(rest, "TO:").map(|(path, params)| Self::Rcpt { path, params }),
            "RSET" => alone(Self::Rset, rest),
            "STARTTLS" => alone(Self::StartTls, rest),
            "VRFY" if rest.is_empty() => Err(CommandError::Arguments),
            "VRFY" => Ok(Self::Vrfy),
            "ATRN" | "BDAT" | "ETRN" | "EXPN" | "SAML" | "SEND" | "SOML" | "TURN" | "VERB" | "XCLIENT" | "XFORWARD" => Ok(Self::NotOffered),
            "CONNECT" | "DELETE" | "GET" | "HEAD" | "OPTIONS" | "PATCH" | "POST" | "PRI" | "PUT" | "TRACE" if text.contains(" HTTP/") => {
                Err(CommandError::OtherProtocol)
            }
            _ => Err(CommandError::Unknown),
        }
    }

    const fn limit(&self) -> usize {
        match self {
            Self::Auth { .. } => AUTH_LIMIT,
            Self::Data
            | Self::Ehlo(_)
            | Self::Helo(_)
            | Self::Help
            | Self::Mail { .. }
            | Self::Noop
            | Self::Quit
            | Self::Rcpt { .. }
            | Self::Rset
            | Self::StartTls
            | Self::Vrfy
            | Self::NotOffered => COMMAND_LIMIT,
        }
    }
}

/// MAIL FROM's argument, whole.
pub fn mail(path: &str, params: &str) -> Result<(ReversePath, MailParams), ArgumentError> {
    let params = MailParams::parse(params)?;
    Ok((ReversePath::parse(path, params.international)?, params))
}

/// RCPT TO's argument, whole; `of_mail` are the parameters of the MAIL before it.
pub fn rcpt(path: &str, params: &str, of_mail: &MailParams) -> Result<(ForwardPath, RcptParams), ArgumentError> {
    let params = RcptParams::parse(params)?;
    Ok((ForwardPath::parse(path, of_mail.international)?, params))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Param(#[from] ParamError),
}

fn alone<'a>(command: Command<'a>, rest: &str) -> Result<Command<'a>, CommandError> {
    if rest.is_empty() { Ok(command) } else { Err(CommandError::Arguments) }
}

fn auth(rest: &str) -> Result<Command<'_>, CommandError> {
    let mut words = rest.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial }),
        (None, ..) | (.., Some(_)) => Err(CommandError::Arguments),
    }
}

/// `FROM:<path> params`; a blank after the colon is forgiven, a missing bracket is not.
fn path_and_params<'a>(rest: &'a str, keyword: &str) -> Result<(&'a str, &'a str), CommandError> {
    let after = rest.get(..keyword.len()).filter(|word| word.eq_ignore_ascii_case(keyword)).and_then(|_| rest.get(keyword.len()..));
    let argument = after.ok_or(CommandError::Arguments)?.trim_start_matches(' ');
    let end = end_of_path(argument).ok_or(CommandError::Arguments)?;
    let (path, params) = argument.split_at(end);
    if params.is_empty() || params.starts_with(' ') { Ok((path, params)) } else { Err(CommandError::Arguments) }
}

/// The octet after the `>` that closes the path; one inside a quoted string does not.
fn end_of_path(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.starts_with('<').then_some(())?;
    for (at, octet) in text.bytes().enumerate() {
        match (octet, quoted, escaped) {
            (_, true, true) => escaped = false,
            (b'\\', true, false) => escaped = true,
            (b'"', _, _) => quoted = !quoted,
            (b'>', false, _) => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_verbs_in_any_case() {
        assert_eq!(Command::parse(b"eHlO client.example "), Ok(Command::Ehlo(ClientName::of(b"client.example"))));
        assert_eq!(Command::parse(b"quit"), Ok(Command::Quit));
        assert_eq!(Command::parse(b"auth login"), Ok(Command::Auth { mechanism: "login", initial: None }));
        assert_eq!(Command::parse(b"AUTH PLAIN ="), Ok(Command::Auth { mechanism: "PLAIN", initial: Some("=") }));
        assert_eq!(
            Command::parse(b"mail from: <a@b.example> SIZE=1 BODY=8BITMIME"),
            Ok(Command::Mail { path: "<a@b.example>", params: " SIZE=1 BODY=8BITMIME" })
        );
        assert_eq!(Command::parse(b"RCPT TO:<\"a> b\"@c.example>"), Ok(Command::Rcpt { path: "<\"a> b\"@c.example>", params: "" }));
    }

    #[test]
    fn tells_the_ways_a_line_can_be_wrong_apart() {
        use CommandError::*;
        let cases: [(&[u8], CommandError); 13] = [
            (b"", Unknown),
            (b"HELLO x", Unknown),
            (b"EHLO", Arguments),
            (b"NO\0OP", Binary),
            (b"\xff\xfe", Binary),
            (b"DATA x", Arguments),
            (b"QUIT now", Arguments),
            (b"MAIL FROM:a@b.example", Arguments),
            (b"MAIL FROM:<a@b.example>SIZE=1", Arguments),
            (b"MAIL TO:<a@b.example>", Arguments),
            (b"AUTH", Arguments),
            (b"AUTH PLAIN a b", Arguments),
            (b"GET / HTTP/1.1", OtherProtocol),
        ];
        for (line, error) in cases {
            assert_eq!(Command::parse(line), Err(error), "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn only_auth_may_be_as_long_as_auth() {
        let long = "x".repeat(3000);

        assert!(Command::parse(format!("AUTH PLAIN {long}").as_bytes()).is_ok());
        assert_eq!(Command::parse(format!("NOOP {long}").as_bytes()), Err(CommandError::TooLong));
        assert_eq!(Command::parse(format!("MAIL FROM:<a@b.example> X={long}").as_bytes()), Err(CommandError::TooLong));
    }

    #[test]
    fn no_name_of_a_client_makes_its_greeting_an_error() {
        let long = [b"x".as_slice(); 600].concat();
        let names: [&[u8]; 12] =
            [b"a_b", b"[]", b"[192.0.2.1", b"-", b"", b" ", b"ann's phone", b"\xff\xfe", b"M\xdcLLER-PC", b"\x1b[31m", b"a\tb", &long];
        for name in names {
            for verb in ["EHLO", "helo"] {
                let command = [verb.as_bytes(), b" ", name].concat();

                let parsed = Command::parse(&command);

                assert!(matches!(parsed, Ok(Command::Ehlo(_) | Command::Helo(_))), "{name:?} {parsed:?}");
            }
        }
    }

    #[test]
    fn lines_longer_than_the_minimum_of_the_standard_are_read() {
        let long = "x".repeat(1000);

        assert_eq!(Command::parse(format!("NOOP {long}").as_bytes()), Ok(Command::Noop));
        assert_eq!(Command::parse(format!("VRFY {long}").as_bytes()), Ok(Command::Vrfy));
        assert!(matches!(Command::parse(format!("RCPT TO:<{long}@b.example>").as_bytes()), Ok(Command::Rcpt { .. })));
    }

    proptest! {
        #[test]
        fn never_panics(line: Vec<u8>) {
            let _ = Command::parse(&line);
        }

        #[test]
        fn never_panics_on_near_commands(line in "(MAIL FROM:|RCPT TO:|AUTH |EHLO |DATA)[<>\"\\\\ @a=.\u{e4}]{0,20}") {
            let _ = Command::parse(line.as_bytes());
        }
    }
}
