//! One login: the question to the helper, and a refusal that comes no sooner whatever was wrong.

use std::time::Duration;

use tokio::time::Instant;

use super::{Client, Line};
use crate::auth::{Answer, Password, Trouble, Visit};
use crate::session::{Checking, Session};
use crate::smtp::reply::{Refusal, Reply};
use crate::smtp::sasl::Credentials;

impl Client<'_> {
    pub(super) async fn check(&self, checking: Checking, credentials: Credentials) -> (Session, Reply) {
        let asked = Instant::now();
        let Credentials { user, password } = credentials;
        let visit = Visit { session: self.id.0, peer: self.peer.ip(), listener: &self.listener };
        let answer = self.world.helper.ask(visit, &user, Password::from(password)).await;
        let took = asked.elapsed();
        self.log(&user, &answer, took);
        let accepted = matches!(answer, Answer::Accept(_));
        let (session, reply) = checking.settle(answer);
        if !accepted {
            self.pace(asked).await;
        }
        (session, reply)
    }

    /// A login that came to no question. The name is not shown: it was not understood as one.
    pub(super) fn note(&self, refusal: &Refusal) {
        if !self.is_written(Line::Login) {
            return;
        }
        let Refusal(reply) = refusal;
        let status = reply.status.map(|status| status.to_string()).unwrap_or_default();
        tracing::info!(event = "login", session = %self.id, listener = %self.listener, peer = %self.peer.ip(), verdict = "reject", stage = "front", reply = format!("{} {status}", reply.code), cause = %reply.text);
    }

    /// The helper has the line for each question that it answered; here are those that it did not.
    fn log(&self, user: &[u8], answer: &Answer, took: Duration) {
        let (user, kind) = (String::from_utf8_lossy(user), answer.kind());
        let (session, peer, ms, verdict, reply) = (self.id, self.peer.ip(), took.as_millis() as u64, kind.word(), kind.reply());
        match answer {
            Answer::Unavailable(Trouble::NoAnswer(_)) if !self.is_written(Line::LoginUnanswered) => {}
            Answer::Unavailable(Trouble::NoAnswer(_)) => {
                tracing::error!(event = "login", session = %session, listener = %self.listener, peer = %peer, user = %user, ms, verdict, stage = "front", reply, cause = %answer);
            }
            Answer::Accept(_)
            | Answer::Reject(_)
            | Answer::Throttled(_)
            | Answer::MustChange(_)
            | Answer::Expired(_)
            | Answer::NotPermitted(_)
            | Answer::Unavailable(Trouble::Helper(_)) => {
                tracing::debug!(event = "answered", session = %session, user = %user, ms, verdict, reply, cause = %answer);
            }
        }
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
