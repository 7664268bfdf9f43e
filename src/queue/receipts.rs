//! Which hand-offs are in: what the front end is told that never heard the answer to its message.
//!
//! ```text
//! end read ─▶ Pending ─▶ In(id)     the store has it
//!                    └─▶ Never      it was refused
//! asked before the end ─▶ Never     the end that comes later is refused
//! ```
//!
//! Invariant: a token goes from one state to the next and never back. So "absent" is a promise that
//! the front end may turn into 451 (RFC 5321 §4.2.5), and what is pending is waited for. At the start
//! the newest messages of the store are known before any of them is delivered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::handoff::{QueueId, Token};

/// Hand-offs that are remembered once they are decided. The front end asks within minutes, and only
/// for those that were under way when a connection or a process ended, which are far fewer.
pub(super) const KEPT: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Receipts {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    states: HashMap<Token, State>,
    /// Those that are decided, the oldest first.
    decided: VecDeque<Token>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Pending,
    In(QueueId),
    Never,
}

/// A hand-off whose end was read. Dropped without a word it stays pending: nobody knows.
#[derive(Debug)]
pub(super) struct Pending<'a> {
    receipts: &'a Receipts,
    token: Token,
}

impl Receipts {
    /// Knows the messages that the last process accepted, the oldest first.
    pub(super) fn of(recent: impl IntoIterator<Item = (Token, QueueId)>) -> Self {
        let mut book = Book::default();
        for (token, id) in recent {
            book.decide(token, State::In(id));
        }
        Self { book: Mutex::new(book), changed: Notify::new() }
    }

    /// The end of a message was read; nothing if the token was used before, or asked for in vain.
    pub(super) fn begin(&self, token: Token) -> Option<Pending<'_>> {
        let mut book = self.book();
        if book.states.contains_key(&token) {
            return None;
        }
        book.states.insert(token, State::Pending);
        Some(Pending { receipts: self, token })
    }

    /// The message with this token, once that is decided; what is not known will never come in.
    pub(super) async fn find(&self, token: Token) -> Option<QueueId> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut book = self.book();
                match book.states.get(&token).copied() {
                    Some(State::In(id)) => return Some(id),
                    Some(State::Never) => return None,
                    Some(State::Pending) => {}
                    None => {
                        book.decide(token, State::Never);
                        return None;
                    }
                }
            }
            changed.await;
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn decide(&mut self, token: Token, state: State) {
        self.states.insert(token, state);
        self.decided.push_back(token);
        if self.decided.len() > KEPT
            && let Some(oldest) = self.decided.pop_front()
        {
            self.states.remove(&oldest);
        }
    }
}

impl Pending<'_> {
    pub(super) fn accepted(self, id: QueueId) {
        self.decide(State::In(id));
    }

    pub(super) fn refused(self) {
        self.decide(State::Never);
    }

    fn decide(self, state: State) {
        self.receipts.book().decide(self.token, state);
        self.receipts.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn id(number: u64) -> QueueId {
        QueueId::of_number(number).unwrap()
    }

    #[tokio::test]
    async fn what_was_said_to_be_absent_never_comes_in() {
        let receipts = Receipts::of([]);
        let token = Token::fresh();

        assert_eq!(receipts.find(token).await, None);

        assert!(receipts.begin(token).is_none());
    }

    #[tokio::test]
    async fn what_is_pending_is_waited_for() {
        let receipts = Receipts::of([]);
        let (accepted, refused) = (Token::fresh(), Token::fresh());
        let (one, other) = (receipts.begin(accepted).unwrap(), receipts.begin(refused).unwrap());
        assert!(timeout(Duration::from_millis(50), receipts.find(accepted)).await.is_err());

        let (found, gone, ()) = tokio::join!(receipts.find(accepted), receipts.find(refused), async {
            tokio::task::yield_now().await;
            other.refused();
            one.accepted(id(7));
        });

        assert_eq!((found, gone), (Some(id(7)), None));
        assert_eq!(receipts.find(accepted).await, Some(id(7)));
        assert!(receipts.begin(accepted).is_none(), "a token is used once");
    }

    #[tokio::test]
    async fn a_bounded_number_is_remembered_and_those_of_the_last_process_too() {
        let old = Token::fresh();
        let receipts = Receipts::of([(old, id(1))]);
        assert_eq!(receipts.find(old).await, Some(id(1)));

        for _ in 0..KEPT {
            receipts.begin(Token::fresh()).unwrap().refused();
        }

        assert_eq!(receipts.book().states.len(), KEPT);
        assert!(!receipts.book().states.contains_key(&old));
    }
}
