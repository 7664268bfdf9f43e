//! The questions that wait for a worker: first those about people who come from where they were accepted lately.
//!
//! Guessers can make the line long, and it costs them nothing; those who are known there do not stand in it.
//! Invariant: never more than so many wait, and within each of the two lines the first to come is the first to go.

use std::collections::VecDeque;
use std::time::Instant;

use crate::limits::{Keys, Standing};
use crate::pending::Pending;
use crate::settings::Settings;

pub(crate) struct Waiting {
    most: usize,
    known: VecDeque<Pending>,
    strangers: VecDeque<Pending>,
}

impl Waiting {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { most: settings.waiting, known: VecDeque::new(), strangers: VecDeque::new() }
    }

    /// Puts a question in line. Gives back the one for which there is no room: this one, or the stranger who came last.
    pub(crate) fn join(&mut self, pending: Pending) -> Option<Pending> {
        let full = self.len() >= self.most;
        match pending.standing {
            Standing::Stranger if full => Some(pending),
            Standing::Stranger => {
                self.strangers.push_back(pending);
                None
            }
            Standing::Known if full && self.strangers.is_empty() => Some(pending),
            Standing::Known => {
                self.known.push_back(pending);
                if full { self.strangers.pop_back() } else { None }
            }
        }
    }

    /// Somebody was accepted: who waits with the same account from the same network is no stranger any more.
    pub(crate) fn recognise(&mut self, accepted: &Keys) {
        for pending in std::mem::take(&mut self.strangers) {
            if pending.keys.are_alike(accepted) {
                self.known.push_back(Pending { standing: Standing::Known, ..pending });
            } else {
                self.strangers.push_back(pending);
            }
        }
    }

    /// How many wait who are known: those after them are strangers.
    pub(crate) fn known(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len() + self.strangers.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In the order in which they are to be answered.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.known.iter().chain(&self.strangers)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Pending> {
        self.known.get(at).or_else(|| self.strangers.get(at.checked_sub(self.known.len())?))
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<Pending> {
        match at.checked_sub(self.known.len()) {
            None => self.known.remove(at),
            Some(at) => self.strangers.remove(at),
        }
    }

    /// One that has waited too long.
    pub(crate) fn overdue(&mut self, settings: &Settings, now: Instant) -> Option<Pending> {
        let line = [&mut self.known, &mut self.strangers]
            .into_iter()
            .find(|line| line.front().is_some_and(|pending| now >= pending.latest_start(settings)));
        line.and_then(VecDeque::pop_front)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use pamrelay_authwire::QuestionFrame;

    use super::*;
    use crate::limits::Limits;

    fn settings() -> Settings {
        Settings::read([("PAMRELAY_WAITING".to_owned(), "3".to_owned())].into_iter()).unwrap()
    }

    fn question(id: u64, standing: Standing, arrived: Instant) -> Pending {
        Pending {
            stream: UnixStream::pair().unwrap().0,
            frame: QuestionFrame::empty(),
            id,
            session: 0,
            peer: [0; 16],
            listener: String::new(),
            service: String::new(),
            typed: Vec::new(),
            asked: String::new(),
            keys: keys(""),
            standing,
            unfit: None,
            arrived,
            began: None,
            once_more: false,
        }
    }

    fn keys(user: &str) -> Keys {
        Limits::new(&settings(), [0; 32], [0; 32], Instant::now()).keys("", user.as_bytes(), b"", [127, 0, 0, 1].into())
    }

    fn ids(waiting: &Waiting) -> Vec<u64> {
        waiting.iter().map(|pending| pending.id).collect()
    }

    #[test]
    fn those_who_are_known_go_first_and_otherwise_who_came_first() {
        let (mut waiting, now) = (Waiting::new(&settings()), Instant::now());

        for (id, standing) in [(1, Standing::Stranger), (2, Standing::Known), (3, Standing::Known)] {
            assert!(waiting.join(question(id, standing, now)).is_none());
        }

        assert_eq!(ids(&waiting), [2, 3, 1]);
        assert_eq!(waiting.get(2).map(|pending| pending.id), Some(1));
        assert_eq!(waiting.remove(2).map(|pending| pending.id), Some(1));
        assert_eq!(waiting.remove(0).map(|pending| pending.id), Some(2));
        assert!(waiting.get(1).is_none() && waiting.remove(1).is_none() && !waiting.is_empty());
    }

    #[test]
    fn in_a_full_line_the_last_stranger_makes_room_and_nobody_else() {
        let (mut waiting, now) = (Waiting::new(&settings()), Instant::now());
        (1..=3).for_each(|id| drop(waiting.join(question(id, Standing::Stranger, now))));
        let mut turned_away = |id, standing| waiting.join(question(id, standing, now)).map(|pending| pending.id);

        assert_eq!(turned_away(4, Standing::Stranger), Some(4));
        assert_eq!(turned_away(5, Standing::Known), Some(3));
        assert_eq!(turned_away(6, Standing::Known), Some(2));
        assert_eq!(turned_away(7, Standing::Known), Some(1));
        assert_eq!(turned_away(8, Standing::Known), Some(8));
        assert_eq!(ids(&waiting), [5, 6, 7]);
    }

    #[test]
    fn who_is_accepted_is_a_stranger_no_more_where_he_waits_again() {
        let (mut waiting, now) = (Waiting::new(&settings()), Instant::now());
        let of = |id, user: &str| Pending { keys: keys(user), ..question(id, Standing::Stranger, now) };
        [of(1, "ann"), of(2, "bob"), of(3, "ann")].into_iter().for_each(|pending| drop(waiting.join(pending)));

        waiting.recognise(&keys("ann"));

        assert_eq!((ids(&waiting), waiting.known()), (vec![1, 3, 2], 2));
        assert!(waiting.iter().take(2).all(|pending| pending.standing == Standing::Known));
    }

    #[test]
    fn in_both_lines_the_time_runs_out() {
        let (mut waiting, now) = (Waiting::new(&settings()), Instant::now());
        let later = now + Duration::from_secs(1);
        for (id, standing, arrived) in [(1, Standing::Stranger, now), (2, Standing::Known, later), (3, Standing::Stranger, later)] {
            assert!(waiting.join(question(id, standing, arrived)).is_none());
        }
        let end = now + settings().deadline / 2;

        assert!(waiting.overdue(&settings(), end - Duration::from_millis(1)).is_none());
        assert_eq!(waiting.overdue(&settings(), end).map(|pending| pending.id), Some(1));
        assert!(waiting.overdue(&settings(), end).is_none());
        assert_eq!(waiting.overdue(&settings(), end + Duration::from_secs(1)).map(|pending| pending.id), Some(2));
    }
}
