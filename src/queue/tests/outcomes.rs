//! What becomes of a message after an attempt: settled, tried again, reported.

use super::*;
use crate::queue::control::{RecipientState, Target};
use crate::queue::settle::Event;

#[tokio::test]
async fn recipients_are_settled_one_by_one_and_only_the_open_are_tried_again() {
    let mut role = Role::start().await;
    let pool = role.pool();
    let id = accepted(&pool, b"x").await;
    role.job().await;
    role.say(id, &[(0, delivered())]).await;
    role.say(id, &[(1, deferred())]).await;

    let waits = async {
        while role.listed().await != [(id.to_string(), State::Deferred)] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, waits).await.expect("it is deferred");
    let shown = role.ask(move |client| client.show(&id.to_string()).unwrap()).await;
    let states: Vec<_> = shown.entry.recipients.iter().map(|it| (it.state, it.reason.as_deref())).collect();
    assert_eq!(states, [(RecipientState::Delivered, None), (RecipientState::Deferred, Some("451 4.3.0 later"))]);
    assert_eq!((shown.entry.attempts, shown.entry.user.as_deref()), (1, Some("alice")));
    assert!(shown.headers.starts_with("Received: from laptop.example"));

    role.ask(move |client| client.retry(Target::Ids(vec![id.to_string()])).unwrap()).await;
    let again = role.job().await;
    assert_eq!(again.recipients.iter().map(|(no, _)| no.0).collect::<Vec<_>>(), [1]);
    role.say(id, &[(1, delivered())]).await;
    role.empties().await;
}

#[tokio::test]
async fn a_failure_is_reported_by_a_message_from_nobody_that_is_never_answered() {
    let mut role = Role::start().await;
    let pool = role.pool();
    let id = accepted(&pool, b"x").await;
    role.job().await;
    role.say(id, &[(0, failed()), (1, delivered())]).await;

    let report = role.job().await;

    assert_eq!(report.sender, ReversePath::Null);
    assert_eq!(report.recipients[0].1.mailbox.to_string(), "alice@a.example");
    assert_eq!(String::from_utf8(body_of(&report)).unwrap(), format!("b@b.example {:?}\r\n", Event::Failed));
    role.say(report.id, &[(0, failed())]).await;
    role.empties().await;
    role.no_job().await;
}

#[tokio::test]
async fn what_was_on_its_way_at_the_end_is_tried_again_after_it() {
    let mut role = Role::start().await;
    let pool = role.pool();
    let id = accepted(&pool, b"x").await;
    role.job().await;
    role.say(id, &[(0, delivered())]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    role.end().await;

    role.resume().await;
    let job = role.job().await;

    assert_eq!(job.id, id);
    assert_eq!(job.recipients.iter().map(|(no, _)| no.0).collect::<Vec<_>>(), [1]);
    assert_eq!(body_of(&job), b"x");
}

#[tokio::test]
async fn a_large_report_that_cannot_be_written_waits_and_comes() {
    let mut role = Role::start().await;
    let pool = role.pool();
    let names: Vec<_> = (0..4000).map(|number| format!("somebody-{number}@b.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let opening = Opening { envelope: envelope(&names), ..opening() };
    let Answer::Accepted(id) = send(&pool, &opening, b"x").await.unwrap() else { panic!("it is not accepted") };
    role.job().await;
    // In the places of all drafts there is something else, so that none can be made.
    let drafts: Vec<_> = (0..3000).map(|number| role.path(&format!("spool/bodies/new-{number}"))).collect();
    drafts.iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let all: Vec<_> = (0..4000).map(|number| (number, failed())).collect();
    role.say(id, &all).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    role.no_job().await;
    drafts.iter().for_each(|path| std::fs::remove_dir(path).unwrap());

    let report = role.job().await;

    assert!(body_of(&report).len() > 65_536);
    role.say(report.id, &[(0, delivered())]).await;
    role.empties().await;
}
