//! Real handshakes through a key on the other side of a real socket.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pamrelay::keys::{
    client::{Keys, KeysError},
    ring::Ring,
    server::{Server, Users, bind},
    signer::Purpose,
    store::{Generation, PairFiles, Store, StoreSettings},
    wire::{Answer, Question, Reason},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::pki::{self, HOST};

/// A uid nobody here has.
const NOBODY_HERE: u32 = 54_321;

/// A key process inside this one: store, ring, server, socket.
struct KeyProcess {
    _root: tempfile::TempDir,
    directory: PathBuf,
    socket: PathBuf,
    settings: StoreSettings,
    ring: Arc<Ring>,
}

/// Whom the test plays towards it.
#[derive(Clone, Copy)]
enum As {
    Front,
    Queue,
    Stranger,
}

impl KeyProcess {
    fn with(files: impl FnOnce(&Path) -> StoreSettings, asker: As) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("certs");
        pki::directory(&directory);
        let settings = files(&directory);
        let ring = Ring::new(Store::load(&settings).unwrap());
        let me = nix::unistd::geteuid().as_raw();
        let users = match asker {
            As::Front => Users { front: me, queue: NOBODY_HERE },
            As::Queue => Users { front: NOBODY_HERE, queue: me },
            As::Stranger => Users { front: NOBODY_HERE, queue: NOBODY_HERE },
        };
        let socket = root.path().join("keys");
        let listener = bind(&socket).unwrap();
        let server = Server::new(Arc::clone(&ring), users);
        std::thread::spawn(move || server.serve(&listener));
        Self { _root: root, directory, socket, settings, ring }
    }

    fn for_front(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        Self::with(
            |directory| {
                pki::pair(directory, "server", HOST, algorithm);
                pki::settings(directory)
            },
            As::Front,
        )
    }

    /// Server and client keys, and one secret, asked for by the queue.
    fn for_queue() -> Self {
        Self::with(
            |directory| {
                pki::pair(directory, "server", HOST, &rcgen::PKCS_ECDSA_P256_SHA256);
                pki::pair(directory, "client", HOST, &rcgen::PKCS_ECDSA_P256_SHA256);
                pki::file(&directory.join("relay.secret"), "s3cret\n");
                let mut settings = pki::settings(directory);
                settings.client = Some(PairFiles { certificate: "client.crt".into(), key: "client.key".into() });
                settings.secrets = vec!["relay.secret".into()];
                settings
            },
            As::Queue,
        )
    }

    fn keys(&self) -> Arc<Keys> {
        Keys::connect(self.socket.clone()).unwrap()
    }

    fn trust(&self, file: &str) -> RootCertStore {
        trust(&self.directory.join(file))
    }

    fn ask(&self, question: &Question) -> Option<Answer> {
        ask(&mut UnixStream::connect(&self.socket).unwrap(), &question.encode())
    }
}

fn trust(file: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

/// Sends bytes as they are; `None` when the other side hung up instead of answering.
fn ask(stream: &mut UnixStream, frame: &[u8]) -> Option<Answer> {
    stream.write_all(frame).ok()?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).ok()?;
    let (kind, length) = Answer::head(head).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Some(Answer::decode(kind, &body).unwrap())
}

fn server_side(keys: &Arc<Keys>) -> Arc<ServerConfig> {
    Arc::new(ServerConfig::builder().with_no_client_auth().with_cert_resolver(keys.server_certs()))
}

fn client_side(roots: RootCertStore, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    Arc::new(ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots).with_no_client_auth())
}

/// One handshake and one word each way, over memory.
async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> std::io::Result<()> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let serving = tokio::spawn(async move {
        let mut tls = tokio_rustls::TlsAcceptor::from(server).accept(far).await?;
        let mut word = [0; 4];
        tls.read_exact(&mut word).await?;
        tls.write_all(&word).await?;
        tls.flush().await
    });
    let name = ServerName::try_from(HOST).unwrap();
    let said = async {
        let mut tls = tokio_rustls::TlsConnector::from(client).connect(name, near).await?;
        tls.write_all(b"word").await?;
        tls.flush().await?;
        let mut word = [0; 4];
        tls.read_exact(&mut word).await?;
        assert_eq!(&word, b"word");
        Ok(())
    }
    .await;
    match serving.await.unwrap() {
        Ok(()) => said,
        Err(error) => Err(error),
    }
}

async fn both_versions(process: &KeyProcess, roots: impl Fn() -> RootCertStore) {
    let keys = process.keys();
    for version in [&TLS13, &TLS12] {
        for _ in 0..3 {
            shake(server_side(&keys), client_side(roots(), version)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ecdsa_keys_sign_from_afar_in_tls_1_2_and_1_3() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let process = KeyProcess::for_front(algorithm);
        both_versions(&process, || process.trust("server.crt")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ed25519_key_signs_from_afar_in_tls_1_2_and_1_3() {
    let process = KeyProcess::for_front(&rcgen::PKCS_ED25519);
    both_versions(&process, || process.trust("server.crt")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_rsa_key_of_the_test_pki_signs_from_afar_in_tls_1_2_and_1_3() {
    let process = KeyProcess::with(
        |directory| {
            pki::rsa(directory, HOST);
            pki::settings(directory)
        },
        As::Front,
    );
    both_versions(&process, || process.trust("ca.crt")).await;
}

#[tokio::test]
async fn it_works_on_a_runtime_of_one_thread_too() {
    let process = KeyProcess::for_front(&rcgen::PKCS_ECDSA_P256_SHA256);
    both_versions(&process, || process.trust("server.crt")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_certificate_is_shown_soon_and_the_old_one_signs_meanwhile() {
    let process = KeyProcess::for_front(&rcgen::PKCS_ECDSA_P256_SHA256);
    let keys = process.keys();
    let old_roots = process.trust("server.crt");
    pki::pair(&process.directory, "server", HOST, &rcgen::PKCS_ECDSA_P256_SHA256);
    pamrelay::keys::reload(&process.ring, &process.settings);
    let new_roots = process.trust("server.crt");

    // The front has the old chain in hand: its key still signs, and the answer tells of the new one.
    shake(server_side(&keys), client_side(old_roots.clone(), &TLS13)).await.unwrap();

    let mut seen_new = false;
    for _ in 0..100 {
        if shake(server_side(&keys), client_side(new_roots.clone(), &TLS13)).await.is_ok() {
            seen_new = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen_new);
    assert!(shake(server_side(&keys), client_side(old_roots, &TLS13)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_to_a_smart_host_that_asks() {
    let process = KeyProcess::for_queue();
    let keys = process.keys();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(process.trust("client.crt"))).build().unwrap();
    let host = rcgen::generate_simple_self_signed(vec![HOST.into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(host.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(vec![host.cert.der().clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(host.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .with_root_certificates(roots)
        .with_client_cert_resolver(keys.client_certs());

    shake(Arc::new(server), Arc::new(client)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_goes_to_the_queue_and_only_those_configured() {
    let process = KeyProcess::for_queue();
    let keys = process.keys();

    assert_eq!(keys.secret("relay.secret").await.unwrap().as_str(), "s3cret");
    for name in ["server.key", "client.key", "other", "", "../relay.secret"] {
        assert!(matches!(keys.secret(name).await, Err(KeysError::Refused(Reason::Unknown))), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_gets_no_secret_and_no_client_signature() {
    let process = KeyProcess::for_front(&rcgen::PKCS_ECDSA_P256_SHA256);

    let answer = process.ask(&Question::Secret("relay.secret".into()));
    assert_eq!(answer, Some(Answer::Refused(Reason::NotPermitted)));
    let answer = process.ask(&Question::Describe(Purpose::Client));
    assert_eq!(answer, Some(Answer::Refused(Reason::NotPermitted)));
    let question = Question::Sign {
        purpose: Purpose::Client,
        generation: Generation(0),
        scheme: SignatureScheme::ECDSA_NISTP256_SHA256,
        text: verify_text(),
    };
    assert_eq!(process.ask(&question), Some(Answer::Refused(Reason::NotPermitted)));
    assert!(matches!(process.keys().secret("relay.secret").await, Err(KeysError::Refused(Reason::NotPermitted))));
}

fn verify_text() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat()
}

#[test]
fn a_captured_front_end_gets_no_signature_under_anything_but_a_handshake() {
    let process = KeyProcess::for_front(&rcgen::PKCS_ECDSA_P256_SHA256);
    let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    let generation = process.ring.generation();
    let sign = |scheme, generation, text| process.ask(&Question::Sign { purpose: Purpose::Server, generation, scheme, text });

    assert!(matches!(sign(scheme, generation, verify_text()), Some(Answer::Signature { .. })));
    let client_text = [&[b' '; 64][..], b"TLS 1.3, client CertificateVerify\0", &[7; 32]].concat();
    for text in [Vec::new(), b"a contract".to_vec(), vec![0; 98], vec![b' '; 130], vec![1; 256], client_text] {
        assert_eq!(sign(scheme, generation, text), Some(Answer::Refused(Reason::Unrecognised)));
    }
    assert_eq!(sign(SignatureScheme::RSA_PKCS1_SHA256, generation, verify_text()), Some(Answer::Refused(Reason::Unrecognised)));
    assert_eq!(sign(SignatureScheme::ED25519, generation, verify_text()), Some(Answer::Refused(Reason::Failed)));
    assert_eq!(sign(scheme, Generation(1), verify_text()), Some(Answer::Refused(Reason::Stale)));
}

#[test]
fn a_peer_that_sends_no_question_is_dropped() {
    let process = KeyProcess::for_front(&rcgen::PKCS_ECDSA_P256_SHA256);
    let describe = Question::Describe(Purpose::Server).encode();
    let refused = Question::Secret("x".into()).encode();

    for bytes in [&b"\x09\x00\x00"[..], b"GET / HTTP/1.1\r\n\r\n", &[1, 0, 2, 1, 1], &[2, 255, 255], &[0; 300]] {
        let mut stream = UnixStream::connect(&process.socket).unwrap();
        assert_eq!(ask(&mut stream, bytes), None, "{bytes:?}");
    }
    let mut stream = UnixStream::connect(&process.socket).unwrap();
    let doubled = [&describe[..], &describe[..]].concat();
    assert_eq!(ask(&mut stream, &doubled), None);

    // A half question is waited for, but not long.
    let mut stream = UnixStream::connect(&process.socket).unwrap();
    stream.write_all(&describe[..2]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);

    // After a question that is not its own, the peer gets an answer and no second question.
    let mut stream = UnixStream::connect(&process.socket).unwrap();
    assert_eq!(ask(&mut stream, &refused), Some(Answer::Refused(Reason::NotPermitted)));
    assert_eq!(ask(&mut stream, &describe), None);
}

#[test]
fn strangers_get_nothing_and_root_only_what_is_public() {
    let process = KeyProcess::with(
        |directory| {
            pki::pair(directory, "server", HOST, &rcgen::PKCS_ECDSA_P256_SHA256);
            pki::settings(directory)
        },
        As::Stranger,
    );
    let described = process.ask(&Question::Describe(Purpose::Server));
    let signed = process.ask(&Question::Sign {
        purpose: Purpose::Server,
        generation: process.ring.generation(),
        scheme: SignatureScheme::ECDSA_NISTP256_SHA256,
        text: verify_text(),
    });

    if nix::unistd::geteuid().is_root() {
        assert!(matches!(described, Some(Answer::Description(_))));
        assert_eq!(signed, Some(Answer::Refused(Reason::NotPermitted)));
    } else {
        assert_eq!((described, signed), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_key_process_is_found_again_without_a_lost_handshake() {
    let process = KeyProcess::for_front(&rcgen::PKCS_ECDSA_P256_SHA256);
    let keys = process.keys();
    let roots = process.trust("server.crt");
    shake(server_side(&keys), client_side(roots.clone(), &TLS13)).await.unwrap();

    // The connection in the pool leads to a socket whose other end is closed; a new listener has the same name.
    let second = process.socket.with_extension("second");
    let listener = bind(&second).unwrap();
    let server = Server::new(
        Ring::new(Store::load(&process.settings).unwrap()),
        Users { front: nix::unistd::geteuid().as_raw(), queue: NOBODY_HERE },
    );
    std::thread::spawn(move || server.serve(&listener));
    fs::rename(&second, &process.socket).unwrap();
    process.ring.forget(std::time::Instant::now());

    shake(server_side(&keys), client_side(roots, &TLS13)).await.unwrap();
}

#[test]
fn an_absent_or_silent_key_process_is_an_error_in_time() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("keys");
    assert!(matches!(Keys::connect(socket.clone()), Err(KeysError::Away { .. })));

    let _silent = UnixListener::bind(&socket).unwrap();
    let begun = std::time::Instant::now();
    assert!(matches!(Keys::connect(socket), Err(KeysError::Slow)));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}
