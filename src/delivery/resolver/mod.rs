//! Name service: a stub that asks recursive servers and keeps what DANE will want to know.
//!
//! Three kinds of no are never mixed up: the name does not exist, it has no such record, or nobody could say.

mod cache;
mod exchangers;
#[cfg(test)]
pub(crate) mod fake;
mod question;
mod system;
mod watched;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use cache::Cache;
pub(crate) use exchangers::{Exchanger, NoExchanger};
pub use system::{Hosts, NameServers, TrustAd};
use watched::Watched;

use crate::smtp::address::ends_in_number;

/// Aliases in a row that are followed.
const ALIASES: usize = 16;
/// For how long a no is believed at most.
const LONGEST_NO: Duration = Duration::from_secs(300);

pub struct Resolver {
    servers: Watched<NameServers>,
    hosts: Watched<Hosts>,
    cache: Cache,
}

/// What a name has of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub records: Vec<RData>,
    /// The server vouched for it by DNSSEC, over a way that we trust.
    pub authentic: bool,
}

/// Whether a text said something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    Yes,
    No,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("DNS: the name does not exist")]
    NoName,
    #[error("DNS: the name has no such record")]
    NoData,
    /// With the question.
    #[error("{0}")]
    Temporary(String),
}

pub(crate) type Found = Result<Arc<Answer>, Failure>;

impl Resolver {
    pub fn new(servers: NameServers, hosts: Hosts) -> Self {
        Self { servers: Watched::fixed(servers), hosts: Watched::fixed(hosts), cache: Cache::default() }
    }

    /// As the host says, now and whenever it says otherwise; `configured` servers are asked instead of the host's.
    pub fn of_host(configured: Option<NameServers>) -> Self {
        let servers = configured.map_or_else(|| Watched::file("/etc/resolv.conf", NameServers::parse), Watched::fixed);
        Self { servers, hosts: Watched::file("/etc/hosts", Hosts::parse), cache: Cache::default() }
    }

    /// As these texts of `/etc/resolv.conf` and `/etc/hosts` say, until they are said to have changed.
    pub fn of_texts(configured: Option<NameServers>, servers: &str, hosts: &str) -> Self {
        Self::new(configured.unwrap_or_else(|| NameServers::parse(servers)), Hosts::parse(hosts))
    }

    /// `/etc/resolv.conf` says something else. What other servers said is forgotten: another network may know other names.
    pub fn set_servers(&self, text: &str) -> Changed {
        let changed = self.servers.set(NameServers::parse(text));
        if changed == Changed::Yes {
            self.cache.clear();
        }
        changed
    }

    /// `/etc/hosts` says something else.
    pub fn set_hosts(&self, text: &str) -> Changed {
        self.hosts.set(Hosts::parse(text))
    }

    /// The records of one type, from memory or from a server.
    pub async fn lookup(&self, name: &str, kind: RecordType) -> Result<Arc<Answer>, Failure> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(found) = self.cache.get(&name, kind, Instant::now()) {
            return found;
        }
        let full = Name::from_ascii(format!("{name}.")).map_err(|_| Failure::NoName)?;
        let (found, ttl) = self.ask_all(&full, kind).await;
        self.cache.put(&name, kind, found.clone(), ttl, Instant::now());
        found
    }

    /// The addresses of a host, from /etc/hosts or DNS, IPv4 first: many networks still have no working IPv6.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        if let Some(addresses) = self.hosts.get().find(&name.trim_end_matches('.').to_ascii_lowercase()) {
            return Ok(addresses);
        }
        self.addresses_in_dns(name).await
    }

    /// The addresses of a host that DNS named: by DNS alone. What /etc/hosts says, `localhost`, and names that look like addresses are
    /// this host's own business, which no MX record of a stranger may point to.
    pub(crate) async fn exchanger_addresses(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        if is_localhost(name) || ends_in_number(name) {
            return Err(Failure::NoName);
        }
        self.addresses_in_dns(name).await
    }

    async fn addresses_in_dns(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let (v4, v6) = tokio::join!(self.lookup(name, RecordType::A), self.lookup(name, RecordType::AAAA));
        let found: Vec<IpAddr> = [&v4, &v6].into_iter().flatten().flat_map(|answer| answer.records.iter().filter_map(address)).collect();
        match (v4, v6) {
            _ if !found.is_empty() => Ok(found),
            (Err(Failure::Temporary(why)), _) | (_, Err(Failure::Temporary(why))) => Err(Failure::Temporary(why)),
            (Err(Failure::NoName), _) | (_, Err(Failure::NoName)) => Err(Failure::NoName),
            (Ok(_) | Err(Failure::NoData), Ok(_) | Err(Failure::NoData)) => Err(Failure::NoData),
        }
    }

    /// The hosts to which mail for `domain` goes, best first (RFC 5321 §5.1). `own` is the name under which we would be listed.
    pub(crate) async fn exchangers(&self, domain: &str, own: &str) -> Result<Vec<Exchanger>, NoExchanger> {
        if is_localhost(domain) {
            return Err(NoExchanger::Loop(domain.to_owned()));
        }
        if ends_in_number(domain) {
            return Err(NoExchanger::NoDomain(domain.to_owned()));
        }
        let answer = self.lookup(domain, RecordType::MX).await;
        exchangers::choose(domain, own, answer.as_deref())
    }

    /// Asks the servers in turn until one knows; with how long that holds.
    async fn ask_all(&self, name: &Name, kind: RecordType) -> (Found, Duration) {
        let mut why = String::from("no server to ask");
        let servers = self.servers.get();
        for _ in 0..servers.attempts {
            for server in &servers.addresses {
                match question::ask(*server, name, kind, servers.timeout).await {
                    Err(error) => why = format!("{server}: {error}"),
                    Ok(message) => match message.metadata.response_code {
                        ResponseCode::NoError => match found(&message, name, kind, servers.trust) {
                            (Err(Failure::NoData), _) if is_referral(&message) => why = format!("{server}: refers us to other servers"),
                            found => return found,
                        },
                        ResponseCode::NXDomain => return (Err(Failure::NoName), ttl_of_no(&message)),
                        code => why = format!("{server}: {code}"),
                    },
                }
            }
        }
        let asked = name.to_ascii();
        let asked = asked.trim_end_matches('.');
        tracing::warn!(event = "dns_failed", name = asked, kind = %kind, reason = why);
        (Err(Failure::Temporary(format!("DNS: no answer about {asked} {kind} ({why})"))), Duration::ZERO)
    }
}

/// `localhost` and what is below it always mean this host and are never asked about (RFC 6761 §6.3).
pub(crate) fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// Follows the aliases in an answer to the records that were asked for.
fn found(message: &Message, name: &Name, kind: RecordType, trust: TrustAd) -> (Found, Duration) {
    let mut at = name;
    let mut ttl = u32::MAX;
    for _ in 0..ALIASES {
        let here = || message.answers.iter().filter(|record| record.name == *at);
        let wanted = || here().filter(|record| record.record_type() == kind);
        if let Some(shortest) = wanted().map(|record| record.ttl).min() {
            let records = wanted().map(|record| record.data.clone()).collect();
            let authentic = message.metadata.authentic_data && trust == TrustAd::Trusted;
            return (Ok(Arc::new(Answer { records, authentic })), Duration::from_secs(u64::from(ttl.min(shortest))));
        }
        let alias = here().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        match alias {
            Some((target, alias_ttl)) => (at, ttl) = (target, ttl.min(alias_ttl)),
            None => break,
        }
    }
    (Err(Failure::NoData), ttl_of_no(message))
}

/// Whether the server names other servers in place of an answer (RFC 2308 §2.2.1). It does not recurse, so its answer says
/// nothing about the name.
fn is_referral(message: &Message) -> bool {
    let has = |kind| message.authorities.iter().any(|record| record.record_type() == kind);
    has(RecordType::NS) && !has(RecordType::SOA)
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

/// How long a no holds: as the zone's SOA says (RFC 2308 §5), and not at all without one.
fn ttl_of_no(message: &Message) -> Duration {
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    Duration::from_secs(u64::from(soa.unwrap_or(0))).min(LONGEST_NO)
}

#[cfg(test)]
mod tests;
