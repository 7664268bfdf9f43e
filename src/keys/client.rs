//! The other roles' half of the key process: keys that sign from afar, and secrets.
//!
//! Invariant: nothing here ever holds a private key. A [`RemoteKey`] is a public chain and a socket; it signs
//! with the key that its chain belongs to or not at all, also when the keys were replaced meanwhile.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, Signer, SigningKey},
};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

pub use super::link::KeysError;
use super::{
    link::Link,
    signer::Purpose,
    store::Generation,
    wire::{Answer, Description, LONGEST_TEXT, Question, Reason},
};

/// A chain older than this is asked for again before it is used. Far below the time a replaced key still signs.
const FRESH: Duration = Duration::from_secs(60);

/// While the key process is away, the log says so this often.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// The keys of this host, as far as this role may use them.
pub struct Keys {
    link: Arc<Link>,
    server: Arc<Slot>,
    client: Arc<Slot>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("path", &self.link.path()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reaches the key process and learns the chains this role may show. Trying again is the caller's.
    pub fn connect(path: PathBuf) -> Result<Arc<Self>, KeysError> {
        let link = Arc::new(Link::new(path));
        let keys = Self { server: Arc::new(Slot::new(Purpose::Server, &link)), client: Arc::new(Slot::new(Purpose::Client, &link)), link };
        let server = match keys.server.refresh() {
            Err(error @ KeysError::Refused(_)) => Err(error), // this is not the front, then
            Err(error) => return Err(error),
            Ok(()) => Ok(()),
        };
        match (server, keys.client.refresh()) {
            (Ok(()), _) | (_, Ok(())) => Ok(Arc::new(keys)),
            // The queue of a site without a client certificate.
            (_, Err(KeysError::Refused(Reason::Unknown))) => Ok(Arc::new(keys)),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// What a TLS server shows and signs with (the front).
    pub fn server_certs(self: &Arc<Self>) -> Arc<dyn ResolvesServerCert> {
        Arc::new(ServerCerts(Arc::clone(self)))
    }

    /// What a TLS client shows when a smart host asks (the queue). Signs TLS 1.3 only: a host that
    /// speaks nothing newer than 1.2 is not shown it.
    pub fn client_certs(self: &Arc<Self>) -> Arc<dyn ResolvesClientCert> {
        Arc::new(ClientCerts(Arc::clone(self)))
    }

    /// A smart host's secret, by the name it has in the configuration (the queue).
    pub async fn secret(&self, name: &str) -> Result<Zeroizing<String>, KeysError> {
        let link = Arc::clone(&self.link);
        let question = Question::Secret(name.to_owned());
        match tokio::task::spawn_blocking(move || link.ask(&question)).await {
            Ok(Ok(Answer::Secret(secret))) => Ok(secret),
            Ok(other) => Err(not_that(other)),
            Err(_) => Err(KeysError::GivenUp),
        }
    }
}

/// The error for an answer that is not the kind asked for.
fn not_that(answer: Result<Answer, KeysError>) -> KeysError {
    match answer {
        Err(error) => error,
        Ok(Answer::Refused(reason)) => reason.into(),
        Ok(Answer::Description(_) | Answer::Signature { .. } | Answer::Secret(_)) => {
            KeysError::Nonsense("the answer to another question".into())
        }
    }
}

#[derive(Debug)]
struct ServerCerts(Arc<Keys>);

impl ResolvesServerCert for ServerCerts {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.server.certified()
    }
}

#[derive(Debug)]
struct ClientCerts(Arc<Keys>);

impl ResolvesClientCert for ClientCerts {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.client.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.client.certified().is_some()
    }
}

/// The chain of one purpose, as last heard.
#[derive(Debug)]
struct Slot {
    purpose: Purpose,
    link: Arc<Link>,
    heard: ArcSwapOption<(Generation, Arc<CertifiedKey>)>,
    asking: AtomicBool,
    started: Instant,
    /// When the chain was last confirmed, in milliseconds since `started`.
    confirmed: AtomicU64,
    /// When the log last had that it could not be confirmed, on the same clock; 0 means never.
    said: AtomicU64,
}

impl Slot {
    fn new(purpose: Purpose, link: &Arc<Link>) -> Self {
        Self {
            purpose,
            link: Arc::clone(link),
            heard: ArcSwapOption::empty(),
            asking: AtomicBool::new(false),
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
            said: AtomicU64::new(0),
        }
    }

    /// The chain to show now. After a quiet time it is asked for first: its key may have been replaced.
    fn certified(self: &Arc<Self>) -> Option<Arc<CertifiedKey>> {
        let age = self.now().saturating_sub(self.confirmed.load(Ordering::Relaxed));
        if u128::from(age) > FRESH.as_millis() && !self.asking.swap(true, Ordering::Acquire) {
            let told = self.refresh();
            self.asking.store(false, Ordering::Release);
            if let Err(error) = told {
                // What is known may still sign; if not, the handshake fails and says why.
                self.unconfirmed(&error);
            }
        }
        self.heard.load().as_ref().map(|heard| Arc::clone(&heard.1))
    }

    /// Asks for the chain and puts it in place.
    fn refresh(self: &Arc<Self>) -> Result<(), KeysError> {
        let described = match self.link.ask(&Question::Describe(self.purpose)) {
            Ok(Answer::Description(description)) => description,
            Ok(Answer::Refused(reason)) => {
                self.confirm(); // there is none, and that is an answer
                self.heard.store(None);
                return Err(reason.into());
            }
            other => return Err(not_that(other)),
        };
        let known = self.heard.load().as_ref().is_some_and(|heard| heard.0 == described.generation);
        if !known {
            let generation = described.generation;
            let certified = self.remote(described)?;
            self.heard.store(Some(Arc::new((generation, Arc::new(certified)))));
        }
        self.confirm();
        Ok(())
    }

    fn remote(self: &Arc<Self>, described: Description) -> Result<CertifiedKey, KeysError> {
        let Description { generation, schemes, chain } = described;
        let algorithm =
            schemes.first().map(|scheme| algorithm_of(*scheme)).ok_or_else(|| KeysError::Nonsense("a key without schemes".into()))?;
        let key = RemoteKey { link: Arc::clone(&self.link), slot: Arc::downgrade(self), purpose: self.purpose, generation };
        Ok(CertifiedKey::new(chain, Arc::new(RemoteSigningKey { key, schemes, algorithm })))
    }

    /// The keys were replaced: learns the new chain beside the work in hand.
    fn refresh_aside(self: Arc<Self>) {
        if self.asking.swap(true, Ordering::Acquire) {
            return;
        }
        let work = move || {
            if let Err(error) = self.refresh() {
                self.unconfirmed(&error);
            }
            self.asking.store(false, Ordering::Release);
        };
        match Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(work)),
            Err(_) => work(),
        }
    }

    /// Whoever shakes hands causes this, so it is said now and then only.
    fn unconfirmed(&self, error: &KeysError) {
        let (now, said) = (self.now(), self.said.load(Ordering::Relaxed));
        if said == 0 || u128::from(now.saturating_sub(said)) > SAY_AGAIN.as_millis() {
            self.said.store(now.max(1), Ordering::Relaxed);
            tracing::warn!(event = "keys_unconfirmed", error = %error);
        }
    }

    fn confirm(&self) {
        self.confirmed.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where one key is, and which of the sets it belongs to.
#[derive(Debug, Clone)]
struct RemoteKey {
    link: Arc<Link>,
    slot: Weak<Slot>,
    purpose: Purpose,
    generation: Generation,
}

impl RemoteKey {
    fn sign(&self, scheme: SignatureScheme, text: &[u8]) -> Result<Vec<u8>, KeysError> {
        if text.len() > LONGEST_TEXT {
            return Err(Reason::Unrecognised.into()); // a client's TLS 1.2 text is the whole handshake
        }
        let question = Question::Sign { purpose: self.purpose, generation: self.generation, scheme, text: text.to_vec() };
        match self.link.ask(&question) {
            Ok(Answer::Signature { current, signature }) => {
                if current != self.generation {
                    self.learn();
                }
                Ok(signature)
            }
            Ok(Answer::Refused(Reason::Stale)) => {
                self.learn();
                Err(Reason::Stale.into())
            }
            other => Err(not_that(other)),
        }
    }

    fn learn(&self) {
        if let Some(slot) = self.slot.upgrade() {
            slot.refresh_aside();
        }
    }
}

/// The key as rustls knows it.
#[derive(Debug)]
struct RemoteSigningKey {
    key: RemoteKey,
    schemes: Vec<SignatureScheme>,
    algorithm: SignatureAlgorithm,
}

impl SigningKey for RemoteSigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(RemoteSigner { key: self.key.clone(), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

/// One signature of a key, in the scheme agreed on.
#[derive(Debug)]
struct RemoteSigner {
    key: RemoteKey,
    scheme: SignatureScheme,
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key.sign(self.scheme, message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

fn algorithm_of(scheme: SignatureScheme) -> SignatureAlgorithm {
    match scheme {
        SignatureScheme::ED25519 => SignatureAlgorithm::ED25519,
        SignatureScheme::ECDSA_NISTP256_SHA256 | SignatureScheme::ECDSA_NISTP384_SHA384 | SignatureScheme::ECDSA_NISTP521_SHA512 => {
            SignatureAlgorithm::ECDSA
        }
        _ => SignatureAlgorithm::RSA,
    }
}
