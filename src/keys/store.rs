//! The set of certificates, keys and secrets in use, as read from the directory under the law.
//!
//! Invariant: a [`Store`] exists only when the law held for every file of it, each key fits its certificate, and
//! each secret is one line. What is merely unwise (a name, a date) is a [`Notice`] and does not stop anybody.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs::sign::any_supported_type,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{
    law::{Breach, Law, LawfulFile},
    notices::{self, Notice},
};

/// A chain has a handful of certificates of a few KiB; this is generous.
const LONGEST_PEM: usize = 256 * 1024;
/// A password or token.
const LONGEST_SECRET: usize = 4096;
/// More certificates than this are not a chain.
const LONGEST_CHAIN: usize = 16;

/// Which files of the certificate directory are in use. Names are relative to it.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub directory: PathBuf,
    pub server: PairFiles,
    pub client: Option<PairFiles>,
    /// Secrets of smart hosts: the only names the queue may ask for.
    pub secrets: Vec<String>,
    /// The name that mail clients connect to.
    pub hostname: String,
    pub law: Law,
}

/// A certificate chain and its key.
#[derive(Debug, Clone)]
pub struct PairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Everything wrong with a set of files.
#[derive(Debug, thiserror::Error)]
pub struct StoreError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// One thing that makes a set of files unusable.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Breach(Breach),
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: no certificate in it; wanted: PEM, the server's own first, then those that vouch for it")]
    NoCertificate { path: PathBuf },
    #[error("{path}: not a chain: {reason}")]
    BadChain { path: PathBuf, reason: String },
    #[error("{path}: no private key in it; wanted: an unencrypted PEM key (PKCS#8, SEC1 or PKCS#1)")]
    NoKey { path: PathBuf },
    #[error("{path}: a key that cannot be used: {reason}; wanted: ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")]
    BadKey { path: PathBuf, reason: String },
    #[error(
        "{key} is not the key of the first certificate in {certificate}; compare: openssl x509 -pubkey -noout -in {certificate}; openssl pkey -pubout -in {key}"
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("{path}: not a secret: {reason}; wanted: one line of text")]
    BadSecret { path: PathBuf, reason: &'static str },
}

/// The sets in use.
pub struct Store {
    pub server: Identity,
    pub client: Option<Identity>,
    secrets: BTreeMap<String, Zeroizing<String>>,
    hostname: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("server", &self.server).field("client", &self.client).finish_non_exhaustive()
    }
}

/// Names a chain by its content, so that a key process that restarts with the same files is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub u64);

/// A chain and the key it speaks for.
#[derive(Clone)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub schemes: Vec<SignatureScheme>,
    pub generation: Generation,
    /// The file the chain was in.
    pub certificate: PathBuf,
    key: Arc<dyn SigningKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Identity {
    /// Signs; the caller has recognised the text.
    pub(super) fn sign(&self, scheme: SignatureScheme, text: &[u8]) -> Option<Vec<u8>> {
        self.key.choose_scheme(&[scheme])?.sign(text).ok()
    }
}

impl Store {
    /// Reads everything, or says everything that is wrong.
    pub fn load(settings: &StoreSettings) -> Result<Self, StoreError> {
        let mut names = vec![settings.server.certificate.as_path(), settings.server.key.as_path()];
        if let Some(client) = &settings.client {
            names.extend([client.certificate.as_path(), client.key.as_path()]);
        }
        names.extend(settings.secrets.iter().map(Path::new));
        let files = settings
            .law
            .open(&settings.directory, &names)
            .map_err(|breaches| StoreError { problems: breaches.into_iter().map(Problem::Breach).collect() })?;
        Self::read(settings, files)
    }

    fn read(settings: &StoreSettings, files: Vec<LawfulFile>) -> Result<Self, StoreError> {
        let mut problems = Vec::new();
        let mut files = files.into_iter();

        let server = identity(&mut files, &mut problems);
        let client = settings.client.as_ref().and_then(|_| identity(&mut files, &mut problems));
        let mut secrets = BTreeMap::new();
        for (name, file) in settings.secrets.iter().zip(files) {
            match secret(file) {
                Ok(text) => {
                    secrets.insert(name.clone(), text);
                }
                Err(problem) => problems.push(problem),
            }
        }

        match server {
            Some(server) if problems.is_empty() => Ok(Self { server, client, secrets, hostname: settings.hostname.clone() }),
            Some(_) | None => Err(StoreError { problems }),
        }
    }

    /// What is unwise but not wrong, at that time.
    pub fn notices(&self, now: SystemTime) -> Vec<Notice> {
        let about = |identity: &Identity, hostname| notices::about(&identity.certificate, &identity.chain, hostname, now);
        let mut found = about(&self.server, Some(self.hostname.as_str()));
        found.extend(self.client.iter().flat_map(|client| about(client, None)));
        found
    }

    /// The secret of that name, when the configuration uses one.
    pub(super) fn secret(&self, name: &str) -> Option<&str> {
        self.secrets.get(name).map(|text| text.as_str())
    }
}

/// Takes the next two files as chain and key.
fn identity(files: &mut impl Iterator<Item = LawfulFile>, problems: &mut Vec<Problem>) -> Option<Identity> {
    let (chain_file, key_file) = (files.next()?, files.next()?);
    let certificate = chain_file.path().to_path_buf();
    let key_path = key_file.path().to_path_buf();

    let chain = chain(chain_file);
    let key = key(key_file);
    let (chain, key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => {
            problems.extend(chain.err());
            problems.extend(key.err());
            return None;
        }
    };
    let certified = CertifiedKey::new(chain, key);
    if let Err(error) = certified.keys_match() {
        problems.push(match error {
            rustls::Error::InconsistentKeys(_) => Problem::Mismatch { certificate, key: key_path },
            other => Problem::BadChain { path: certificate, reason: other.to_string() },
        });
        return None;
    }
    let CertifiedKey { cert: chain, key, .. } = certified;
    let schemes = schemes_of(key.as_ref());
    let generation = Generation::of(&chain);
    Some(Identity { chain, schemes, generation, certificate, key })
}

fn chain(file: LawfulFile) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let path = file.path().to_path_buf();
    let pem = file.read(LONGEST_PEM).map_err(|source| Problem::Read { path: path.clone(), source })?;
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        match certificate {
            Ok(certificate) => chain.push(certificate),
            Err(error) => return Err(Problem::BadChain { path, reason: error.to_string() }),
        }
        if chain.len() > LONGEST_CHAIN {
            return Err(Problem::BadChain { path, reason: format!("more than {LONGEST_CHAIN} certificates") });
        }
    }
    if chain.is_empty() { Err(Problem::NoCertificate { path }) } else { Ok(chain) }
}

fn key(file: LawfulFile) -> Result<Arc<dyn SigningKey>, Problem> {
    let path = file.path().to_path_buf();
    let pem = file.read(LONGEST_PEM).map_err(|source| Problem::Read { path: path.clone(), source })?;
    let der = match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(der) => Zeroizing::new(der),
        Err(rustls_pki_types::pem::Error::NoItemsFound) => return Err(Problem::NoKey { path }),
        Err(error) => return Err(Problem::BadKey { path, reason: error.to_string() }),
    };
    any_supported_type(&der).map_err(|error| Problem::BadKey { path, reason: error.to_string() })
}

fn secret(file: LawfulFile) -> Result<Zeroizing<String>, Problem> {
    let path = file.path().to_path_buf();
    let bytes = file.read(LONGEST_SECRET).map_err(|source| Problem::Read { path: path.clone(), source })?;
    let bad = |reason| Problem::BadSecret { path: path.clone(), reason };
    let text = std::str::from_utf8(&bytes).map_err(|_| bad("not UTF-8"))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(bad("empty"));
    }
    if line.contains(['\n', '\r', '\0']) {
        return Err(bad("more than one line, or a NUL"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Every scheme the key can sign with, by asking it.
fn schemes_of(key: &dyn SigningKey) -> Vec<SignatureScheme> {
    [
        SignatureScheme::ED25519,
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA512,
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::RSA_PKCS1_SHA384,
        SignatureScheme::RSA_PKCS1_SHA512,
    ]
    .into_iter()
    .filter(|scheme| key.choose_scheme(&[*scheme]).is_some())
    .collect()
}

impl Generation {
    fn of(chain: &[CertificateDer<'_>]) -> Self {
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for certificate in chain {
            let length = u64::try_from(certificate.len()).unwrap_or(u64::MAX);
            hash.update(&length.to_be_bytes());
            hash.update(certificate);
        }
        let digest = hash.finish();
        let head = digest.as_ref().first_chunk::<8>().copied().expect("SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(head))
    }
}
