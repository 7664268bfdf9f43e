//! Which addresses are one client's: what sessions and failures are counted by.

use std::net::{IpAddr, Ipv6Addr};

/// One host: an IPv4 address, or the /64 that one IPv6 host usually has to itself, as its first address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}
