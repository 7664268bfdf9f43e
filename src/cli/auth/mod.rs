//! `pamrelay auth …`: what an administrator asks the helper about logins.
//!
//! One real question (`test`), and four about what the helper has seen: why a login was answered as it was (`explain`), who is
//! held back (`throttled`), letting them go (`release`), how it fares (`status`). All of it is root's alone.

mod advice;
mod explain;
mod status;
mod test;
mod throttled;

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use pamrelay_authwire::{Order, Statement};

use super::{Failure, RunningRelay, Status, as_root};
use crate::auth::Helper;
use crate::config::Config;

/// An order is answered at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Subcommand)]
pub(super) enum Ask {
    /// Try a user's password as a mail client would, and explain the answer
    ///
    /// Asks for the password without showing it (or reads one line if standard input is no terminal) and puts it to the running helper, which asks PAM.
    /// The attempt counts like any other. The exit status is 0 if the user may send, 1 if not, 75 if nobody knows.
    Test {
        /// The name to log in with
        user: String,
        /// The address that PAM is told the client has
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
        rhost: IpAddr,
        /// The PAM service to ask: one that a listener has. Without it: auth.service
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        #[command(flatten)]
        relay: RunningRelay,
    },
    /// Say why a login was answered as it was, and what to do
    ///
    /// Of the latest 512 logins. Without a session and a user: the latest of all. The exit status is 1 if there is none of them.
    Explain {
        /// The session, as log lines have it behind "session="
        #[arg(value_name = "ID", conflicts_with = "user")]
        session: Option<String>,
        /// The logins of this user, however the name was written
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// List the accounts and networks that are held back now
    ///
    /// Of those that are named in the latest 512 logins. An account in the list is held back for clients from new networks. A network where it logged in
    /// within seven days has tries of its own, and is held back once these are used up; "from" marks accounts that are held back for one network alone.
    Throttled {
        #[command(flatten)]
        how: How,
    },
    /// Forget the wrong passwords of an account or a network
    ///
    /// The exit status is 1 if there were none.
    Release {
        /// An account, however the name is written, or an IP address
        #[arg(value_name = "NAME|ADDRESS", required_unless_present = "all", conflicts_with = "all")]
        subject: Option<String>,
        /// Forget all of them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        relay: RunningRelay,
    },
    /// Show how the helper fares: its workers, its memory, what it answered
    Status {
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args)]
pub(super) struct How {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    relay: RunningRelay,
}

pub(super) fn main(ask: Ask) -> Result<Status, Failure> {
    match ask {
        Ask::Test { user, rhost, service, relay } => test::main(&user, rhost, service.as_deref(), &relay.config()?),
        Ask::Explain { session, user, how } => explain::main(session.as_deref(), user, how.json, &how.relay.config()?),
        Ask::Throttled { how } => throttled::list(how.json, &how.relay.config()?),
        Ask::Release { subject, all: _, relay } => throttled::release(subject.as_deref(), &relay.config()?),
        Ask::Status { how } => status::main(how.json, &how.relay.config()?),
    }
}

/// Gives an order to the running helper.
fn order(order: &Order, config: &Config) -> Result<Statement, Failure> {
    as_root("ask the helper")?;
    let helper = Helper::new(config.jail().join("auth"), PATIENCE);
    let answer = runtime()?.block_on(helper.order(order));
    answer.map_err(|error| {
        Failure::new(
            Status::Unavailable,
            format!("{error}; see whether it runs: systemctl status pamrelay-auth, journalctl -u pamrelay-auth"),
        )
    })
}

/// For an answer that is none to the order that was given.
fn nonsense() -> Failure {
    Failure::new(
        Status::Software,
        "the helper answered something else; is it of another version? Restart it: systemctl restart pamrelay-auth",
    )
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure::new(Status::System, error))
}
