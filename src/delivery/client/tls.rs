//! TLS towards other servers: one configuration that asks who they are, one that does not.
//!
//! `required` means: a certificate from the trust store for exactly the configured name. `opportunistic` encrypts against
//! listeners and proves nothing, so it never refuses a certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

/// Which authorities are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The system's store.
    System,
    /// The certificates in this PEM file and no others.
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("cannot read the trusted certificates in {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a PEM file of certificates: {reason}")]
    Pem { path: PathBuf, reason: String },
    #[error("{path} has no certificate in it")]
    Empty { path: PathBuf },
}

impl Trust {
    /// Reads the authorities: at start, before the sandbox closes. The system's store may be empty; then no host can be verified.
    pub fn load(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        match self {
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                for error in &found.errors {
                    tracing::warn!(event = "trust_store", error = %error);
                }
                roots.add_parsable_certificates(found.certs);
            }
            Self::File(path) => {
                let text = fs::read(path).map_err(|source| TrustError::Read { path: path.clone(), source })?;
                return self.parse(&text);
            }
        }
        Ok(roots)
    }

    /// The authorities in what the file says now, where somebody else has read it.
    pub fn parse(&self, text: &[u8]) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        match self {
            Self::System => {}
            Self::File(path) => {
                for certificate in certificates(path, text)? {
                    roots.add(certificate).map_err(|error| TrustError::Pem { path: path.clone(), reason: error.to_string() })?;
                }
            }
        }
        Ok(roots)
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| TrustError::Pem { path: path.to_owned(), reason: error.to_string() })?;
    if found.is_empty() { Err(TrustError::Empty { path: path.to_owned() }) } else { Ok(found) }
}

/// The ways to be a TLS client.
#[derive(Clone)]
pub(crate) struct TlsClients {
    plain: Connectors,
    /// Where there is a client certificate.
    certified: Option<Connectors>,
}

#[derive(Clone)]
struct Connectors {
    verified: TlsConnector,
    unverified: TlsConnector,
}

/// What a server that asks for our certificate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    Certificate,
    Nothing,
}

impl TlsClients {
    pub(crate) fn new(roots: Arc<RootCertStore>, client_certificate: Option<Arc<dyn ResolvesClientCert>>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        };
        let anyone = Arc::new(Anyone { provider: provider.clone() });
        let connectors = |certificate: Option<Arc<dyn ResolvesClientCert>>| {
            let mut verified = builder().with_root_certificates(roots.clone()).with_no_client_auth();
            let mut unverified = builder().dangerous().with_custom_certificate_verifier(anyone.clone()).with_no_client_auth();
            if let Some(resolver) = certificate {
                verified.client_auth_cert_resolver = resolver.clone();
                unverified.client_auth_cert_resolver = resolver;
            }
            Connectors { verified: TlsConnector::from(Arc::new(verified)), unverified: TlsConnector::from(Arc::new(unverified)) }
        };
        let certified = client_certificate.map(|inner| connectors(Some(Arc::new(Modern(inner)))));
        Self { plain: connectors(None), certified }
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.certified.is_some()
    }

    pub(crate) fn connector(&self, verified: bool, shows: Shows) -> &TlsConnector {
        let connectors = match shows {
            Shows::Certificate => self.certified.as_ref().unwrap_or(&self.plain),
            Shows::Nothing => &self.plain,
        };
        if verified { &connectors.verified } else { &connectors.unverified }
    }
}

/// TLS 1.2 has no text of its own for a client's proof (it signs the whole handshake), so the key process signs none. Which version a server takes
/// is known only when that signature is wanted; then this says so, and the connection is made again without the certificate.
#[derive(Debug, thiserror::Error)]
#[error("in TLS 1.2 no client certificate is shown")]
struct TooOld;

/// Whether a handshake failed for nothing but that.
pub(crate) fn is_too_old(error: &io::Error) -> bool {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::Other(other)) => other.0.is::<TooOld>(),
        Some(_) | None => false,
    }
}

#[derive(Debug)]
struct Modern(Arc<dyn ResolvesClientCert>);

impl ResolvesClientCert for Modern {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.resolve(hints, schemes)?;
        Some(Arc::new(CertifiedKey::new(shown.cert.clone(), Arc::new(ModernKey(shown.key.clone())))))
    }

    fn has_certs(&self) -> bool {
        self.0.has_certs()
    }
}

#[derive(Debug)]
struct ModernKey(Arc<dyn SigningKey>);

impl SigningKey for ModernKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(offered).map(|signer| Box::new(ModernSigner(signer)) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct ModernSigner(Box<dyn Signer>);

impl Signer for ModernSigner {
    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        // RFC 8446 §4.4.3: 64 blanks begin what TLS 1.3 signs; what 1.2 signs begins with a ClientHello.
        if text.starts_with(&[b' '; 64]) { self.0.sign(text) } else { Err(rustls::Error::Other(OtherError(Arc::new(TooOld)))) }
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

/// Takes every certificate, but still wants proof that the server holds its key.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trust_file_that_is_none_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        assert!(matches!(Trust::File(path.clone()).load(), Err(TrustError::Read { .. })));

        fs::write(&path, "nothing\n").unwrap();
        let error = Trust::File(path.clone()).load().unwrap_err();

        assert!(error.to_string().contains("ca.pem has no certificate"), "{error}");
    }

    #[test]
    fn a_trust_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let pair = rcgen::generate_simple_self_signed(vec!["x.example".to_owned()]).unwrap();
        fs::write(&path, pair.cert.pem()).unwrap();

        assert_eq!(Trust::File(path).load().unwrap().len(), 1);
    }
}
