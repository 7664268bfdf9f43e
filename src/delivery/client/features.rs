//! What a server offers in its reply to EHLO (RFC 5321 §4.1.1.1).

use super::reply::Reply;

/// The extensions we make use of. Nothing is offered until EHLO says so, and all is forgotten by STARTTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) pipelining: bool,
    pub(crate) eight_bit: bool,
    pub(crate) utf8: bool,
    pub(crate) dsn: bool,
    pub(crate) starttls: bool,
    pub(crate) auth_plain: bool,
    pub(crate) auth_login: bool,
    pub(crate) size: Size,
}

/// The SIZE extension (RFC 1870 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Size {
    #[default]
    NotOffered,
    /// Offered without a limit, or with the limit 0, which means none.
    Unlimited,
    AtMost(u64),
}

impl Features {
    pub(crate) fn of(reply: &Reply<'_>) -> Self {
        let mut features = Self::default();
        reply.lines().skip(1).for_each(|line| features.add(line));
        features
    }

    fn add(&mut self, line: &str) {
        // Old servers write `AUTH=PLAIN LOGIN`.
        let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            "PIPELINING" => self.pipelining = true,
            "8BITMIME" => self.eight_bit = true,
            "SMTPUTF8" => self.utf8 = true,
            "DSN" => self.dsn = true,
            "STARTTLS" => self.starttls = true,
            "SIZE" => {
                self.size = match words.next().and_then(|limit| limit.parse().ok()) {
                    None | Some(0) => Size::Unlimited,
                    Some(limit) => Size::AtMost(limit),
                }
            }
            "AUTH" => {
                for mechanism in words {
                    self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                    self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_extensions_in_any_case_and_the_limit() {
        let text = "mail.example greets you\nPIPELINING\nsize 1000\n8bitmime\nAUTH=plain\nAUTH LOGIN CRAM-MD5\nDSN\nSMTPUTF8\nX-ODD";

        let features = Features::of(&Reply::of(250, text));

        let wanted = Features {
            pipelining: true,
            eight_bit: true,
            utf8: true,
            dsn: true,
            starttls: false,
            auth_plain: true,
            auth_login: true,
            size: Size::AtMost(1000),
        };
        assert_eq!(features, wanted);
    }

    #[test]
    fn the_first_line_is_a_greeting_and_offers_nothing() {
        assert_eq!(Features::of(&Reply::of(250, "STARTTLS")), Features::default());
    }

    #[test]
    fn a_limit_that_is_none_or_nonsense_limits_nothing() {
        for line in ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999999"] {
            let text = format!("x\n{line}");

            assert_eq!(Features::of(&Reply::of(250, &text)).size, Size::Unlimited, "{line}");
        }
    }
}
