//! The parcels that wait for one destination: each user's in their order, the users in turn.
//!
//! Invariant: a user with a thousand parcels in line delays another's by one parcel at a time.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::parcel::Parcel;
use super::pool::User;

#[derive(Default)]
pub(crate) struct Waiting {
    /// Never an empty line; the user in front is served next.
    lines: VecDeque<(User, VecDeque<Parcel>)>,
    count: usize,
}

/// Whether a user has others waiting already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Yes,
    No,
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whose parcels wait, the next one first.
    pub(crate) fn users(&self) -> Vec<User> {
        self.lines.iter().map(|(user, _)| user.clone()).collect()
    }

    pub(crate) fn push_back(&mut self, parcel: Parcel) -> Known {
        self.count += 1;
        match self.lines.iter_mut().find(|(user, _)| *user == parcel.job().user) {
            Some((_, line)) => {
                line.push_back(parcel);
                Known::Yes
            }
            None => {
                self.lines.push_back((parcel.job().user.clone(), VecDeque::from([parcel])));
                Known::No
            }
        }
    }

    /// To be taken first.
    pub(crate) fn push_front(&mut self, parcel: Parcel) {
        self.count += 1;
        let user = parcel.job().user.clone();
        let mut line = self.remove(&user).unwrap_or_default();
        line.push_front(parcel);
        self.lines.push_front((user, line));
    }

    /// The next parcel, of this user if there is one.
    pub(crate) fn pop(&mut self, preferred: Option<&User>) -> Option<Parcel> {
        let at = preferred.and_then(|preferred| self.lines.iter().position(|(user, _)| user == preferred)).unwrap_or(0);
        let (user, mut line) = self.lines.remove(at)?;
        let parcel = line.pop_front();
        self.count -= usize::from(parcel.is_some());
        if !line.is_empty() {
            self.lines.push_back((user, line));
        }
        parcel
    }

    pub(crate) fn drain(&mut self) -> Vec<Parcel> {
        self.count = 0;
        std::mem::take(&mut self.lines).into_iter().flat_map(|(_, line)| line).collect()
    }

    /// Takes out those whose time is over.
    pub(crate) fn take_late(&mut self, now: Instant) -> Vec<Parcel> {
        let mut late = Vec::new();
        for (_, line) in &mut self.lines {
            if line.iter().any(|parcel| parcel.is_late(now)) {
                let (out, kept): (Vec<_>, Vec<_>) = std::mem::take(line).into_iter().partition(|parcel| parcel.is_late(now));
                late.extend(out);
                line.extend(kept);
            }
        }
        self.lines.retain(|(_, line)| !line.is_empty());
        self.count -= late.len();
        late
    }

    fn remove(&mut self, user: &User) -> Option<VecDeque<Parcel>> {
        let at = self.lines.iter().position(|(known, _)| known == user)?;
        self.lines.remove(at).map(|(_, line)| line)
    }
}
