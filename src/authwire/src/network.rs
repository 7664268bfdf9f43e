//! Which addresses are one client's, and which are one customer's: what sessions and failures are counted by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One host: an IPv4 address, or the /64 that one IPv6 host usually has to itself, as its first address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// What one customer of a provider can have without being noticed: an IPv4 /24, or the IPv6 /48 with its 65,536 networks, as its
/// first address.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & 0xffff_ff00)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_host_and_a_site_is_a_customer() {
        for (address, own, around) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.0"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::", "2001:db8:1::"),
            ("2001:db8:1:ffff:ffff:ffff:ffff:ffff", "2001:db8:1:ffff::", "2001:db8:1::"),
            ("::1", "::", "::"),
        ] {
            let parsed = |text: &str| text.parse::<IpAddr>().unwrap();

            assert_eq!((network(parsed(address)), site(parsed(address))), (parsed(own), parsed(around)), "{address}");
        }
    }
}
