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
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
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
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| TrustError::Pem { path: path.clone(), reason: error.to_string() })?;
                }
            }
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = fs::read(path).map_err(|source| TrustError::Read { path: path.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| TrustError::Pem { path: path.to_owned(), reason: error.to_string() })?;
    if found.is_empty() { Err(TrustError::Empty { path: path.to_owned() }) } else { Ok(found) }
}

/// Both ways to be a TLS client.
#[derive(Clone)]
pub(crate) struct TlsClients {
    pub(crate) verified: TlsConnector,
    pub(crate) unverified: TlsConnector,
}

impl TlsClients {
    pub(crate) fn new(roots: Arc<RootCertStore>, client_certificate: Option<Arc<dyn ResolvesClientCert>>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        };
        let mut verified = builder().with_root_certificates(roots).with_no_client_auth();
        let anyone = Arc::new(Anyone { provider: provider.clone() });
        let mut unverified = builder().dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
        if let Some(resolver) = client_certificate {
            verified.client_auth_cert_resolver = resolver.clone();
            unverified.client_auth_cert_resolver = resolver;
        }
        Self { verified: TlsConnector::from(Arc::new(verified)), unverified: TlsConnector::from(Arc::new(unverified)) }
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
