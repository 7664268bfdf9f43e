//! One question to one name server: UDP first, TCP when the answer was cut short.
//!
//! An answer counts only if it comes from the server asked, to a port and with an identifier drawn for this question, and
//! repeats the question (RFC 5452 §9).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// What passes without fragments almost everywhere.
const PAYLOAD: u16 = 1232;

#[derive(Debug, thiserror::Error)]
pub(super) enum QuestionError {
    #[error("no answer in time")]
    TimeOut,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the name cannot be asked for")]
    Unspeakable,
    #[error("the answer is malformed")]
    Malformed,
}

/// Asks, and asks again in the way the server understands.
pub(super) async fn ask(server: SocketAddr, name: &Name, kind: RecordType, limit: Duration) -> Result<Message, QuestionError> {
    let answer = within(limit, once(server, name, kind, Extended::Yes)).await?;
    match answer.metadata.response_code {
        // Servers older than EDNS (RFC 6891 §7).
        ResponseCode::FormErr | ResponseCode::NotImp => within(limit, once(server, name, kind, Extended::No)).await,
        _ => Ok(answer),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extended {
    Yes,
    No,
}

async fn within<T>(limit: Duration, what: impl Future<Output = Result<T, QuestionError>>) -> Result<T, QuestionError> {
    timeout(limit, what).await.unwrap_or(Err(QuestionError::TimeOut))
}

async fn once(server: SocketAddr, name: &Name, kind: RecordType, extended: Extended) -> Result<Message, QuestionError> {
    let question = Query::query(name.clone(), kind);
    let mut message = Message::new(random_id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(question.clone());
    if extended == Extended::Yes {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        // DO: otherwise a validating server does not say AD (RFC 6840 §5.7), which DANE will need.
        edns.set_dnssec_ok(true);
        message.set_edns(edns);
    }
    let octets = message.to_vec().map_err(|_| QuestionError::Unspeakable)?;
    let answer = over_udp(server, &octets, message.metadata.id, &question).await?;
    if answer.metadata.truncation { over_tcp(server, &octets, message.metadata.id, &question).await } else { Ok(answer) }
}

async fn over_udp(server: SocketAddr, octets: &[u8], id: u16, question: &Query) -> Result<Message, QuestionError> {
    // A new socket has a new port, which the kernel draws.
    let any = if server.is_ipv4() { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) } else { SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)) };
    let socket = UdpSocket::bind(any).await?;
    // Connected: the kernel lets nobody else answer.
    socket.connect(server).await?;
    socket.send(octets).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = answer_to(buffer.get(..length).unwrap_or_default(), id, question) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, octets: &[u8], id: u16, question: &Query) -> Result<Message, QuestionError> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(octets.len()).map_err(|_| QuestionError::Unspeakable)?;
    stream.write_all(&[&length.to_be_bytes()[..], octets].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    answer_to(&buffer, id, question).ok_or(QuestionError::Malformed)
}

/// The octets as an answer to this question; `None` if they are anything else.
fn answer_to(octets: &[u8], id: u16, question: &Query) -> Option<Message> {
    let answer = Message::from_vec(octets).ok()?;
    let meta = &answer.metadata;
    let fits = meta.id == id && meta.message_type == MessageType::Response && meta.op_code == OpCode::Query;
    let repeated = match answer.queries.as_slice() {
        [asked] => asked == question,
        // An old server that takes offence at EDNS may leave the question out.
        [] => matches!(meta.response_code, ResponseCode::FormErr | ResponseCode::NotImp),
        [_, ..] => false,
    };
    (fits && repeated).then_some(answer)
}

fn random_id() -> u16 {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).expect("the library's generator never runs dry once seeded");
    u16::from_le_bytes(bytes)
}
