//! Between store and delivery: what is due goes out, what became of it is settled.
//!
//! ```text
//! door ──Fresh──▶ ┌──────────┐ ──Job──▶ delivery
//! store ──due───▶ │  rounds  │ ◀─Outcomes─┘
//!                 └────┬─────┘
//!                      └─▶ settle ─▶ store (with the report, in one step)
//! ```
//!
//! Invariants: a message has at most one round at a time, and keeps its claim from the start of the round until what
//! became of it is durable. Messages in memory are bounded: so many fresh ones, so many from the store, each with its own
//! share so that neither starves the other, and no domain gets all of them (`places`). Nothing here is needed after a crash.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::accept::{Active, Fresh};
use super::footprint;
use super::message::{Author, Message, NewMessage, Progress};
use super::moment::Moment;
use super::places::{Place, Places, domains};
use super::report::Reports;
use super::schedule::Schedule;
use super::settle::{After, Settled, note, settle, tell_postmaster};
use super::store::{Change, Due, DueQuery, Noted, QueueStore, Reached, Settlement, StoreError, Then, new_body};
use crate::delivery::job::{Job, Outcome, Outcomes, RecipientNo};
use crate::handoff::QueueId;
use crate::smtp::envelope::{Envelope, Recipient};

/// How many messages may be in memory at once.
#[derive(Clone, Copy, Debug)]
pub struct ActiveLimits {
    /// Just accepted, delivered from memory.
    pub fresh: usize,
    /// Read back from the store.
    pub loaded: usize,
}

impl Default for ActiveLimits {
    fn default() -> Self {
        Self { fresh: 1536, loaded: 512 }
    }
}

/// Looks into the store at least so often, whatever the clock says.
const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// Pause before looking again when the store had nothing to give although something was due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause between looks that each pass over many messages, for domains that have their share of the places.
const CROWDED: Duration = Duration::from_millis(100);
/// Pause after any other look.
const LEAST: Duration = Duration::from_millis(10);
/// What deliveries on their way get when the role ends: a server may think for long about what is behind the final dot, and
/// a message whose answer is not heard is sent twice.
const GRACE: Duration = Duration::from_secs(15);
/// Pause before a settlement whose report found no room is tried again.
const SETTLE_AGAIN: Duration = Duration::from_secs(5);

/// Delivery has gone: its ends of the channels are closed. Everything is in the store.
#[derive(Debug, thiserror::Error)]
#[error("the delivery side has ended")]
pub struct DeliveryGone;

/// One message being delivered.
struct Round {
    message: Message,
    /// Recipients that nothing was heard of yet.
    out: HashSet<RecipientNo>,
    /// What is not delivered.
    others: Vec<(RecipientNo, Outcome)>,
    place: Place,
    begun: Instant,
}

/// What settling needs; shared by its tasks.
struct Settler<S> {
    store: Arc<S>,
    reports: Reports,
    look: Arc<Notify>,
}

pub struct Dispatch<S: QueueStore> {
    settler: Arc<Settler<S>>,
    schedule: Schedule,
    outcomes: mpsc::Receiver<Outcomes>,
    fresh: mpsc::UnboundedReceiver<Fresh>,
    look: Arc<Notify>,
    rounds: HashMap<QueueId, Round>,
    /// Begun, but delivery has not taken them yet.
    waiting: VecDeque<Job>,
    loads: Arc<Places>,
    /// Where the next look goes on.
    from: Option<Reached>,
    load_limit: usize,
    looking: Option<JoinHandle<Looked>>,
    next_look: Instant,
    settling: JoinSet<()>,
}

/// What a look into the store brought.
struct Looked {
    due: Result<Due, StoreError>,
    places: Taken,
}

/// Places that were taken for what a look brings.
type Taken = Arc<Mutex<HashMap<QueueId, Place>>>;

impl<S: QueueStore> Dispatch<S> {
    /// The dispatcher, and what the door needs to pass messages to it.
    pub fn new(
        store: Arc<S>,
        schedule: Schedule,
        reports: Reports,
        limits: ActiveLimits,
        outcomes: mpsc::Receiver<Outcomes>,
    ) -> (Self, Active) {
        let (to_us, fresh) = mpsc::unbounded_channel();
        let look = Arc::new(Notify::new());
        let active = Active { places: Places::new(limits.fresh), fresh: to_us, look: Arc::clone(&look) };
        let settler = Arc::new(Settler { store, reports, look: Arc::clone(&look) });
        let dispatch = Self {
            settler,
            schedule,
            outcomes,
            fresh,
            look,
            rounds: HashMap::new(),
            waiting: VecDeque::new(),
            loads: Places::new(limits.loaded),
            load_limit: limits.loaded,
            from: None,
            looking: None,
            next_look: Instant::now(),
            settling: JoinSet::new(),
        };
        (dispatch, active)
    }

    /// Works until `stop` is true, then for a moment longer.
    pub async fn run(mut self, jobs: mpsc::Sender<Job>, mut stop: watch::Receiver<bool>) -> Result<(), DeliveryGone> {
        loop {
            tokio::select! {
                Some(fresh) = self.fresh.recv() => self.begin(fresh.message, fresh.place),
                outcomes = self.outcomes.recv() => self.hear(outcomes.ok_or(DeliveryGone)?),
                free = jobs.reserve(), if !self.waiting.is_empty() => {
                    let free = free.map_err(|_| DeliveryGone)?;
                    if let Some(job) = self.waiting.pop_front() {
                        free.send(job);
                    }
                }
                looked = found(&mut self.looking) => self.take(looked),
                () = self.look.notified() => self.next_look = Instant::now(),
                () = sleep_until(self.next_look), if self.may_look() => self.look_up(),
                // A place in memory may have become free, so that it is worth looking.
                Some(_) = self.settling.join_next() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            while self.settling.try_join_next().is_some() {}
        }
        drop(jobs); // which tells delivery to come to an end
        self.wind_down().await;
        Ok(())
    }

    /// Hears what is still on its way; what is not heard of in time is tried again at the next start.
    async fn wind_down(&mut self) {
        let deadline = Instant::now() + GRACE;
        for job in std::mem::take(&mut self.waiting) {
            self.rounds.remove(&job.id);
        }
        while !self.rounds.is_empty()
            && let Ok(Some(outcomes)) = timeout_at(deadline, self.outcomes.recv()).await
        {
            self.hear(outcomes);
        }
        let settled = async { while self.settling.join_next().await.is_some() {} };
        if timeout_at(deadline, settled).await.is_err() || !self.rounds.is_empty() {
            tracing::info!(event = "unfinished", messages = self.rounds.len(), reason = "the role ends; they will be tried again");
        }
    }

    fn begin(&mut self, message: Message, place: Place) {
        let mut recipients = message.open_recipients();
        turn(&mut recipients, &message);
        let out = recipients.iter().map(|(no, _)| *no).collect();
        let round = Round { message, out, others: Vec::new(), place, begun: Instant::now() };
        if recipients.is_empty() {
            // All were done when the last process ended; only the end was missing.
            return self.end(round);
        }
        let message = &round.message;
        let limit = self.schedule.attempt_limit(&message.timing, Moment::now(), message.content.size());
        self.waiting.push_back(Job {
            id: message.id,
            user: match &message.author {
                Author::User { user, .. } => user.as_str().into(),
                Author::Report { .. } => "".into(),
            },
            sender: message.envelope.sender.clone(),
            body: message.envelope.body,
            international: message.envelope.international,
            ret: message.envelope.ret,
            envid: message.envelope.envid.clone(),
            recipients,
            content: message.content.clone(),
            deadline: round.begun + limit,
        });
        self.rounds.insert(round.message.id, round);
    }

    fn hear(&mut self, outcomes: Outcomes) {
        let Some(round) = self.rounds.get_mut(&outcomes.id) else {
            tracing::warn!(event = "outcome_unexpected", id = %outcomes.id);
            return;
        };
        let delivered = round.hear(outcomes.settled);
        if round.out.is_empty() {
            if let Some(round) = self.rounds.remove(&outcomes.id) {
                self.end(round);
            }
        } else if !delivered.is_empty() {
            self.settler.store.note(outcomes.id, &delivered);
        }
    }

    fn end(&mut self, mut round: Round) {
        let dice = (round.message.id.number() ^ u64::from(std::process::id()).rotate_left(7)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let now = Moment::now();
        // The clocks of the next attempt and of giving up ran while this one did.
        let took = round.begun.elapsed();
        round.message.timing = round.message.timing.after_attempt(took);
        let mut settled = settle(&round.message, &round.others, &self.schedule, now, dice as u16);
        self.log_unheard(&round.message, &settled);
        tell_postmaster(&round.message, &mut settled, self.settler.reports.postmaster.as_ref());
        if let After::Retry { timing, .. } = &mut settled.then {
            *timing = self.schedule.sooner(*timing, took);
            self.look_by(Instant::now() + timing.due.since(now).min(LONGEST_LOOK));
        }
        self.settling.spawn(Arc::clone(&self.settler).settle(round.message, settled, now, round.place));
    }

    /// Failures that the sender of the message does not hear of. That of a report is an alarm: now nobody knows what became of
    /// the message that it is about.
    fn log_unheard(&self, message: &Message, settled: &Settled) {
        let Settler { reports, .. } = &*self.settler;
        for (no, account) in &settled.silent {
            let (id, rcpt, status, reply) = (message.id, name(message, *no), account.status, &account.diagnostic);
            match &message.author {
                Author::Report { about } => {
                    reports.undelivered.count();
                    let (so_far, postmaster) = (reports.undelivered.so_far(), reports.postmaster.as_ref().map(ToString::to_string));
                    let postmaster = postmaster.unwrap_or_else(|| "none".to_owned());
                    tracing::error!(event = "dropped", %id, %about, %rcpt, %status, reply, postmaster, so_far, reason = "a delivery report could not be delivered");
                }
                Author::User { user, .. } => {
                    let reason = "the sender is null or asked not to be told";
                    tracing::warn!(event = "dropped", %id, user, %rcpt, %status, reply, reason);
                }
            }
        }
    }

    fn look_by(&mut self, at: Instant) {
        self.next_look = self.next_look.min(at);
    }

    fn may_look(&self) -> bool {
        // Not for one place at a time: a look costs the writer a query.
        self.looking.is_none() && self.loads.free().saturating_mul(8) > self.load_limit
    }

    fn look_up(&mut self) {
        let taken = Taken::default();
        let (loads, places) = (Arc::clone(&self.loads), Arc::clone(&taken));
        let admit = move |id, envelope: &Envelope, progress: &Progress, body: u64| {
            let place = loads.take(domains(envelope, Some(progress)), footprint::memory(envelope, body));
            let admitted = place.is_some();
            places.lock().unwrap_or_else(PoisonError::into_inner).extend(place.map(|it| (id, it)));
            admitted
        };
        let query = DueQuery::new(Moment::now(), self.schedule.horizon(), self.loads.free()).only(Arc::new(admit)).from(self.from);
        let store = Arc::clone(&self.settler.store);
        self.looking = Some(tokio::spawn(async move { Looked { due: store.claim_due(query).await, places: taken } }));
        self.next_look = Instant::now() + LONGEST_LOOK;
    }

    /// Begins what the look brought, and decides when to look again.
    fn take(&mut self, looked: Looked) {
        let due = match looked.due {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(event = "not_loaded", reason = %error);
                self.look_by(Instant::now() + LOOK_AGAIN);
                return;
            }
        };
        if let Some(next) = due.next {
            let pause = next.since(Moment::now());
            let least = match (due.messages.is_empty(), due.rest) {
                (_, Some(_)) => CROWDED,
                (true, None) => LOOK_AGAIN,
                (false, None) => LEAST,
            };
            self.look_by(Instant::now() + pause.clamp(least, LONGEST_LOOK));
        }
        self.from = due.rest;
        let mut places = std::mem::take(&mut *looked.places.lock().unwrap_or_else(PoisonError::into_inner));
        for message in due.messages {
            match places.remove(&message.id) {
                Some(place) => self.begin(message, place),
                None => self.settler.store.unclaim(message.id),
            }
        }
    }
}

/// The end of a look; never, while there is none.
async fn found(looking: &mut Option<JoinHandle<Looked>>) -> Looked {
    let Some(handle) = looking else { return std::future::pending().await };
    let looked = handle.await.unwrap_or(Looked { due: Err(StoreError::Closed), places: Taken::default() });
    *looking = None;
    looked
}

impl Round {
    /// Gives the recipients that were delivered, which is to be recorded soon.
    fn hear(&mut self, settled: Vec<(RecipientNo, Outcome)>) -> Vec<Noted> {
        let mut delivered = Vec::new();
        let recipients = self.message.envelope.recipients().len();
        for (no, mut outcome) in settled {
            if !self.out.remove(&no) {
                tracing::warn!(event = "outcome_unexpected", id = %self.message.id, rcpt = no.0);
                continue;
            }
            outcome.account_mut().cut(recipients);
            if let Some(recipient) = recipient(&self.message.envelope, no) {
                delivered.extend(note(&mut self.message.progress, recipient, no, &outcome));
            }
            match outcome {
                Outcome::Delivered(_) => {}
                Outcome::Deferred(_) | Outcome::Failed(_) => self.others.push((no, outcome)),
            }
        }
        delivered
    }
}

/// Each attempt begins with another recipient, so that one at which a server ends the connection does not keep the same others from
/// their turn each time.
fn turn(recipients: &mut [(RecipientNo, Recipient)], message: &Message) {
    if message.timing.attempts > 0 && !recipients.is_empty() {
        let mixed = (message.id.number() ^ u64::from(message.timing.attempts)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        recipients.rotate_left(mixed as usize % recipients.len());
    }
}

/// A recipient's address, for the log.
fn name(message: &Message, no: RecipientNo) -> String {
    recipient(&message.envelope, no).map(|it| it.mailbox.to_string()).unwrap_or_default()
}

/// At once, however many there are.
fn recipient(envelope: &Envelope, no: RecipientNo) -> Option<&Recipient> {
    match usize::try_from(no.0).ok()?.checked_sub(1) {
        None => Some(&envelope.first),
        Some(at) => envelope.rest.get(at),
    }
}

impl<S: QueueStore> Settler<S> {
    /// Makes durable what was decided; `place` is free again afterwards.
    async fn settle(self: Arc<Self>, message: Message, settled: Settled, now: Moment, place: Place) {
        let id = message.id;
        let recorded = if settled.told.is_empty() {
            self.store.settle(Settlement { id, then: then(&settled.then), report: None }).await.map(|_| ())
        } else {
            self.settle_and_report(message, settled, now).await
        };
        if let Err(error) = recorded {
            tracing::error!(event = "not_settled", id = %id, reason = %error);
        }
        drop(place);
    }

    /// The report and the settlement become durable in one step. While there is no room for the report, both wait.
    async fn settle_and_report(&self, message: Message, settled: Settled, now: Moment) -> Result<(), StoreError> {
        let (id, reporter) = (message.id, Arc::clone(&self.reports.reporter));
        let (told, recipients) = (settled.told, message.envelope.recipients().len());
        let written = tokio::task::spawn_blocking(move || reporter(&message, &told, now)).await;
        let report = match written {
            Ok(Some(report)) => report,
            Ok(None) => {
                tracing::error!(event = "not_reported", id = %id, recipients, reason = "the report was not written");
                return self.keep_for_people(id).await;
            }
            Err(error) => {
                tracing::error!(event = "not_reported", id = %id, recipients, reason = %error);
                return self.keep_for_people(id).await;
            }
        };
        let to = report.envelope.first.mailbox.to_string();
        let written = loop {
            let new = NewMessage {
                author: Author::Report { about: id },
                envelope: report.envelope.clone(),
                arrived: now,
                arrival: super::message::Arrival::Here,
                token: None,
            };
            // Made anew each time: what was tried is gone with its draft.
            let settled = match new_body(&*self.store, report.bytes.clone()).await {
                Ok(body) => self.store.settle(Settlement { id, then: then(&settled.then), report: Some((new, body)) }).await,
                Err(error) => Err(error),
            };
            if let Some(settled) = or_later(id, settled).await {
                break settled?;
            }
        };
        if let Some(report) = written {
            tracing::info!(event = "reported", id = %id, report = %report, to);
            self.look.notify_one();
        }
        Ok(())
    }

    /// A report cannot be written: the message is held, so that somebody looks at it and nothing is lost.
    async fn keep_for_people(&self, id: QueueId) -> Result<(), StoreError> {
        loop {
            if let Some(held) = or_later(id, self.store.alter(vec![id], Change::Hold).await).await {
                held?;
                break;
            }
        }
        self.store.unclaim(id);
        Ok(())
    }
}

/// What came of a step, or nothing after a pause, when it is to be tried again: as long as the store has not ended.
async fn or_later<T>(id: QueueId, done: Result<T, StoreError>) -> Option<Result<T, StoreError>> {
    match done {
        Err(error @ (StoreError::Full | StoreError::File { .. } | StoreError::Database(_))) => {
            tracing::warn!(event = "settlement_waits", id = %id, reason = %error);
            sleep(SETTLE_AGAIN).await;
            None
        }
        done @ (Ok(_) | Err(StoreError::Closed)) => Some(done),
    }
}

fn then(after: &After) -> Then {
    match after {
        After::Finished => Then::Finished,
        After::Retry { progress, timing } => Then::Retry { progress: progress.clone(), timing: *timing },
    }
}
