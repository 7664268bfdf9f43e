//! The listener: takes questions, keeps the limits, has workers made, gives one verdict each.
//!
//! ```text
//! Asker ──whole frame──▶ Question waiting ──worker free──▶ running ──report | loss | deadline──▶ verdict
//!   └─ dropped              └─ refused, throttled, too late                 a refusal waits its time ─┘
//! ```
//!
//! One thread, one poll loop, nothing that waits. It never calls PAM or, after its start, the name service.
//! Invariant: a verdict is written to the connection that its question came from and to no other, and only
//! a worker's whole report makes an *accept*.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Uid;
use pamrelay_authwire::{Cause, Order, Outcome, Phase, Question, QuestionFrame, Reason, Verdict};

use crate::asker::{self, Arrived, Asker, Dropped};
use crate::check;
use crate::departures::{self, Departures};
use crate::drops::Drops;
use crate::job::News;
use crate::known::{self, Known};
use crate::ledger::Ledger;
use crate::limits::{Limits, Refused, Room, Rule, Standing};
use crate::lockout::Locks;
use crate::log::{Level, Line, shown};
use crate::pam::Code;
use crate::pending::Pending;
use crate::repeats::{Cost, Repeats, Written};
use crate::settings::Settings;
use crate::socket;
use crate::tempo::Tempo;
use crate::tickets::{Mint, Rotation};
use crate::waiting::Waiting;
use crate::window::MOST_FAILURES;
use crate::workshop::{NoWorker, Source, Workshop};

/// Connections that have not sent their question yet.
const MOST_ASKERS: usize = 64;
/// One part in so many workers is for the strangers of one network.
const SHARE_OF_NETWORK: usize = 4;
/// And of those of one IPv6 /48.
const SHARE_OF_SITE: usize = 2;
/// How long an idle listener sleeps at most: the ticket keys may be due.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// After an accept that failed for want of something (descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// While questions wait because others compute.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct Listener {
    pub(crate) settings: Settings,
    pub(crate) socket: UnixListener,
    pub(crate) front: Uid,
    pub(crate) limits: Limits,
    pub(crate) known: Known,
    pub(crate) mint: Mint,
    pub(crate) workshop: Workshop,
    pub(crate) askers: Vec<Asker>,
    pub(crate) waiting: Waiting,
    pub(crate) running: Vec<(u64, Pending)>,
    pub(crate) departures: Departures,
    pub(crate) tempo: Tempo,
    pub(crate) ledger: Ledger,
    /// Workers that had to be killed, and those that ended without an answer.
    pub(crate) losses: Losses,
    pub(crate) began: Instant,
    pub(crate) accept_again: Option<Instant>,
    /// When a worker that computes now may have stopped.
    pub(crate) look_again: Option<Instant>,
    pub(crate) rotate_again: Option<Instant>,
    pub(crate) drops: Drops,
    pub(crate) repeats: Repeats,
    /// SIGTERM and SIGINT, without blocking.
    pub(crate) signals: SignalFd,
}

/// Workers without an answer, since the start.
#[derive(Default)]
pub(crate) struct Losses {
    pub(crate) killed: u64,
    pub(crate) crashed: u64,
}

/// What becomes of a question that has waited its turn.
enum Decision {
    Ask {
        once_more: bool,
    },
    /// Others go first.
    Wait,
    /// PAM is not asked.
    Answer(Outcome),
}

fn log_rule(rule: Rule, locks: &Locks) {
    let line = Line::event(Level::Notice, "limits");
    match rule {
        Rule::Window(window) => {
            let why = match (locks.faillock, &locks.perhaps) {
                (Some(_), _) => "pam_faillock in the service locks accounts: fewer failures reach it".to_owned(),
                (None, Some(what)) => format!("{what} in a service may lock accounts: fewer failures reach it, or what is configured"),
                (None, None) => "auth.account_failures or auth.account_window is set: it holds exactly".to_owned(),
            };
            line.with("account_failures", window.most).with("seconds", window.length.as_secs()).text("text", why).write();
        }
        Rule::Pauses(length) => {
            let why = "no service locks accounts: wrong passwords lead to pauses that grow";
            line.with("account_failures", MOST_FAILURES).with("seconds", length.as_secs()).text("text", why).write();
        }
    }
}

/// A descriptor in the poll set.
#[derive(Clone, Copy)]
enum Watched {
    Signals,
    Socket,
    Asker(usize),
    Waiting(usize),
    Workshop(usize),
}

impl Listener {
    /// Serves until the process is asked to end. Questions under way are then lost, which their askers
    /// take as *unavailable*.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        self.workshop.places(Instant::now()); // the first template starts before the first question
        loop {
            let now = Instant::now();
            self.rotate_tickets(now);
            let news = self.workshop.expire(now);
            self.tell(news, now);
            self.expire(now);
            self.start_workers(now);
            self.wait(now)?;
            if let Ok(Some(signal)) = self.signals.read_signal() {
                self.repeats.close(now);
                self.known.close(self.limits.pairs_to_keep(known::unix_time(), now), now);
                Line::event(Level::Info, "stopped").with("signal", signal.ssi_signo).write();
                self.workshop.close();
                return Ok(());
            }
        }
    }

    /// Sleeps until something happens, and takes it in.
    fn wait(&mut self, now: Instant) -> io::Result<()> {
        let mut sources = Vec::new();
        let mut watched = Vec::new();
        let mut set = Vec::new();
        let mut watch = |set: &mut Vec<PollFd<'_>>, source| {
            watched.push(source);
            debug_assert_eq!(watched.len(), set.len());
        };
        set.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        watch(&mut set, Watched::Signals);
        if self.accepts(now) {
            set.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
            watch(&mut set, Watched::Socket);
        }
        for (at, asker) in self.askers.iter().enumerate() {
            set.push(PollFd::new(asker.stream.as_fd(), PollFlags::POLLIN));
            watch(&mut set, Watched::Asker(at));
        }
        for (at, pending) in self.waiting.iter().enumerate() {
            set.push(PollFd::new(pending.stream.as_fd(), PollFlags::empty())); // hang-up alone
            watch(&mut set, Watched::Waiting(at));
        }
        let ours = set.len();
        self.workshop.watched(&mut sources, &mut set);
        watched.extend((0..set.len() - ours).map(Watched::Workshop));

        match poll(&mut set, self.patience(now)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // From the back, so that removing an asker leaves the places of the others as they are.
        let happened: Vec<Watched> =
            watched.into_iter().zip(&set).filter(|(_, fd)| fd.any().unwrap_or(true)).map(|(w, _)| w).rev().collect();
        drop(set);
        let now = Instant::now();
        for event in happened {
            match event {
                Watched::Signals => {} // read after this round
                Watched::Socket => self.accept(now),
                Watched::Asker(at) => self.read(at, now),
                Watched::Waiting(at) => {
                    if let Some(pending) = self.waiting.remove(at)
                        && self.repeats.note(pending.peer, Cost::Nothing(Reason::Abandoned), now) == Written::Yes
                    {
                        pending.abandoned(now);
                    }
                }
                Watched::Workshop(at) => {
                    if let Some(&source) = sources.get(at) {
                        self.heard(source, now);
                    }
                }
            }
        }
        Ok(())
    }

    fn accepts(&self, now: Instant) -> bool {
        self.askers.len() < MOST_ASKERS && self.accept_again.is_none_or(|time| now >= time)
    }

    fn patience(&self, now: Instant) -> PollTimeout {
        let askers = self.askers.iter().map(|asker| asker.since + asker::PATIENCE);
        let waiting = self.waiting.iter().map(|pending| pending.latest_start(&self.settings));
        let departures = self.departures.times();
        let next =
            askers.chain(waiting).chain(departures).chain(self.workshop.next_deadline(now)).chain(self.accept_again).chain(self.look_again);
        let next = next.chain(self.repeats.next()).filter(|time| *time > now).min();
        let wait = next.map_or(LONGEST_SLEEP, |next| next.saturating_duration_since(now)).min(LONGEST_SLEEP);
        // One more millisecond, so that the moment has passed when poll returns.
        PollTimeout::try_from(wait.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::ZERO)
    }

    fn accept(&mut self, now: Instant) {
        self.accept_again = None;
        while self.askers.len() < MOST_ASKERS {
            let stream = match self.socket.accept() {
                Ok((stream, _)) => stream,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
                Err(_) => {
                    self.accept_again = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            match socket::peer(&stream) {
                Ok(uid) if uid.is_root() || uid == self.front => self.askers.extend(Asker::new(stream, uid, now)),
                Ok(uid) => self.drops.stranger(uid, now),
                Err(_) => {}
            }
        }
    }

    fn read(&mut self, at: usize, now: Instant) {
        let Some(asker) = self.askers.get_mut(at) else { return };
        match asker.read() {
            Ok(None) => {}
            Ok(Some(arrived)) => {
                let (stream, frame) = self.askers.swap_remove(at).into_parts();
                match arrived {
                    Arrived::Question => self.consider(stream, frame, now),
                    Arrived::Order(order) => self.obey(&stream, order, now),
                }
            }
            Err(dropped) => {
                self.askers.swap_remove(at);
                self.drops.log(&dropped, now);
            }
        }
    }

    /// A whole question: answered at once, or put in line.
    fn consider(&mut self, stream: UnixStream, frame: QuestionFrame, now: Instant) {
        let Some(question) = Question::decode(frame.as_bytes()) else { return };
        let fit = check::admissible(&question, &self.settings.rules.names);
        let asked = fit.as_ref().ok().and_then(|name| name.to_str().ok()).map_or_else(|| shown(question.user), str::to_owned);
        let service = self.settings.rules.service_of(question.listener);
        let keys = self.limits.keys(service.unwrap_or_default(), asked.as_bytes(), question.password, question.peer_addr());
        let cause = |phase, reason| Cause { phase, code: 0, reason };
        let outcome = match (&fit, service) {
            (Err(_), _) => None,
            (Ok(_), None) => Some(Outcome::Unavailable(cause(Phase::Start, Reason::NoListener))),
            // What is throttled anyway makes the line no longer.
            (Ok(_), Some(_)) => match self.limits.room(&keys, [].iter(), now) {
                Room::Never(reason) => Some(Outcome::Throttled(cause(Phase::Limit, reason))),
                Room::Now | Room::OnceMore | Room::Later | Room::Again => None,
            },
        };
        let pending = Pending {
            id: question.id,
            session: question.session,
            peer: question.peer,
            listener: question.listener.to_owned(),
            service: service.unwrap_or("-").to_owned(),
            typed: question.user.to_vec(),
            standing: self.limits.standing(&keys, now),
            keys,
            asked,
            unfit: fit.err(),
            arrived: now,
            began: None,
            once_more: false,
            stream,
            frame,
        };
        if let Some(outcome) = outcome {
            self.settle(pending, outcome, "", now);
        } else if let Some(turned_away) = self.waiting.join(pending) {
            let busy = Outcome::Unavailable(cause(Phase::Start, Reason::Busy));
            self.settle(turned_away, busy, "too many questions are waiting", now);
        }
    }

    fn obey(&mut self, stream: &UnixStream, order: Order, now: Instant) {
        if let Some(statement) = self.statement(order, now).encode() {
            departures::answer(stream, &statement);
        }
    }

    /// Drops peers that dawdle, answers questions that waited too long, and lets go what was held.
    fn expire(&mut self, now: Instant) {
        self.departures.leave(now);
        self.repeats.write(now);
        if self.known.is_due(now)
            && let Some(pairs) = self.limits.pairs_to_keep(known::unix_time(), now)
        {
            self.known.write(pairs, now);
        }
        self.askers.retain(|asker| {
            let slow = asker.is_slow(now);
            if slow {
                self.drops.log(&Dropped::Slow, now);
            }
            !slow
        });
        while let Some(pending) = self.waiting.overdue(&self.settings, now) {
            let cause = Cause { phase: Phase::Start, code: 0, reason: Reason::Busy };
            self.settle(pending, Outcome::Unavailable(cause), "no worker became free in time", now);
        }
    }

    /// Gives waiting questions to workers, in order; one whose account or network has as many questions
    /// under way as it may still fail waits for their outcome, so that parallel guesses count like others.
    fn start_workers(&mut self, now: Instant) {
        self.look_again = None;
        if self.waiting.is_empty() {
            return;
        }
        let places = self.workshop.places(now);
        self.heed_lockout();
        let Some(mut places) = places else { return };
        let mut at = 0;
        while let Some(pending) = self.waiting.get(at) {
            let standing = pending.standing;
            if !places.is_there_one_for(standing) {
                if places.is_there_one_soon(standing) {
                    self.look_again = Some(now + LOOK);
                }
                match standing {
                    Standing::Known => at = self.waiting.known(), // there may be one for a stranger
                    Standing::Stranger => return,
                }
                continue;
            }
            let once_more = match self.decide(pending, now) {
                Decision::Ask { once_more } => once_more,
                Decision::Wait => {
                    at += 1;
                    continue;
                }
                Decision::Answer(outcome) => {
                    let Some(pending) = self.waiting.remove(at) else { return };
                    self.settle(pending, outcome, "", now);
                    continue;
                }
            };
            match self.workshop.start(pending, now, pending.arrived + self.settings.deadline) {
                Ok(job) => {
                    let Some(mut pending) = self.waiting.remove(at) else { return };
                    pending.frame = QuestionFrame::empty(); // the worker has it; ours is wiped
                    pending.began = Some(now);
                    pending.once_more = once_more;
                    self.running.push((job, pending));
                    places.taken(standing, true, true);
                }
                Err(NoWorker::Ours) => return, // for want of descriptors, which others give back: the question waits
                Err(NoWorker::Template) => return self.workshop.abandon_template(now), // it waits for the next one
            }
        }
    }

    /// The limits follow what locks accounts in the services now.
    fn heed_lockout(&mut self) {
        let locks = self.workshop.locks();
        if let Some(rule) = self.limits.heed(locks) {
            log_rule(rule, locks);
        }
    }

    /// What to do with a question for which there is a worker.
    fn decide(&self, pending: &Pending, now: Instant) -> Decision {
        let cause = |phase, reason| Cause { phase, code: 0, reason };
        if let Some(reason) = pending.unfit {
            return Decision::Answer(Outcome::Reject(cause(Phase::Check, reason)));
        }
        if !self.workshop.is_usable(&pending.service) {
            return Decision::Answer(Outcome::Unavailable(cause(Phase::Start, Reason::NoService)));
        }
        match self.room(pending, now) {
            Room::Now => Decision::Ask { once_more: false },
            Room::OnceMore => Decision::Ask { once_more: true },
            Room::Later => Decision::Wait,
            Room::Again => Decision::Answer(Outcome::Reject(cause(Phase::Limit, Reason::SameAgain))),
            Room::Never(reason) => Decision::Answer(Outcome::Throttled(cause(Phase::Limit, reason))),
        }
    }

    /// Whether a question may be asked now. Strangers of one network have a quarter of all workers, those of one IPv6 /48 half: a
    /// back end that hangs for them is not everybody's.
    fn room(&self, pending: &Pending, now: Instant) -> Room {
        let workers = self.settings.workers + self.settings.slow_workers;
        let strangers = || self.running.iter().map(|(_, running)| running).filter(|running| running.standing == Standing::Stranger);
        let beside = strangers().filter(|running| running.keys.is_of_network_of(&pending.keys)).count();
        let around = match Question::address(pending.peer) {
            IpAddr::V6(_) => strangers().filter(|running| running.keys.is_of_site_of(&pending.keys)).count(),
            IpAddr::V4(_) => 0, // addresses are dear
        };
        let full = beside >= workers.div_ceil(SHARE_OF_NETWORK) || around >= workers.div_ceil(SHARE_OF_SITE);
        if pending.standing == Standing::Stranger && full {
            return Room::Later;
        }
        self.limits.room(&pending.keys, self.running.iter().map(|(_, running)| &running.keys), now)
    }

    fn heard(&mut self, source: Source, now: Instant) {
        let news = self.workshop.ready(source, now);
        self.tell(news, now);
    }

    fn tell(&mut self, news: Vec<News>, now: Instant) {
        for piece in news {
            let (job, outcome, service, text) = match piece {
                News::Answered(job, report) => (job, report.outcome, report.service, report.text),
                News::Lost(job, reason, how) => {
                    *(if reason == Reason::Deadline { &mut self.losses.killed } else { &mut self.losses.crashed }) += 1;
                    (job, Outcome::Unavailable(Cause { phase: Phase::Worker, code: 0, reason }), String::new(), how)
                }
            };
            if let Some(at) = self.running.iter().position(|(running, _)| *running == job) {
                let (_, mut pending) = self.running.swap_remove(at);
                if !service.is_empty() {
                    pending.service = service;
                }
                self.settle(pending, outcome, &text, now);
            }
        }
    }

    /// The only place where a verdict is made: ticket, count, log line, frame.
    fn settle(&mut self, pending: Pending, mut outcome: Outcome, text: &str, now: Instant) {
        if let Outcome::Accept(accepted) = &mut outcome {
            match self.mint.sign(accepted, pending.session) {
                Some(ticket) => accepted.ticket = ticket,
                None => outcome = Outcome::Unavailable(Cause { phase: Phase::Identity, code: 0, reason: Reason::Fault }),
            }
        }
        let (began, mut leaves) = (pending.began.unwrap_or(now), now);
        let took = now.saturating_duration_since(began);
        match &outcome {
            Outcome::Accept(_) => {
                self.tempo.accepted(took, now);
                self.limits.accepted(&pending.keys, now);
                self.waiting.recognise(&pending.keys);
            }
            Outcome::Reject(cause) => {
                if [Phase::Auth, Phase::Account, Phase::Identity].contains(&cause.phase) {
                    self.tempo.refused(took, now);
                    match Code(cause.code) {
                        Code::USER_UNKNOWN if pending.once_more => self.limits.still_unknown(&pending.keys, now),
                        Code::USER_UNKNOWN => self.limits.failed(&pending.keys, Refused::Name, now),
                        _ => self.limits.failed(&pending.keys, Refused::Password, now),
                    }
                }
                leaves = self.tempo.leaves(began);
            }
            Outcome::Throttled(_) | Outcome::MustChange(_) | Outcome::Expired(_) | Outcome::NotPermitted(_) | Outcome::Unavailable(_) => {}
        }
        let written = self.repeats.note(pending.peer, Cost::of(&outcome, pending.once_more), now);
        self.ledger.enter(pending.told(&outcome, text, written, now));
        if let Some(frame) = (Verdict { id: pending.id, outcome }).encode() {
            self.departures.take(pending.stream, frame, leaves, now);
        }
    }

    fn rotate_tickets(&mut self, now: Instant) {
        if self.rotate_again.is_some_and(|time| now < time) {
            return;
        }
        self.rotate_again = Some(now + LONGEST_SLEEP);
        match self.mint.rotate() {
            Ok(Rotation::NotYet) => {}
            Ok(Rotation::Done) => Line::event(Level::Info, "tickets").with("state", "rotated").write(),
            Err(error) => Line::event(Level::Error, "tickets").with("state", "not-rotated").text("text", error.to_string()).write(),
        }
    }
}
