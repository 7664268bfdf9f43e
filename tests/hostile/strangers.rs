//! Those who connect and never log in: what they can make a whole relay do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, Socket, Type};

use crate::support::relay::Relay;

/// A handshake whose ClientHello has an extension of about `octets`.
fn handshake(relay: &Relay, octets: usize) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(relay.authority()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![vec![b'x'; 199]; octets / 200];
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("mail.example").unwrap()).unwrap();
    let mut socket = TcpStream::connect(relay.address(true))?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(())
}

#[test]
fn a_client_hello_may_have_16_kib_and_no_more() {
    let relay = Relay::start();

    assert!(handshake(&relay, 15_000).is_ok());
    for octets in [17_000, 40_000, 60_000] {
        assert!(handshake(&relay, octets).is_err(), "{octets}");
    }
    assert!(handshake(&relay, 0).is_ok());
}

#[test]
fn a_client_hello_that_was_announced_as_long_is_not_waited_for() {
    let relay = Relay::start();
    let mut socket = TcpStream::connect(relay.address(true)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();

    // Records of a handshake message of 60,000 octets; only the first 20,000 come.
    let mut octets = Vec::new();
    for record in 0..20 {
        octets.extend_from_slice(&[22, 3, 1, 3, 232]);
        octets.extend(if record == 0 { [1, 0, 234, 96].into_iter().chain(std::iter::repeat_n(0, 996)).collect() } else { vec![0; 1000] });
    }
    let _ = socket.write_all(&octets);

    // A reset is an end too. What would fail here is the time-out of the read.
    let ended = socket.read(&mut [0; 64]);
    assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{ended:?}");
}

/// The first line that a client from this address hears.
fn greeting(from: [u8; 4], to: SocketAddr) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.connect(&to.into()).unwrap();
    let mut heard = [0; 200];
    let count = TcpStream::from(socket).read(&mut heard).unwrap_or(0);
    String::from_utf8_lossy(&heard[..count]).into_owned()
}

#[test]
fn a_flood_of_connections_from_one_network_is_held_off_and_others_are_served() {
    let relay = Relay::start();
    let to = relay.address(false);
    let held_off = AtomicBool::new(false);

    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    if held_off.load(Ordering::Relaxed) {
                        return;
                    }
                    // Eight at a time are far fewer than the sessions that may be open at once.
                    if greeting([127, 0, 0, 1], to).starts_with("421 4.7.0") {
                        held_off.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });

    assert!(held_off.load(Ordering::Relaxed));
    assert!(greeting([127, 0, 0, 2], to).starts_with("220 "));
}
