//! A client that says what it is told and complains in the words of the dialog.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(20);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Gone,
}

pub(crate) struct Client {
    stream: Stream,
    authority: CertificateDer<'static>,
    input: Vec<u8>,
    place: String,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr, authority: CertificateDer<'static>) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: Stream::Plain(socket), authority, input: Vec::new(), place: String::new() }
    }

    /// Where in which dialog we are, for complaints.
    pub(crate) fn at(&mut self, file: &Path, line: usize) {
        self.place = format!("{}:{line}", PathBuf::from(file.file_name().unwrap()).display());
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.send(format!("{line}\r\n").as_bytes());
    }

    pub(crate) fn send(&mut self, octets: &[u8]) {
        let sent = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(octets),
            Stream::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
            Stream::Gone => panic!("{}: the connection is closed", self.place),
        };
        // A relay that has already hung up is noticed when its last words are read.
        let _ = sent;
    }

    /// The next line is this; `...` at its end stands for anything.
    pub(crate) fn expect(&mut self, wanted: &str) {
        let line = self.line();
        assert!(matches(&line, wanted), "{}: wanted {wanted:?}, heard {line:?}", self.place);
    }

    pub(crate) fn skip_to(&mut self, wanted: &str) {
        for _ in 0..50 {
            if matches(&self.line(), wanted) {
                return;
            }
        }
        panic!("{}: no line like {wanted:?}", self.place);
    }

    pub(crate) fn secure(&mut self) {
        let Stream::Plain(socket) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            panic!("{}: not on a plain connection", self.place);
        };
        assert!(self.input.is_empty(), "{}: surplus before the handshake: {:?}", self.place, String::from_utf8_lossy(&self.input));
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("mail.example").unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        stream.conn.complete_io(&mut stream.sock).unwrap_or_else(|error| panic!("{}: no handshake: {error}", self.place));
        self.stream = Stream::Tls(Box::new(stream));
    }

    /// Greeting, EHLO, STARTTLS, handshake, EHLO.
    pub(crate) fn enter_tls(&mut self) {
        self.expect("220 ...");
        self.say("EHLO client.example");
        self.skip_to("250 HELP");
        self.say("STARTTLS");
        self.expect("220 ...");
        self.secure();
        self.say("EHLO client.example");
        self.skip_to("250 HELP");
    }

    pub(crate) fn login(&mut self, user: &str) {
        let response = base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0secret"));
        self.say(&format!("AUTH PLAIN {response}"));
    }

    pub(crate) fn expect_closed(&mut self) {
        assert!(self.input.is_empty(), "{}: there is more: {:?}", self.place, String::from_utf8_lossy(&self.input));
        let mut octet = [0; 1];
        match self.read(&mut octet) {
            Ok(0) => {}
            Ok(_) => panic!("{}: wanted the end, heard more", self.place),
            Err(error) => {
                let ended = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
                assert!(ended, "{}: wanted the end: {error}", self.place);
            }
        }
    }

    /// A TLS alert (RFC 8446 §6) or nothing at all, then the end.
    pub(crate) fn expect_alert(&mut self) {
        let mut heard = Vec::new();
        let mut piece = [0; 512];
        while let Ok(count @ 1..) = self.read(&mut piece) {
            heard.extend_from_slice(&piece[..count]);
        }
        assert!(heard.is_empty() || heard[0] == 21, "{}: wanted an alert, heard {:?}", self.place, String::from_utf8_lossy(&heard));
    }

    pub(crate) fn hang_up(&mut self) {
        self.stream = Stream::Gone;
    }

    pub(crate) fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            let mut piece = [0; 4096];
            match self.read(&mut piece) {
                Ok(0) => panic!("{}: the relay closed the connection", self.place),
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) => panic!("{}: nothing heard: {error}", self.place),
            }
        }
    }

    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.read(piece),
            Stream::Tls(stream) => stream.read(piece),
            Stream::Gone => Ok(0),
        }
    }
}

fn matches(line: &str, wanted: &str) -> bool {
    match wanted.strip_suffix("...") {
        Some(start) => line.starts_with(start),
        None => line == wanted,
    }
}
