//! A mail server for tests: behaves well, except where a test tells it otherwise.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What the server does instead of what it would.
pub(crate) enum Does {
    /// As a server should.
    Right,
    Says(String),
    /// Says it and hangs up.
    LastSays(String),
    HangsUp,
    /// Never says anything again.
    Hangs,
    /// Says this again and again, and nothing else.
    Drips(String),
    /// As a server should, after this time.
    Waits(Duration),
    /// As a server should, except that it reads an octet at a time, with pauses.
    ReadsSlowly,
}

pub(crate) fn says(text: &str) -> Does {
    Does::Says(format!("{text}\r\n"))
}

/// Where in the conversation the server is: number of the connection from 0, messages taken on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) connection: usize,
    pub(crate) messages: usize,
}

/// Hears `banner`, each command line, and `content` at the end of a content.
type Manner = dyn Fn(At, &str) -> Does + Send + Sync;

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    /// Command lines of each connection.
    commands: HashMap<usize, Vec<String>>,
    messages: Vec<Taken>,
    connections: usize,
}

/// A message the server took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) sender: String,
    pub(crate) recipients: Vec<String>,
    pub(crate) content: Vec<u8>,
}

/// What the server offers, and how it does TLS.
#[derive(Clone, Default)]
pub(crate) struct Skills {
    pub(crate) offers: Vec<&'static str>,
    pub(crate) tls: Option<TlsAcceptor>,
    /// TLS before the banner.
    pub(crate) implicit: bool,
    /// Reads nothing more once it has answered DATA.
    pub(crate) stops_reading: bool,
}

impl Skills {
    pub(crate) fn with(offers: &[&'static str]) -> Self {
        Self { offers: offers.to_vec(), ..Self::default() }
    }
}

/// A certificate for `name` by itself, and what trusts it.
pub(crate) fn acceptor(name: &str) -> (TlsAcceptor, rustls::RootCertStore) {
    let pair = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), roots)
}

impl Fake {
    pub(crate) async fn start(skills: Skills, manner: impl Fn(At, &str) -> Does + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), skills, manner).await
    }

    pub(crate) async fn start_at(address: SocketAddr, skills: Skills, manner: impl Fn(At, &str) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let manner: Arc<Manner> = Arc::new(manner);
        let shared = log.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                shared.lock().unwrap().connections += 1;
                let (skills, manner, log) = (skills.clone(), manner.clone(), shared.clone());
                tokio::spawn(async move { Session::run(stream, connection, skills, manner, log).await });
            }
        });
        Self { address, log }
    }

    /// Behaves well.
    pub(crate) async fn good(offers: &[&'static str]) -> Self {
        Self::start(Skills::with(offers), |_, _| Does::Right).await
    }

    pub(crate) fn messages(&self) -> Vec<Taken> {
        self.log.lock().unwrap().messages.clone()
    }

    pub(crate) fn commands(&self, connection: usize) -> Vec<String> {
        self.log.lock().unwrap().commands.get(&connection).cloned().unwrap_or_default()
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

struct Session {
    stream: BufReader<Box<dyn Duplex>>,
    at: At,
    skills: Skills,
    manner: Arc<Manner>,
    log: Arc<Mutex<Log>>,
}

enum Goes {
    On,
    Ends,
}

impl Session {
    async fn run(stream: TcpStream, connection: usize, skills: Skills, manner: Arc<Manner>, log: Arc<Mutex<Log>>) {
        stream.set_nodelay(true).unwrap();
        let stream: Box<dyn Duplex> = match &skills.tls {
            Some(tls) if skills.implicit => match tls.accept(stream).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return,
            },
            _ => Box::new(stream),
        };
        let at = At { connection, messages: 0 };
        let mut session = Self { stream: BufReader::new(stream), at, skills, manner, log };
        let _ = session.talk().await;
    }

    async fn talk(&mut self) -> std::io::Result<()> {
        if let Goes::Ends = self.answer("banner", "220 fake.example").await? {
            return Ok(());
        }
        let (mut sender, mut recipients) = (None, Vec::new());
        let mut secured = self.skills.implicit;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            self.log.lock().unwrap().commands.entry(self.at.connection).or_default().push(line.clone());
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let reply = match verb.as_str() {
                "EHLO" => {
                    let mut offers = self.skills.offers.clone();
                    if self.skills.tls.is_some() && !secured {
                        offers.push("STARTTLS");
                    }
                    let mut lines = vec!["fake.example".to_owned()];
                    lines.extend(offers.iter().map(|offer| (*offer).to_owned()));
                    let last = lines.pop().unwrap();
                    lines.iter().map(|line| format!("250-{line}\r\n")).collect::<String>() + &format!("250 {last}")
                }
                "STARTTLS" => "220 go".to_owned(),
                "AUTH" => "235 in".to_owned(),
                "MAIL" if sender.is_some() => "503 5.5.1 nested MAIL".to_owned(),
                "RCPT" if sender.is_none() => "503 5.5.1 MAIL first".to_owned(),
                "DATA" if recipients.is_empty() => "554 5.5.1 no valid recipients".to_owned(),
                "DATA" => "354 go".to_owned(),
                "QUIT" => "221 bye".to_owned(),
                _ => "250 2.0.0 ok".to_owned(),
            };
            let (goes, code) = self.answer_with_code(&line, &reply).await?;
            if let Goes::Ends = goes {
                return Ok(());
            }
            let argument = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            match (verb.as_str(), code) {
                ("EHLO" | "RSET", 250) => (sender, recipients) = (None, Vec::new()),
                ("MAIL", 250) => sender = Some(argument),
                ("RCPT", 250) => recipients.push(argument),
                ("STARTTLS", 220) => {
                    let tls = self.skills.tls.clone().unwrap();
                    let (placeholder, _) = tokio::io::duplex(1);
                    let stream = std::mem::replace(&mut self.stream, BufReader::new(Box::new(placeholder)));
                    self.stream = BufReader::new(Box::new(tls.accept(stream.into_inner()).await?));
                    secured = true;
                }
                ("DATA", 354) if self.skills.stops_reading => tokio::time::sleep(Duration::from_secs(3600)).await,
                ("DATA", 354) => {
                    let mut content = Vec::new();
                    loop {
                        let mut line = Vec::new();
                        if self.stream.read_until(b'\n', &mut line).await? == 0 {
                            return Ok(());
                        }
                        match line.as_slice() {
                            b".\r\n" => break,
                            [b'.', rest @ ..] => content.extend_from_slice(rest),
                            line => content.extend_from_slice(line),
                        }
                    }
                    let taken = Taken { sender: sender.take().unwrap_or_default(), recipients: std::mem::take(&mut recipients), content };
                    // Taken before it says so, as a real server does.
                    let does = (self.manner)(self.at, "content");
                    let yes = match &does {
                        Does::Right | Does::HangsUp | Does::Waits(_) | Does::ReadsSlowly => true,
                        Does::Says(text) | Does::LastSays(text) => text.starts_with('2'),
                        Does::Hangs | Does::Drips(_) => false,
                    };
                    if yes {
                        self.log.lock().unwrap().messages.push(taken);
                    }
                    self.at.messages += 1;
                    if let (Goes::Ends, _) = self.act(does, "250 2.0.0 queued").await? {
                        return Ok(());
                    }
                }
                ("QUIT", _) => return Ok(()),
                _ => {}
            }
        }
    }

    async fn answer(&mut self, to: &str, reply: &str) -> std::io::Result<Goes> {
        self.answer_with_code(to, reply).await.map(|(goes, _)| goes)
    }

    async fn answer_with_code(&mut self, to: &str, reply: &str) -> std::io::Result<(Goes, u16)> {
        let does = (self.manner)(self.at, to);
        self.act(does, reply).await
    }

    async fn act(&mut self, does: Does, reply: &str) -> std::io::Result<(Goes, u16)> {
        let (text, goes) = match does {
            Does::Right => (format!("{reply}\r\n"), Goes::On),
            Does::Says(text) => (text, Goes::On),
            Does::LastSays(text) => (text, Goes::Ends),
            Does::HangsUp => (String::new(), Goes::Ends),
            Does::Drips(text) => loop {
                self.stream.write_all(text.as_bytes()).await?;
                self.stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            },
            Does::Waits(time) => {
                tokio::time::sleep(time).await;
                (format!("{reply}\r\n"), Goes::On)
            }
            Does::ReadsSlowly => {
                self.stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
                self.stream.flush().await?;
                loop {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if self.stream.read_u8().await.is_err() {
                        return Ok((Goes::Ends, 0));
                    }
                }
            }
            Does::Hangs => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                (String::new(), Goes::Ends)
            }
        };
        self.stream.write_all(text.as_bytes()).await?;
        self.stream.flush().await?;
        let code = text.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((goes, code))
    }
}
