//! What the key process signs: TLS handshakes of the purpose a key has, and nothing else.
//!
//! Invariant: a text reaches a private key only after [`recognise`] has named it and [`permits`] has found key,
//! text and scheme to belong together. A taken-over front end cannot use the key for a client's login, for
//! another protocol or for code: none of those texts looks like this.

use rustls::SignatureScheme;

/// Which of the two keys, and so who may ask: the front for the server's, the queue for the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Proves this host to those who submit mail.
    Server,
    /// Proves this host to a smart host.
    Client,
}

/// A text that belongs to a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// TLS 1.3 CertificateVerify of a server (RFC 8446 §4.4.3).
    ServerVerify,
    /// TLS 1.3 CertificateVerify of a client (RFC 8446 §4.4.3).
    ClientVerify,
    /// The ECDHE parameters of a TLS 1.2 ServerKeyExchange (RFC 8422 §5.4).
    ServerKeyExchange,
}

const SERVER_CONTEXT: &[u8; 34] = b"TLS 1.3, server CertificateVerify\0";
const CLIENT_CONTEXT: &[u8; 34] = b"TLS 1.3, client CertificateVerify\0";
const BLANKS: [u8; 64] = [b' '; 64];

/// The longest text that can be recognised.
pub const LONGEST: usize = 64 + 4 + 97;

/// Names a text, or `None` for everything that is not exactly one of the three.
pub fn recognise(text: &[u8]) -> Option<Text> {
    let (head, rest) = text.split_at_checked(BLANKS.len())?;
    if head == BLANKS {
        let (context, transcript) = rest.split_first_chunk::<34>()?;
        let is_hash = matches!(transcript.len(), 32 | 48); // SHA-256, SHA-384
        return match context {
            SERVER_CONTEXT if is_hash => Some(Text::ServerVerify),
            CLIENT_CONTEXT if is_hash => Some(Text::ClientVerify),
            _ => None,
        };
    }
    // The head is the two randoms, which may be anything.
    let ([kind, high, low, length], point) = rest.split_first_chunk::<4>()?;
    const NAMED_CURVE: u8 = 3;
    if *kind != NAMED_CURVE || usize::from(*length) != point.len() {
        return None;
    }
    const UNCOMPRESSED: u8 = 4;
    let fits = match u16::from_be_bytes([*high, *low]) {
        29 => point.len() == 32,                                         // x25519
        23 => point.len() == 65 && point.first() == Some(&UNCOMPRESSED), // secp256r1
        24 => point.len() == 97 && point.first() == Some(&UNCOMPRESSED), // secp384r1
        _ => false,
    };
    fits.then_some(Text::ServerKeyExchange)
}

/// Whether a key of this purpose may sign this text with this scheme.
pub fn permits(purpose: Purpose, text: Text, scheme: SignatureScheme) -> bool {
    match (purpose, text) {
        (Purpose::Server, Text::ServerVerify) | (Purpose::Client, Text::ClientVerify) => !is_pkcs1(scheme),
        (Purpose::Server, Text::ServerKeyExchange) => true,
        (Purpose::Server, Text::ClientVerify) | (Purpose::Client, Text::ServerVerify | Text::ServerKeyExchange) => false,
    }
}

/// RFC 8446 §4.2.3: these are not for TLS 1.3 handshakes.
fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(context: &[u8], hash: usize) -> Vec<u8> {
        [&BLANKS, context, &vec![7; hash]].concat()
    }

    fn exchange(curve: u16, point: &[u8]) -> Vec<u8> {
        let [high, low] = curve.to_be_bytes();
        let length = u8::try_from(point.len()).expect("a test point is short");
        [&[9; 64][..], &[3, high, low, length], point].concat()
    }

    fn uncompressed(length: usize) -> Vec<u8> {
        let mut point = vec![5; length];
        point[0] = 4;
        point
    }

    #[test]
    fn recognises_the_three_texts_of_a_handshake() {
        assert_eq!(recognise(&verify(SERVER_CONTEXT, 32)), Some(Text::ServerVerify));
        assert_eq!(recognise(&verify(SERVER_CONTEXT, 48)), Some(Text::ServerVerify));
        assert_eq!(recognise(&verify(CLIENT_CONTEXT, 32)), Some(Text::ClientVerify));
        assert_eq!(recognise(&exchange(29, &[1; 32])), Some(Text::ServerKeyExchange));
        assert_eq!(recognise(&exchange(23, &uncompressed(65))), Some(Text::ServerKeyExchange));
        assert_eq!(recognise(&exchange(24, &uncompressed(97))), Some(Text::ServerKeyExchange));
        assert_eq!(exchange(24, &uncompressed(97)).len(), LONGEST);
    }

    #[test]
    fn refuses_whatever_differs_in_length_context_curve_or_point() {
        let mut one_blank_short = verify(SERVER_CONTEXT, 32);
        one_blank_short[0] = b'!';
        let mut compressed = uncompressed(65);
        compressed[0] = 2;
        let mut explicit_curve = exchange(29, &[1; 32]);
        explicit_curve[64] = 1;
        let mut longer = exchange(29, &[1; 32]);
        longer.push(0);

        for text in [
            Vec::new(),
            vec![b' '; 64],
            vec![0; 98],
            verify(SERVER_CONTEXT, 31),
            verify(SERVER_CONTEXT, 33),
            verify(SERVER_CONTEXT, 64),
            verify(b"TLS 1.3, server certificateverify\0", 32),
            verify(b"Exported Authenticator............", 32),
            one_blank_short,
            exchange(29, &[1; 31]),
            exchange(25, &uncompressed(133)),
            exchange(23, &compressed),
            exchange(0x11ec, &[1; 32]),
            explicit_curve,
            longer,
        ] {
            assert_eq!(recognise(&text), None, "{text:?}");
        }
    }

    #[test]
    fn a_key_signs_only_for_its_own_purpose() {
        let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;

        assert!(permits(Purpose::Server, Text::ServerVerify, scheme));
        assert!(permits(Purpose::Server, Text::ServerKeyExchange, scheme));
        assert!(permits(Purpose::Client, Text::ClientVerify, scheme));
        assert!(!permits(Purpose::Server, Text::ClientVerify, scheme));
        assert!(!permits(Purpose::Client, Text::ServerVerify, scheme));
        assert!(!permits(Purpose::Client, Text::ServerKeyExchange, scheme));
    }

    #[test]
    fn pkcs1_signatures_are_for_tls_1_2_alone() {
        assert!(permits(Purpose::Server, Text::ServerKeyExchange, SignatureScheme::RSA_PKCS1_SHA256));
        assert!(!permits(Purpose::Server, Text::ServerVerify, SignatureScheme::RSA_PKCS1_SHA256));
        assert!(!permits(Purpose::Client, Text::ClientVerify, SignatureScheme::RSA_PKCS1_SHA512));
    }
}
