//! Those recipients of a job that go one way together, and the promise to answer for each of them once.
//!
//! A parcel that is dropped, because a task died or delivery ends, answers *deferred* for everybody still in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::client::transaction::Fate;
use super::client::trouble::Trouble;
use super::job::{Account, Job, Origin, Outcome, Outcomes, PassedOn, RecipientNo};
use crate::smtp::envelope::Recipient;
use crate::smtp::status::{Class, EnhancedStatus};

/// Servers that may want TLS or a login of one parcel before it is deferred.
const REFUSALS: usize = 10;

pub(crate) struct Parcel {
    errand: Arc<Errand>,
    /// Those that nothing was said about yet.
    recipients: Vec<(RecipientNo, Recipient)>,
    /// Fresh connections that broke under it.
    pub(crate) losses: u32,
    /// Servers that wanted TLS or a login before they took it.
    refusing: Vec<SocketAddr>,
}

/// What the parcels of one job share.
pub(crate) struct Errand {
    /// Without its recipients.
    job: Job,
    since: Instant,
    outcomes: mpsc::Sender<Outcomes>,
    /// Its place among the jobs in delivery.
    _place: OwnedSemaphorePermit,
}

/// Who a parcel was with, for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay<'a> {
    pub(crate) label: &'a str,
    pub(crate) tls: &'a str,
}

impl Relay<'static> {
    /// Nobody was asked.
    pub(crate) const NONE: Self = Self { label: "none", tls: "none" };
}

impl Errand {
    pub(crate) fn new(job: Job, outcomes: mpsc::Sender<Outcomes>, place: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Self { job, since: Instant::now(), outcomes, _place: place })
    }
}

impl Parcel {
    pub(crate) fn new(errand: Arc<Errand>, recipients: Vec<(RecipientNo, Recipient)>) -> Self {
        Self { errand, recipients, losses: 0, refusing: Vec::new() }
    }

    pub(crate) fn job(&self) -> &Job {
        &self.errand.job
    }

    pub(crate) fn recipients(&self) -> &[(RecipientNo, Recipient)] {
        &self.recipients
    }

    /// When the attempt is over, whatever the server does.
    pub(crate) fn deadline(&self) -> tokio::time::Instant {
        self.errand.job.deadline
    }

    pub(crate) fn is_late(&self, now: tokio::time::Instant) -> bool {
        self.errand.job.deadline <= now
    }

    /// A server wanted TLS or a login; whether another connection is worth a try. It is until the
    /// same server says so again: the next connection goes to another one, if there is any, and
    /// tries TLS afresh.
    pub(crate) fn may_try_another(&mut self, refusing: SocketAddr) -> bool {
        if self.refusing.contains(&refusing) || self.refusing.len() >= REFUSALS {
            return false;
        }
        self.refusing.push(refusing);
        true
    }

    /// Takes the recipients from `at` on into a parcel of their own.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let at = at.min(self.recipients.len());
        Self {
            errand: self.errand.clone(),
            recipients: self.recipients.drain(at..).collect(),
            losses: self.losses,
            refusing: self.refusing.clone(),
        }
    }

    /// The first recipient becomes the last.
    pub(crate) fn rotate(&mut self) {
        if !self.recipients.is_empty() {
            self.recipients.rotate_left(1);
        }
    }

    /// Answers for those whose fate is settled. Those with none stay in the parcel, if there are any.
    pub(crate) async fn settle(mut self, fates: Vec<Fate>, relay: Relay<'_>) -> Option<Self> {
        // Room first: from here to the send nothing can interrupt, so that nobody is answered twice or never.
        let Ok(room) = self.errand.outcomes.clone().reserve_owned().await else {
            // The queue is gone, and with it everybody to answer to.
            self.recipients.clear();
            return None;
        };
        let mut settled = Vec::with_capacity(fates.len());
        let mut fates = fates.into_iter();
        let mut left = Vec::new();
        for (number, recipient) in std::mem::take(&mut self.recipients) {
            match fates.next() {
                Some(Fate::Settled(outcome)) => {
                    let mut outcome = outcome.in_its_class();
                    let account = outcome.account_mut();
                    if account.remote.is_none() && account.origin == Origin::Remote {
                        account.remote = Some(relay.label.to_owned());
                    }
                    self.errand.log(&recipient, &outcome, relay);
                    settled.push((number, outcome));
                }
                Some(Fate::Open | Fate::Accepted | Fate::Again) | None => left.push((number, recipient)),
            }
        }
        if !settled.is_empty() {
            room.send(Outcomes { id: self.errand.job.id, settled });
        }
        self.recipients = left;
        (!self.recipients.is_empty()).then_some(self)
    }

    /// The same answer for all: failed if its status is permanent, else deferred.
    pub(crate) async fn settle_all(self, account: &Account, relay: Relay<'_>) {
        let fates = self.recipients.iter().map(|_| Fate::Settled(refused(account.clone()))).collect();
        self.settle(fates, relay).await;
    }

    /// The answer when the deadline has passed.
    pub(crate) async fn settle_late(self, relay: Relay<'_>) {
        let account = Trouble::late().account(relay.label);
        let remote = account.remote.filter(|remote| remote != Relay::NONE.label);
        let diagnostic = match remote {
            Some(_) => account.diagnostic,
            None => "the time for this attempt was over before there was a connection".to_owned(),
        };
        self.settle_all(&Account { remote, diagnostic, ..account }, relay).await;
    }
}

pub(crate) fn refused(account: Account) -> Outcome {
    match account.status.class {
        Class::Permanent => Outcome::Failed(account),
        Class::Success | Class::Transient => Outcome::Deferred(account),
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if self.recipients.is_empty() {
            return;
        }
        let outcome = Outcome::Deferred(Account {
            status: EnhancedStatus::new(Class::Transient, 3, 0),
            remote: None,
            diagnostic: "delivery was interrupted".to_owned(),
            origin: Origin::Local,
            passed_on: PassedOn::WithoutDsn,
        });
        let mut settled = Vec::with_capacity(self.recipients.len());
        for (number, recipient) in std::mem::take(&mut self.recipients) {
            self.errand.log(&recipient, &outcome, Relay::NONE);
            settled.push((number, outcome.clone()));
        }
        let outcomes = Outcomes { id: self.errand.job.id, settled };
        if let Err(mpsc::error::TrySendError::Full(outcomes)) = self.errand.outcomes.try_send(outcomes)
            && let Ok(runtime) = Handle::try_current()
        {
            let sender = self.errand.outcomes.clone();
            runtime.spawn(async move { sender.send(outcomes).await });
        }
    }
}

impl Errand {
    fn log(&self, recipient: &Recipient, outcome: &Outcome, relay: Relay<'_>) {
        let delay = format_args!("{:.3}", self.since.elapsed().as_secs_f64()).to_string();
        let (id, rcpt) = (&self.job.id, &recipient.mailbox);
        let (event, account, relay_asked) = match outcome {
            Outcome::Delivered(account) => ("delivered", account, relay.label),
            Outcome::Deferred(account) => ("deferred", account, account.remote.as_deref().unwrap_or(relay.label)),
            Outcome::Failed(account) => ("failed", account, account.remote.as_deref().unwrap_or(relay.label)),
        };
        let (tls, status, reply) = (relay.tls, account.status, &account.diagnostic);
        tracing::info!(event, %id, %rcpt, relay = relay_asked, tls, %status, reply, delay);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::delivery::samples;

    fn parcel(outcomes: mpsc::Sender<Outcomes>) -> Parcel {
        let mut job = samples::job("a@b.example", &["x@c.example", "y@c.example"]);
        let recipients = std::mem::take(&mut job.recipients);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Parcel::new(Errand::new(job, outcomes, place), recipients)
    }

    fn delivered() -> Fate {
        Fate::Settled(Outcome::Delivered(Account {
            status: EnhancedStatus::new(Class::Success, 0, 0),
            remote: None,
            diagnostic: "250 ok".into(),
            origin: Origin::Remote,
            passed_on: PassedOn::WithoutDsn,
        }))
    }

    #[tokio::test]
    async fn a_dropped_parcel_answers_for_those_left_in_it_even_when_the_channel_is_full() {
        let (sender, mut receiver) = mpsc::channel(1);
        let first = parcel(sender.clone());
        let second = parcel(sender);

        let left = first.settle(vec![delivered(), Fate::Open], Relay::NONE).await;
        drop(left);
        drop(second);

        let mut seen: Vec<Vec<(u32, bool)>> = Vec::new();
        while let Some(outcomes) = receiver.recv().await {
            seen.push(outcomes.settled.iter().map(|(number, outcome)| (number.0, matches!(outcome, Outcome::Delivered(_)))).collect());
        }
        seen.sort();
        assert_eq!(seen, [vec![(0, false), (1, false)], vec![(0, true)], vec![(1, false)]]);
    }

    #[tokio::test]
    async fn names_the_relay_only_for_what_it_said() {
        let (sender, mut receiver) = mpsc::channel(1);

        let left = parcel(sender).settle(vec![delivered(), delivered()], Relay { label: "r[1]:25", tls: "none" }).await;

        assert!(left.is_none());
        let outcomes = receiver.recv().await.unwrap();
        for (_, outcome) in outcomes.settled {
            assert!(matches!(outcome, Outcome::Delivered(account) if account.remote.as_deref() == Some("r[1]:25")));
        }
    }
}
