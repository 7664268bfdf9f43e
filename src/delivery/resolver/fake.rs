//! Name servers for tests.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, MX};
use hickory_proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::{Hosts, NameServers, Resolver};

/// A name server that answers by a function; counts what it was asked over UDP.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<AtomicUsize>,
}

/// What a fake does with a question.
pub(crate) enum Says {
    This(Box<Message>),
    Octets(Vec<u8>),
    Nothing,
}

impl NameServer {
    pub(crate) async fn start(udp: impl Fn(&Message) -> Says + Send + 'static, tcp: impl Fn(&Message) -> Says + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                if let Some(octets) = octets(udp(&Message::from_vec(&buffer[..length]).unwrap())) {
                    socket.send_to(&octets, peer).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.unwrap();
                if let Some(octets) = octets(tcp(&Message::from_vec(&question).unwrap())) {
                    stream.write_u16(octets.len() as u16).await.unwrap();
                    stream.write_all(&octets).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    pub(crate) async fn udp(answer: impl Fn(&Message) -> Says + Send + 'static) -> Self {
        Self::start(answer, |_| Says::Nothing).await
    }

    /// Answers from a list of names; `broken.example` fails, and what is not listed does not exist.
    pub(crate) async fn zone(records: &[(&str, &[RData])]) -> Self {
        let records: HashMap<String, Vec<RData>> = records.iter().map(|(owner, data)| (format!("{owner}."), data.to_vec())).collect();
        Self::udp(move |question| {
            let owner = question.queries[0].name().to_ascii();
            let kind = question.queries[0].query_type();
            let found = records.get(&owner).map(|all| all.iter().filter(|data| data.record_type() == kind).cloned());
            Says::This(match found {
                _ if owner == "broken.example." => reply(question, ResponseCode::ServFail, vec![]),
                Some(found) => reply(question, ResponseCode::NoError, found.map(|data| (owner.as_str(), 60, data)).collect()),
                None => reply(question, ResponseCode::NXDomain, vec![]),
            })
        })
        .await
    }

    pub(crate) fn resolver(&self) -> Resolver {
        resolver(vec![self.address])
    }
}

fn octets(says: Says) -> Option<Vec<u8>> {
    match says {
        Says::This(message) => Some(message.to_vec().unwrap()),
        Says::Octets(octets) => Some(octets),
        Says::Nothing => None,
    }
}

pub(crate) fn resolver(addresses: Vec<SocketAddr>) -> Resolver {
    let servers = NameServers { timeout: Duration::from_millis(200), ..NameServers::configured(addresses) };
    Resolver::new(servers, Hosts::default())
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(crate) fn reply(question: &Message, code: ResponseCode, answers: Vec<(&str, u32, RData)>) -> Box<Message> {
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.add_queries(question.queries.clone());
    message.add_answers(answers.into_iter().map(|(owner, ttl, data)| Record::from_rdata(name(owner), ttl, data)));
    Box::new(message)
}

pub(crate) fn a(address: [u8; 4]) -> RData {
    RData::A(A(Ipv4Addr::from(address)))
}

pub(crate) fn mx(preference: u16, host: &str) -> RData {
    let host = if host == "." { Name::root() } else { name(&format!("{host}.")) };
    RData::MX(MX::new(preference, host))
}
