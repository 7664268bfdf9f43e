//! The `Received:` field (RFC 5321 §4.4): how a message came to us, as the front end saw it.
//!
//! The front end fills a `Trace`; the queue renders it when it accepts the message, because only then there is
//! an id. Every part that a peer chose was parsed before or is reduced to safe characters here.
//! Invariant: the field is US-ASCII, also in an international message, so that it never decides what the next server must
//! offer.

use std::net::{IpAddr, SocketAddr};

use jiff::Zoned;

/// How one message arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The argument of EHLO or HELO.
    pub helo: String,
    pub peer: SocketAddr,
    pub protocol: Protocol,
    /// Such as `TLS1.3 with cipher TLS13_AES_256_GCM_SHA384`, from the TLS library.
    pub tls: Option<String>,
    /// Our own name.
    pub host: String,
}

/// The WITH clause (RFC 3848, RFC 6531 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Extended SMTP with TLS and authentication.
    Esmtpsa,
    /// The same with SMTPUTF8.
    Utf8Smtpsa,
}

impl Protocol {
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Esmtpsa => "ESMTPSA",
            Self::Utf8Smtpsa => "UTF8SMTPSA",
        }
    }
}

impl Trace {
    /// The field, folded, with its line end. `id` is the queue's; `now` in the zone to show.
    pub fn received(&self, id: &str, now: &Zoned) -> String {
        let helo = printable(&self.helo);
        let address = literal(self.peer.ip());
        let tls = self.tls.as_deref().map(|tls| format!("\r\n\t(using {})", comment(tls))).unwrap_or_default();
        format!(
            "Received: from {helo} ({address}){tls}\r\n\tby {host} (pamrelay) with {protocol} id {id};\r\n\t{date}\r\n",
            host = printable(&self.host),
            protocol = self.protocol.keyword(),
            date = now.strftime("%a, %-d %b %Y %H:%M:%S %z"),
        )
    }
}

/// An address literal without a port (RFC 5321 §4.1.3).
fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

/// Octets of a peer's word that are shown: the field stays within a line of 998 (RFC 5322 §2.1.1).
const LONGEST_WORD: usize = 255;

/// Letters that cannot end the word, the line or the comment they stand in; others become `?`. A name beyond ASCII that DNS
/// could have is written in A-labels (RFC 5890 §2.3.2.1).
fn printable(word: &str) -> String {
    let ascii = if word.is_ascii() { None } else { idna::domain_to_ascii(word).ok().filter(|name| !name.is_empty()) };
    let safe = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    ascii.as_deref().unwrap_or(word).chars().take(LONGEST_WORD).map(|c| if safe(c) { c } else { '?' }).collect()
}

fn comment(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') && !"()\\".contains(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        Trace {
            helo: "laptop.example".into(),
            peer: "192.0.2.7:40000".parse().unwrap(),
            protocol: Protocol::Esmtpsa,
            tls: Some("TLS1.3 with cipher TLS13_AES_256_GCM_SHA384".into()),
            host: "mail.example".into(),
        }
    }

    #[test]
    fn names_the_client_the_cipher_and_the_queue_id() {
        let now: Zoned = "2026-11-20T11:12:13+01:00[+01:00]".parse().unwrap();

        assert_eq!(
            trace().received("abc", &now),
            "Received: from laptop.example ([192.0.2.7])\r\n\t(using TLS1.3 with cipher TLS13_AES_256_GCM_SHA384)\r\n\t\
             by mail.example (pamrelay) with ESMTPSA id abc;\r\n\tFri, 20 Nov 2026 11:12:13 +0100\r\n"
        );
    }

    #[test]
    fn the_field_is_ascii_whatever_the_client_calls_itself() {
        let now: Zoned = "2026-11-20T11:12:13+01:00[+01:00]".parse().unwrap();
        for (helo, shown) in
            [("bücher.example", "xn--bcher-kva.example"), ("MÜLLER-PC", "xn--mller-pc-65a"), ("\u{202e}", "?"), ("a\u{fffd}ü b", "a????b")]
        {
            for protocol in [Protocol::Esmtpsa, Protocol::Utf8Smtpsa] {
                let field = Trace { helo: helo.into(), protocol, ..trace() }.received("abc", &now);

                assert!(field.is_ascii(), "{field}");
                let name = field.split(' ').nth(2).unwrap();
                assert!(name == shown || !shown.starts_with("xn--"), "{name}");
            }
        }
    }

    #[test]
    fn nothing_a_peer_says_can_start_a_new_field() {
        let now: Zoned = "2026-11-20T11:12:13+01:00[+01:00]".parse().unwrap();
        let hostile = Trace { helo: "x\r\nBcc: all@example ) (".into(), ..trace() };

        let field = hostile.received("abc", &now);

        assert!(field.starts_with("Received: from x??Bcc:?all?example????\u{20}([192.0.2.7])\r\n\t"), "{field}");
        assert!(field.trim_end().split("\r\n").skip(1).all(|line| line.starts_with('\t')));
    }
}
