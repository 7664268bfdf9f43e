//! Who may have one more worker now: what is bounded, and what one kind of people leaves to the other.
//!
//! - Of workers that compute or have just begun there are only so many, and a quarter more; neither those who are known
//!   nor strangers have more than so many, so a quarter is left to the other.
//! - Of all together, hung ones included, there are only so many, and each kind leaves the same number free.
//! - Only as many compute at once as there are processors, and one more: passwords are hashed in much memory, and more at
//!   once only take it from each other's cache. Those who are known do not mind strangers, who yield to them; of
//!   strangers there is always one.
//!
//! Invariant: it only counts. What is counted is a job until its process is gone.

use crate::limits::Standing;
use crate::settings::Settings;

/// One part in so many workers is beyond the reach of one kind of people.
const KEPT: usize = 4;

/// The workers of one kind of people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Crew {
    all: usize,
    /// Without those that hang or wait for a back end.
    busy: usize,
    /// On a processor this moment, or in line for one.
    computing: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Places {
    workers: usize,
    slow_workers: usize,
    at_once: usize,
    known: Crew,
    strangers: Crew,
}

impl Places {
    /// All of them, on a machine with so many processors.
    pub(crate) fn new(settings: &Settings, processors: usize) -> Self {
        let (workers, slow_workers) = (settings.workers, settings.slow_workers);
        Self { workers, slow_workers, at_once: processors + 1, known: Crew::default(), strangers: Crew::default() }
    }

    /// One worker has a place.
    pub(crate) fn taken(&mut self, standing: Standing, busy: bool, computing: bool) {
        let crew = match standing {
            Standing::Known => &mut self.known,
            Standing::Stranger => &mut self.strangers,
        };
        crew.all += 1;
        crew.busy += usize::from(busy);
        crew.computing += usize::from(computing);
    }

    pub(crate) fn is_there_one_for(&self, standing: Standing) -> bool {
        self.is_there_one_beside_the_hung(standing) && self.is_there_a_processor_for(standing)
    }

    /// Whether nothing but computing holds somebody up: that may be over any moment, and nobody will say so.
    pub(crate) fn is_there_one_soon(&self, standing: Standing) -> bool {
        self.is_there_one_beside_the_hung(standing) && !self.is_there_a_processor_for(standing)
    }

    fn is_there_one_beside_the_hung(&self, standing: Standing) -> bool {
        let kept = self.workers / KEPT;
        let most = self.workers + self.slow_workers;
        let crew = match standing {
            Standing::Known => self.known,
            Standing::Stranger => self.strangers,
        };
        let (all, busy) = (self.known.all + self.strangers.all, self.known.busy + self.strangers.busy);
        crew.busy < self.workers && busy < self.workers + kept && crew.all < most - kept && all < most
    }

    fn is_there_a_processor_for(&self, standing: Standing) -> bool {
        match standing {
            Standing::Known => self.known.computing < self.at_once,
            Standing::Stranger => self.strangers.computing == 0 || self.known.computing + self.strangers.computing < self.at_once,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 workers, 24 slow ones.
    fn places(processors: usize) -> Places {
        Places::new(&Settings::read([].into_iter()).unwrap(), processors)
    }

    /// How many there are of these, at most; each starts busy, and may compute or sleep.
    fn take(places: &mut Places, standing: Standing, computing: bool) -> usize {
        (0..1000).take_while(|_| places.is_there_one_for(standing).then(|| places.taken(standing, true, computing)).is_some()).count()
    }

    fn hang(places: &mut Places, standing: Standing, count: usize) {
        (0..count).for_each(|_| places.taken(standing, false, false));
    }

    #[test]
    fn each_kind_leaves_a_quarter_of_the_workers_to_the_other() {
        for (first, second) in [(Standing::Known, Standing::Stranger), (Standing::Stranger, Standing::Known)] {
            let mut places = places(100);

            assert_eq!((take(&mut places, first, false), take(&mut places, second, false)), (8, 2), "{first:?}");
        }
    }

    #[test]
    fn hung_workers_are_bounded_and_each_kind_leaves_some_places_free_of_its_own() {
        for (first, second) in [(Standing::Known, Standing::Stranger), (Standing::Stranger, Standing::Known)] {
            let mut places = places(100);
            hang(&mut places, first, 29);

            assert_eq!(take(&mut places, first, false), 1, "{first:?}");
            assert_eq!(take(&mut places, second, false), 2, "{first:?}");
        }
    }

    #[test]
    fn no_more_compute_than_there_are_processors_and_one() {
        let mut places = places(2);

        assert_eq!(take(&mut places, Standing::Stranger, true), 3);
        assert!(places.is_there_one_soon(Standing::Stranger));
        assert_eq!(take(&mut places, Standing::Known, true), 3, "strangers yield to them");
        assert!(places.is_there_one_soon(Standing::Known));
    }

    #[test]
    fn those_who_are_known_do_not_starve_strangers() {
        let mut places = places(2);

        assert_eq!(take(&mut places, Standing::Known, true), 3);
        assert_eq!(take(&mut places, Standing::Stranger, true), 1);
    }

    #[test]
    fn workers_that_sleep_leave_their_processor_to_others() {
        let mut places = places(2);

        assert_eq!(take(&mut places, Standing::Stranger, false), 8);
        assert!(!places.is_there_one_soon(Standing::Stranger), "one has to end, or to be slow");
    }
}
