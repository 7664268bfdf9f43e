//! Under which places of the tables a question counts: keyed hashes of whom it is about, where it comes from and what it says.
//!
//! Invariant: without the secrets nothing can be read back from them. One ends with the process; that of pairs is in the file of
//! known pairs.

use std::net::IpAddr;

use hmac_sha256::HMAC;
use pamrelay_authwire::{Question, network, site, spelling};

use crate::table::Key;

/// What a question counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// The account, however it was written.
    pub(super) account: Key,
    /// An IPv4 address or an IPv6 /64.
    pub(super) network: Key,
    /// The IPv4 /24 or IPv6 /48 around it.
    pub(super) site: Key,
    /// Account and network together.
    pub(super) place: Key,
    /// Both together, for this very name and service: a guest of the same name in another realm is somebody else.
    pub(super) pair: Key,
    /// The password for this very name and service.
    pub(super) password: Key,
}

impl Keys {
    /// Whether both are about the same account from the same network.
    pub(crate) fn are_alike(&self, other: &Self) -> bool {
        self.pair == other.pair
    }

    pub(crate) fn is_of_network_of(&self, other: &Self) -> bool {
        self.network == other.network
    }

    pub(crate) fn is_of_site_of(&self, other: &Self) -> bool {
        self.site == other.site
    }
}

/// Hashes with a secret of its own.
pub(super) struct Hasher {
    secret: [u8; 32],
    /// Of pairs alone, which outlive the process.
    lasting: [u8; 32],
}

impl Hasher {
    pub(super) fn new(secret: [u8; 32], lasting: [u8; 32]) -> Self {
        Self { secret, lasting }
    }

    /// The places of a question to `service` about `user` with `password` from `peer`.
    pub(super) fn question(&self, service: &str, user: &[u8], password: &[u8], peer: IpAddr) -> Keys {
        let name = spelling::spelling(user).into_bytes();
        let account_key = self.key(b"account", &[spelling::account(user).as_bytes()]);
        Keys {
            account: account_key,
            network: self.network(peer),
            site: self.site(peer),
            place: self.key(b"place", &[&octets(peer), spelling::account(user).as_bytes()]).beside(account_key),
            pair: keyed(self.lasting, b"pair", &[&octets(peer), b"\0", service.as_bytes(), b"\0", &name]).beside(keyed(
                self.lasting,
                b"account",
                &[spelling::account(user).as_bytes()],
            )),
            password: self.key(b"password", &[service.as_bytes(), b"\0", &name, b"\0", password]),
        }
    }

    pub(super) fn account(&self, user: &str) -> Key {
        self.key(b"account", &[spelling::account(user.as_bytes()).as_bytes()])
    }

    pub(super) fn network(&self, peer: IpAddr) -> Key {
        self.key(b"network", &[&octets(peer)])
    }

    pub(super) fn site(&self, peer: IpAddr) -> Key {
        self.key(b"site", &[&Question::peer_bytes(site(peer))])
    }

    fn key(&self, kind: &[u8], parts: &[&[u8]]) -> Key {
        keyed(self.secret, kind, parts)
    }
}

fn keyed(secret: [u8; 32], kind: &[u8], parts: &[&[u8]]) -> Key {
    let mut hash = HMAC::new(secret);
    hash.update(kind);
    parts.iter().for_each(|part| hash.update(part));
    Key::from_hash(&hash.finalize())
}

/// Of the network: an IPv4 address is never the same as an IPv6 one.
fn octets(peer: IpAddr) -> [u8; 16] {
    Question::peer_bytes(network(peer))
}
