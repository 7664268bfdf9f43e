//! The PAM helper: the only part of pamrelay that root runs for every login.
//!
//! ```text
//! front ─question▶ listener ─fork─▶ template ─▶ worker (PAM, name service) ─report▶ listener ─verdict▶ front
//! ```
//!
//! Three kinds of process, one program. The *listener* checks, limits, counts and signs, and never touches
//! PAM ([`listener`]). The *template* has loaded the modules and forks ([`template`]). A *worker* answers one
//! question and ends ([`worker`]). Invariant: what goes wrong in a worker costs its own question an
//! *unavailable*, never anybody an *accept*.
#![deny(unsafe_code)] // allowed in `sys` and `pam` alone

mod account;
mod asker;
mod brood;
mod check;
mod control;
mod departures;
mod drops;
mod harden;
mod job;
mod judge;
mod known;
mod ledger;
mod limits;
mod listener;
mod lockout;
mod log;
mod notify;
mod orders;
mod pam;
mod pauses;
mod pending;
mod places;
mod rate;
mod repeats;
mod report;
mod rules;
mod service;
mod settings;
mod socket;
mod sys;
mod table;
mod template;
mod templates;
mod tempo;
mod tickets;
mod waiting;
mod window;
mod worker;
mod workshop;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Group, User, geteuid};

use crate::departures::Departures;
use crate::drops::Drops;
use crate::known::Known;
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::listener::{Listener, Losses};
use crate::log::{Level, Line};
use crate::repeats::Repeats;
use crate::rules::Rules;
use crate::settings::Settings;
use crate::template::Loading;
use crate::tempo::Tempo;
use crate::tickets::Mint;
use crate::waiting::Waiting;
use crate::workshop::Workshop;

/// sysexits.h: usage, something that was needed is not there, output that was lost, no permission, configuration.
const EX_USAGE: u8 = 64;
const EX_UNAVAILABLE: u8 = 69;
const EX_IOERR: u8 = 74;
const EX_NOPERM: u8 = 77;
const EX_CONFIG: u8 = 78;

/// How long a helper that cannot start waits before it ends, where systemd starts it again at once: the log stays readable.
const BEFORE_THE_NEXT_TRY: Duration = Duration::from_secs(4);

/// Why the helper does not start.
struct Refusal {
    status: u8,
    reasons: Vec<String>,
}

impl Refusal {
    fn new(status: u8, reason: impl Into<String>) -> Self {
        Self { status, reasons: vec![reason.into()] }
    }

    fn what(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(EX_UNAVAILABLE, format!("{what}: {error}"))
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        None => match listen() {
            Ok(()) => ExitCode::SUCCESS,
            Err(refusal) => {
                notify::status(&refusal.reasons.join("; "));
                for reason in &refusal.reasons {
                    Line::event(Level::Error, "refused-to-start").text("text", reason).write();
                }
                if refusal.status == EX_UNAVAILABLE && notify::manager() == notify::Manager::Systemd {
                    std::thread::sleep(BEFORE_THE_NEXT_TRY);
                }
                ExitCode::from(refusal.status)
            }
        },
        // Started by the listener alone; its standard input is the control socket.
        Some("template") => {
            let loading = args.next().as_deref().and_then(Loading::parse);
            let ran = loading.zip(Rules::from_args(args)).map(|(loading, rules)| template::run(loading, rules));
            ExitCode::from(if matches!(ran, Some(Ok(()))) { 0 } else { EX_UNAVAILABLE })
        }
        Some("--version") => print(&format!("pamrelay-auth {}\n", env!("CARGO_PKG_VERSION"))),
        Some("--help") => print(&format!(
            "usage: pamrelay-auth\nAnswers pamrelay's questions about passwords. Settings, from the environment [default]:\n\n{}\n",
            settings::help()
        )),
        Some(_) => {
            let _ = writeln!(io::stderr(), "usage: pamrelay-auth [--help | --version]");
            ExitCode::from(EX_USAGE)
        }
    }
}

/// Output that is lost is no success; for a reader that has gone the status is the one that a shell shows for SIGPIPE.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(141),
        Err(_) => ExitCode::from(EX_IOERR),
    }
}

/// What a look-up found. One that failed may succeed at the next start; a name that is not there needs a person.
fn found<T>(looked_up: nix::Result<Option<T>>, what: &str) -> Result<T, Refusal> {
    match looked_up {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Refusal::new(EX_CONFIG, format!("there is no {what}"))),
        Err(error) => Err(Refusal::new(EX_UNAVAILABLE, format!("looking up the {what}: {error}"))),
    }
}

/// Checks everything, gives up everything that is not needed, and serves.
fn listen() -> Result<(), Refusal> {
    let passed = socket::inherited(); // before any descriptor is opened
    let settings = Settings::read(
        std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())),
    )
    .map_err(|reasons| Refusal { status: EX_CONFIG, reasons })?;
    if !geteuid().is_root() {
        return Err(Refusal::new(EX_NOPERM, "must be started as root: PAM modules read the password files"));
    }
    let unusable: Vec<String> = settings.rules.services().into_iter().filter_map(service::unusable).collect();
    if !unusable.is_empty() {
        return Err(Refusal { status: EX_CONFIG, reasons: unusable });
    }
    let front = found(User::from_name(&settings.front_user), &format!("user {}", settings.front_user))?;
    let queue = found(Group::from_name(&settings.queue_group), &format!("group {}", settings.queue_group))?;

    if let Some(supervisor) = settings.supervisor {
        harden::end_with(supervisor).map_err(Refusal::what("following the supervisor"))?;
    }
    harden::plain_signals().map_err(Refusal::what("resetting signals"))?;
    harden::no_core().map_err(Refusal::what("switching cores off"))?;
    harden::descriptors(harden::OF_LISTENER).map_err(Refusal::what("the limit of descriptors"))?;
    if let Err(error) = harden::lock_memory() {
        let text = format!("passwords may be written to swap (LimitMEMLOCK=infinity, ulimit -l unlimited): {error}");
        Line::event(Level::Warning, "memory-not-locked").text("text", text).write();
    }
    let socket = match passed {
        Some(passed) => socket::listener_from(passed),
        None => socket::bind(&settings.socket, &settings.runtime, front.gid),
    }
    .map_err(Refusal::what(settings.socket.display()))?;
    harden::join(queue.gid);
    let mint = Mint::open(&settings.runtime, queue.gid, settings.ticket_lifetime)
        .map_err(Refusal::what(settings.runtime.join("tickets").display()))?;
    let began = Instant::now();
    // Under systemd the unit makes the directory.
    let (known, pairs) = Known::open(&settings.state, settings.supervisor.is_some(), began).map_err(Refusal::what("/dev/urandom"))?;
    brood::adopt_orphans().map_err(|error| Refusal::what("becoming a subreaper")(error.into()))?;
    harden::drop_privileges(settings.low_ports).map_err(Refusal::what("dropping capabilities"))?;

    // Blocked and read in the loop; the template takes the mask off again.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    let signals = ends
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
        .map_err(|error| Refusal::what("a descriptor for signals")(error.into()))?;

    let mut secret = [0; 32];
    tickets::random(&mut secret).map_err(Refusal::what("/dev/urandom"))?;
    Line::event(Level::Info, "started")
        .with("services", settings.rules.services().join(","))
        .with("min_uid", settings.rules.min_uid)
        .with("workers", settings.workers)
        .write();
    let mut limits = Limits::new(&settings, secret, known.key(), began);
    limits.remember_pairs(&pairs, known::unix_time(), began);
    let listener = Listener {
        front: front.uid,
        limits,
        known,
        workshop: Workshop::new(&settings),
        waiting: Waiting::new(&settings),
        socket,
        mint,
        settings,
        askers: Vec::new(),
        running: Vec::new(),
        departures: Departures::default(),
        tempo: Tempo::default(),
        ledger: Ledger::default(),
        losses: Losses::default(),
        began,
        accept_again: None,
        look_again: None,
        rotate_again: None,
        drops: Drops::new(began),
        repeats: Repeats::new(began),
        signals,
    };
    notify::ready();
    listener.serve().map_err(Refusal::what("waiting for questions"))
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_look_up_that_fails_for_a_while_is_tried_again_and_a_missing_account_is_not() {
        let status = |looked_up: nix::Result<Option<()>>| found(looked_up, "user x").map_err(|refusal| refusal.status).err();

        assert_eq!(status(Ok(Some(()))), None);
        assert_eq!(status(Ok(None)), Some(EX_CONFIG));
        for errno in [Errno::ENOMEM, Errno::EMFILE, Errno::EIO] {
            assert_eq!(status(Err(errno)), Some(EX_UNAVAILABLE), "{errno}");
        }
    }
}
