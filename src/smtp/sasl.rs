//! SASL PLAIN (RFC 4616) and LOGIN: from base64 to a name and a password. Nothing decoded outlives its wipe.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The prompts of LOGIN, which clients compare: `Username:` and `Password:` in base64.
pub const USERNAME_PROMPT: &str = "VXNlcm5hbWU6";
pub const PASSWORD_PROMPT: &str = "UGFzc3dvcmQ6";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
}

impl Mechanism {
    /// Mechanism names are in any case of letters here, because clients send them so.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "PLAIN" => Some(Self::Plain),
            "LOGIN" => Some(Self::Login),
            _ => None,
        }
    }
}

/// A name and a password as the client sent them: any octets. Debug shows neither.
pub struct Credentials {
    pub user: Zeroizing<Vec<u8>>,
    pub password: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials { .. }")
    }
}

/// A response that cannot become credentials: not base64, or not the mechanism's form (501).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Decodes one response. `=` is an empty one (RFC 4954 §4); blanks at the end are forgiven.
pub fn decode(response: &[u8]) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    let text = response.trim_ascii_end();
    if text == b"=" {
        return Ok(Zeroizing::new(Vec::new()));
    }
    // Room for all of it at once: a vector that grows would leave copies behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(text.len()));
    STANDARD.decode_vec(text, &mut octets).map_err(|_| Malformed)?;
    Ok(octets)
}

impl Credentials {
    /// `[authzid] NUL authcid NUL passwd` (RFC 4616 §2). Who wants to act as somebody else has no password that is right:
    /// an empty one never is, and is refused in the time of any other.
    pub fn from_plain(message: &[u8]) -> Result<Self, Malformed> {
        let mut parts = message.splitn(3, |&octet| octet == 0);
        let (Some(acting_as), Some(user), Some(password)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Malformed);
        };
        let himself = acting_as.is_empty() || acting_as == user;
        Ok(Self::new(user, if himself { password } else { b"" }))
    }

    /// What can be neither a name nor a password is the helper's to refuse.
    pub fn new(user: &[u8], password: &[u8]) -> Self {
        Self { user: Zeroizing::new(user.to_vec()), password: Zeroizing::new(password.to_vec()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        Credentials::from_plain(message).map(|it| (it.user.to_vec(), it.password.to_vec()))
    }

    #[test]
    fn reads_plain_with_and_without_an_identity_to_act_as() {
        assert_eq!(plain(b"\0ann\0secret"), Ok((b"ann".to_vec(), b"secret".to_vec())));
        assert_eq!(plain(b"ann\0ann\0secret"), Ok((b"ann".to_vec(), b"secret".to_vec())));
        assert_eq!(plain(b"\0ann\0p\xc3\xa4ss\xff"), Ok((b"ann".to_vec(), b"p\xc3\xa4ss\xff".to_vec())));
    }

    #[test]
    fn what_has_no_two_nuls_cannot_be_read() {
        for message in [&b""[..], b"ann", b"\0ann"] {
            assert_eq!(plain(message), Err(Malformed), "{message:?}");
        }
    }

    #[test]
    fn who_acts_as_somebody_else_has_no_password() {
        assert_eq!(plain(b"bob\0ann\0secret"), Ok((b"ann".to_vec(), b"".to_vec())));
        assert_eq!(plain(b"Ann\0ann\0secret"), Ok((b"ann".to_vec(), b"".to_vec())));
        assert_eq!(plain(b"\0ann\0sec\0ret"), Ok((b"ann".to_vec(), b"sec\0ret".to_vec())), "a NUL is the helper's to refuse");
    }

    #[test]
    fn takes_strict_base64_only() {
        assert_eq!(decode(b"AGFubgBzZWNyZXQ=").unwrap().as_slice(), b"\0ann\0secret");
        assert_eq!(decode(b"AGFubgBzZWNyZXQ= \t").unwrap().as_slice(), b"\0ann\0secret");
        assert_eq!(decode(b"=").unwrap().as_slice(), b"");
        for text in [&b"AGFubgBzZWNyZXQ"[..], b"AGFu bgBz", b"****", b"AGFubgBzZWNyZXR=", b"===="] {
            assert_eq!(decode(text).err(), Some(Malformed), "{text:?}");
        }
    }

    #[test]
    fn shows_nothing_when_printed() {
        let it = Credentials::new(b"ann", b"secret");

        assert_eq!(format!("{it:?}"), "Credentials { .. }");
    }
}
