//! A whole relay in this process: front end, key process and queue as they are, the helper pretended, and nothing
//! behind the queue but an eye on what it would deliver.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;
use pamrelay::auth::Helper;
use pamrelay::delivery::job::{Body, Job};
use pamrelay::front::{self, FrontSettings, Listener, Most, TlsMode};
use pamrelay::keys::law::Law;
use pamrelay::keys::ring::Ring;
use pamrelay::keys::server::{self, Server, Users};
use pamrelay::keys::store::{PairFiles, Store, StoreSettings};
use pamrelay::queue::dispatch::ActiveLimits;
use pamrelay::queue::schedule::Schedule;
use pamrelay::queue::{self, QueueSettings};
use pamrelay::session::Site;
use pamrelay::session::driver::Limits;
use pamrelay::smtp::address::Domain;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::client::Client;
use super::helper;

const HOST: &str = "mail.example";

pub(crate) struct Relay {
    starttls: SocketAddr,
    implicit: SocketAddr,
    authority: CertificateDer<'static>,
    queued: Mutex<mpsc::Receiver<Job>>,
    _directory: TempDir,
}

impl Relay {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let authority = certificates(&at("certs"));
        keys(&at("certs"), &at("keys"));
        helper::start(&at("auth"), &at("tickets"));
        let queued = queue(directory.path());
        let listeners =
            [TlsMode::StartTls, TlsMode::Implicit].map(|mode| Listener::bind("submission", "127.0.0.1:0".parse().unwrap(), mode).unwrap());
        let [starttls, implicit] = [0, 1].map(|at: usize| listeners[at].socket.local_addr().unwrap());
        let settings = FrontSettings {
            site: Site { host: HOST.into(), domain: Domain::parse(HOST).unwrap(), message_size: 100_000, recipients: 3 },
            limits: Limits {
                bad_commands: 13,
                command_timeout: Duration::from_secs(2),
                data_timeout: Duration::from_secs(2),
                login_timeout: Duration::from_secs(5),
                session_timeout: Duration::from_secs(60),
                failure_floor: Duration::from_millis(20),
            },
            sessions: Most { in_all: 100, per_address: 100, per_site: 100 },
            helper: Helper::served_by(at("auth"), Duration::from_secs(1), rustix::process::getuid().as_raw()),
            keys: at("keys"),
            queue: at("queue"),
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(front::serve(settings, listeners.into(), || {})).unwrap();
        });
        Self { starttls, implicit, authority, queued: Mutex::new(queued), _directory: directory }
    }

    pub(crate) fn address(&self, implicit: bool) -> SocketAddr {
        if implicit { self.implicit } else { self.starttls }
    }

    pub(crate) fn authority(&self) -> CertificateDer<'static> {
        self.authority.clone()
    }

    pub(crate) fn connect(&self, implicit: bool) -> Client {
        Client::connect(if implicit { self.implicit } else { self.starttls }, self.authority.clone())
    }

    /// `from -> to to: "text"`: this is what the queue takes to delivery next.
    pub(crate) fn expect_queued(&self, wanted: &str) {
        let job = self.queued.lock().unwrap().recv_timeout(Duration::from_secs(10)).expect("a message in the queue");
        let to: Vec<_> = job.recipients.iter().map(|(_, recipient)| recipient.mailbox.to_string()).collect();
        let Body::Memory(text) = &job.content.body else { panic!("a short message is in memory") };
        let text = String::from_utf8_lossy(text).replace('\r', "\\r").replace('\n', "\\n");
        assert_eq!(format!("{} -> {}: \"{text}\"", job.sender, to.join(" ")), wanted);
        let trace = String::from_utf8_lossy(&job.content.trace).into_owned();
        assert!(trace.starts_with("Received: from client.example ([127.0.0.1])\r\n"), "{trace}");
        assert!(trace.contains("SMTPSA id "), "{trace}");
    }

    pub(crate) fn expect_nothing_queued(&self) {
        let queued = self.queued.lock().unwrap().recv_timeout(Duration::from_millis(500));
        assert!(queued.is_err(), "something was queued: {queued:?}");
    }

    /// Between two dialogs: what one left is not the next one's.
    pub(crate) fn forget_queued(&self) {
        while self.queued.lock().unwrap().try_recv().is_ok() {}
    }
}

/// An authority and a certificate from it for `mail.example`, private as the law wants.
fn certificates(directory: &Path) -> CertificateDer<'static> {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &Issuer::new(params, authority_key)).unwrap();
    std::fs::create_dir(directory).unwrap();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).unwrap();
    for (name, text) in [("server.crt", leaf.pem()), ("server.key", key.serialize_pem())] {
        std::fs::write(directory.join(name), text).unwrap();
        std::fs::set_permissions(directory.join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    authority.der().clone()
}

fn keys(directory: &Path, socket: &Path) {
    let uid = rustix::process::getuid().as_raw();
    let settings = StoreSettings {
        directory: directory.to_owned(),
        server: PairFiles { certificate: "server.crt".into(), key: "server.key".into() },
        client: None,
        secrets: Vec::new(),
        hostname: HOST.into(),
        law: Law::new(uid, "me"),
    };
    let ring = Ring::new(Store::load(&settings).unwrap());
    let listener = server::bind(socket).unwrap();
    thread::spawn(move || Server::new(ring, Users { front: uid, queue: uid }).serve(&listener));
}

/// The real queue; what it gives to delivery comes out here and is never answered.
fn queue(directory: &Path) -> mpsc::Receiver<Job> {
    let uid = rustix::process::getuid().as_raw();
    let settings = QueueSettings {
        notifier: pamrelay::sandbox::Notifier::from_env(),
        spool: directory.join("spool"),
        handoff: directory.join("queue"),
        control: directory.join("control/socket"),
        tickets: directory.join("tickets"),
        peers: vec![uid],
        message_size: 100_000,
        recipients: 3,
        schedule: Schedule::default(),
        active: ActiveLimits::default(),
        zone: TimeZone::UTC,
        reporter: Arc::new(|_, _, _| None),
        postmaster: None,
    };
    std::fs::create_dir(&settings.spool).unwrap();
    std::fs::set_permissions(&settings.spool, PermissionsExt::from_mode(0o700)).unwrap();
    let (seen, queued) = mpsc::channel();
    let socket = settings.handoff.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (jobs, mut given) = tokio::sync::mpsc::channel::<Job>(16);
            let (_outcomes, settled) = tokio::sync::mpsc::channel(16);
            tokio::spawn(async move {
                while let Some(job) = given.recv().await {
                    let _ = seen.send(job);
                }
            });
            queue::run_until(settings, (jobs, settled), std::future::pending()).await.unwrap();
        });
    });
    while !socket.exists() {
        thread::sleep(Duration::from_millis(10));
    }
    queued
}
