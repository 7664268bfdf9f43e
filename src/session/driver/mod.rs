//! Moves bytes between a client and its session: reads, writes, waits. It decides nothing about SMTP.
//!
//! Replies collect while whole commands wait in the input and go out in one write when it is empty (RFC 2920 §3.2).

mod input;
mod login;
#[cfg(test)]
mod queue_tests;
mod strangers;
mod text;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

pub use strangers::{Line, Strangers, Written};
pub use wire::Closed;
use wire::Wire;

use super::{Plain, Session, Site, Step, Who};
use crate::auth::Helper;
use crate::handoff::Pool;
use crate::smtp::line::Cut;
use crate::smtp::reply::{Refusal, Reply};
use crate::smtp::{SessionId, session_id};

/// Time for the login of those who come while sessions are scarce. A mail program needs a second or two.
const HURRIED_LOGIN: Duration = Duration::from_secs(15);
/// Lines that a client may say before it has logged in.
const OF_STRANGER: u32 = 100;

/// What all sessions share.
pub struct World {
    pub site: Site,
    pub helper: Helper,
    pub queue: Pool,
    pub limits: Limits,
    /// Turns true when the front end is asked to stop.
    pub closing: watch::Receiver<bool>,
    /// Whether sessions are scarce: newcomers then have less time to log in.
    pub scarce: Arc<AtomicBool>,
    /// What is logged of those who have not logged in.
    pub strangers: Strangers,
}

/// How long a session waits, and how much it forgives.
#[derive(Clone, Debug)]
pub struct Limits {
    pub bad_commands: u32,
    pub command_timeout: Duration,
    /// Without progress while a text is received.
    pub data_timeout: Duration,
    /// From the connection to the login.
    pub login_timeout: Duration,
    pub session_timeout: Duration,
    /// A refused login is answered no sooner.
    pub failure_floor: Duration,
}

/// One client, whatever its stream.
pub struct Client<'a> {
    world: &'a World,
    pub id: SessionId,
    pub peer: SocketAddr,
    /// Where it came in.
    pub listener: Arc<str>,
    /// Who it is, as far as is known.
    pub who: Who,
    begun: Instant,
    /// From the connection to the login.
    login_timeout: Duration,
    /// Lines that came before the login.
    said: u32,
    /// Commands not understood or out of order, and refused logins, since the last message.
    faults: u32,
}

/// Speaks with a client until it starts TLS, or until the conversation is over. `greeting` goes first, if there is one.
/// The stream that comes back is ready for a handshake: 220 was said.
pub async fn converse<S>(stream: S, mut session: Session, greeting: Option<Reply>, client: &mut Client<'_>) -> Result<(S, Plain), Closed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(stream);
    if let Some(greeting) = greeting {
        wire.say(&greeting);
    }
    let mut heard = Instant::now();
    loop {
        let who = session.who();
        client.who = who;
        let (line, consumed) = match wire.cut(session.line_limit()) {
            Cut::Line { text, consumed } => (Ok(text), consumed),
            Cut::Bad { fault, consumed } => (Err(fault), consumed),
            Cut::Incomplete { consumed } => {
                wire.forget(consumed);
                client.next_input(&mut wire, who, heard).await?;
                if matches!(session, Session::Plain(_)) && wire.starts_like_tls() {
                    if client.is_written(Line::TlsOnPlainPort) {
                        tracing::info!(event = "tls_on_plain_port", session = %client.id, peer = %client.peer.ip(), hint = "the client is set to SSL/TLS; it should use STARTTLS on this port, or the port for TLS");
                    }
                    return Err(wire.close(&Refusal::TLS_ON_PLAIN.into()).await);
                }
                continue;
            }
        };
        let step = session.line(line, &client.world.site);
        wire.forget(consumed);
        let (next, reply) = match step {
            Step::Reply(next, reply) => (next, reply),
            Step::Close(reply) => return Err(wire.close(&reply).await),
            Step::StartTls(_) if !wire.input_is_empty() => {
                if client.is_written(Line::Injection) {
                    tracing::warn!(event = "starttls_injection", session = %client.id, peer = %client.peer.ip());
                }
                return Err(wire.close(&Refusal::INJECTION.into()).await);
            }
            Step::StartTls(plain) => {
                wire.say(&Reply::START_TLS);
                wire.flush(client.reply_time(who)).await?;
                return Ok((wire.into_stream(), plain));
            }
            Step::Check(checking, credentials) => {
                wire.flush(client.reply_time(who)).await?;
                client.check(checking, credentials).await
            }
            Step::NoLogin(next, refusal) => {
                client.note(&refusal);
                (next, refusal.into())
            }
            Step::Admit(admitting) => {
                let room = client.world.queue.room(admitting.declared()).await;
                client.admit(admitting, room)
            }
            Step::Receive(receiving) => client.receive(&mut wire, receiving).await?,
        };
        if who == Who::Stranger && client.has_said_enough() {
            return Err(wire.close(&Refusal::TOO_MANY_COMMANDS.into()).await);
        }
        if client.is_worn_out_by(&reply) {
            return Err(wire.close(&Refusal::TOO_MANY_ERRORS.into()).await);
        }
        session = next;
        wire.say(&reply);
        heard = Instant::now();
    }
}

impl<'a> Client<'a> {
    pub fn new(world: &'a World, peer: SocketAddr, listener: Arc<str>) -> Self {
        let configured = world.limits.login_timeout;
        let login_timeout = if world.scarce.load(Ordering::Relaxed) { configured.min(HURRIED_LOGIN) } else { configured };
        Self {
            world,
            id: session_id::fresh(),
            peer,
            listener,
            who: Who::Stranger,
            begun: Instant::now(),
            login_timeout,
            said: 0,
            faults: 0,
        }
    }

    /// When the client must have logged in.
    pub fn login_due(&self) -> Instant {
        self.begun + self.login_timeout
    }

    /// How long a client may take to read what we say: no longer than it may be connected at all.
    fn reply_time(&self, who: Who) -> Duration {
        let now = Instant::now();
        self.patience(who, now + self.world.limits.command_timeout).0.saturating_duration_since(now)
    }

    /// Whether a line that this client caused before it logged in is written.
    fn is_written(&self, line: Line) -> bool {
        self.world.strangers.note(line, self.peer.ip()) == Written::Yes
    }

    /// How long the connection has lasted.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Sends what is waiting and reads more; says why it closes when there is nothing to wait for any longer. The time
    /// counts from the last whole command, `heard`: a byte now and then does not hold a session.
    async fn next_input<S>(&self, wire: &mut Wire<S>, who: Who, heard: Instant) -> Result<(), Closed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        wire.flush(self.reply_time(who)).await?;
        let (until, refusal) = self.patience(who, heard + self.world.limits.command_timeout);
        let mut closing = self.world.closing.clone();
        let refusal = tokio::select! {
            biased; // the clock first: a client that never stops sending is not heard for ever
            () = tokio::time::sleep_until(until) => refusal,
            _ = closing.wait_for(|closing| *closing) => Refusal::HANGING_UP,
            read = wire.fill() => return read,
        };
        Err(wire.close(&refusal.into()).await)
    }

    /// How long to wait for a client that counts as idle from `idle` on, and what it hears then.
    fn patience(&self, who: Who, idle: Instant) -> (Instant, Refusal) {
        let limits = &self.world.limits;
        let (over, refusal) = match who {
            Who::Stranger if self.login_timeout < limits.session_timeout => (self.login_due(), Refusal::NO_LOGIN),
            Who::Stranger | Who::User => (self.begun + limits.session_timeout, Refusal::SESSION_OVER),
        };
        if idle < over { (idle, Refusal::IDLE) } else { (over, refusal) }
    }

    /// Counts a line of somebody who has not logged in. None of them costs much, and nobody needs many.
    fn has_said_enough(&mut self) -> bool {
        self.said += 1;
        self.said > OF_STRANGER
    }

    fn is_worn_out_by(&mut self, reply: &Reply) -> bool {
        self.faults += u32::from(reply.is_a_client_fault());
        self.faults > self.world.limits.bad_commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    fn world() -> (World, watch::Sender<bool>) {
        let (close, closing) = watch::channel(false);
        let world = World {
            site: Site { host: "mail.example".into(), domain: Domain::parse("mail.example").unwrap(), message_size: 1000, recipients: 100 },
            helper: Helper::new("nobody".into(), Duration::from_secs(1)),
            queue: Pool::new("nobody", crate::handoff::Limits::default()),
            limits: Limits {
                bad_commands: 10,
                command_timeout: Duration::from_secs(300),
                data_timeout: Duration::from_secs(600),
                login_timeout: Duration::from_millis(300),
                session_timeout: Duration::from_secs(3600),
                failure_floor: Duration::ZERO,
            },
            closing,
            scarce: Arc::default(),
            strangers: Strangers::default(),
        };
        (world, close)
    }

    #[tokio::test]
    async fn whoever_comes_while_sessions_are_scarce_has_less_time_to_log_in() {
        let (mut world, _close) = world();
        world.limits.login_timeout = Duration::from_secs(120);
        let time = |world: &World| {
            let client = Client::new(world, "192.0.2.1:1".parse().unwrap(), "submission".into());
            client.login_due() - client.begun
        };

        assert_eq!(time(&world), Duration::from_secs(120));
        world.scarce.store(true, Ordering::Relaxed);
        assert_eq!(time(&world), Duration::from_secs(15));
        world.limits.login_timeout = Duration::from_secs(5);
        assert_eq!(time(&world), Duration::from_secs(5), "never longer than configured");
    }

    #[tokio::test]
    async fn a_stranger_who_does_not_read_what_we_say_is_held_as_long_as_one_who_does_not_log_in() {
        let (world, _close) = world();
        let mut client = Client::new(&world, "192.0.2.1:1".parse().unwrap(), "submission".into());
        let (near, _far) = tokio::io::duplex(8);
        let begun = Instant::now();

        let ended = converse(near, Session::Plain(Plain), Some(Reply::banner("mail.example")), &mut client).await;

        assert!(matches!(ended, Err(Closed::Deaf)), "the greeting is longer than what it reads");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
