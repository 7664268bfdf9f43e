//! From where mail is to go to a connection that takes it: hosts in order, each host's addresses in order.
//!
//! The next address is tried when one cannot be reached, greets or takes EHLO, STARTTLS or AUTH with anything but yes. From
//! MAIL on a host's answers are the destination's answers: a 4yz then defers and is not carried to the next host, which
//! may be a backup that knows less (RFC 5321 §5.1 leaves that to us).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::client::connection::Connection;
use super::client::dialer::{Endpoint, Start};
use super::engine::Context;
use super::job::{Account, Origin, PassedOn};
use super::resolver::{Failure, NoExchanger};
use super::route::{Route, SmartHost, TlsDemand, canonical};
use crate::smtp::address::Domain;
use crate::smtp::status::{Class, EnhancedStatus};

/// Addresses tried for one connection, over all hosts.
const ADDRESSES: usize = 10;

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
    /// An address that just broke a connection: the last to be tried again.
    avoid: Option<SocketAddr>,
    avoided: Option<Endpoint>,
    tried: usize,
    /// Why the last one failed.
    why: Option<Account>,
}

/// An open connection and where it leads.
pub(crate) struct Reached {
    pub(crate) connection: Connection,
    pub(crate) address: SocketAddr,
}

impl<'a> Search<'a> {
    pub(crate) fn new(context: &'a Context, avoid: Option<SocketAddr>) -> Self {
        Self { context, avoid, avoided: None, tried: 0, why: None }
    }

    /// A connection, or what to tell of everything that waits for one.
    pub(crate) async fn run(mut self, target: &Target) -> Result<Reached, Account> {
        let found = match target {
            Target::SmartHosts(route) => match &**route {
                Route::SmartHosts(hosts) => self.smart_hosts(hosts).await,
                Route::Mx | Route::Maildir(_) => None,
            },
            Target::Domain(domain) => self.exchangers(domain).await?,
            Target::Address(address) => self.address(&address.to_string(), *address).await,
            Target::Maildir(_) => None,
        };
        if let Some(reached) = found {
            return Ok(reached);
        }
        if let Some(endpoint) = self.avoided.take()
            && let Some(reached) = self.dial(endpoint).await
        {
            return Ok(reached);
        }
        Err(self.why.unwrap_or_else(|| local(Class::Transient, 4, "no host is configured".to_owned())))
    }

    async fn smart_hosts(&mut self, hosts: &[SmartHost]) -> Option<Reached> {
        for host in hosts {
            let addresses = match self.context.resolver.addresses(&host.host).await {
                Ok(addresses) => addresses,
                // A smart host that is not found is a mistake of ours, and no reason to return mail.
                Err(failure) => {
                    tracing::warn!(event = "smart_host_not_found", host = host.host, error = %failure);
                    self.why = Some(local(Class::Transient, 4, format!("smart host {}: {failure}", host.host)));
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
        let names = context.resolver.exchangers(domain, &context.hostname).await.map_err(|no| no.account())?;
        let implicit = matches!(names.as_slice(), [only] if only == domain);
        let (mut missing, mut unclear) = (0, None);
        for name in &names {
            match context.resolver.addresses(name).await {
                Ok(addresses) => {
                    for address in addresses {
                        if let Some(reached) = self.address(name, address).await {
                            return Ok(Some(reached));
                        }
                    }
                }
                Err(Failure::NoName | Failure::NoData) => missing += 1,
                Err(Failure::Temporary(why)) => unclear = Some(why),
            }
        }
        match (self.why.is_some() || self.avoided.is_some(), unclear) {
            (true, _) => Ok(None),
            (false, Some(why)) => Err(NoExchanger::Temporary(why).account()),
            (false, None) if implicit && missing > 0 => Err(NoExchanger::NoHost.account()),
            (false, None) => Err(NoExchanger::NoAddress.account()),
        }
    }

    async fn address(&mut self, name: &str, address: IpAddr) -> Option<Reached> {
        if address.is_unspecified() || address.is_multicast() {
            self.why.get_or_insert_with(|| local(Class::Permanent, 4, format!("{name} has an address that is no host: {address}")));
            return None;
        }
        let endpoint = Endpoint {
            name: name.to_owned(),
            address: SocketAddr::new(address, self.context.mx_port),
            tls: TlsDemand::Opportunistic,
            start: Start::Smtp,
            login: None,
        };
        self.attempt(endpoint).await
    }

    async fn attempt(&mut self, endpoint: Endpoint) -> Option<Reached> {
        if self.tried >= ADDRESSES {
            return None;
        }
        self.tried += 1;
        if self.avoid == Some(endpoint.address) {
            self.avoided = Some(endpoint);
            return None;
        }
        self.dial(endpoint).await
    }

    async fn dial(&mut self, endpoint: Endpoint) -> Option<Reached> {
        let outages = &self.context.outages;
        if let Some(trouble) = outages.at(endpoint.address, Instant::now()) {
            self.why = Some(trouble.account(&endpoint.label()));
            return None;
        }
        match self.context.dialer.dial(&endpoint).await {
            Ok(connection) => {
                outages.forget(endpoint.address);
                Some(Reached { connection, address: endpoint.address })
            }
            Err(trouble) => {
                let account = trouble.account(&endpoint.label());
                tracing::warn!(event = "unreachable", relay = endpoint.label(), status = %account.status, error = account.diagnostic);
                outages.note(endpoint.address, &trouble, Instant::now());
                self.why = Some(account);
                None
            }
        }
    }
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
