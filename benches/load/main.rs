//! The load program of `make bench`: a generator and a sink, run as two processes.
//!
//! ```text
//! load steady|fresh|logins|idle ──TLS, AUTH──▶ relay under test ──▶ load sink
//!        └───────────────────── XREPORT: what arrived? ─────────────────┘
//! ```
//!
//! Invariant: a rate is printed only together with what the sink verified: how many messages were lost, doubled or
//! changed. It speaks to loopback addresses only, and every run ends by itself.

mod client;
mod message;
mod modes;
mod sink;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(about = "Load generator and verifying sink for a submission relay")]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
    /// Cargo passes this to every bench program; it changes nothing.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Mode {
    /// Receive, count and verify messages until killed.
    Sink {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Sessions that log in once and then send one message after another.
    Steady(Load),
    /// A new connection, TLS handshake and login for each message.
    Fresh(Load),
    /// Connect, TLS handshake, one login or several, QUIT.
    Logins(Load),
    /// Open sessions, say so, hold them until a line arrives on standard input.
    Idle(Load),
}

#[derive(clap::Args, Clone)]
struct Load {
    /// The relay's STARTTLS listener.
    #[arg(long)]
    relay: SocketAddr,
    /// The sink, to ask what arrived.
    #[arg(long)]
    sink: SocketAddr,
    /// The authority that the relay's certificate must come from.
    #[arg(long)]
    ca: PathBuf,
    #[arg(long, default_value = "relay.test")]
    name: String,
    #[arg(long)]
    user: String,
    #[arg(long)]
    password: String,
    /// A number of its own for each run, so that late arrivals of another are not counted.
    #[arg(long, default_value_t = 1)]
    run: u32,
    #[arg(long, default_value_t = 1)]
    sessions: usize,
    #[arg(long, default_value_t = 4096)]
    size: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Wait for each reply, as a client does that does not know PIPELINING.
    #[arg(long)]
    classic: bool,
    /// Log in with wrong passwords made of the given one, each another: count refusals.
    #[arg(long)]
    wrong: bool,
    /// So many wrong passwords in one session, or until the server closes it.
    #[arg(long, default_value_t = 1)]
    tries: u32,
    /// Not one user but so many, whose names end in a number from 0 on.
    #[arg(long, default_value_t = 0)]
    users: u64,
    /// The first of the addresses that connections come from, and how many there are; else the kernel chooses.
    #[arg(long)]
    from: Option<Ipv4Addr>,
    #[arg(long, default_value_t = 1)]
    addresses: u64,
    /// End after so many logins, however long they take; 0: when the time is over.
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// Idle sessions stop after the TLS handshake, without a login.
    #[arg(long)]
    anonymous: bool,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.mode {
            Mode::Sink { listen } => sink::run(loopback(listen)?).await,
            Mode::Steady(load) => modes::steady(checked(load)?).await,
            Mode::Fresh(load) => modes::fresh(checked(load)?).await,
            Mode::Logins(load) => modes::logins(checked(load)?).await,
            Mode::Idle(load) => modes::idle(checked(load)?).await,
        }
    })
}

fn checked(load: Load) -> Result<Load, Failure> {
    loopback(load.relay)?;
    loopback(load.sink)?;
    load.from.map(|from| loopback((from, 0).into())).transpose()?;
    Ok(load)
}

fn loopback(address: SocketAddr) -> Result<SocketAddr, Failure> {
    if address.ip().is_loopback() { Ok(address) } else { Err(format!("{address} is not a loopback address").into()) }
}
