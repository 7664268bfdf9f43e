//! The ESMTP parameters of MAIL and RCPT (RFC 1870, RFC 3461 §4, RFC 4954 §5, RFC 6152, RFC 6531 §3.4).
//!
//! Each may be given once; an unknown one is refused, because its meaning would be lost (RFC 5321 §4.1.1.11).

use super::envelope::{BodyType, EnvelopeId, International, Notify, NotifyOn, OriginalRecipient, Ret};
use super::xtext;

/// What MAIL FROM may carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParams {
    /// Octets the client says the message has (RFC 1870 §6).
    pub size: Option<u64>,
    pub body: BodyType,
    pub international: International,
    pub ret: Option<Ret>,
    pub envid: Option<EnvelopeId>,
}

/// What RCPT TO may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptParams {
    pub notify: Notify,
    pub original: Option<OriginalRecipient>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    #[error("a parameter is given twice")]
    Repeated,
    #[error("a parameter is not known")]
    Unknown,
    #[error("the value of a parameter is malformed")]
    Value,
}

impl MailParams {
    /// `text` is what follows the path, blanks included.
    pub fn parse(text: &str) -> Result<Self, ParamError> {
        let (mut params, mut seen) = (Self::default(), Vec::new());
        for (keyword, value) in words(text) {
            let keyword = once(keyword, &mut seen)?;
            match (keyword.as_str(), value) {
                ("SIZE", Some(octets)) => params.size = Some(size(octets)?),
                ("BODY", Some(kind)) => params.body = body(kind)?,
                ("SMTPUTF8", None) => params.international = International::Utf8,
                ("RET", Some(part)) => params.ret = Some(ret(part)?),
                ("ENVID", Some(id)) => params.envid = Some(envid(id)?),
                // Who the mail came from before us: checked and not believed (RFC 4954 §5).
                ("AUTH", Some(mailbox)) => xtext::decode(mailbox.as_bytes()).map(|_| ()).ok_or(ParamError::Value)?,
                ("SIZE" | "BODY" | "SMTPUTF8" | "RET" | "ENVID" | "AUTH", _) => return Err(ParamError::Value),
                _ => return Err(ParamError::Unknown),
            }
        }
        Ok(params)
    }
}

impl RcptParams {
    /// `text` is what follows the path, blanks included.
    pub fn parse(text: &str) -> Result<Self, ParamError> {
        let (mut params, mut seen) = (Self { notify: Notify::Unspecified, original: None }, Vec::new());
        for (keyword, value) in words(text) {
            let keyword = once(keyword, &mut seen)?;
            match (keyword.as_str(), value) {
                ("NOTIFY", Some(events)) => params.notify = notify(events)?,
                ("ORCPT", Some(original)) => params.original = Some(original_recipient(original)?),
                ("NOTIFY" | "ORCPT", None) => return Err(ParamError::Value),
                _ => return Err(ParamError::Unknown),
            }
        }
        Ok(params)
    }
}

/// `KEY` or `KEY=value`, blank-separated (RFC 5321 §4.1.2, esmtp-param).
fn words(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn once(keyword: &str, seen: &mut Vec<String>) -> Result<String, ParamError> {
    let keyword = keyword.to_ascii_uppercase();
    if seen.contains(&keyword) {
        return Err(ParamError::Repeated);
    }
    seen.push(keyword.clone());
    Ok(keyword)
}

/// Up to 20 digits (RFC 1870 §4).
fn size(digits: &str) -> Result<u64, ParamError> {
    let well_formed = (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if well_formed { digits.parse().map_err(|_| ParamError::Value) } else { Err(ParamError::Value) }
}

fn body(kind: &str) -> Result<BodyType, ParamError> {
    match kind.to_ascii_uppercase().as_str() {
        "7BIT" => Ok(BodyType::SevenBit),
        "8BITMIME" => Ok(BodyType::EightBitMime),
        _ => Err(ParamError::Value),
    }
}

fn ret(part: &str) -> Result<Ret, ParamError> {
    match part.to_ascii_uppercase().as_str() {
        "FULL" => Ok(Ret::Full),
        "HDRS" => Ok(Ret::Headers),
        _ => Err(ParamError::Value),
    }
}

fn envid(text: &str) -> Result<EnvelopeId, ParamError> {
    let octets = xtext::decode(text.as_bytes()).ok_or(ParamError::Value)?;
    let id = String::from_utf8(octets).map_err(|_| ParamError::Value)?;
    EnvelopeId::new(&id).ok_or(ParamError::Value)
}

/// `NEVER`, or a list of the others, each once (RFC 3461 §4.1).
fn notify(events: &str) -> Result<Notify, ParamError> {
    if events.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::Never);
    }
    let mut on = NotifyOn::default();
    for event in events.split(',') {
        let wanted = match event.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut on.success,
            "FAILURE" => &mut on.failure,
            "DELAY" => &mut on.delay,
            _ => return Err(ParamError::Value),
        };
        if std::mem::replace(wanted, true) {
            return Err(ParamError::Value);
        }
    }
    Ok(Notify::On(on))
}

/// `type;address`, the address in xtext or, for `utf-8`, as it is or in its `\x{...}` form (RFC 3461 §4.2, RFC 6533 §3).
fn original_recipient(text: &str) -> Result<OriginalRecipient, ParamError> {
    let (kind, address) = text.split_once(';').ok_or(ParamError::Value)?;
    let address = if address.is_ascii() {
        let octets = xtext::decode(address.as_bytes()).ok_or(ParamError::Value)?;
        String::from_utf8(octets).map_err(|_| ParamError::Value)?
    } else {
        address.to_owned()
    };
    OriginalRecipient::new(kind, &address).ok_or(ParamError::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_parameter_of_mail() {
        let params = MailParams::parse(" SIZE=1000 body=8bitmime SMTPUTF8 RET=HDRS ENVID=QQ+2B1 AUTH=<>").unwrap();

        assert_eq!(params.size, Some(1000));
        assert_eq!(params.body, BodyType::EightBitMime);
        assert_eq!(params.international, International::Utf8);
        assert_eq!(params.ret, Some(Ret::Headers));
        assert_eq!(params.envid.unwrap().as_str(), "QQ+1");
    }

    #[test]
    fn reads_every_parameter_of_rcpt() {
        let params = RcptParams::parse(" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c.example").unwrap();

        assert_eq!(params.notify.to_string(), "SUCCESS,DELAY");
        assert_eq!(params.original, Some(OriginalRecipient { kind: "rfc822".into(), address: "a+b@c.example".into() }));
    }

    #[test]
    fn refuses_values_that_are_no_values() {
        let mail = [
            "SIZE",
            "SIZE=",
            "SIZE=-1",
            "SIZE=18446744073709551616",
            "SIZE=1x",
            "BODY=JUNK",
            "BODY",
            "SMTPUTF8=1",
            "RET=ALL",
            "ENVID=",
            "ENVID=a+0D+0Ab",
            "ENVID=+",
            "AUTH",
            "AUTH=+zz",
        ];
        for text in mail {
            assert_eq!(MailParams::parse(text), Err(ParamError::Value), "{text}");
        }
        let rcpt = [
            "NOTIFY=",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SUCCESS,SUCCESS",
            "NOTIFY",
            "ORCPT=a@b",
            "ORCPT=rfc822;",
            "ORCPT=;a",
            "ORCPT=rfc822;a+0D+0Ab",
            "ORCPT=rfc 822;a",
        ];
        for text in rcpt {
            assert!(RcptParams::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_the_unknown_and_the_repeated() {
        assert_eq!(MailParams::parse(" FOO=1"), Err(ParamError::Unknown));
        assert_eq!(MailParams::parse(" <c@d.example>"), Err(ParamError::Unknown));
        assert_eq!(MailParams::parse(" SIZE=1 size=2"), Err(ParamError::Repeated));
        assert_eq!(RcptParams::parse(" SIZE=1"), Err(ParamError::Unknown));
    }
}
