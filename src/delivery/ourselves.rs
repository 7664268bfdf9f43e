//! "Is this us?", asked of addresses and ports: mail that we handed to ourselves would circle (RFC 5321 §5.1).
//!
//! Names say nothing about it: an alias, a literal or another name of the host leads here just as well. Which addresses the host
//! has is asked of the kernel each time, because they change while we run; the questions need no right that the cage
//! takes away, and nothing is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::reserved::{PrivateNetworks, Scope, scope};

/// What we know about ourselves.
#[derive(Clone, Debug)]
pub(crate) struct Ourselves {
    /// Where our front end listens.
    pub(crate) listeners: Vec<SocketAddr>,
    pub(crate) private: PrivateNetworks,
}

/// What to think of an address that mail could go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Go,
    /// It is ourselves.
    Us,
    /// Mail does not go there; this is why.
    Refused(&'static str),
}

impl Ourselves {
    /// An address that DNS or a domain literal named.
    pub(crate) fn judge_exchanger(&self, address: SocketAddr) -> Judgement {
        let scope = scope(address.ip());
        match (self.private, scope) {
            (_, Scope::NoHost) => Judgement::Refused("is not the address of a host"),
            (PrivateNetworks::Allow, Scope::Global | Scope::Private | Scope::ThisHost) => self.judge_smart_host(address),
            (PrivateNetworks::Refuse, Scope::ThisHost) => Judgement::Us,
            (PrivateNetworks::Refuse, Scope::Private | Scope::Global) if is_of_this_host(address.ip()) => Judgement::Us,
            (PrivateNetworks::Refuse, Scope::Private) => {
                Judgement::Refused("is in a private network, where mail goes only with delivery.private_networks: allow")
            }
            (PrivateNetworks::Refuse, Scope::Global) => Judgement::Go,
        }
    }

    /// An address that the administrator named: any, but not our own listeners.
    pub(crate) fn judge_smart_host(&self, address: SocketAddr) -> Judgement {
        if self.listens_at(address) { Judgement::Us } else { Judgement::Go }
    }

    /// Whether a connection to this address would arrive at our own front end.
    fn listens_at(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let same_port = self.listeners.iter().filter(|own| own.port() == address.port()).map(|own| own.ip().to_canonical());
        let mut ours = same_port.filter(|own| *own == ip || own.is_unspecified() || ip.is_unspecified()).peekable();
        ours.peek().is_some() && (ours.any(|own| own == ip) || is_of_this_host(ip))
    }
}

/// Whether the host has this address.
fn is_of_this_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if scope(ip) == Scope::ThisHost {
        return true;
    }
    // A socket is bound only to an address that the host has, unless the administrator allows all (ip_nonlocal_bind).
    let nobody =
        if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::new(192, 0, 2, 234)) } else { IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 234)) };
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => UdpSocket::bind((nobody, 0)).is_err() || is_its_own_source(ip),
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => false,
        Err(_) => is_its_own_source(ip),
    }
}

/// Whether the kernel would send to the address from the same address.
fn is_its_own_source(ip: IpAddr) -> bool {
    let any = if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?; // nothing is sent by this
        socket.local_addr()
    };
    source().is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(listeners: &[&str], private: PrivateNetworks) -> Ourselves {
        Ourselves { listeners: listeners.iter().map(|text| text.parse().unwrap()).collect(), private }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_smart_host_is_us_only_where_our_own_listener_would_answer() {
        let it = us(&["0.0.0.0:587", "192.0.2.1:465"], PrivateNetworks::Refuse);

        for ours in ["127.0.0.1:587", "127.0.0.9:587", "[::ffff:127.0.0.1]:587", "[::1]:587", "0.0.0.0:587", "192.0.2.1:465", "0.0.0.0:465"]
        {
            assert_eq!(it.judge_smart_host(at(ours)), Judgement::Us, "{ours}");
        }
        for other in ["127.0.0.1:25", "127.0.0.1:465", "10.0.0.1:25", "192.0.2.1:587", "192.0.2.2:465"] {
            assert_eq!(it.judge_smart_host(at(other)), Judgement::Go, "{other}");
        }
    }

    #[test]
    fn an_exchanger_on_this_host_is_us_and_one_in_a_private_network_is_refused_unless_allowed() {
        let strict = us(&["127.0.0.1:587"], PrivateNetworks::Refuse);
        let open = us(&["127.0.0.1:587"], PrivateNetworks::Allow);

        for ours in ["127.0.0.1:25", "[::1]:25", "0.0.0.0:25", "[::ffff:127.0.0.1]:25"] {
            assert_eq!(strict.judge_exchanger(at(ours)), Judgement::Us, "{ours}");
            assert_eq!(open.judge_exchanger(at(ours)), Judgement::Go, "{ours}");
        }
        for private in ["10.1.2.3:25", "[fe80::1]:25", "[64:ff9b::10.0.0.1]:25"] {
            assert!(matches!(strict.judge_exchanger(at(private)), Judgement::Refused(_)), "{private}");
            assert_eq!(open.judge_exchanger(at(private)), Judgement::Go, "{private}");
        }
        assert_eq!(open.judge_exchanger(at("127.0.0.1:587")), Judgement::Us, "our own listener is never a way out");
        assert!(matches!(open.judge_exchanger(at("224.0.0.1:25")), Judgement::Refused(_)));
        assert_eq!(strict.judge_exchanger(at("192.0.2.7:25")), Judgement::Go);
    }

    #[test]
    fn the_kernel_says_which_addresses_the_host_has() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.7:9").is_err() {
            eprintln!("skipped: no route to anywhere, so the host's own address is not known");
            return;
        }
        let own = socket.local_addr().unwrap().ip();

        assert!(is_of_this_host(own), "{own}");
        assert!(is_of_this_host("127.0.0.1".parse().unwrap()));
        assert!(!is_of_this_host("192.0.2.7".parse().unwrap()));
    }
}
