//! The connections that all destinations have together, shared out among destinations and users.
//!
//! A destination, or the mail of one user, may have as many slots as it likes while nobody else wants them. An eighth more
//! is kept in reserve for destinations and users that have fewer slots than are free. So servers that hold their
//! connections for ever do not stop the mail of others, and one busy user loses nothing on an idle relay.
//!
//! Invariant: a slot that becomes free goes first to a destination and user with fewer than are free. Within that, who waits
//! is served in order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Whose mail it is; empty for our own reports.
pub(crate) type User = Arc<str>;

pub(crate) struct Pool {
    state: Mutex<State>,
}

struct State {
    /// With the reserve.
    free: usize,
    /// The last slots, for those that have few.
    reserve: usize,
    held: HashMap<Holder, usize>,
    waiting: VecDeque<Waiter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    User(User),
    Destination(DestinationNo),
}

/// Tells destinations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DestinationNo(pub(crate) u64);

/// Who may have a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Who has fewer than are free.
    Few,
    /// Anybody, while the reserve is whole.
    Anybody,
}

struct Waiter {
    destination: DestinationNo,
    users: Vec<User>,
    granted: oneshot::Sender<Slot>,
}

/// The right to one connection; free again when it is dropped.
pub(crate) struct Slot {
    pool: Arc<Pool>,
    destination: DestinationNo,
    user: User,
}

impl Pool {
    /// `shared` slots for anybody, and an eighth more in reserve.
    pub(crate) fn new(shared: usize) -> Arc<Self> {
        let (shared, reserve) = (shared.max(1), shared.div_ceil(8).max(1));
        let state = State { free: shared + reserve, reserve, held: HashMap::new(), waiting: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// A slot for the mail of the first of `users` that has not its share yet; waits until there is one.
    pub(crate) async fn slot(self: &Arc<Self>, destination: DestinationNo, users: Vec<User>) -> Option<Slot> {
        let granted = {
            let mut state = self.lock();
            let user = state.admit(Rule::Few, destination, &users).or_else(|| state.admit(Rule::Anybody, destination, &users));
            if let Some(user) = user {
                return Some(Slot { pool: self.clone(), destination, user });
            }
            let (grants, granted) = oneshot::channel();
            state.waiting.push_back(Waiter { destination, users, granted: grants });
            granted
        };
        granted.await.ok()
    }

    /// Serves those who wait and may have a slot now.
    fn serve(self: &Arc<Self>) {
        let mut refused = Vec::new();
        {
            let mut state = self.lock();
            for rule in [Rule::Few, Rule::Anybody] {
                for waiter in std::mem::take(&mut state.waiting) {
                    if waiter.granted.is_closed() {
                        continue;
                    }
                    match state.admit(rule, waiter.destination, &waiter.users) {
                        Some(user) => {
                            let slot = Slot { pool: self.clone(), destination: waiter.destination, user };
                            refused.extend(waiter.granted.send(slot).err());
                        }
                        None => state.waiting.push_back(waiter),
                    }
                }
            }
        }
        drop(refused); // outside of the lock: a slot that nobody took serves the next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a slot for the destination and one of the users, if they may have one.
    fn admit(&mut self, rule: Rule, destination: DestinationNo, users: &[User]) -> Option<User> {
        let user = match rule {
            Rule::Few if self.of(&Holder::Destination(destination)) >= self.free => None,
            Rule::Few => users.iter().find(|user| self.of(&Holder::User((*user).clone())) < self.free),
            Rule::Anybody if self.free <= self.reserve => None,
            Rule::Anybody => users.first(),
        };
        let user = user?.clone();
        self.free -= 1;
        self.take(Holder::Destination(destination));
        self.take(Holder::User(user.clone()));
        Some(user)
    }

    fn of(&self, holder: &Holder) -> usize {
        self.held.get(holder).copied().unwrap_or(0)
    }

    fn take(&mut self, holder: Holder) {
        *self.held.entry(holder).or_default() += 1;
    }

    fn give(&mut self, holder: Holder) {
        let left = self.of(&holder).saturating_sub(1);
        if left == 0 {
            self.held.remove(&holder);
        } else {
            self.held.insert(holder, left);
        }
    }
}

impl Slot {
    /// Whose mail the connection was opened for, or carries now.
    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    /// The connection carries the mail of another user from now on: it counts for that one.
    pub(crate) fn carries(&mut self, user: &User) {
        if self.user == *user {
            return;
        }
        let before = std::mem::replace(&mut self.user, user.clone());
        {
            let mut state = self.pool.lock();
            state.give(Holder::User(before));
            state.take(Holder::User(user.clone()));
        }
        self.pool.serve();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.pool.lock();
            state.free += 1;
            state.give(Holder::User(self.user.clone()));
            state.give(Holder::Destination(self.destination));
        }
        self.pool.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn users(names: &[&str]) -> Vec<User> {
        names.iter().map(|name| User::from(*name)).collect()
    }

    async fn soon(pool: &Arc<Pool>, destination: u64, names: &[&str]) -> Option<Slot> {
        tokio::time::timeout(Duration::from_millis(20), pool.slot(DestinationNo(destination), users(names))).await.ok().flatten()
    }

    async fn all_of(pool: &Arc<Pool>, name: &str, destination: impl Fn(u64) -> u64) -> Vec<Slot> {
        let mut slots = Vec::new();
        while let Some(slot) = soon(pool, destination(slots.len() as u64), &[name]).await {
            slots.push(slot);
        }
        slots
    }

    #[tokio::test]
    async fn neither_a_user_with_many_destinations_nor_a_destination_with_many_users_takes_all() {
        let pool = Pool::new(512);
        let greedy = all_of(&pool, "eve", |number| number).await;
        assert_eq!(greedy.len(), 512, "nobody else wants them");
        assert!(soon(&pool, 9999, &["ann"]).await.is_some());
        drop(greedy);

        let mut crowd = Vec::new();
        while let Some(slot) = soon(&pool, 1, &[&format!("user{}", crowd.len())]).await {
            crowd.push(slot);
        }
        assert_eq!(crowd.len(), 512);
        assert!(soon(&pool, 2, &["ann"]).await.is_some());
        drop(crowd);
        assert!(pool.lock().held.is_empty() && pool.lock().free == 576);
    }

    #[tokio::test]
    async fn who_waits_is_served_in_order_and_past_those_that_have_their_share() {
        let pool = Pool::new(1);
        let eve = soon(&pool, 1, &["eve"]).await.unwrap();
        let bob = soon(&pool, 2, &["bob"]).await.unwrap();
        let waits = |destination, name: &'static str| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.slot(DestinationNo(destination), users(&[name])).await })
        };
        let first = waits(3, "eve");
        tokio::task::yield_now().await;
        let second = waits(4, "ann");
        tokio::task::yield_now().await;

        drop(bob);

        let ann = second.await.unwrap();
        assert!(ann.is_some() && !first.is_finished());
        drop(eve);
        assert!(first.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_slot_counts_for_the_user_whose_mail_it_carries() {
        let pool = Pool::new(32);
        let mut slots = all_of(&pool, "eve", |number| number).await;
        assert!(soon(&pool, 99, &["eve"]).await.is_none());

        slots.iter_mut().skip(3).for_each(|slot| slot.carries(&User::from("bob")));

        assert_eq!(&**slots[3].user(), "bob");
        assert!(soon(&pool, 99, &["eve"]).await.is_some(), "three, and four are free");
    }

    #[tokio::test]
    async fn a_destination_may_use_the_slot_of_any_of_its_users_and_even_the_only_one_is_used() {
        let pool = Pool::new(2);
        let _eve = (soon(&pool, 1, &["eve"]).await, soon(&pool, 2, &["eve"]).await);

        let slot = soon(&pool, 3, &["eve", "ann"]).await.unwrap();

        assert_eq!(&**slot.user(), "ann");
        let only = Pool::new(1);
        let held = (soon(&only, 1, &["a"]).await, soon(&only, 2, &["b"]).await);
        assert!(held.0.is_some() && held.1.is_some() && soon(&only, 3, &["c"]).await.is_none());
        drop(held);
        assert!(soon(&only, 3, &["c"]).await.is_some(), "one that gave up waiting takes nothing with it");
    }
}
