//! What an administrator asks and changes, over the control socket.

use super::*;
use crate::queue::control::{ClientError, Target};

#[tokio::test]
async fn an_administrator_can_hold_release_and_delete() {
    let mut role = Role::with(ActiveLimits { fresh: 1, loaded: 1 }).await;
    let pool = role.pool();
    let first = accepted(&pool, b"1").await;
    let second = accepted(&pool, b"2").await;
    let third = accepted(&pool, b"3").await;
    assert_eq!(role.job().await.id, first);
    assert_eq!(role.job().await.id, second);

    let held = role.ask(move |client| client.hold(Target::Ids(vec![third.to_string()])).unwrap()).await;
    assert_eq!(held, [third.to_string()]);
    role.say(first, &[(0, delivered()), (1, delivered())]).await;
    role.say(second, &[(0, delivered()), (1, delivered())]).await;
    role.no_job().await;
    assert_eq!(role.listed().await, [(third.to_string(), State::Held)]);
    let filter = Filter { state: Some(State::Held), user: Some("alice".into()), ..Filter::default() };
    let released = role.ask(move |client| client.release(Target::Filter(filter)).unwrap()).await;
    assert_eq!(released, [third.to_string()]);
    assert_eq!(role.job().await.id, third);
    let deleted = role.ask(|client| client.delete(Target::Filter(Filter::default())).unwrap()).await;
    assert_eq!(deleted, [third.to_string()]);
    role.say(third, &[(0, failed()), (1, failed())]).await;
    role.no_job().await;
    assert!(role.listed().await.is_empty(), "and no report is written about a deleted message");
}

#[tokio::test]
async fn an_unknown_message_is_said_to_be_unknown() {
    let role = Role::start().await;

    let unknown = role.ask(|client| client.show("0000000000001")).await;
    let nonsense = role.ask(|client| client.delete(Target::Ids(vec!["../../etc".into()]))).await;

    assert!(matches!(&unknown, Err(ClientError::Refused(words)) if words.contains("no message")), "{unknown:?}");
    assert!(matches!(&nonsense, Err(ClientError::Refused(words)) if words.contains("no queue id")), "{nonsense:?}");
}
