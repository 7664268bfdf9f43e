//! One login: the question to the helper, and a refusal that comes no sooner whatever was wrong.

use std::time::Duration;

use tokio::time::Instant;

use super::Client;
use crate::auth::{Answer, Password};
use crate::session::{Checking, Secured, Session};
use crate::smtp::reply::{Refusal, Reply};
use crate::smtp::sasl::Credentials;

impl Client<'_> {
    pub(super) async fn check(&self, checking: Checking, credentials: Credentials) -> (Session, Reply) {
        let asked = Instant::now();
        let Credentials { user, password } = credentials;
        let answer = self.world.helper.ask(self.id.0, self.peer.ip(), &user, Password::from(password)).await;
        let took = asked.elapsed();
        let accepted = matches!(answer, Answer::Accept(_));
        self.log(&user, &answer, took);
        let (session, reply) = checking.settle(answer);
        if !accepted {
            self.pace(asked).await;
        }
        (session, reply)
    }

    /// Refuses what the helper was not asked about, on the same schedule.
    pub(super) async fn deny(&self, secured: Secured) -> (Session, Reply) {
        let asked = Instant::now();
        tracing::info!(event = "login", session = %self.id, peer = %self.peer.ip(), verdict = "reject", cause = "not a name and a password that PAM could take");
        self.pace(asked).await;
        (secured.into(), Refusal::CREDENTIALS.into())
    }

    fn log(&self, user: &[u8], answer: &Answer, took: Duration) {
        let user = String::from_utf8_lossy(user);
        tracing::info!(event = "login", session = %self.id, peer = %self.peer.ip(), user = %user, verdict = answer.word(), cause = %answer, ms = took.as_millis() as u64);
    }

    /// Waits until the next slot after the floor, plus up to a quarter of it by chance: the time of a refusal tells
    /// neither what was wrong nor how long PAM took.
    async fn pace(&self, asked: Instant) {
        let floor = self.world.limits.failure_floor;
        let slots = asked.elapsed().as_nanos() / floor.as_nanos().max(1) + 1;
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        tokio::time::sleep_until(asked + floor.saturating_mul(slots) + floor.mul_f64(chance() / 4.0)).await;
    }
}

/// Between 0 and 1.
fn chance() -> f64 {
    let mut octet = [0; 1];
    aws_lc_rs::rand::fill(&mut octet).expect("the library's generator never runs dry once seeded");
    f64::from(octet[0]) / 256.0
}
