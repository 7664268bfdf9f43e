//! What the host says about name service: /etc/resolv.conf and /etc/hosts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// More servers than this are not asked, as in glibc.
const SERVERS: usize = 3;

/// Whom to ask and for how long (resolv.conf(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServers {
    /// In order; never empty.
    pub addresses: Vec<SocketAddr>,
    /// For one question to one server.
    pub timeout: Duration,
    /// Rounds over all servers.
    pub attempts: u32,
    /// Whether the way to the servers is good enough to believe their AD bit.
    pub trust: TrustAd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustAd {
    Trusted,
    Untrusted,
}

impl NameServers {
    /// Those of the configuration. Their AD bit is believed if none is further away than the loopback interface.
    pub fn configured(addresses: Vec<SocketAddr>) -> Self {
        let near = !addresses.is_empty() && addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
        let defaults = Self::parse("");
        Self {
            addresses: if addresses.is_empty() { defaults.addresses } else { addresses },
            trust: if near { TrustAd::Trusted } else { TrustAd::Untrusted },
            ..defaults
        }
    }

    /// Reads a resolv.conf; without any server in it, one on the host itself. What is not understood is skipped, as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut it = Self { addresses: Vec::new(), timeout: Duration::from_secs(5), attempts: 2, trust: TrustAd::Untrusted };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if it.addresses.len() < SERVERS => {
                    it.addresses.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)));
                }
                Some("options") => words.for_each(|word| it.option(word)),
                Some(_) | None => {}
            }
        }
        if it.addresses.is_empty() {
            it.addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
        }
        it
    }

    fn option(&mut self, word: &str) {
        match word.split_once(':') {
            None if word == "trust-ad" => self.trust = TrustAd::Trusted,
            Some(("timeout", value)) => {
                if let Ok(seconds) = value.parse::<u64>() {
                    self.timeout = Duration::from_secs(seconds.clamp(1, 30));
                }
            }
            Some(("attempts", value)) => {
                if let Ok(attempts) = value.parse::<u32>() {
                    self.attempts = attempts.clamp(1, 5);
                }
            }
            Some(_) | None => {}
        }
    }
}

/// The names of /etc/hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    pub fn parse(text: &str) -> Self {
        let mut it = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words {
                let known = it.0.entry(name.to_ascii_lowercase()).or_default();
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        it
    }

    /// `name` in lower case and without a final dot. `localhost` is known without the file (RFC 6761 §6.3).
    pub(crate) fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        let localhost = super::is_localhost(name);
        let loopback = || vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        self.0.get(name).cloned().or_else(|| localhost.then(loopback))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_servers_and_options() {
        let text = "# c\nsearch x.example\nnameserver 192.0.2.1\nnameserver ::1 \nnameserver nonsense\n\
                    options edns0 trust-ad timeout:2 attempts:9\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";

        let it = NameServers::parse(text);

        assert_eq!(it.addresses, ["192.0.2.1:53", "[::1]:53", "192.0.2.3:53"].map(|text| text.parse().unwrap()));
        assert_eq!((it.timeout, it.attempts, it.trust), (Duration::from_secs(2), 5, TrustAd::Trusted));
    }

    #[test]
    fn without_a_file_the_host_itself_is_asked_and_not_trusted() {
        let it = NameServers::parse("");

        assert_eq!(it.addresses, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(it.trust, TrustAd::Untrusted);
    }

    #[test]
    fn a_configured_server_is_trusted_only_on_the_loopback_interface() {
        assert_eq!(NameServers::configured(vec!["127.0.0.1:53".parse().unwrap()]).trust, TrustAd::Trusted);
        assert_eq!(NameServers::configured(vec!["192.0.2.1:53".parse().unwrap()]).trust, TrustAd::Untrusted);
    }

    #[test]
    fn reads_hosts_and_always_knows_localhost() {
        let hosts = Hosts::parse("192.0.2.1 Relay.example relay # x\n2001:db8::1 relay.example\nbad line\n");

        assert_eq!(hosts.find("relay.example"), Some(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]));
        assert_eq!(hosts.find("x"), None);
        assert_eq!(hosts.find("localhost").map(|all| all.len()), Some(2));
        assert_eq!(Hosts::parse("127.0.0.2 localhost").find("localhost"), Some(vec!["127.0.0.2".parse().unwrap()]));
    }
}
