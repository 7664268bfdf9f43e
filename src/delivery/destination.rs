//! What waits for one target, and how many workers attend to it.
//!
//! A parcel that waits always has somebody who will take it: an idle worker was woken, a busy one looks again before it
//! leaves, or one is on its way. The last worker to fail answers for all that wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::engine::Context;
use super::parcel::Parcel;
use super::pool::{DestinationNo, Slot, User};
use super::reach::Target;
use super::waiting::{Known, Waiting};
use super::worker;

/// Numbers given to destinations so far.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// After a connection too many was refused, how long the ones there are have to do.
const HOLD: Duration = Duration::from_secs(10);

pub(crate) struct Destination {
    pub(crate) target: Target,
    pub(crate) context: Arc<Context>,
    number: DestinationNo,
    state: Mutex<State>,
    news: Notify,
    /// Another user's parcel came, for which there may be a slot.
    another_user: Notify,
}

#[derive(Default)]
struct State {
    waiting: Waiting,
    connecting: usize,
    busy: usize,
    idle: usize,
    hold: Option<Instant>,
}

/// A worker's place in the counts; given back whatever happens to the worker.
pub(crate) struct Seat {
    destination: Arc<Destination>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Connecting,
    Busy,
    Idle,
    Left,
}

impl Destination {
    pub(crate) fn new(target: Target, context: Arc<Context>) -> Arc<Self> {
        let number = DestinationNo(NUMBERS.fetch_add(1, Ordering::Relaxed));
        Arc::new(Self { target, context, number, state: Mutex::default(), news: Notify::new(), another_user: Notify::new() })
    }

    pub(crate) fn push(self: &Arc<Self>, parcel: Parcel) {
        let mut state = self.lock();
        if state.waiting.push_back(parcel) == Known::No {
            self.another_user.notify_one();
        }
        self.attend(&mut state);
    }

    /// Those that waited until their time was over.
    pub(crate) fn take_late(&self, now: tokio::time::Instant) -> Vec<Parcel> {
        self.lock().waiting.take_late(now)
    }

    /// Nobody is here and nothing waits.
    pub(crate) fn is_deserted(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && state.connecting + state.busy + state.idle == 0
    }

    /// Sees to it that what waits is taken. Connections grow as they prove to work: at most as many are on their way as there are.
    fn attend(self: &Arc<Self>, state: &mut State) {
        if state.idle > 0 && !state.waiting.is_empty() {
            self.news.notify_one();
        }
        let connected = state.busy + state.idle;
        let held = connected > 0 && state.hold.is_some_and(|until| Instant::now() < until);
        let room = state.connecting < connected.max(1) && state.connecting + connected < self.context.per_destination;
        if state.waiting.len() > state.idle && room && !held {
            state.connecting += 1;
            tokio::spawn(worker::work(Seat { destination: self.clone(), place: Place::Connecting }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    pub(crate) fn connecting(&mut self) {
        self.change(Place::Connecting);
    }

    /// Connected, and about to take what waits; others are called once something was taken and more is left.
    pub(crate) fn busy(&mut self) {
        self.change(Place::Busy);
    }

    /// The right to a connection, for the mail of somebody who waits; `None` when nobody does any longer.
    pub(crate) async fn slot(&self, held: Option<&Parcel>) -> Option<Slot> {
        loop {
            let mut users: Vec<User> = held.iter().map(|parcel| parcel.job().user.clone()).collect();
            users.extend(self.destination.lock().waiting.users());
            if users.is_empty() {
                return None;
            }
            tokio::select! {
                slot = self.destination.context.pool.slot(self.destination.number, users) => {
                    return slot.filter(|_| held.is_some() || self.is_wanted());
                }
                () = self.destination.another_user.notified() => {}
            }
        }
    }

    /// The next parcel, of this user if there is one; without one the worker is idle from now on.
    pub(crate) fn take_or_idle(&mut self, preferred: Option<&User>) -> Option<Parcel> {
        let mut state = self.destination.lock();
        let parcel = state.waiting.pop(preferred);
        let place = if parcel.is_some() { Place::Busy } else { Place::Idle };
        state.count(self.place, place);
        self.place = place;
        if parcel.is_some() {
            self.destination.attend(&mut state);
        }
        parcel
    }

    /// A parcel that no idle worker has been woken for.
    pub(crate) fn more(&self) -> Option<Parcel> {
        let mut state = self.destination.lock();
        if state.waiting.len() > state.idle { state.waiting.pop(None) } else { None }
    }

    /// Comes back when there may be something to do.
    pub(crate) async fn news(&self) {
        self.destination.news.notified().await;
    }

    /// Whether more waits than the idle workers will take.
    pub(crate) fn is_wanted(&self) -> bool {
        let state = self.destination.lock();
        state.waiting.len() > state.idle
    }

    /// Back to the front, to be taken first.
    pub(crate) fn give_back(&self, parcel: Parcel) {
        let mut state = self.destination.lock();
        state.waiting.push_front(parcel);
        self.destination.attend(&mut state);
    }

    pub(crate) fn push(&self, parcel: Parcel) {
        self.destination.push(parcel);
    }

    /// Ends, and calls a successor if something came in the meantime.
    pub(crate) fn leave(mut self) {
        let destination = self.destination.clone();
        let mut state = destination.lock();
        state.count(self.place, Place::Left);
        self.place = Place::Left;
        destination.attend(&mut state);
    }

    /// Ends after a failed connection that `held` was to take. If nobody else is connected or about to be, everything that
    /// waits is handed over, to be answered with the failure.
    pub(crate) fn leave_failed(mut self, held: Option<Parcel>) -> Vec<Parcel> {
        let destination = self.destination.clone();
        let mut state = destination.lock();
        state.count(self.place, Place::Left);
        self.place = Place::Left;
        if let Some(parcel) = held {
            state.waiting.push_front(parcel);
        }
        if state.busy + state.idle > 0 {
            state.hold = Some(Instant::now() + HOLD);
            destination.attend(&mut state);
            return Vec::new();
        }
        if state.connecting > 0 { Vec::new() } else { state.waiting.drain() }
    }

    fn change(&mut self, place: Place) {
        let mut state = self.destination.lock();
        state.count(self.place, place);
        self.place = place;
    }
}

impl Drop for Seat {
    /// A worker that did not leave has died, or the runtime ends. With nobody left, what waits is dropped, which answers for it;
    /// calling a successor here could go on for ever.
    fn drop(&mut self) {
        let destination = self.destination.clone();
        let stranded: Vec<Parcel> = if self.place == Place::Left {
            Vec::new()
        } else {
            let mut state = destination.lock();
            state.count(self.place, Place::Left);
            self.place = Place::Left;
            if state.connecting + state.busy + state.idle > 0 { Vec::new() } else { state.waiting.drain() }
        };
        drop(stranded);
        destination.context.forget_if_deserted(&destination);
    }
}

impl State {
    fn count(&mut self, from: Place, to: Place) {
        if let Some(count) = self.of(from) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.of(to) {
            *count += 1;
        }
    }

    fn of(&mut self, place: Place) -> Option<&mut usize> {
        match place {
            Place::Connecting => Some(&mut self.connecting),
            Place::Busy => Some(&mut self.busy),
            Place::Idle => Some(&mut self.idle),
            Place::Left => None,
        }
    }
}
