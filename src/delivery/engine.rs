//! The way into delivery: jobs in, parcels out to their destinations.
//!
//! Every recipient of every job is named once in what comes out. The receiver of outcomes must not wait for room for
//! another job before it takes them: with both channels full, nothing would move.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::client::connection::Timeouts;
use super::client::dialer::Dialer;
use super::client::secrets::{NoSecrets, Secrets};
use super::client::tls::TlsClients;
use super::destination::Destination;
use super::job::{Account, Job, Origin, Outcomes, PassedOn, RecipientNo};
use super::ourselves::Ourselves;
use super::outages::Outages;
use super::parcel::{Errand, Parcel, Relay};
use super::pool::Pool;
use super::reach::Target;
use super::reserved::PrivateNetworks;
use super::resolver::Resolver;
use super::route::Routes;
use crate::smtp::envelope::Recipient;
use crate::smtp::status::{Class, EnhancedStatus};

/// Recipients in one transaction, which every server takes (RFC 5321 §4.5.3.1.8).
const RECIPIENTS: usize = 100;
/// How often those that wait are looked through for the ones whose time is over.
const SWEEP: Duration = Duration::from_secs(1);
/// Jobs in delivery at once; above it the channel fills.
const JOBS: usize = 10_000;

/// All that delivery needs to know.
pub struct Settings {
    /// Our name: in EHLO, and to know ourselves in MX records.
    pub hostname: String,
    pub routes: Routes,
    /// Connections at once to one destination.
    pub per_destination: usize,
    /// Connections at once in all. An eighth more is kept in reserve for users and destinations that have few.
    pub connections: usize,
    /// How long a connection is kept when nothing more comes.
    pub idle: Duration,
    pub resolver: Arc<Resolver>,
    pub roots: Arc<RootCertStore>,
    /// Shown to servers that ask for a certificate.
    pub client_certificate: Option<Arc<dyn ResolvesClientCert>>,
    pub secrets: Arc<dyn Secrets>,
    pub timeouts: Timeouts,
    /// Where exchangers listen; other than 25 only for trials.
    pub mx_port: u16,
    /// Where our own front end listens: mail never goes there.
    pub listeners: Vec<SocketAddr>,
    /// Whether MX records may lead to this host and to private networks.
    pub private_networks: PrivateNetworks,
}

impl Settings {
    /// What a relay without secrets and certificates of its own does, with the host's name servers and no trust in anybody yet.
    pub fn new(hostname: &str, routes: Routes) -> Self {
        Self {
            hostname: hostname.to_owned(),
            routes,
            per_destination: 16,
            connections: 512,
            idle: Duration::from_secs(5),
            resolver: Arc::new(Resolver::of_host(None)),
            roots: Arc::new(RootCertStore::empty()),
            client_certificate: None,
            secrets: Arc::new(NoSecrets),
            timeouts: Timeouts::default(),
            mx_port: 25,
            listeners: Vec::new(),
            private_networks: PrivateNetworks::Refuse,
        }
    }
}

/// Delivery at work.
pub struct Delivery {
    context: Arc<ArcSwap<Context>>,
    places: Arc<Semaphore>,
}

/// What the destinations of one configuration share.
pub(crate) struct Context {
    pub(crate) hostname: String,
    routes: Routes,
    pub(crate) per_destination: usize,
    pub(crate) pool: Arc<Pool>,
    pub(crate) idle: Duration,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) dialer: Dialer,
    pub(crate) mx_port: u16,
    pub(crate) ourselves: Ourselves,
    pub(crate) outages: Outages,
    destinations: Mutex<HashMap<Target, Arc<Destination>>>,
}

impl Delivery {
    /// Starts taking jobs, in the runtime it is called in. It ends when the sender of jobs is gone and the last job is answered.
    pub fn start(settings: Settings, mut jobs: mpsc::Receiver<Job>, outcomes: mpsc::Sender<Outcomes>) -> Self {
        let context = Arc::new(ArcSwap::new(Context::new(settings)));
        let places = Arc::new(Semaphore::new(JOBS));
        let it = Self { context: context.clone(), places: places.clone() };
        tokio::spawn(async move {
            while let Some(mut job) = jobs.recv().await {
                // Closed never: `places` is not closed anywhere.
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let recipients = std::mem::take(&mut job.recipients);
                let errand = Errand::new(job, outcomes.clone(), place);
                context.load_full().dispatch(&errand, recipients).await;
            }
        });
        it
    }

    /// New settings for the jobs from now on; those in delivery end as they began.
    pub fn reload(&self, settings: Settings) {
        self.context.store(Context::new(settings));
    }

    /// Comes back when no job is in delivery.
    pub async fn drained(&self) {
        let all = u32::try_from(JOBS).unwrap_or(u32::MAX);
        // Closed never, as above.
        let _ = self.places.acquire_many(all).await;
    }
}

impl Context {
    fn new(settings: Settings) -> Arc<Self> {
        let Settings {
            hostname,
            routes,
            per_destination,
            connections,
            idle,
            resolver,
            roots,
            client_certificate,
            secrets,
            timeouts,
            mx_port,
            listeners,
            private_networks,
        } = settings;
        let dialer = Dialer { hostname: hostname.clone(), tls: TlsClients::new(roots, client_certificate), secrets, timeouts };
        let it = Arc::new(Self {
            hostname,
            routes,
            per_destination: per_destination.max(1),
            pool: Pool::new(connections),
            idle,
            resolver,
            dialer,
            mx_port,
            ourselves: Ourselves { listeners, private: private_networks },
            outages: Outages::default(),
            destinations: Mutex::default(),
        });
        tokio::spawn(Self::sweep(Arc::downgrade(&it)));
        it
    }

    /// Answers for what waited for a connection until its time was over, for as long as the context is used.
    async fn sweep(context: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(context) = context.upgrade() else { return };
            let destinations: Vec<_> = context.destinations.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            for parcel in destinations.iter().flat_map(|destination| destination.take_late(Instant::now())) {
                parcel.settle_late(Relay::NONE).await;
            }
        }
    }

    /// Each recipient to its destination.
    async fn dispatch(self: &Arc<Self>, errand: &Arc<Errand>, recipients: Vec<(RecipientNo, Recipient)>) {
        let mut groups: HashMap<Target, Vec<(RecipientNo, Recipient)>> = HashMap::new();
        let mut lost = Vec::new();
        for (number, recipient) in recipients {
            match self.routes.find(recipient.mailbox.domain()) {
                Some(route) => groups.entry(Target::new(route, recipient.mailbox.domain())).or_default().push((number, recipient)),
                None => lost.push((number, recipient)),
            }
        }
        for (target, recipients) in groups {
            for parcel in parcels(recipients) {
                self.push(target.clone(), Parcel::new(errand.clone(), parcel));
            }
        }
        if !lost.is_empty() {
            let account = Account {
                status: EnhancedStatus::new(Class::Permanent, 4, 4),
                remote: None,
                diagnostic: "no route of the configuration fits the domain".to_owned(),
                origin: Origin::Local,
                passed_on: PassedOn::WithoutDsn,
            };
            Parcel::new(errand.clone(), lost).settle_all(&account, Relay::NONE).await;
        }
    }

    fn push(self: &Arc<Self>, target: Target, parcel: Parcel) {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        let destination = destinations.entry(target).or_insert_with_key(|target| Destination::new(target.clone(), self.clone()));
        destination.push(parcel);
    }

    /// A destination that nobody needs is dropped. Parcels are pushed under the same lock, so none can slip in between.
    pub(crate) fn forget_if_deserted(&self, destination: &Arc<Destination>) {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if destination.is_deserted() && destinations.get(&destination.target).is_some_and(|known| Arc::ptr_eq(known, destination)) {
            destinations.remove(&destination.target);
        }
    }
}

/// Recipients in lists that one transaction takes, each with no more memory than its own entries need.
fn parcels<T>(recipients: Vec<T>) -> Vec<Vec<T>> {
    let mut left = recipients.into_iter();
    let mut parcels = Vec::with_capacity(left.len().div_ceil(RECIPIENTS));
    while left.len() > 0 {
        let mut parcel = Vec::with_capacity(left.len().min(RECIPIENTS));
        parcel.extend(left.by_ref().take(RECIPIENTS));
        parcels.push(parcel);
    }
    parcels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_all_parcels_together_grows_with_the_recipients_and_not_with_their_square() {
        for count in [0, 1, 100, 101, 250, 100_000] {
            let parcels = parcels((0..count).collect());

            assert!(parcels.iter().map(Vec::capacity).sum::<usize>() <= count + RECIPIENTS, "{count}");
            assert!(parcels.iter().all(|parcel| (1..=RECIPIENTS).contains(&parcel.len())));
            assert_eq!(parcels.concat(), (0..count).collect::<Vec<_>>());
        }
    }
}
