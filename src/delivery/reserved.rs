//! Which addresses lead into somebody's own network, so that a stranger's MX records must not choose them. Pure.
//!
//! The ranges are those of the registries of special-purpose addresses (RFC 6890 §2.2.2).
//!
//! An IPv4 address counts in every form in which IPv6 can carry it: mapped, compatible, NAT64, 6to4 and Teredo.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether mail by MX may go to addresses of private networks (`delivery.private_networks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateNetworks {
    Refuse,
    Allow,
}

/// What is special about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Nothing: a host of the internet may have it.
    Global,
    /// Whatever connects to it arrives at the host it started from.
    ThisHost,
    /// A host of a private or link-local network.
    Private,
    /// Multicast, broadcast and reserved addresses: no single host.
    NoHost,
}

/// The scope of an address; the strictest one of all addresses that it stands for.
pub(crate) fn scope(address: IpAddr) -> Scope {
    match address.to_canonical() {
        IpAddr::V4(address) => scope_v4(address),
        IpAddr::V6(address) => match (scope_v6(address), embedded(address).map(scope_v4)) {
            // What is behind a translator is not this host, but is no host of the internet either.
            (Scope::Global, Some(Scope::ThisHost | Scope::Private)) => Scope::Private,
            (Scope::Global, Some(inner @ (Scope::NoHost | Scope::Global))) => inner,
            (own, _) => own,
        },
    }
}

fn scope_v4(address: Ipv4Addr) -> Scope {
    match address.octets() {
        // Linux connects 0.0.0.0 to itself.
        [0, 0, 0, 0] | [127, ..] => Scope::ThisHost,
        [0, ..] | [224..=255, ..] => Scope::NoHost,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => Scope::Private, // RFC 1918 §3
        [100, 64..=127, ..] => Scope::Private,                            // shared by a provider's customers
        [169, 254, ..] => Scope::Private,                                 // link-local
        [192, 0, 0, ..] | [198, 18 | 19, ..] => Scope::Private,           // protocol assignments, benchmarks
        _ => Scope::Global,
    }
}

fn scope_v6(address: Ipv6Addr) -> Scope {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Scope::ThisHost,
        [0xfc00..=0xfdff, ..] => Scope::Private, // unique local
        [0xfe80..=0xfeff, ..] => Scope::Private, // link-local and site-local
        [0x64, 0xff9b, 1, ..] => Scope::Private, // a network's own translator
        [0xff00..=0xffff, ..] | [0x100, 0, 0, 0, ..] => Scope::NoHost,
        _ => Scope::Global,
    }
}

/// The IPv4 address that an IPv6 address carries.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(of(high, low)), // compatible, mapped
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(of(high, low)),     // translated
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),  // NAT64 (RFC 6052 §2.1)
        [0x2002, high, low, ..] => Some(of(high, low)),                // 6to4
        [0x2001, 0, _, _, _, _, high, low] => Some(of(!high, !low)),   // Teredo
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Scope {
        scope(text.parse().unwrap())
    }

    #[test]
    fn every_form_of_a_private_or_own_address_is_known_and_the_internet_is_left_alone() {
        for text in ["127.0.0.1", "127.255.255.254", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert_eq!(of(text), Scope::ThisHost, "{text}");
        }
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "192.0.0.8",
            "198.18.0.1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::192.168.1.1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2002:c0a8:101::1",
            "2001:0:1:2:3:4:80ff:fffe",
        ];
        for text in private {
            assert_eq!(of(text), Scope::Private, "{text}");
        }
        for text in ["224.0.0.1", "255.255.255.255", "240.0.0.1", "0.1.2.3", "ff02::1", "100::1", "64:ff9b::224.0.0.1"] {
            assert_eq!(of(text), Scope::NoHost, "{text}");
        }
        for text in [
            "192.0.2.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.0.1",
            "192.169.0.1",
            "2001:db8::1",
            "2a00::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(of(text), Scope::Global, "{text}");
        }
    }
}
