//! The front end's pool when it is crowded: nobody takes it from the others.

use std::net::SocketAddr;
use std::time::Instant;

use super::*;
use crate::handoff::Transfer;

const LARGE: usize = 100_000;

fn small_pool(role: &Role) -> Pool {
    let limits = Limits { connections: 20, for_small: 4, each: 4, wait: Duration::from_millis(100), patience: SOON, ..Limits::default() };
    Pool::new(role.path("handoff"), limits)
}

fn from(peer: &str) -> Opening {
    let mut opening = opening();
    opening.trace.peer = SocketAddr::new(peer.parse().unwrap(), 40_000);
    opening
}

/// A text that has come so far that it holds a connection, and then pauses.
async fn held(pool: &Pool, user: &str, peer: &str) -> Result<Transfer, HandoffError> {
    let mut transfer = pool.begin(&from(peer), user).await?;
    transfer.chunk(&vec![b'x'; LARGE]).await?;
    Ok(transfer)
}

/// As many as the pool gives, and whether the refusal came at once.
async fn all_held(pool: &Pool, mut next: impl FnMut(usize) -> (String, String)) -> (Vec<Transfer>, bool) {
    let mut transfers = Vec::new();
    loop {
        let (user, peer) = next(transfers.len());
        let asked = Instant::now();
        match held(pool, &user, &peer).await {
            Ok(transfer) => transfers.push(transfer),
            Err(HandoffError::Busy) => return (transfers, asked.elapsed() < Duration::from_secs(5)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn one_user_from_many_addresses_does_not_stop_the_sending_of_others() {
    let role = Role::start().await;
    let pool = small_pool(&role);

    let (ann, at_once) = all_held(&pool, |count| ("ann".into(), format!("192.0.2.{count}"))).await;

    assert_eq!((ann.len(), at_once), (4, true));
    let bob = held(&pool, "bob", "192.0.2.3").await.unwrap();
    assert!(matches!(bob.finish().await, Ok(Answer::Accepted(_))), "a large message of somebody else");
    let small = pool.begin(&from("192.0.2.1"), "ann").await.unwrap();
    assert!(matches!(small.finish().await, Ok(Answer::Accepted(_))), "a small message of the same user");
}

#[tokio::test]
async fn many_users_of_one_network_do_not_stop_the_sending_of_others() {
    let role = Role::start().await;
    let pool = small_pool(&role);

    let (network, at_once) = all_held(&pool, |count| (format!("user{count}"), format!("2001:db8::{count:x}"))).await;

    assert_eq!((network.len(), at_once), (4, true));
    held(&pool, "user0", "2001:db8:0:1::1").await.unwrap();
}

#[tokio::test]
async fn small_messages_go_through_while_large_ones_hold_all_that_they_may() {
    let role = Role::start().await;
    let pool = small_pool(&role);

    let (large, at_once) = all_held(&pool, |count| (format!("user{count}"), format!("192.0.2.{count}"))).await;

    assert_eq!((large.len(), at_once), (16, true));
    for _ in 0..8 {
        let small = pool.begin(&from("198.51.100.1"), "zoe").await.unwrap();
        assert!(matches!(small.finish().await, Ok(Answer::Accepted(_))));
    }
}

#[tokio::test]
async fn a_message_announced_as_large_is_refused_before_its_text() {
    let role = Role::start().await;
    let pool = small_pool(&role);
    let announced = |peer: &str| Opening { declared_size: Some(LARGE as u64), ..from(peer) };
    let mut begun = Vec::new();
    for number in 0..4 {
        begun.push(pool.begin(&announced(&format!("192.0.2.{number}")), "ann").await.unwrap());
    }

    assert!(matches!(pool.begin(&announced("192.0.2.9"), "ann").await, Err(HandoffError::Busy)));
    begun.pop();
    assert!(pool.begin(&announced("192.0.2.9"), "ann").await.is_ok());
}

#[tokio::test]
async fn pauses_are_short_only_while_connections_are_scarce_and_only_for_those_that_hold_one() {
    let role = Role::start().await;
    let pool = small_pool(&role);
    let long = Duration::from_secs(600);
    let first = held(&pool, "ann", "192.0.2.1").await.unwrap();
    let small = pool.begin(&from("192.0.2.2"), "bob").await.unwrap();
    assert_eq!((first.pause(long), small.pause(long)), (long, long));

    let mut others = Vec::new();
    for number in 0..8 {
        others.push(held(&pool, &format!("user{number}"), &format!("198.51.100.{number}")).await.unwrap());
    }

    assert_eq!((first.pause(long), small.pause(long)), (Duration::from_secs(30), long));
    assert_eq!(first.pause(Duration::from_secs(1)), Duration::from_secs(1), "never longer than configured");
    drop(others);
    assert_eq!(first.pause(long), long);
}
