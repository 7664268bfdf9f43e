//! `pamrelay queue`: the store, delivery and the writer of reports, put together and into the cage.
//!
//! Everything that is a file (time zone, trust store, name servers) is read before the cage. The queue takes mail in whether or not the key process
//! is there; delivery begins when it has what the configuration says it shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::tz::TimeZone;
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OnceCell, mpsc, watch as watch_channel};
use zeroize::Zeroizing;

use super::{Failure, Status, account, account_of, failed, outside, policy, start, unfit};
use crate::config::{self, Config};
use crate::delivery::job::{Job, Outcomes};
use crate::delivery::resolver::{Changed, NameServers, Resolver};
use crate::delivery::route::{Login, Pattern, Route, Routes, Rule, SmartHost, TlsDemand};
use crate::delivery::{Asked, Delivery, NoSecrets, PrivateNetworks, SecretError, Secrets, Settings, Timeouts, Trust};
use crate::dsn::reporter;
use crate::keys::client::{Keys, KeysError};
use crate::keys::wire::Reason;
use crate::queue::control::ControlError;
use crate::queue::dispatch::ActiveLimits;
use crate::queue::schedule::Schedule;
use crate::queue::spool::SpoolError;
use crate::queue::sqlite::{OpenError, SchemaError};
use crate::queue::{QueueSettings, RunError};
use crate::run::{FRONT_USER, QUEUE_USER, child};
use crate::sandbox::{self, FilesCage, Notifier, QueueCage};
use crate::watch::{self, Watcher};

/// Connections at once to all servers together.
const CONNECTIONS: usize = 512;
/// How long a connection is kept when nothing more comes for its server.
const IDLE: Duration = Duration::from_secs(5);
/// A sender is told once that a message is late.
const WARN_AFTER: Duration = Duration::from_secs(4 * 3600);
/// Jobs and outcomes on their way between queue and delivery.
const CHANNEL: usize = 1024;

pub(crate) fn queue(path: &Path) -> Result<Status, Failure> {
    super::role(|_| work(path))
}

fn work(path: &Path) -> Result<Status, Failure> {
    let config = start("queue", path)?;
    let threads = super::threads(4);
    let zone = TimeZone::system();
    let sources = sources(&config);
    let delivery = Plan::new(&config, &sources)?;
    // Before the cage, which lets no program be run.
    let watcher = Watcher::start(path)
        .map_err(|error| tracing::warn!(event = "files_not_watched", reason = %error, remedy = "restart pamrelay-queue after changes"));
    let settings = queue_settings(&config, zone)?;
    let cage = QueueCage {
        account: account(QUEUE_USER)?,
        spool: config.spool.clone(),
        maildirs: config.maildirs().map(Path::to_owned).collect(),
        runtime: config.runtime_dir.clone(),
        read: config.delivery.trust.iter().cloned().collect(),
        policy: policy(&config),
    };
    let listening = delivery.listener(sources);
    let caged = sandbox::queue(&cage).map_err(outside)?;
    for missing in &caged.missing {
        tracing::warn!(event = "sandbox_part_missing", part = %missing);
    }

    if let Ok(watcher) = watcher {
        watcher.listen(listening).map_err(failed)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().map_err(failed)?;
    let ended = runtime.block_on(async {
        let (to_delivery, jobs) = mpsc::channel(CHANNEL);
        let (to_queue, outcomes) = mpsc::channel(CHANNEL);
        let reread = signal(SignalKind::hangup()).map_err(|error| tracing::error!(event = "cannot_wait_for_sighup", error = %error)).ok();
        tokio::spawn(delivery.begin(jobs, to_queue, reread));
        crate::queue::run(settings, (to_delivery, outcomes)).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended.map(|()| Status::Ok).map_err(|error| if lasts(&error) { unfit(error) } else { failed(error) })
}

/// Whether a spool stays unusable until a person has repaired it.
fn lasts(error: &RunError) -> bool {
    match error {
        RunError::Open(OpenError::Spool(spool)) => match spool {
            SpoolError::Missing { .. } | SpoolError::NotDirectory { .. } | SpoolError::Owner { .. } | SpoolError::Mode { .. } => true,
            SpoolError::Io { .. } => false,
        },
        RunError::Control(ControlError::Directory { .. }) => true,
        RunError::Open(OpenError::Schema(schema)) => match schema {
            SchemaError::Damaged { .. } | SchemaError::Newer { .. } | SchemaError::Foreign(_) => true,
            SchemaError::InUse(_) | SchemaError::Open { .. } => false,
        },
        RunError::Open(OpenError::Debris(_) | OpenError::Thread(_))
        | RunError::Control(ControlError::Io { .. })
        | RunError::Listen { .. }
        | RunError::Signals(_)
        | RunError::Delivery(_) => false,
    }
}

/// `pamrelay watch-files`: started by the queue, for which it reads what others replace.
pub(crate) fn watch_files(path: &Path) -> Result<Status, Failure> {
    // A signal to all processes of the queue is for the queue: this one ends with it.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    }
    child::close_inherited().map_err(failed)?;
    let config = start("queue", path)?;
    let files: Vec<PathBuf> = sources(&config).into_iter().map(|source| source.path).collect();
    let cage = FilesCage { account: account(QUEUE_USER)?, files: files.clone(), policy: policy(&config) };
    // What is missing was said by the queue, whose cage misses the same.
    let _ = sandbox::files(&cage).map_err(failed)?;
    watch::tell(&files, std::io::stdout()).map(|()| Status::Ok).map_err(failed)
}

/// A file whose text the queue wants whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    what: About,
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Hosts,
    NameServers,
    Trust,
}

/// In an order that the queue and the process that watches for it agree on.
fn sources(config: &Config) -> Vec<Source> {
    let source = |what, path: &str| Source { what, path: PathBuf::from(path) };
    let mut sources = vec![source(About::Hosts, "/etc/hosts")];
    if config.delivery.resolver.is_empty() {
        sources.push(source(About::NameServers, "/etc/resolv.conf"));
    }
    sources.extend(config.delivery.trust.iter().map(|path| Source { what: About::Trust, path: path.clone() }));
    sources
}

/// What a file says at the start; nothing if it is not there.
fn text(sources: &[Source], wanted: About) -> String {
    let Some(source) = sources.iter().find(|source| source.what == wanted) else { return String::new() };
    match std::fs::read(&source.path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => {
            let instead = match wanted {
                About::Hosts => "names are looked up in DNS alone until it is there",
                About::NameServers => "DNS is asked at 127.0.0.1:53 until it is there",
                About::Trust => "no smart host is trusted until it is there",
            };
            tracing::warn!(event = "file_missing", file = %source.path.display(), error = %error, reason = instead);
            String::new()
        }
    }
}

fn queue_settings(config: &Config, zone: TimeZone) -> Result<QueueSettings, Failure> {
    let delivery = &config.delivery;
    Ok(QueueSettings {
        spool: config.spool.clone(),
        handoff: config.jail().join("queue"),
        control: config.queue_control(),
        tickets: config.tickets(),
        peers: vec![account_of(FRONT_USER)?],
        message_size: config.limits.message_size.0,
        recipients: config.limits.recipients,
        schedule: Schedule {
            first_retry: delivery.first_retry,
            longest_retry: delivery.longest_retry,
            give_up: delivery.give_up,
            warn_after: WARN_AFTER,
        },
        active: ActiveLimits::default(),
        reporter: reporter(config.hostname.to_string(), zone.clone(), delivery.postmaster.clone()),
        postmaster: delivery.postmaster.clone(),
        zone,
        notifier: Notifier::from_env(),
    })
}

/// What delivery will start with, but for the client certificate, which the key process shows.
struct Plan {
    hostname: String,
    routes: Routes,
    per_destination: usize,
    resolver: Arc<Resolver>,
    trust: Trust,
    roots: Arc<RootCertStore>,
    /// What the trust file says since it was replaced.
    renewed: watch_channel::Receiver<Option<Vec<u8>>>,
    renew: watch_channel::Sender<Option<Vec<u8>>>,
    secrets: Arc<dyn Secrets>,
    keys: PathBuf,
    certificate: Certificate,
    listeners: Vec<SocketAddr>,
    private_networks: PrivateNetworks,
}

/// Whether servers that ask are shown a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificate {
    Shown,
    None,
}

impl Plan {
    fn new(config: &Config, sources: &[Source]) -> Result<Self, Failure> {
        let (renew, renewed) = watch_channel::channel(None);
        let trust = config.delivery.trust.clone().map_or(Trust::System, Trust::File);
        let resolver = &config.delivery.resolver;
        let servers = (!resolver.is_empty()).then(|| NameServers::configured(resolver.clone()));
        let keys = config.keys_for_queue();
        Ok(Self {
            hostname: config.hostname.to_string(),
            routes: routes(config),
            per_destination: config.delivery.connections,
            resolver: Arc::new(Resolver::of_texts(servers, &text(sources, About::NameServers), &text(sources, About::Hosts))),
            roots: Arc::new(trust.load().map_err(failed)?),
            trust,
            renewed,
            renew,
            secrets: if config.secrets().is_empty() { Arc::new(NoSecrets) } else { Arc::new(KeptByKeys::new(keys.clone())) },
            keys,
            certificate: if config.tls.client.is_some() { Certificate::Shown } else { Certificate::None },
            listeners: config.listen.iter().map(|listen| listen.address).collect(),
            private_networks: match config.delivery.private_networks {
                config::PrivateNetworks::Refuse => PrivateNetworks::Refuse,
                config::PrivateNetworks::Allow => PrivateNetworks::Allow,
            },
        })
    }

    /// Hears what the files say from now on.
    fn listener(&self, sources: Vec<Source>) -> impl FnMut(usize, Vec<u8>) + Send + 'static {
        let (resolver, renew) = (self.resolver.clone(), self.renew.clone());
        move |number, text| {
            let Some(Source { what, path }) = sources.get(number) else { return };
            let words = String::from_utf8_lossy(&text);
            let changed = match what {
                About::Hosts => resolver.set_hosts(&words),
                About::NameServers => resolver.set_servers(&words),
                // Whether it changed, and is a file of certificates, is seen where it is loaded.
                About::Trust => {
                    let _ = renew.send(Some(text));
                    Changed::No
                }
            };
            match changed {
                Changed::Yes => tracing::info!(event = "read_again", file = %path.display()),
                Changed::No => {}
            }
        }
    }

    /// Starts delivery. Where a certificate is to be shown it waits for the key process: a server that wants one would refuse mail for good without it.
    async fn begin(mut self, jobs: mpsc::Receiver<Job>, outcomes: mpsc::Sender<Outcomes>, mut reread: Option<Signal>) {
        let client_certificate = match self.certificate {
            Certificate::Shown => Some(meet(self.keys.clone()).await.client_certs()),
            Certificate::None => None,
        };
        let delivery = Delivery::start(self.settings(client_certificate.clone()), jobs, outcomes);
        let mut renewed = self.renewed.clone();
        loop {
            tokio::select! {
                () = signalled(&mut reread) => {}
                // Never an error: this plan has a sender.
                _ = renewed.changed() => {}
            }
            if self.trusts_others() {
                delivery.reload(self.settings(client_certificate.clone()));
            }
        }
    }

    /// Reads the trust store again; what cannot be read leaves the one we have.
    fn trusts_others(&mut self) -> bool {
        let renewed = self.renewed.borrow().clone();
        let loaded = match renewed {
            Some(text) => self.trust.parse(&text),
            None => self.trust.load(),
        };
        match loaded {
            Ok(roots) if roots.roots == self.roots.roots => false,
            // An empty system store means that it cannot be read, or is just being written.
            Ok(roots) if roots.is_empty() => {
                tracing::warn!(event = "trust_store_kept", reason = "there is no certificate in it");
                false
            }
            Ok(roots) => {
                tracing::info!(event = "trust_store_read", authorities = roots.len());
                self.roots = Arc::new(roots);
                true
            }
            Err(error) => {
                tracing::warn!(event = "trust_store_kept", reason = %error);
                false
            }
        }
    }

    fn settings(&self, client_certificate: Option<Arc<dyn ResolvesClientCert>>) -> Settings {
        Settings {
            hostname: self.hostname.clone(),
            routes: self.routes.clone(),
            per_destination: self.per_destination,
            connections: CONNECTIONS,
            idle: IDLE,
            resolver: self.resolver.clone(),
            roots: self.roots.clone(),
            client_certificate,
            secrets: self.secrets.clone(),
            timeouts: Timeouts::default(),
            mx_port: 25,
            listeners: self.listeners.clone(),
            private_networks: self.private_networks,
        }
    }
}

/// Comes back at a SIGHUP; never where none can be waited for.
async fn signalled(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            if signal.recv().await.is_none() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

async fn meet(path: PathBuf) -> Arc<Keys> {
    let mut pause = Duration::from_millis(50);
    loop {
        match connect(path.clone()).await {
            Ok(keys) => return keys,
            Err(error) => tracing::warn!(event = "waiting_for_keys", error = %error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn connect(path: PathBuf) -> Result<Arc<Keys>, KeysError> {
    tokio::task::spawn_blocking(move || Keys::connect(path)).await.unwrap_or(Err(KeysError::GivenUp))
}

/// Passwords of smart hosts, asked for when a login needs one and not kept.
struct KeptByKeys {
    path: PathBuf,
    keys: OnceCell<Arc<Keys>>,
}

impl KeptByKeys {
    fn new(path: PathBuf) -> Self {
        Self { path, keys: OnceCell::new() }
    }

    async fn ask(&self, name: &str) -> Result<Zeroizing<String>, KeysError> {
        self.keys.get_or_try_init(|| connect(self.path.clone())).await?.secret(name).await
    }
}

impl Secrets for KeptByKeys {
    fn secret<'a>(&'a self, name: &'a str) -> Asked<'a> {
        Box::pin(async move {
            self.ask(name).await.map_err(|error| match error {
                KeysError::Refused(Reason::Unknown) => SecretError::Unknown(name.to_owned()),
                other => SecretError::Unavailable(other.to_string()),
            })
        })
    }
}

fn routes(config: &Config) -> Routes {
    Routes::new(config.routes.iter().map(rule).collect())
}

fn rule(route: &config::Route) -> Rule {
    let domains = route.domains.iter().map(|pattern| match pattern {
        config::Pattern::Exact(name) => Pattern::Exact(name.clone()),
        config::Pattern::Below(name) => Pattern::Below(format!(".{name}")),
        config::Pattern::Any => Pattern::Any,
    });
    let target = match &route.target {
        config::Target::SmartHosts(hosts) => Route::SmartHosts(hosts.iter().map(smart_host).collect()),
        config::Target::Mx => Route::Mx,
        config::Target::Maildir(path) => Route::Maildir(path.clone()),
    };
    Rule { domains: domains.collect(), route: Arc::new(target) }
}

fn smart_host(host: &config::SmartHost) -> SmartHost {
    SmartHost {
        host: host.host.to_string(),
        port: host.port,
        tls: match host.tls {
            config::SmartHostTls::None => TlsDemand::None,
            config::SmartHostTls::Opportunistic => TlsDemand::Opportunistic,
            config::SmartHostTls::Required => TlsDemand::Required,
        },
        login: host.login.as_ref().map(|login| Login { user: login.user.clone(), secret: login.secret.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    #[test]
    fn a_renewed_trust_file_is_taken_and_a_damaged_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let write = |name: &str| std::fs::write(&path, rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()).unwrap();
        write("old.example");
        let text = format!("listen: [{{ address: \"127.0.0.1:1\", tls: starttls }}]\ndelivery: {{ trust: {} }}\n", path.display());
        let config = Config::parse(&text, Path::new("t")).unwrap();
        let sources = sources(&config);
        let mut plan = Plan::new(&config, &sources).unwrap_or_else(|_| panic!("no plan"));
        assert!(!plan.trusts_others());

        write("new.example");
        assert!(plan.trusts_others());

        let kept = plan.roots.clone();
        std::fs::write(&path, "half a fi").unwrap();
        assert!(!plan.trusts_others());
        assert_eq!(plan.settings(None).roots.roots, kept.roots);

        // Another file under the old name, which the cage keeps from the queue: its text is told.
        let number = sources.iter().position(|source| source.what == About::Trust).unwrap();
        let mut hear = plan.listener(sources);
        hear(number, rcgen::generate_simple_self_signed(["renamed.example".to_owned()]).unwrap().cert.pem().into_bytes());
        assert!(plan.trusts_others());
        hear(number, b"half a fi".to_vec());
        assert!(!plan.trusts_others());
    }

    #[test]
    fn what_the_files_of_the_host_say_is_believed_when_they_are_replaced() {
        let config = Config::parse("listen: [{ address: \"127.0.0.1:1\", tls: starttls }]\n", Path::new("t")).unwrap();
        let sources = sources(&config);
        let plan = Plan::new(&config, &sources).unwrap_or_else(|_| panic!("no plan"));
        let mut hear = plan.listener(sources);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

        hear(0, b"192.0.2.9 new.example\n".to_vec());

        let found = runtime.block_on(plan.resolver.addresses("new.example"));
        assert_eq!(found, Ok(vec!["192.0.2.9".parse().unwrap()]));
        assert_eq!(plan.resolver.set_servers("nameserver 192.0.2.53\n"), Changed::Yes);
        assert_eq!(plan.resolver.set_servers("nameserver 192.0.2.53\n# the same\n"), Changed::No);
        hear(99, Vec::new());
    }

    /// The two notions of a pattern must be one.
    #[test]
    fn delivery_finds_the_route_that_the_configuration_means() {
        let text = "listen: [{ address: \"127.0.0.1:1\", tls: starttls }]\nroutes:\n  - { domains: [Archive.example, .Inner.example], maildir: /a }\n  - { domains: [bücher.example], mx: direct }\n  - domains: [\"*\"]\n    smart_hosts: [{ host: \"::1\", tls: none }, { host: R.example, user: u, secret: s }]\n";
        let config = Config::parse(text, Path::new("t")).unwrap();
        let routes = routes(&config);
        let found = |domain: &str| routes.find(&Domain::parse(domain).unwrap()).unwrap().clone();

        assert_eq!(*found("ARCHIVE.example"), Route::Maildir("/a".into()));
        assert_eq!(*found("x.inner.example"), Route::Maildir("/a".into()));
        assert_eq!(*found("xn--bcher-kva.example"), Route::Mx);
        let Route::SmartHosts(hosts) = &*found("inner.example") else { panic!("no smart hosts") };
        assert_eq!(hosts[0], SmartHost { host: "::1".into(), port: 25, tls: TlsDemand::None, login: None });
        assert_eq!((hosts[1].host.as_str(), hosts[1].port, hosts[1].tls), ("r.example", 587, TlsDemand::Required));
        assert_eq!(hosts[1].login, Some(Login { user: "u".into(), secret: "s".into() }));
    }
}
