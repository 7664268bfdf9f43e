//! From where mail is to go to a connection that takes it: hosts in order, each host's addresses in order.
//!
//! The next address is tried when one cannot be reached, greets or takes EHLO, STARTTLS or AUTH with anything but yes. From
//! MAIL on a host's answers are the destination's answers: a 4yz then defers and is not carried to the next host, which
//! may be a backup that knows less (RFC 5321 §5.1 leaves that to us).
//!
//! One search tries a few addresses in their order, so that mail returns to a preferred host, and after them a few of the
//! others, those that failed longest ago first: so every address is tried in time, however many are dead. No connection is
//! made to ourselves, nor by MX into a private network (`ourselves`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::client::connection::Connection;
use super::client::dialer::{Endpoint, Start};
use super::client::trouble::{Kind, Trouble};
use super::engine::Context;
use super::job::{Account, Origin, PassedOn};
use super::ourselves::Judgement;
use super::resolver::{Exchanger, Failure, NoExchanger};
use super::route::{Route, SmartHost, TlsDemand, canonical};
use crate::smtp::address::Domain;
use crate::smtp::status::{Class, EnhancedStatus};

/// Addresses tried in their order.
const IN_ORDER: usize = 5;
/// Addresses tried in one search, over all hosts.
const ADDRESSES: usize = 10;
/// Exchangers of one domain whose addresses are looked up in one search.
const EXCHANGERS: usize = 50;
/// Addresses of one destination that are considered at all.
const CANDIDATES: usize = 500;

/// What shares connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    SmartHosts(Arc<Route>),
    /// A domain's exchangers; its name as DNS has it.
    Domain(String),
    /// The host that a domain literal names.
    Address(IpAddr),
    Maildir(PathBuf),
}

impl Target {
    pub(crate) fn new(route: &Arc<Route>, domain: &Domain) -> Self {
        match (&**route, domain) {
            (Route::SmartHosts(_), _) => Self::SmartHosts(route.clone()),
            (Route::Maildir(path), _) => Self::Maildir(path.clone()),
            (Route::Mx, Domain::Literal(address)) => Self::Address(*address),
            (Route::Mx, Domain::Name(_)) => Self::Domain(canonical(domain)),
        }
    }
}

/// One search for a connection.
pub(crate) struct Search<'a> {
    context: &'a Context,
    /// Addresses that others come before.
    rest: Vec<Endpoint>,
    tried: usize,
    /// Why the last one failed.
    why: Option<Account>,
    refusing: Refusing,
}

/// Whether the hosts never take mail (RFC 7504 §2).
#[derive(Default)]
enum Refusing {
    #[default]
    NobodyAsked,
    /// All that were asked say so.
    All(Account),
    /// At least one may take mail another time, or is a smart host.
    NotAll,
}

/// An open connection and where it leads.
pub(crate) struct Reached {
    pub(crate) connection: Connection,
    pub(crate) address: SocketAddr,
}

impl<'a> Search<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, rest: Vec::new(), tried: 0, why: None, refusing: Refusing::default() }
    }

    /// A connection, or the answer for all parcels that wait for one.
    pub(crate) async fn run(mut self, target: &Target) -> Result<Reached, Account> {
        let found = match target {
            Target::SmartHosts(route) => match &**route {
                Route::SmartHosts(hosts) => self.smart_hosts(hosts).await,
                Route::Mx | Route::Maildir(_) => None,
            },
            Target::Domain(domain) => self.exchangers(domain).await?,
            Target::Address(address) => self.literal(*address).await?,
            Target::Maildir(_) => None,
        };
        let found = match found {
            Some(reached) => Some(reached),
            None => self.in_turn().await,
        };
        match (found, self.refusing) {
            (Some(reached), _) => Ok(reached),
            (None, Refusing::All(account)) => Err(account),
            (None, Refusing::NobodyAsked | Refusing::NotAll) => {
                Err(self.why.unwrap_or_else(|| local(Class::Transient, 4, "no host is configured".to_owned())))
            }
        }
    }

    /// Nothing here is final. A smart host that is not found, is ourselves or takes no mail is a mistake of the administrator,
    /// and no reason to return the mail of users.
    async fn smart_hosts(&mut self, hosts: &[SmartHost]) -> Option<Reached> {
        self.refusing = Refusing::NotAll;
        for host in hosts {
            let addresses = match self.context.resolver.addresses(&host.host).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    tracing::warn!(event = "smart_host_not_found", host = host.host, error = %failure);
                    self.fail(local(Class::Transient, 4, format!("smart host {}: {failure}", host.host)));
                    continue;
                }
            };
            for address in addresses {
                let endpoint = Endpoint {
                    name: host.host.clone(),
                    address: SocketAddr::new(address, host.port),
                    tls: host.tls,
                    start: if host.is_implicit() { Start::Tls } else { Start::Smtp },
                    login: host.login.clone(),
                };
                match self.context.ourselves.judge_smart_host(endpoint.address) {
                    Judgement::Go | Judgement::Refused(_) => {}
                    Judgement::Us => {
                        let label = endpoint.label();
                        tracing::error!(event = "smart_host_is_us", host = label, remedy = "name another smart host");
                        let words = format!("mail would come back to this host: the smart host {label} is this relay itself");
                        self.fail(local(Class::Transient, 6, words));
                        continue;
                    }
                }
                if let Some(reached) = self.attempt(endpoint).await {
                    return Some(reached);
                }
            }
        }
        None
    }

    /// An error here is about the domain, and final for this search.
    async fn exchangers(&mut self, domain: &str) -> Result<Option<Reached>, Account> {
        let context = self.context;
        let exchangers = context.resolver.exchangers(domain, &context.hostname).await.map_err(|no| no.account())?;
        let implicit = matches!(exchangers.as_slice(), [only] if only.name == domain);
        let considered = exchangers.get(..EXCHANGERS).unwrap_or(&exchangers);
        let (mut missing, mut unclear, mut no) = (0, None, None);
        // What is known of an address is asked of the kernel, so a stranger's zone must not decide how often.
        let mut room = CANDIDATES;
        if considered.len() < exchangers.len() {
            self.refusing = Refusing::NotAll;
        }
        // Mail goes towards lower preferences only: where one of a preference is ourselves, none of it is used (RFC 5321 §5.1).
        for equals in considered.chunk_by(|a, b| a.preference == b.preference) {
            let mut endpoints = Vec::new();
            for Exchanger { name, .. } in equals {
                let addresses = match context.resolver.exchanger_addresses(name).await {
                    Ok(addresses) => addresses,
                    Err(Failure::NoName | Failure::NoData) => {
                        missing += 1;
                        continue;
                    }
                    Err(Failure::Temporary(why)) => {
                        unclear = Some(why);
                        continue;
                    }
                };
                if addresses.len() > room {
                    self.refusing = Refusing::NotAll;
                }
                for address in addresses.into_iter().take(room) {
                    room -= 1;
                    let endpoint = by_mx(name, SocketAddr::new(address, context.mx_port));
                    match context.ourselves.judge_exchanger(endpoint.address) {
                        Judgement::Go => endpoints.push(endpoint),
                        Judgement::Us => no = Some(NoExchanger::Loop(domain.to_owned())),
                        Judgement::Refused(reason) => {
                            no.get_or_insert_with(|| NoExchanger::Refused { name: name.clone(), address, reason });
                        }
                    }
                }
            }
            if matches!(no, Some(NoExchanger::Loop(_))) {
                break;
            }
            for endpoint in endpoints {
                if let Some(reached) = self.attempt(endpoint).await {
                    return Ok(Some(reached));
                }
            }
        }
        match (self.is_over(), unclear, no) {
            (false, Some(_), _) => {
                self.refusing = Refusing::NotAll;
                Ok(None)
            }
            (false, None, _) => Ok(None),
            (true, Some(why), _) => Err(NoExchanger::Temporary(why).account()),
            (true, None, Some(no)) => Err(no.account()),
            (true, None, None) if implicit && missing > 0 => Err(NoExchanger::NoHost(domain.to_owned()).account()),
            (true, None, None) => Err(NoExchanger::NoAddress(domain.to_owned()).account()),
        }
    }

    /// The host of a domain literal.
    async fn literal(&mut self, address: IpAddr) -> Result<Option<Reached>, Account> {
        let endpoint = by_mx(&address.to_string(), SocketAddr::new(address, self.context.mx_port));
        match self.context.ourselves.judge_exchanger(endpoint.address) {
            Judgement::Go => Ok(self.attempt(endpoint).await),
            Judgement::Us => Err(local(Class::Permanent, 6, format!("mail would come back to this host: {address} is this host"))),
            Judgement::Refused(reason) => Err(local(Class::Permanent, 4, format!("the address {address} {reason}"))),
        }
    }

    /// Whether nothing was tried, and nothing is left to try.
    fn is_over(&self) -> bool {
        self.why.is_none() && self.rest.is_empty()
    }

    /// Tries an address if its turn has come; else it waits for those behind it.
    async fn attempt(&mut self, endpoint: Endpoint) -> Option<Reached> {
        if self.tried >= IN_ORDER || self.context.outages.is_shaky(endpoint.address, Instant::now()) {
            if self.rest.len() < CANDIDATES {
                self.rest.push(endpoint);
            }
            return None;
        }
        self.dial(endpoint).await
    }

    /// Those that are left, the one that failed longest ago first.
    async fn in_turn(&mut self) -> Option<Reached> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.sort_by_key(|endpoint| self.context.outages.last_failure(endpoint.address));
        for endpoint in rest {
            if self.tried >= ADDRESSES {
                self.refusing = Refusing::NotAll;
                break;
            }
            if let Some(reached) = self.dial(endpoint).await {
                return Some(reached);
            }
        }
        None
    }

    async fn dial(&mut self, endpoint: Endpoint) -> Option<Reached> {
        let outages = &self.context.outages;
        if let Some(trouble) = outages.at(endpoint.address, Instant::now()) {
            self.fail_with(&trouble, &endpoint);
            return None;
        }
        self.tried += 1;
        match self.context.dialer.dial(&endpoint).await {
            Ok(connection) => {
                outages.reached(endpoint.address);
                Some(Reached { connection, address: endpoint.address })
            }
            Err(trouble) => {
                let account = trouble.account(&endpoint.label());
                tracing::warn!(event = "unreachable", relay = endpoint.label(), status = %account.status, error = account.diagnostic);
                outages.note(endpoint.address, &trouble, Instant::now());
                self.fail_with(&trouble, &endpoint);
                None
            }
        }
    }

    fn fail_with(&mut self, trouble: &Trouble, endpoint: &Endpoint) {
        let account = trouble.account(&endpoint.label());
        match trouble.kind {
            Kind::NoMail => {
                if matches!(self.refusing, Refusing::NobodyAsked) {
                    self.refusing = Refusing::All(for_good(account.clone()));
                }
                self.why = Some(account);
            }
            Kind::Quick | Kind::Slow | Kind::Handshake | Kind::NoTls | Kind::TooOld | Kind::Channel | Kind::Login | Kind::Lost => {
                self.fail(account)
            }
        }
    }

    fn fail(&mut self, account: Account) {
        self.refusing = Refusing::NotAll;
        self.why = Some(account);
    }
}

/// A host that DNS or a domain literal named.
fn by_mx(name: &str, address: SocketAddr) -> Endpoint {
    Endpoint { name: name.to_owned(), address, tls: TlsDemand::Opportunistic, start: Start::Smtp, login: None }
}

/// A host that never takes mail: 521 is 5.3.2 (RFC 7504 §5).
fn for_good(account: Account) -> Account {
    let status = match (account.status.subject, account.status.detail) {
        (0, 0) => EnhancedStatus::new(Class::Permanent, 3, 2),
        (subject, detail) => EnhancedStatus::new(Class::Permanent, subject, detail),
    };
    Account { status, ..account }
}

fn local(class: Class, detail: u16, diagnostic: String) -> Account {
    Account {
        status: EnhancedStatus::new(class, 4, detail),
        remote: None,
        diagnostic,
        origin: Origin::Local,
        passed_on: PassedOn::WithoutDsn,
    }
}
