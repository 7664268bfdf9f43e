//! What every store must do, as tests over the trait: `conformance!(module, harness)` runs all of them.
//!
//! A harness makes a store in a place of its own and opens the same place again after the store was dropped, which is
//! what a restart is.

use std::time::Duration;

use bytes::Bytes;

use super::message::{Arrival, Author, Message, NewMessage, Progress, Standing, Timing, Warned};
use super::moment::Moment;
use super::store::*;
use crate::delivery::job::{Account, Body, Origin, PassedOn, RecipientNo};
use crate::handoff::QueueId;
use crate::message::trace::{Protocol, Trace};
use crate::smtp::SessionId;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::envelope::{BodyType, Envelope, International, Notify, Recipient};
use crate::smtp::status::{Class, EnhancedStatus};

pub(crate) trait Harness {
    type Store: QueueStore;

    fn new() -> Self;

    /// Only after the store before it was dropped.
    fn open(&self) -> Self::Store;
}

pub(crate) const NOW: Moment = Moment(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text, International::Ascii).unwrap()
}

fn recipient(text: &str) -> Recipient {
    Recipient { mailbox: mailbox(text), notify: Notify::Unspecified, original: None }
}

pub(crate) fn envelope(recipients: &[&str]) -> Envelope {
    let mut all = recipients.iter().map(|text| recipient(text));
    Envelope {
        sender: ReversePath::Mailbox(mailbox("alice@a.example")),
        first: all.next().unwrap(),
        rest: all.collect(),
        body: BodyType::SevenBit,
        international: International::Ascii,
        ret: None,
        envid: None,
    }
}

pub(crate) fn trace() -> Trace {
    Trace {
        helo: "laptop.example".into(),
        peer: "192.0.2.7:40000".parse().unwrap(),
        protocol: Protocol::Esmtpsa,
        tls: None,
        host: "mail.example".into(),
    }
}

pub(crate) fn new_message(recipients: &[&str]) -> NewMessage {
    NewMessage {
        author: Author::User { user: "alice".into(), uid: 1000, session: SessionId(7) },
        envelope: envelope(recipients),
        arrived: NOW,
        arrival: Arrival::Smtp(trace(), jiff::tz::TimeZone::UTC),
        token: None,
    }
}

pub(crate) fn account(text: &str) -> Account {
    Account {
        status: EnhancedStatus::new(Class::Transient, 4, 1),
        remote: None,
        diagnostic: text.into(),
        origin: Origin::Local,
        passed_on: PassedOn::WithoutDsn,
    }
}

fn at(now: Moment) -> DueQuery {
    DueQuery::new(now, 5 * HOUR, 100)
}

pub(crate) async fn accept<S: QueueStore>(store: &S, body: &[u8], claim: Claim) -> Message {
    let body = new_body(store, Bytes::copy_from_slice(body)).await.unwrap();
    store.accept(new_message(&["b@b.example", "c@c.example"]), body, claim).await.unwrap()
}

/// All octets of a body, wherever they are.
pub(crate) fn octets(message: &Message) -> Vec<u8> {
    match &message.content.body {
        Body::Memory(bytes) => bytes.to_vec(),
        Body::File { file, size } => {
            let mut all = vec![0; *size as usize];
            std::os::unix::fs::FileExt::read_exact_at(&**file, &mut all, 0).unwrap();
            all
        }
    }
}

fn retry(id: QueueId, progress: Progress, due: Moment) -> Then {
    let timing = Timing { arrived: NOW, last: NOW, due, waited: Duration::from_secs(300), attempts: 1 };
    let _ = id;
    Then::Retry { progress, timing }
}

fn deferred() -> Progress {
    Progress { standings: vec![Standing::Delivered { owed: None }, Standing::Deferred(account("later"))], warned: Warned::NotYet }
}

pub(crate) fn large() -> Vec<u8> {
    (0..SMALL_BODY * 5 + 17).map(|at| (at % 251) as u8).collect()
}

pub(crate) async fn an_accepted_message_is_there_after_a_restart_whole(harness: impl Harness) {
    let store = harness.open();
    for body in [Vec::new(), b"body\r\n".to_vec(), vec![b'x'; SMALL_BODY - 1], vec![b'y'; SMALL_BODY], large()] {
        let accepted = accept(&store, &body, Claim::Leave).await;
        assert_eq!(octets(&accepted), body);
    }
    drop(store);

    let store = harness.open();
    let due = store.claim_due(at(NOW)).await.unwrap();

    let sizes: Vec<_> = due.messages.iter().map(|it| octets(it).len()).collect();
    assert_eq!(sizes, [0, 6, SMALL_BODY - 1, SMALL_BODY, large().len()]);
    let last = due.messages.last().unwrap();
    assert_eq!(octets(last), large());
    assert_eq!(last.envelope, envelope(&["b@b.example", "c@c.example"]));
    assert_eq!(last.author, new_message(&["x@x.example"]).author);
    assert_eq!(last.timing, Timing::fresh(NOW));
    assert!(last.progress.is_fresh());
    let field = std::str::from_utf8(&last.content.trace).unwrap();
    assert!(field.starts_with("Received: from laptop.example") && field.contains(&format!("id {}", last.id)), "{field}");
}

pub(crate) async fn later_messages_have_greater_ids_even_after_a_restart(harness: impl Harness) {
    let store = harness.open();
    let mut ids = vec![accept(&store, b"1", Claim::Leave).await.id, accept(&store, b"2", Claim::Leave).await.id];
    drop(store);
    let store = harness.open();
    ids.push(accept(&store, b"3", Claim::Leave).await.id);

    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

pub(crate) async fn a_claimed_message_is_given_to_nobody_else(harness: impl Harness) {
    let store = harness.open();
    let mine = accept(&store, b"mine", Claim::Mine).await.id;
    let left = accept(&store, b"left", Claim::Leave).await.id;

    let first: Vec<_> = store.claim_due(at(NOW)).await.unwrap().messages.iter().map(|it| it.id).collect();
    let second = store.claim_due(at(NOW)).await.unwrap();
    store.unclaim(mine);
    let third: Vec<_> = store.claim_due(at(NOW)).await.unwrap().messages.iter().map(|it| it.id).collect();

    assert_eq!(first, [left]);
    assert!(second.messages.is_empty());
    assert_eq!(third, [mine]);
}

pub(crate) async fn claims_die_with_their_holder(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"mine", Claim::Mine).await.id;
    drop(store);

    let due = harness.open().claim_due(at(NOW)).await.unwrap();

    assert_eq!(due.messages.iter().map(|it| it.id).collect::<Vec<_>>(), [id]);
}

pub(crate) async fn the_longest_due_come_first_and_no_more_than_asked_for(harness: impl Harness) {
    let store = harness.open();
    let mut ids = Vec::new();
    for minutes in [30, 10, 20] {
        let id = accept(&store, b"x", Claim::Mine).await.id;
        let due = NOW.plus(Duration::from_secs(60 * minutes));
        store.settle(Settlement { id, then: retry(id, deferred(), due), report: None }).await.unwrap();
        ids.push(id);
    }

    let none = store.claim_due(at(NOW)).await.unwrap();
    let two = store.claim_due(DueQuery::new(NOW.plus(HOUR), 5 * HOUR, 2)).await.unwrap();
    let rest = store.claim_due(at(NOW.plus(HOUR))).await.unwrap();

    assert!(none.messages.is_empty());
    assert_eq!(none.next, Some(NOW.plus(Duration::from_secs(600))));
    assert_eq!(two.messages.iter().map(|it| it.id).collect::<Vec<_>>(), [ids[1], ids[2]]);
    assert!(two.next.is_some_and(|next| next <= NOW.plus(HOUR)), "there is more to fetch at once");
    assert_eq!(rest.messages.iter().map(|it| it.id).collect::<Vec<_>>(), [ids[0]]);
    assert_eq!(rest.next, None);
}

pub(crate) async fn deliveries_noted_in_the_middle_survive_a_restart(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    store.note(id, &[Noted { no: RecipientNo(1), owed: Some(account("250 ok")) }]);
    drop(store);

    let store = harness.open();
    let due = store.claim_due(at(NOW)).await.unwrap();

    let noted = [Standing::New, Standing::Delivered { owed: Some(account("250 ok")) }];
    assert_eq!(due.messages[0].progress.standings, noted);
    assert_eq!(store.inspect(id).await.unwrap().unwrap().0.progress.standings, noted);
    assert_eq!(store.page(None, 1).await.unwrap()[0].progress.standings, noted);
    assert_eq!(due.messages[0].timing, Timing::fresh(NOW));
}

pub(crate) async fn what_a_wrong_clock_put_far_ahead_is_due_now(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    let ten_years = NOW.plus(24 * 3650 * HOUR);
    store.settle(Settlement { id, then: retry(id, deferred(), ten_years), report: None }).await.unwrap();

    let due = store.claim_due(at(NOW)).await.unwrap();

    assert_eq!(due.messages.len(), 1);
}

pub(crate) async fn a_settlement_survives_a_restart(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    let Then::Retry { timing, .. } = retry(id, deferred(), NOW.plus(HOUR)) else { unreachable!("that is what retry makes") };
    store.note(id, &[Noted { no: RecipientNo(0), owed: Some(account("250 ok")) }]);
    assert!(store.claim_due(at(NOW)).await.unwrap().messages.is_empty(), "still claimed while it goes on");
    store.settle(Settlement { id, then: Then::Retry { progress: deferred(), timing }, report: None }).await.unwrap();
    drop(store);

    let due = harness.open().claim_due(at(NOW.plus(HOUR))).await.unwrap();

    let message = &due.messages[0];
    assert_eq!((message.id, &message.progress, message.timing), (id, &deferred(), timing));
    let open: Vec<_> = message.open_recipients().into_iter().map(|(no, it)| (no.0, it.mailbox.to_string())).collect();
    assert_eq!(open, [(1, "c@c.example".to_owned())], "the delivered recipient is not tried again");
}

pub(crate) async fn a_finished_message_is_gone_with_its_body(harness: impl Harness) {
    let store = harness.open();
    for body in [b"small".to_vec(), large()] {
        let id = accept(&store, &body, Claim::Mine).await.id;
        store.settle(Settlement { id, then: Then::Finished, report: None }).await.unwrap();
        assert!(store.inspect(id).await.unwrap().is_none());
    }
    drop(store);

    let store = harness.open();

    assert!(store.claim_due(at(NOW)).await.unwrap().messages.is_empty());
    assert!(store.page(None, 10).await.unwrap().is_empty());
}

pub(crate) async fn a_report_is_there_together_with_the_settlement(harness: impl Harness) {
    let store = harness.open();
    for body in [b"report".to_vec(), large()] {
        let id = accept(&store, b"x", Claim::Mine).await.id;
        let about = NewMessage { author: Author::Report { about: id }, arrival: Arrival::Here, ..new_message(&["alice@a.example"]) };
        let report = Some((about, new_body(&store, Bytes::from(body.clone())).await.unwrap()));

        let name = store.settle(Settlement { id, then: Then::Finished, report }).await.unwrap().unwrap();

        let due = store.claim_due(at(NOW)).await.unwrap();
        assert_eq!(due.messages.len(), 1);
        assert_eq!((due.messages[0].id, octets(&due.messages[0])), (name, body));
        assert_eq!(due.messages[0].author, Author::Report { about: id });
        assert!(due.messages[0].content.trace.is_empty());
    }
}

pub(crate) async fn a_message_deleted_while_it_was_delivered_stays_deleted_and_unreported(harness: impl Harness) {
    let store = harness.open();
    for then in [Then::Finished, retry(QueueId::named("0000000000001").unwrap(), deferred(), NOW)] {
        let id = accept(&store, b"x", Claim::Mine).await.id;
        assert_eq!(store.alter(vec![id], Change::Delete).await.unwrap(), [id]);
        let report = Some((new_message(&["alice@a.example"]), NewBody::Small(Bytes::from_static(b"report"))));

        assert_eq!(store.settle(Settlement { id, then, report }).await.unwrap(), None);

        assert!(store.page(None, 10).await.unwrap().is_empty());
    }
}

pub(crate) async fn a_held_message_waits_until_it_is_released(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"x", Claim::Leave).await.id;

    assert_eq!(store.alter(vec![id], Change::Hold).await.unwrap(), [id]);
    assert_eq!(store.alter(vec![id], Change::Retry(NOW)).await.unwrap(), [], "a retry does not release");
    assert!(store.claim_due(at(NOW.plus(HOUR))).await.unwrap().messages.is_empty());
    assert_eq!(store.inspect(id).await.unwrap().unwrap().1, Hold::Held);
    assert_eq!(store.alter(vec![id], Change::Release(NOW)).await.unwrap(), [id]);
    assert_eq!(store.claim_due(at(NOW)).await.unwrap().messages.len(), 1);
}

pub(crate) async fn a_message_held_while_it_was_delivered_is_not_tried_again(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    store.alter(vec![id], Change::Hold).await.unwrap();
    store.settle(Settlement { id, then: retry(id, deferred(), NOW), report: None }).await.unwrap();

    assert!(store.claim_due(at(NOW.plus(HOUR))).await.unwrap().messages.is_empty());
}

pub(crate) async fn retry_makes_a_waiting_message_due_at_once(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    store.settle(Settlement { id, then: retry(id, deferred(), NOW.plus(HOUR)), report: None }).await.unwrap();

    let unknown = QueueId::named("0000000000001").unwrap();
    assert_eq!(store.alter(vec![id, unknown], Change::Retry(NOW)).await.unwrap(), [id]);

    assert_eq!(store.claim_due(at(NOW)).await.unwrap().messages.len(), 1);
}

pub(crate) async fn a_pause_that_ends_by_hand_counts_as_far_as_it_went(harness: impl Harness) {
    let store = harness.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    store.settle(Settlement { id, then: retry(id, deferred(), NOW.plus(HOUR)), report: None }).await.unwrap();
    let before = store.inspect(id).await.unwrap().unwrap().0.timing;
    let (half, late) = (NOW.plus(HOUR / 2), NOW.plus(HOUR * 3));

    for (now, waited) in [(half, HOUR / 2), (half, HOUR / 2), (late, HOUR / 2)] {
        store.alter(vec![id], Change::Retry(now)).await.unwrap();

        let timing = store.inspect(id).await.unwrap().unwrap().0.timing;
        assert_eq!((timing.last, timing.due, timing.attempts), (now, now, before.attempts));
        assert_eq!(timing.waited, before.waited + waited);
    }
}

pub(crate) async fn pages_follow_one_another_without_gaps(harness: impl Harness) {
    let store = harness.open();
    let mut ids = Vec::new();
    for number in 0..7 {
        let claim = if number == 3 { Claim::Mine } else { Claim::Leave };
        ids.push(accept(&store, b"12345", claim).await.id);
    }

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.page(after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page);
    }

    assert_eq!(seen.iter().map(|it| it.id).collect::<Vec<_>>(), ids);
    assert!(seen.iter().all(|it| it.size == 5 && it.hold == Hold::Free));
    let claimed: Vec<_> = seen.iter().map(|it| it.claimed == Claimed::Yes).collect();
    assert_eq!(claimed, [false, false, false, true, false, false, false]);
}

pub(crate) async fn a_dropped_draft_leaves_nothing(harness: impl Harness) {
    let store = harness.open();
    let mut draft = store.draft().await.unwrap();
    draft.write(Bytes::from(large())).await.unwrap();
    drop(draft);
    drop(store);

    assert!(harness.open().page(None, 10).await.unwrap().is_empty());
}

pub(crate) async fn many_at_once_are_all_accepted_once(harness: impl Harness) {
    let store = std::sync::Arc::new(harness.open());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let store = std::sync::Arc::clone(&store);
        tasks.spawn(async move { accept(&*store, b"x", Claim::Leave).await.id });
    }
    let mut ids = tasks.join_all().await;
    ids.sort();

    let found: Vec<_> = store.page(None, 1000).await.unwrap().iter().map(|it| it.id).collect();

    assert_eq!(found, ids);
    assert_eq!(found.len(), 200);
}

macro_rules! conformance {
    ($harness:ty: $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::queue::conformance::$name(<$harness as $crate::queue::conformance::Harness>::new()).await;
            }
        )*
    };
    ($harness:ty) => {
        $crate::queue::conformance::conformance! { $harness:
            an_accepted_message_is_there_after_a_restart_whole
            later_messages_have_greater_ids_even_after_a_restart
            a_claimed_message_is_given_to_nobody_else
            claims_die_with_their_holder
            the_longest_due_come_first_and_no_more_than_asked_for
            what_a_wrong_clock_put_far_ahead_is_due_now
            deliveries_noted_in_the_middle_survive_a_restart
            a_settlement_survives_a_restart
            a_finished_message_is_gone_with_its_body
            a_report_is_there_together_with_the_settlement
            a_message_deleted_while_it_was_delivered_stays_deleted_and_unreported
            a_held_message_waits_until_it_is_released
            a_message_held_while_it_was_delivered_is_not_tried_again
            a_pause_that_ends_by_hand_counts_as_far_as_it_went
            retry_makes_a_waiting_message_due_at_once
            pages_follow_one_another_without_gaps
            a_dropped_draft_leaves_nothing
            many_at_once_are_all_accepted_once
        }
    };
}
pub(crate) use conformance;
