//! Moves bytes between a client and its session: reads, writes, waits. It decides nothing about SMTP.
//!
//! Replies collect while whole commands wait in the input and go out in one write when it is empty (RFC 2920 §3.2).

mod login;
mod text;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

pub use wire::Closed;
use wire::Wire;

use super::{Plain, Session, Site, Step};
use crate::auth::Helper;
use crate::handoff::Pool;
use crate::smtp::SessionId;
use crate::smtp::line::Cut;
use crate::smtp::reply::{Refusal, Reply};

/// What all sessions share.
pub struct World {
    pub site: Site,
    pub helper: Helper,
    pub queue: Pool,
    pub limits: Limits,
    /// Turns true when the front end is asked to stop.
    pub closing: watch::Receiver<bool>,
}

/// How long a session waits, and how much it forgives.
#[derive(Clone, Debug)]
pub struct Limits {
    pub bad_commands: u32,
    pub command_timeout: Duration,
    /// Without progress while a text is received.
    pub data_timeout: Duration,
    pub session_timeout: Duration,
    /// A refused login is answered no sooner.
    pub failure_floor: Duration,
}

/// One client, whatever its stream.
pub struct Client<'a> {
    pub world: &'a World,
    pub id: SessionId,
    pub peer: SocketAddr,
    pub deadline: Instant,
    /// Commands that were refused so far.
    pub faults: u32,
}

/// How a conversation on one stream ended, if not by itself.
pub enum Ended<S> {
    Closed,
    /// 220 was said: the stream is ready for a handshake.
    StartTls(S, Plain),
}

/// Speaks with a client until it leaves, is sent away, or starts TLS. `greeting` goes first, if there is one.
pub async fn converse<S>(stream: S, mut session: Session, greeting: Option<Reply>, client: &mut Client<'_>) -> Result<Ended<S>, Closed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(stream);
    if let Some(greeting) = greeting {
        wire.say(&greeting);
    }
    let mut heard = Instant::now();
    loop {
        let line = match wire.cut(session.line_limit()) {
            Cut::Line { text, consumed } => (Ok(text), consumed),
            Cut::Bad { fault, consumed } => (Err(fault), consumed),
            Cut::Incomplete { consumed } => {
                wire.forget(consumed, session.hears_secrets());
                client.next_input(&mut wire, heard).await?;
                if matches!(session, Session::Plain(_)) && wire.starts_like_tls() {
                    tracing::info!(event = "tls_on_plain_port", session = %client.id, peer = %client.peer.ip(), hint = "the client is set to SSL/TLS; it should use STARTTLS on this port, or the port for TLS");
                    return wire.close(&Refusal::TLS_ON_PLAIN.into()).await.map(|()| Ended::Closed);
                }
                continue;
            }
        };
        let (line, consumed) = line;
        let secret = session.hears_secrets();
        let step = session.line(line, &client.world.site);
        wire.forget(consumed, secret);
        let (next, reply) = match step {
            Step::Reply(next, reply) => (next, reply),
            Step::Close(reply) => return wire.close(&reply).await.map(|()| Ended::Closed),
            Step::StartTls(_) if !wire.input_is_empty() => {
                tracing::warn!(event = "starttls_injection", session = %client.id, peer = %client.peer.ip());
                return wire.close(&Refusal::INJECTION.into()).await.map(|()| Ended::Closed);
            }
            Step::StartTls(plain) => {
                wire.say(&Reply::START_TLS);
                wire.flush(client.world.limits.command_timeout).await?;
                return Ok(Ended::StartTls(wire.into_stream(), plain));
            }
            Step::Check(checking, credentials) => {
                wire.flush(client.world.limits.command_timeout).await?;
                client.check(checking, credentials).await
            }
            Step::Deny(secured) => {
                wire.flush(client.world.limits.command_timeout).await?;
                client.deny(secured).await
            }
            Step::Receive(receiving) => client.receive(&mut wire, receiving).await?,
        };
        if client.is_worn_out_by(&reply) {
            tracing::info!(event = "too_many_errors", session = %client.id, peer = %client.peer.ip());
            return wire.close(&Refusal::TOO_MANY_ERRORS.into()).await.map(|()| Ended::Closed);
        }
        session = next;
        wire.say(&reply);
        heard = Instant::now();
    }
}

impl Client<'_> {
    /// Sends what is waiting and reads more; says why it closes when there is nothing to wait for any longer. The time counts from the last whole
    /// command, `heard`: a byte now and then does not hold a session.
    async fn next_input<S>(&self, wire: &mut Wire<S>, heard: Instant) -> Result<(), Closed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let limits = &self.world.limits;
        wire.flush(limits.command_timeout).await?;
        let idle = heard + limits.command_timeout;
        let mut closing = self.world.closing.clone();
        let refusal = tokio::select! {
            biased; // the clock first: who never stops sending is not heard for ever
            () = tokio::time::sleep_until(idle.min(self.deadline)) => if idle < self.deadline { Refusal::IDLE } else { Refusal::SESSION_OVER },
            _ = closing.wait_for(|closing| *closing) => Refusal::HANGING_UP,
            read = wire.fill() => return read,
        };
        wire.close(&refusal.into()).await?;
        Err(Closed::ByUs)
    }

    fn is_worn_out_by(&mut self, reply: &Reply) -> bool {
        self.faults += u32::from(reply.code >= 500);
        self.faults > self.world.limits.bad_commands
    }
}
