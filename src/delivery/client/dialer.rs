//! Getting from an endpoint to a connection that is ready for MAIL.
//!
//! A client certificate is shown in TLS 1.3 alone: to an older server that asks for one the connection is made again without it.
//!
//! `opportunistic` follows Postfix's `may`: encrypted when the server offers it, without checking its name.
//! When the handshake fails (without the certificate too), or the server refuses STARTTLS, hangs up
//! or stays silent at it, the connection is made again in clear, because a listener who can break
//! the handshake could have hidden the offer as well. With a login there is no connection without
//! TLS. Nothing of this is remembered: each connection tries TLS afresh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroize as _;

use super::connection::{Connection, Timeouts};
use super::opening::{Cover, Opening, Step, Wish};
use super::reply::Owed;
use super::secrets::Secrets;
use super::stream::Stream;
use super::tls::{Shows, TlsClients, is_too_old};
use super::trouble::{Kind, Trouble};
use crate::delivery::route::{Login, TlsDemand};

/// One address to talk to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The name TLS verifies: a host name, or an address.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) tls: TlsDemand,
    pub(crate) start: Start,
    pub(crate) login: Option<Login>,
}

/// Which protocol speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Smtp,
    Tls,
}

impl Endpoint {
    /// As it is named in logs and reports: `relay.example.net[192.0.2.1]:587`.
    pub(crate) fn label(&self) -> String {
        format!("{}[{}]:{}", self.name, self.address.ip().to_canonical(), self.address.port())
    }
}

/// All that connections have in common.
pub(crate) struct Dialer {
    pub(crate) hostname: String,
    pub(crate) tls: TlsClients,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) timeouts: Timeouts,
}

impl Dialer {
    /// A connection that is ready for MAIL, within `opening` however slowly the server speaks.
    pub(crate) async fn dial(&self, endpoint: &Endpoint) -> Result<Connection, Trouble> {
        let limit = self.timeouts.opening;
        let connection = timeout(limit, self.try_in_turn(endpoint)).await;
        connection.map_err(|_| Trouble::slow("the start of the connection", limit))?
    }

    /// With all we have, then without the certificate, then without TLS, as far as each is
    /// permitted.
    async fn try_in_turn(&self, endpoint: &Endpoint) -> Result<Connection, Trouble> {
        let mut trouble = match self.open(endpoint, endpoint.tls, Shows::Certificate).await {
            Err(trouble) if trouble.is_about_tls() => trouble,
            other => return other,
        };
        let clear = may_go_clear(endpoint);
        // A server that insists on the certificate takes mail neither so nor in clear; where it may
        // matter for good (`required`) only TLS 1.2 is a reason. A server that did not begin TLS
        // has not seen the certificate.
        if trouble.kind == Kind::TooOld || (trouble.kind == Kind::Handshake && clear && self.tls.has_certificate()) {
            match self.open(endpoint, endpoint.tls, Shows::Nothing).await {
                Err(again) if again.is_about_tls() => trouble = again,
                other => return other,
            }
        }
        if !clear {
            return Err(trouble);
        }
        let label = endpoint.label();
        tracing::warn!(event = "tls_failed", relay = label, error = trouble.account(&label).diagnostic, next = "a connection in clear");
        self.open(endpoint, TlsDemand::None, Shows::Nothing).await
    }

    async fn open(&self, endpoint: &Endpoint, demand: TlsDemand, shows: Shows) -> Result<Connection, Trouble> {
        let stream = within(self.timeouts.connect, "connecting", TcpStream::connect(endpoint.address))
            .await?
            .map_err(|error| Trouble::connect(&error))?;
        stream.set_nodelay(true).map_err(|error| Trouble::connect(&error))?;
        let mut connection = Connection::new(endpoint.label(), self.timeouts);
        let cover = match endpoint.start {
            Start::Smtp => {
                connection.attach(Stream::Clear(stream));
                Cover::Clear
            }
            Start::Tls => {
                self.encrypt(&mut connection, stream, endpoint, shows).await?;
                Cover::Encrypted
            }
        };
        let wish = if endpoint.login.is_some() { Wish::Login } else { Wish::NoLogin };
        let mut opening = Opening::new(&self.hostname, demand, cover, wish);
        loop {
            let limit = if opening.awaits_tls() { self.timeouts.handshake } else { self.timeouts.command };
            let heard = connection.read_reply(limit, opening.doing(), Owed::One).await;
            heard.map_err(|trouble| opening.placed(trouble))?;
            let mut step = {
                let (reply, out) = connection.reply_and_out();
                opening.reply(&reply, out)?
            };
            // Each of these two ends in something to send.
            if step == Step::Secure {
                let stream = connection.detach_clear()?;
                self.encrypt(&mut connection, stream, endpoint, shows).await?;
                step = opening.secured(connection.out());
            }
            if let (Step::Secret, Some(login)) = (step, &endpoint.login) {
                let asked = within(self.timeouts.secret, "asking for the secret", self.secrets.secret(&login.secret)).await?;
                let secret = asked.map_err(|error| Trouble::secret(&error))?;
                step = opening.login(&login.user, &secret, connection.out())?;
            }
            if let Step::Ready(features) = step {
                connection.ready(features)?;
                return Ok(connection);
            }
            let sent = connection.flush(self.timeouts.command).await;
            connection.out().zeroize();
            sent.map_err(|trouble| opening.placed(trouble))?;
        }
    }

    async fn encrypt(&self, connection: &mut Connection, stream: TcpStream, endpoint: &Endpoint, shows: Shows) -> Result<(), Trouble> {
        let verified = endpoint.tls == TlsDemand::Required;
        let connector = self.tls.connector(verified, shows);
        let name = ServerName::try_from(endpoint.name.clone()).unwrap_or_else(|_| ServerName::from(endpoint.address.ip()));
        let limit = self.timeouts.handshake;
        let stream = match timeout(limit, connector.connect(name, stream)).await {
            Ok(done) => done.map_err(|error| if is_too_old(&error) { Trouble::too_old(&error) } else { Trouble::handshake(&error) })?,
            Err(_) => return Err(Trouble::handshake(&format_args!("no answer within {} s", limit.as_secs()))),
        };
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
        let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default();
        connection.attach(Stream::Encrypted(Box::new(stream)));
        connection.set_tls(format!("{version}:{suite}:{}", if verified { "verified" } else { "unverified" }));
        Ok(())
    }
}

fn may_go_clear(endpoint: &Endpoint) -> bool {
    endpoint.tls == TlsDemand::Opportunistic && endpoint.login.is_none() && endpoint.start == Start::Smtp
}

/// Waits for something, but not for ever.
pub(crate) async fn within<T>(limit: Duration, doing: &str, what: impl Future<Output = T>) -> Result<T, Trouble> {
    timeout(limit, what).await.map_err(|_| Trouble::silent(doing, limit))
}
