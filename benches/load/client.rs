//! One submission session, as an ordinary client holds it: EHLO, STARTTLS, EHLO, AUTH PLAIN, messages, QUIT.
//!
//! Invariant: TLS sessions are never resumed, so every connection pays for a full handshake.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

use crate::message::Text;
use crate::sink::Report;
use crate::{Failure, Load};

/// What every session of a run shares.
pub(crate) struct Shared {
    pub(crate) load: Load,
    pub(crate) text: Text,
    tls: TlsConnector,
    server: ServerName<'static>,
}

impl Shared {
    pub(crate) fn new(load: Load) -> Result<Shared, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&load.ca)? {
            roots.add(certificate?)?;
        }
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Shared {
            text: Text::new(load.size),
            tls: TlsConnector::from(Arc::new(config)),
            server: ServerName::try_from(load.name.clone())?,
            load,
        })
    }

    /// AUTH PLAIN for login number `number`. Wrong passwords are all different: the same again would be no guess.
    fn auth_plain(&self, number: u64) -> String {
        let Load { user, password, users, wrong, .. } = &self.load;
        let user = if *users > 0 { format!("{user}{}", number % users) } else { user.clone() };
        let password = if *wrong { format!("{password} {number}") } else { password.clone() };
        format!("AUTH PLAIN {}\r\n", base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{password}")))
    }

    /// Connection number `number`.
    async fn connection(&self, number: u64) -> Result<TcpStream, Failure> {
        let socket = TcpSocket::new_v4()?;
        if let Some(first) = self.load.from {
            let place = u32::try_from(number % self.load.addresses.max(1))?;
            socket.bind((Ipv4Addr::from_bits(first.to_bits() + place), 0).into())?;
        }
        Ok(socket.connect(self.load.relay).await?)
    }
}

pub(crate) struct Session<'a> {
    shared: &'a Shared,
    stream: Replies<TlsStream<TcpStream>>,
    wire: Vec<u8>,
}

impl<'a> Session<'a> {
    /// Connects and secures, no further. The number says where it comes from.
    pub(crate) async fn secured(shared: &'a Shared, number: u64) -> Result<Session<'a>, Failure> {
        let stream = shared.connection(number).await?;
        stream.set_nodelay(true)?;
        let mut plain = Replies::new(stream);
        plain.expects(220, "connect").await?;
        plain.says(b"EHLO load.test\r\n", 250).await?;
        plain.says(b"STARTTLS\r\n", 220).await?;
        let stream = shared.tls.connect(shared.server.clone(), plain.stream).await?;
        let mut session = Session { shared, stream: Replies::new(stream), wire: Vec::new() };
        session.stream.says(b"EHLO load.test\r\n", 250).await?;
        Ok(session)
    }

    pub(crate) async fn logged_in(shared: &'a Shared, number: u64) -> Result<Session<'a>, Failure> {
        let mut session = Session::secured(shared, number).await?;
        match session.login(number).await? {
            (235, _) => Ok(session),
            (_, reply) => Err(reply.into()),
        }
    }

    /// The reply to a login: its code, and all of it.
    pub(crate) async fn login(&mut self, number: u64) -> Result<(u16, String), Failure> {
        self.stream.send(self.shared.auth_plain(number).as_bytes()).await?;
        self.stream.reply().await
    }

    /// One message; returns when the relay has answered for it.
    pub(crate) async fn sends(&mut self, number: u64) -> Result<(), Failure> {
        let opening: [(&[u8], u16); 3] =
            [(b"MAIL FROM:<load@relay.test>\r\n", 250), (b"RCPT TO:<someone@far.test>\r\n", 250), (b"DATA\r\n", 354)];
        if self.shared.load.classic {
            for (line, expected) in opening {
                self.stream.says(line, expected).await?;
            }
        } else {
            self.stream.send(&opening.map(|(line, _)| line).concat()).await?;
            for (_, expected) in opening {
                self.stream.expects(expected, "the opening").await?;
            }
        }
        self.wire.clear();
        self.shared.text.write(self.shared.load.run, number, &mut self.wire);
        self.stream.send(&self.wire).await?;
        self.stream.expects(250, "the final dot").await
    }

    pub(crate) async fn quit(mut self) -> Result<(), Failure> {
        self.stream.says(b"QUIT\r\n", 221).await
    }
}

/// Asks the sink what has arrived of this run.
pub(crate) async fn report(load: &Load) -> Result<Report, Failure> {
    let mut sink = Replies::new(TcpStream::connect(load.sink).await?);
    sink.expects(220, "connect").await?;
    sink.send(format!("XREPORT {}\r\n", load.run).as_bytes()).await?;
    let (_, text) = sink.reply().await?;
    Ok(serde_json::from_str(text.get(4..).unwrap_or(""))?)
}

/// A stream of numbered replies.
struct Replies<S> {
    stream: S,
    input: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Replies<S> {
    fn new(stream: S) -> Replies<S> {
        Replies { stream, input: Vec::with_capacity(1024) }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    async fn says(&mut self, line: &[u8], expected: u16) -> Result<(), Failure> {
        self.send(line).await?;
        self.expects(expected, &String::from_utf8_lossy(line.get(..4).unwrap_or(line))).await
    }

    async fn expects(&mut self, expected: u16, after: &str) -> Result<(), Failure> {
        let (code, text) = self.reply().await?;
        if code == expected { Ok(()) } else { Err(format!("after {after}: {text}").into()) }
    }

    /// One whole reply: its code and its last line.
    async fn reply(&mut self) -> Result<(u16, String), Failure> {
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line = String::from_utf8_lossy(&self.input[..end]).trim_end().to_owned();
                self.input.drain(..=end);
                if line.as_bytes().get(3) != Some(&b'-') {
                    let code = line.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
                    return Ok((code, line));
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }
}
