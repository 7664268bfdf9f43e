//! xtext (RFC 3461 §4): how ENVID and ORCPT carry any octet in an ESMTP parameter.

/// Encodes octets: `+`, `=` and all but printable ASCII become `+XX`.
pub fn encode(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for &octet in octets {
        if matches!(octet, b'!'..=b'~') && octet != b'+' && octet != b'=' {
            text.push(char::from(octet));
        } else {
            text.push_str(&format!("+{octet:02X}"));
        }
    }
    text
}

/// Decodes xtext. `None` if it is not xtext: a stray `+` or `=`, lower-case digits, or octets outside printable ASCII.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&octet) = rest.next() {
        match octet {
            b'+' => octets.push(hex(*rest.next()?)? << 4 | hex(*rest.next()?)?),
            b'=' => return None,
            b'!'..=b'~' => octets.push(octet),
            _ => return None,
        }
    }
    Some(octets)
}

/// An address beyond ASCII in the ASCII form of the type `utf-8` (RFC 6533 §3, utf-8-addr-xtext); one in ASCII as it is.
pub fn utf8_in_ascii(address: &str) -> String {
    if address.is_ascii() {
        return address.to_owned();
    }
    let mut text = String::with_capacity(address.len() + 16);
    for c in address.chars() {
        if matches!(c, '!'..='~') && !matches!(c, '+' | '=' | '\\') {
            text.push(c);
        } else {
            text.push_str(&format!("\\x{{{:02X}}}", u32::from(c)));
        }
    }
    text
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decodes_what_it_encodes(octets: Vec<u8>) {
            prop_assert_eq!(decode(encode(&octets).as_bytes()), Some(octets));
        }
    }

    #[test]
    fn refuses_what_is_not_xtext() {
        for text in [&b"+"[..], b"+4", b"+4g", b"+0d+0a", b"a=b", b"a b", b"a\r\n", b"\xc3\xa4"] {
            assert_eq!(decode(text), None);
        }
    }
}
