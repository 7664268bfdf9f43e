//! What the outcomes of one round make of a message: who is done, what the sender hears, when to try again.
//!
//! ```text
//! Delivered ─▶ done, and a success report if it was asked for and nobody else will write it
//! Deferred ──▶ again later │ after five days: failed │ once, after four hours: a warning
//! Failed ────▶ done, and a failure report unless NOTIFY forbids it
//! ```
//!
//! Pure: `now` and the dice come in. Invariants: a recipient that is done never becomes open again; a report is never
//! owed to a null sender (RFC 5321 §6.1); what is to be reported is decided together with what is recorded, so that
//! both can become durable together.

use super::message::{Message, Progress, Standing, Timing, Warned};
use super::moment::Moment;
use super::schedule::{Next, Schedule};
use super::store::Noted;
use crate::delivery::job::{Account, Outcome, PassedOn, RecipientNo};
use crate::smtp::address::Mailbox;
use crate::smtp::envelope::Recipient;

/// What a round makes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub then: After,
    /// What the sender is to hear, in one report; empty for none.
    pub told: Vec<Told>,
    /// Recipients that failed and about whom the sender will not hear: the sender is null, or NOTIFY forbids it.
    pub silent: Vec<(RecipientNo, Account)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    Finished,
    Retry { progress: Progress, timing: Timing },
}

/// One recipient in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub no: RecipientNo,
    pub recipient: Recipient,
    pub what: Event,
    pub account: Account,
}

/// What a report says of a recipient (RFC 3464 §2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Handed to a server that will not report any further: `relayed`. Into a maildir of ours: `delivered`.
    Delivered,
    Failed,
    /// Failed, because it was deferred for too long.
    Expired,
    /// Not yet delivered, still being tried: `delayed`.
    Delayed {
        until: Moment,
    },
}

/// Records what is certain in the middle of a round: a delivered recipient is not tried again after a crash.
/// Gives what the store is to note of it.
pub fn note(progress: &mut Progress, recipient: &Recipient, no: RecipientNo, outcome: &Outcome) -> Option<Noted> {
    let standing = progress.standings.get_mut(index(no)).filter(|it| it.is_open())?;
    match outcome {
        Outcome::Delivered(account) => {
            let owed = recipient.notify.of_success() && account.passed_on == PassedOn::WithoutDsn;
            let owed = owed.then(|| account.clone());
            *standing = Standing::Delivered { owed: owed.clone() };
            Some(Noted { no, owed })
        }
        // Open until the end of the round: the failure and its report become durable together.
        Outcome::Deferred(_) | Outcome::Failed(_) => None,
    }
}

/// Decides at the end of a round. `message.progress` has every delivery noted; `others` are the other outcomes.
pub fn settle(message: &Message, others: &[(RecipientNo, Outcome)], schedule: &Schedule, now: Moment, dice: u16) -> Settled {
    let reportable = !message.envelope.sender.is_null();
    let next = schedule.next(&message.timing, now, dice);
    let waited = schedule.waited(&message.timing, now);
    let mut progress = message.progress.clone();
    let (mut told, mut silent) = (Vec::new(), Vec::new());
    let recipients: Vec<_> = message.envelope.recipients().collect();
    for (no, outcome) in others {
        let (Some(standing), Some(recipient)) = (progress.standings.get_mut(index(*no)), recipients.get(index(*no)).copied()) else {
            continue;
        };
        if !standing.is_open() {
            continue;
        }
        let (what, account) = match (outcome, next) {
            (Outcome::Delivered(_), _) => continue,
            (Outcome::Deferred(account), Next::Retry(_)) => {
                *standing = Standing::Deferred(account.clone());
                continue;
            }
            (Outcome::Deferred(account), Next::GiveUp) => (Event::Expired, account.clone()),
            (Outcome::Failed(account), _) => (Event::Failed, account.clone()),
        };
        *standing = Standing::Failed;
        if reportable && recipient.notify.of_failure() {
            told.push(Told { no: *no, recipient: recipient.clone(), what, account });
        } else {
            silent.push((*no, account));
        }
    }
    if reportable {
        told.extend(successes(message, &mut progress));
    }
    let Next::Retry(timing) = next else { return Settled { then: After::Finished, told, silent } };
    if !progress.standings.iter().any(Standing::is_open) {
        return Settled { then: After::Finished, told, silent };
    }
    if reportable && progress.warned == Warned::NotYet && waited >= schedule.warn_after {
        progress.warned = Warned::Once;
        let until = timing.arrived.plus(schedule.give_up);
        told.extend(delays(message, &progress, until));
    }
    Settled { then: After::Retry { progress, timing }, told, silent }
}

/// A report that failed has no sender to hear of it; the postmaster does, if there is one. What the postmaster cannot get is
/// lost, so that no report follows another for ever.
pub fn tell_postmaster(message: &Message, settled: &mut Settled, postmaster: Option<&Mailbox>) {
    let Some(postmaster) = postmaster.filter(|_| message.author.is_report()) else { return };
    let recipients: Vec<_> = message.envelope.recipients().collect();
    settled.silent.retain(|(no, account)| match recipients.get(index(*no)) {
        Some(recipient) if recipient.mailbox.delivery_key() != postmaster.delivery_key() => {
            settled.told.push(Told { no: *no, recipient: (*recipient).clone(), what: Event::Failed, account: account.clone() });
            false
        }
        Some(_) | None => true,
    });
}

/// The success reports that are owed, which are then no longer.
fn successes(message: &Message, progress: &mut Progress) -> Vec<Told> {
    let mut told = Vec::new();
    for ((no, recipient), standing) in (0..).zip(message.envelope.recipients()).zip(&mut progress.standings) {
        if let Standing::Delivered { owed } = standing
            && let Some(account) = owed.take()
        {
            told.push(Told { no: RecipientNo(no), recipient: recipient.clone(), what: Event::Delivered, account });
        }
    }
    told
}

fn delays(message: &Message, progress: &Progress, until: Moment) -> Vec<Told> {
    let mut told = Vec::new();
    for ((no, recipient), standing) in (0..).zip(message.envelope.recipients()).zip(&progress.standings) {
        if let Standing::Deferred(account) = standing
            && recipient.notify.of_delay()
        {
            let what = Event::Delayed { until };
            told.push(Told { no: RecipientNo(no), recipient: recipient.clone(), what, account: account.clone() });
        }
    }
    told
}

fn index(no: RecipientNo) -> usize {
    usize::try_from(no.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::delivery::job::{Body, Content, Origin};
    use crate::handoff::QueueId;
    use crate::queue::conformance::{NOW, envelope, new_message};
    use crate::queue::message::Author;
    use crate::smtp::address::ReversePath;
    use crate::smtp::envelope::{Notify, NotifyOn};
    use crate::smtp::status::{Class, EnhancedStatus};

    const HOUR: Duration = Duration::from_secs(3600);

    fn account(class: Class) -> Account {
        Account {
            status: EnhancedStatus::new(class, 1, 1),
            remote: None,
            diagnostic: "because".into(),
            origin: Origin::Remote,
            passed_on: PassedOn::WithoutDsn,
        }
    }

    fn delivered() -> Outcome {
        Outcome::Delivered(account(Class::Success))
    }

    fn deferred() -> Outcome {
        Outcome::Deferred(account(Class::Transient))
    }

    fn failed() -> Outcome {
        Outcome::Failed(account(Class::Permanent))
    }

    fn message(recipients: usize) -> Message {
        let names: Vec<_> = (0..recipients).map(|number| format!("r{number}@b.example")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Message {
            id: QueueId::named("0000000000001").unwrap(),
            author: new_message(&["x@x.example"]).author,
            envelope: envelope(&names),
            timing: Timing::fresh(NOW),
            progress: Progress::fresh(recipients),
            content: Content { trace: Bytes::new(), body: Body::Memory(Bytes::new()) },
        }
    }

    /// A whole round: every outcome noted, then settled.
    fn round(mut message: Message, outcomes: &[Outcome], now: Moment) -> Settled {
        let numbered: Vec<_> = (0..).map(RecipientNo).zip(outcomes.iter().cloned()).collect();
        let recipients: Vec<_> = message.envelope.recipients().cloned().collect();
        for ((no, outcome), recipient) in numbered.iter().zip(&recipients) {
            note(&mut message.progress, recipient, *no, outcome);
        }
        settle(&message, &numbered, &Schedule::default(), now, 0)
    }

    fn events(settled: &Settled) -> Vec<(u32, Event)> {
        settled.told.iter().map(|told| (told.no.0, told.what)).collect()
    }

    fn with_notify(mut message: Message, notify: Notify) -> Message {
        message.envelope.first.notify = notify;
        message
    }

    /// Tried for so long.
    fn after(mut message: Message, waited: Duration) -> (Message, Moment) {
        message.timing.waited = waited;
        (message, NOW.plus(waited))
    }

    #[test]
    fn a_message_delivered_to_all_is_finished_without_a_word() {
        let settled = round(message(2), &[delivered(), delivered()], NOW);

        assert_eq!(settled, Settled { then: After::Finished, told: vec![], silent: vec![] });
    }

    #[test]
    fn a_failure_is_told_and_the_others_are_tried_again() {
        let settled = round(message(3), &[delivered(), failed(), deferred()], NOW);

        assert_eq!(events(&settled), [(1, Event::Failed)]);
        let After::Retry { progress, timing } = settled.then else { panic!("one is left") };
        assert_eq!(progress.standings[0], Standing::Delivered { owed: None });
        assert_eq!(progress.standings[1], Standing::Failed);
        assert!(matches!(&progress.standings[2], Standing::Deferred(_)));
        assert_eq!((timing.attempts, timing.due.since(NOW).as_secs()), (1, 270));
    }

    #[test]
    fn what_is_deferred_for_five_days_fails() {
        let (message, now) = after(message(2), 5 * 24 * HOUR);

        let settled = round(message, &[deferred(), deferred()], now);

        assert_eq!(events(&settled), [(0, Event::Expired), (1, Event::Expired)]);
        assert_eq!(settled.then, After::Finished);
    }

    #[test]
    fn a_null_sender_never_hears_of_anything() {
        let (mut message, now) = after(message(2), 5 * 24 * HOUR);
        message.envelope.sender = ReversePath::Null;
        message.envelope.first.notify = Notify::On(NotifyOn { success: true, failure: true, delay: true });

        let settled = round(message, &[failed(), deferred()], now);

        assert!(settled.told.is_empty());
        assert_eq!(settled.silent.iter().map(|(no, _)| no.0).collect::<Vec<_>>(), [0, 1], "but the log does");
    }

    #[test]
    fn a_report_that_failed_is_told_to_the_postmaster_but_never_to_the_one_who_could_not_get_it() {
        let mailbox = |text| crate::delivery::samples::mailbox(text);
        let failed = || {
            let mut report = message(1);
            report.author = Author::Report { about: report.id };
            report.envelope.sender = ReversePath::Null;
            let settled = round(report.clone(), &[failed()], NOW);
            (report, settled)
        };
        for (postmaster, told) in
            [(None, vec![]), (Some(mailbox("postmaster@b.example")), vec![(0, Event::Failed)]), (Some(mailbox("r0@B.example")), vec![])]
        {
            let (report, mut settled) = failed();

            tell_postmaster(&report, &mut settled, postmaster.as_ref());

            assert_eq!(events(&settled), told, "{postmaster:?}");
            assert_eq!(settled.silent.len(), 1 - told.len());
        }
        let (mut null, mut settled) = failed();
        null.author = message(1).author;
        tell_postmaster(&null, &mut settled, Some(&mailbox("postmaster@b.example")));
        assert!(settled.told.is_empty(), "a client that sends with a null sender does not write to the postmaster");
    }

    #[test]
    fn notify_decides_what_is_told() {
        let on = |success, failure, delay| Notify::On(NotifyOn { success, failure, delay });
        let cases = [
            (Notify::Unspecified, failed(), vec![(0, Event::Failed)]),
            (Notify::Never, failed(), vec![]),
            (on(false, true, false), failed(), vec![(0, Event::Failed)]),
            (on(true, false, false), failed(), vec![]),
            (Notify::Unspecified, delivered(), vec![]),
            (Notify::Never, delivered(), vec![]),
            (on(true, false, false), delivered(), vec![(0, Event::Delivered)]),
        ];
        for (notify, outcome, told) in cases {
            let settled = round(with_notify(message(1), notify), std::slice::from_ref(&outcome), NOW);

            assert_eq!(events(&settled), told, "{notify:?} {outcome:?}");
            assert_eq!(settled.then, After::Finished);
        }
    }

    #[test]
    fn a_success_that_the_next_server_reports_is_not_told_here() {
        let notify = Notify::On(NotifyOn { success: true, failure: false, delay: false });
        let passed_on = Outcome::Delivered(Account { passed_on: PassedOn::WithDsn, ..account(Class::Success) });

        let settled = round(with_notify(message(1), notify), &[passed_on], NOW);

        assert!(settled.told.is_empty());
    }

    #[test]
    fn a_success_report_that_a_crash_kept_back_is_written_by_the_next_round() {
        let mut message = with_notify(message(2), Notify::On(NotifyOn { success: true, failure: false, delay: false }));
        message.progress.standings[0] = Standing::Delivered { owed: Some(account(Class::Success)) };

        let settled = settle(&message, &[(RecipientNo(1), deferred())], &Schedule::default(), NOW, 0);

        assert_eq!(events(&settled), [(0, Event::Delivered)]);
        let After::Retry { progress, .. } = settled.then else { panic!("one is left") };
        assert_eq!(progress.standings[0], Standing::Delivered { owed: None }, "and only once");
    }

    #[test]
    fn a_delay_is_told_once_after_four_hours() {
        let early = round(after(message(1), 3 * HOUR).0, &[deferred()], NOW.plus(3 * HOUR));
        let (late, now) = after(message(1), 4 * HOUR);
        let first = round(late.clone(), &[deferred()], now);
        let After::Retry { progress, timing } = first.then.clone() else { panic!("it is tried again") };
        let second = round(Message { progress, timing, ..late.clone() }, &[deferred()], timing.due);
        let never = round(with_notify(late, Notify::Never), &[deferred()], now);

        assert!(early.told.is_empty());
        assert_eq!(events(&first), [(0, Event::Delayed { until: NOW.plus(5 * 24 * HOUR) })]);
        assert!(second.told.is_empty());
        assert!(never.told.is_empty());
    }

    #[test]
    fn an_outcome_for_nobody_changes_nothing() {
        let settled = settle(&message(1), &[(RecipientNo(7), failed()), (RecipientNo(u32::MAX), deferred())], &Schedule::default(), NOW, 0);

        assert!(settled.told.is_empty());
        assert!(matches!(settled.then, After::Retry { .. }), "the recipient that nothing was said about is still open");
    }
}
