//! The configuration: YAML text in, one checked `Config` out, or everything that is wrong with it.
//!
//! A `Config` exists only as `Config::load` or `Config::parse` made it: every value is typed, within its bounds, and fits the others.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod auth;
mod host;
pub mod manual;
mod mistake;
pub mod options;
mod routes;
mod section;
mod sense;
mod tree;
mod value;

pub use auth::{Auth, Chosen, Guests, Lockout, LowPorts};
pub use mistake::{Mistake, Mistakes, Position};
pub use routes::{Login, Pattern, Route, SmartHost, SmartHostTls, Target};
pub use value::{Bytes, Host, duration_text};

use crate::smtp::address::{Domain, Mailbox};
use section::{Findings, Section, Word};

/// Where an administrator writes it.
pub const PATH: &str = "/etc/pamrelay/pamrelay.yaml";
/// The accepted copy, from which the roles start, when `runtime_dir` is the default.
pub const ACTIVE: &str = "/run/pamrelay/active/pamrelay.yaml";
/// A configuration is a page or two; more is a mistake.
const LARGEST: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// A name, never an address literal.
    pub hostname: Domain,
    /// Never empty, no two in each other's way.
    pub listen: Vec<Listen>,
    pub tls: Tls,
    pub auth: Auth,
    pub limits: Limits,
    pub spool: PathBuf,
    pub runtime_dir: PathBuf,
    pub sandbox: Sandbox,
    pub log: Log,
    /// Never empty; the first that fits is taken.
    pub routes: Vec<Route>,
    pub delivery: Delivery,
}

/// One address where clients connect. There is no listener without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// No two listeners have the same.
    pub name: String,
    pub address: SocketAddr,
    pub tls: ListenTls,
    /// Its PAM service; `None` for that of all.
    pub service: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenTls {
    Starttls,
    Implicit,
}

/// File names are within `directory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub directory: PathBuf,
    pub certificate: String,
    pub key: String,
    pub client: Option<ClientCertificate>,
}

/// What we show to smart hosts that ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub certificate: String,
    pub key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub message_size: Bytes,
    pub recipients: usize,
    pub sessions: usize,
    pub sessions_per_address: usize,
    pub sessions_per_site: usize,
    pub bad_commands: u32,
    pub command_timeout: Duration,
    pub data_timeout: Duration,
    pub session_timeout: Duration,
    /// From the connection to the login.
    pub login_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    BestEffort,
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub first_retry: Duration,
    pub longest_retry: Duration,
    pub give_up: Duration,
    pub connections: usize,
    /// Empty: those of /etc/resolv.conf.
    pub resolver: Vec<SocketAddr>,
    /// `None`: the system's store.
    pub trust: Option<PathBuf>,
    /// Hears of reports that could not be delivered.
    pub postmaster: Option<Mailbox>,
    pub private_networks: PrivateNetworks,
}

/// Whether MX records may lead to this host and to private networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateNetworks {
    Refuse,
    Allow,
}

impl Word for ListenTls {
    const WORDS: &'static [(&'static str, Self)] = &[("starttls", Self::Starttls), ("implicit", Self::Implicit)];
}

/// As it is written in the configuration.
impl fmt::Display for ListenTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starttls => "starttls",
            Self::Implicit => "implicit",
        })
    }
}

impl Word for Sandbox {
    const WORDS: &'static [(&'static str, Self)] = &[("best-effort", Self::BestEffort), ("required", Self::Required)];
}

impl Word for PrivateNetworks {
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("allow", Self::Allow)];
}

impl Word for Log {
    const WORDS: &'static [(&'static str, Self)] =
        &[("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug)];
}

impl Config {
    /// Reads a file that only root (or its reader) can have written.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        Self::parse(&text_of(path)?, path)
    }

    /// Reads text; `path` is for the mistakes alone.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Mistakes> {
        let (root, mistakes) = tree::read(text);
        let Some(root) = root else { return Err(Mistakes::new(path, mistakes)) };
        let findings = Findings::new(mistakes);
        let config = Self::read(&Section::top(&root, &findings));
        let mistakes = findings.into_inner();
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes::new(path, mistakes)) }
    }

    /// Reads every key, mistakes or not; worth something only if there were none.
    fn read(top: &Section<'_>) -> Self {
        let config = Self {
            hostname: hostname(top),
            listen: listen(top),
            tls: tls(&top.section("tls")),
            auth: auth::read(&top.section("auth")),
            limits: limits(&top.section("limits")),
            spool: top.path("spool"),
            runtime_dir: top.path("runtime_dir"),
            sandbox: top.word("sandbox"),
            log: top.word("log"),
            routes: routes::read(top),
            delivery: delivery(&top.section("delivery")),
        };
        sense::check(&config, top);
        config
    }

    /// Every PAM service that is used, once.
    pub fn services(&self) -> Vec<&str> {
        let own = self.listen.iter().filter_map(|listen| listen.service.as_deref());
        let guests = self.auth.guests.iter().map(|guests| guests.service.as_str());
        let mut services = vec![self.auth.service.as_str()];
        for service in own.chain(guests) {
            if !services.contains(&service) {
                services.push(service);
            }
        }
        services
    }

    /// The directory that holds the sockets and nothing else.
    pub fn jail(&self) -> PathBuf {
        self.runtime_dir.join("jail")
    }

    /// Where the key process answers the queue. The front end's socket is in the jail.
    pub fn keys_for_queue(&self) -> PathBuf {
        crate::keys::queue_socket(&self.jail().join("keys"))
    }

    /// The accepted copy of this configuration.
    pub fn active(&self) -> PathBuf {
        self.runtime_dir.join("active")
    }

    /// Where the keys of tickets are kept.
    pub fn tickets(&self) -> PathBuf {
        self.runtime_dir.join("tickets")
    }

    /// Where the queue answers `pamrelay queue list` and its like.
    pub fn queue_control(&self) -> PathBuf {
        self.runtime_dir.join("queue").join("control")
    }

    /// The files of smart hosts' passwords, each once.
    pub fn secrets(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.smart_hosts().filter_map(|host| host.login.as_ref()).map(|login| login.secret.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub fn smart_hosts(&self) -> impl Iterator<Item = &SmartHost> {
        self.routes.iter().flat_map(|route| match &route.target {
            Target::SmartHosts(hosts) => hosts.as_slice(),
            Target::Mx | Target::Maildir(_) => &[],
        })
    }

    pub fn maildirs(&self) -> impl Iterator<Item = &Path> {
        self.routes.iter().filter_map(|route| match &route.target {
            Target::Maildir(path) => Some(path.as_path()),
            Target::SmartHosts(_) | Target::Mx => None,
        })
    }
}

/// Opened once and checked on the open descriptor: a regular file, not writable by group or others, not too large.
pub(crate) fn text_of(path: &Path) -> Result<String, Mistakes> {
    let fail = |words: String| Mistakes::of_file(path, words);
    // A FIFO must not stop us here.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(|error| fail(format!("it cannot be opened: {error}")))?;
    let about = file.metadata().map_err(|error| fail(format!("it cannot be examined: {error}")))?;
    if !about.is_file() {
        return Err(fail("it is not a regular file".to_owned()));
    }
    if about.mode() & 0o022 != 0 {
        let shown = path.display();
        return Err(fail(format!(
            "its mode is {:04o}, so others than its owner may write it; mend it with: chmod go-w {shown}",
            about.mode() & 0o7777
        )));
    }
    if about.len() > LARGEST {
        return Err(fail(format!("it has {} octets, more than a configuration can have ({LARGEST})", about.len())));
    }
    let mut octets = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut octets).map_err(|error| fail(format!("it cannot be read: {error}")))?;
    if octets.len() as u64 > LARGEST {
        return Err(fail(format!("it has more than {LARGEST} octets")));
    }
    let unreadable = |at: usize, what: &str| {
        let before = octets.get(..at).unwrap_or_default();
        let line = before.iter().filter(|octet| **octet == b'\n').count() + 1;
        let start = before.iter().rposition(|octet| *octet == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
        Mistakes::new(path, vec![Mistake { at: Some(Position { line, column }), words: what.to_owned() }])
    };
    if let Some(at) = memchr::memchr(0, &octets) {
        return Err(unreadable(at, "there is a NUL; the file is damaged or not text"));
    }
    match std::str::from_utf8(&octets) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(unreadable(error.valid_up_to(), "this is not UTF-8 text")),
    }
}

fn hostname(top: &Section<'_>) -> Domain {
    let written = top.domain("hostname");
    let name = if top.has("hostname") { written } else { host::own_name() };
    name.unwrap_or_else(|| {
        if !top.has("hostname") {
            top.mistake(None, "hostname", "this host has no name that can be used; write one, such as hostname: mail.example.org");
        }
        Domain::Name("localhost".to_owned())
    })
}

fn listen(top: &Section<'_>) -> Vec<Listen> {
    let mut seen: Vec<(SocketAddr, Option<Position>)> = Vec::new();
    let mut listen = Vec::new();
    for section in top.sections("listen").unwrap_or_default() {
        let address = section.socket("address");
        let name = section.listener_name("name").unwrap_or_else(|| address.to_string());
        let it = Listen { name, address, tls: section.word("tls"), service: section.optional_service("service") };
        if listen.iter().any(|other: &Listen| other.name == it.name && section.has("name")) {
            section.mistake(section.place("name"), "name", format!("another listener has the name {}", it.name));
        }
        let at = section.place("address");
        if section.has("address")
            && let Some((other, earlier)) = seen.iter().find(|(other, _)| in_the_way(*other, it.address))
        {
            let line = earlier.map_or(0, |at| at.line);
            section.mistake(at, "address", format!("{} and {other} on line {line} cannot both listen", it.address));
        }
        seen.push((it.address, at));
        listen.push(it);
    }
    listen
}

/// Whether two sockets cannot be bound at once: same port, and the same address or one that covers all.
fn in_the_way(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn tls(section: &Section<'_>) -> Tls {
    let certificate = section.optional_file("client_certificate");
    let key = section.optional_file("client_key");
    if section.has("client_certificate") != section.has("client_key") {
        let there = if section.has("client_key") { "client_key" } else { "client_certificate" };
        section.mistake(section.place(there), there, "client_certificate and client_key are wanted together");
    }
    Tls {
        directory: section.path("directory"),
        certificate: section.file("certificate"),
        key: section.file("key"),
        client: certificate.zip(key).map(|(certificate, key)| ClientCertificate { certificate, key }),
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let (sessions, per_address): (usize, usize) = (section.count("sessions"), section.count("sessions_per_address"));
    Limits {
        message_size: section.size("message_size"),
        recipients: section.count("recipients"),
        sessions,
        sessions_per_address: per_address,
        sessions_per_site: section.optional_count("sessions_per_site").unwrap_or_else(|| (sessions / 4).max(per_address)),
        bad_commands: section.count("bad_commands"),
        command_timeout: section.duration("command_timeout"),
        data_timeout: section.duration("data_timeout"),
        session_timeout: section.duration("session_timeout"),
        login_timeout: section.duration("login_timeout"),
    }
}

fn delivery(section: &Section<'_>) -> Delivery {
    Delivery {
        first_retry: section.duration("first_retry"),
        longest_retry: section.duration("longest_retry"),
        give_up: section.duration("give_up"),
        connections: section.count("connections"),
        resolver: section.socket_list("resolver"),
        trust: section.optional_path("trust"),
        postmaster: section.mailbox("postmaster"),
        private_networks: section.word("private_networks"),
    }
}
