//! Wrong passwords for one account: what holds, and what was counted.
//!
//! ```text
//! pam_faillock in a service, auth.account_failures set, or a directory that may lock  ─▶ Rule::Window, exact
//! nothing that locks                                                                   ─▶ Rule::Pauses, growing
//! ```
//!
//! A window is shared by everybody who names the account, because the back end counts like that too. Pauses are kept for each
//! network that names it; strangers share pauses as well, but a network counts there with its first failures alone, so that one
//! guesser does not hold up the others. Its further failures are charged to a rate that strangers share, and that is asked only
//! about networks that are beyond their first failures.
//!
//! Invariant: under a window every failure that reached PAM counts; all counts are kept under either rule, so that a change of the
//! rule forgets nothing.

use std::time::Duration;

use crate::limits::Standing;
use crate::limits::keys::Keys;
use crate::lockout::Locks;
use crate::pauses::{AfterTen, Pauses};
use crate::rate::{Rate, UsedUp};
use crate::settings::{Settings, UnseenLocks};
use crate::table::{Key, Table};
use crate::window::{MOST_FAILURES, Recent, Window};

/// Accounts: at most `failures_per_second` new ones come in a second, for half an hour that is as many as there is room for.
const SETS: usize = 4096;
/// What holds where an account may be locked and nobody has chosen a limit.
const CAUTIOUS: u32 = 4;
/// Failures without a pause: of strangers, and of a network where the account logged in lately.
const FREE_OF_STRANGERS: usize = 3;
const FREE_OF_KNOWN: usize = 5;

/// What holds for one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Window(Window),
    /// For so long a failure counts.
    Pauses(Duration),
}

/// How many more questions may fail now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tries {
    /// About this account.
    pub(super) account: usize,
    /// About it from this network.
    pub(super) place: usize,
}

pub(super) struct Accounts {
    chosen: Option<Window>,
    cautious: Window,
    unseen: UnseenLocks,
    rule: Rule,
    /// Every failure of an account.
    all: Table<Recent, SETS>,
    /// Those of an account from one network, for which it is in the account's set.
    places: Table<Recent>,
    /// The first few from each network that was not known.
    strangers: Table<Recent>,
    /// The others from such networks, at `rate`.
    beyond: Table<u64>,
    rate: Rate,
}

impl Accounts {
    pub(super) fn new(settings: &Settings) -> Self {
        let chosen = settings.account_failures.map(|failures| Window::new(failures, settings.account_window));
        let cautious = chosen.unwrap_or(Window::new(CAUTIOUS, settings.account_window));
        let rule = Rule::Window(cautious); // until the services were looked at
        let unseen = settings.unseen_locks;
        Self {
            chosen,
            cautious,
            unseen,
            rule,
            all: Table::new(),
            places: Table::new(),
            strangers: Table::new(),
            beyond: Table::new(),
            rate: Rate::of(MOST_FAILURES as u32, settings.account_window),
        }
    }

    /// Stays below what locks an account behind PAM. Gives what holds now, if that is news.
    pub(super) fn heed(&mut self, locks: &Locks) -> Option<Rule> {
        let may_lock = locks.perhaps.is_some() && self.unseen == UnseenLocks::Possible;
        let rule = match (locks.faillock, self.chosen) {
            (Some(lockout), _) => Rule::Window(self.cautious.below(lockout.failures, lockout.window)),
            (None, Some(chosen)) => Rule::Window(chosen),
            (None, None) if may_lock => Rule::Window(self.cautious),
            (None, None) => Rule::Pauses(self.cautious.length),
        };
        (std::mem::replace(&mut self.rule, rule) != rule).then_some(rule)
    }

    pub(super) fn rule(&self) -> Rule {
        self.rule
    }

    /// The window of the rule; under pauses that of the cautious one, by which a repeated password is told.
    pub(super) fn window(&self) -> Window {
        match self.rule {
            Rule::Window(window) => window,
            Rule::Pauses(_) => self.cautious,
        }
    }

    /// Failures in that window that this question adds to: under a window those of the account, under pauses those of the account from
    /// this network. Strangers who guess elsewhere do not decide whether PAM is asked about the owner's password.
    pub(super) fn used(&self, asked: &Keys, second: u32) -> usize {
        let recent = match self.rule {
            Rule::Window(_) => self.all.get(asked.account),
            Rule::Pauses(_) => self.places.get(asked.place),
        };
        recent.unwrap_or_default().within(self.window(), second)
    }

    pub(super) fn tries(&self, asked: &Keys, standing: Standing, second: u32) -> Tries {
        let length = match self.rule {
            Rule::Window(window) => {
                let most = match standing {
                    Standing::Known => window.most,
                    Standing::Stranger => window.of_strangers(),
                };
                return Tries { account: most.saturating_sub(self.used(asked, second)), place: usize::MAX };
            }
            Rule::Pauses(length) => length,
        };
        let (own, pauses) = (self.places.get(asked.place).unwrap_or_default(), of_one(standing, length));
        let shared = || together(length).left(&self.strangers.get(asked.account).unwrap_or_default(), second);
        let beyond = || self.rate.left(self.beyond.get(asked.account).unwrap_or_default(), clock(second)) as usize;
        let account = match standing {
            Standing::Known => usize::MAX,
            Standing::Stranger if pauses.failures(&own, second) < FREE_OF_STRANGERS => shared(),
            Standing::Stranger => shared().min(beyond()),
        };
        Tries { account, place: pauses.left(&own, second) }
    }

    /// A question about it was refused.
    pub(super) fn failed(&mut self, asked: &Keys, standing: Standing, second: u32) {
        let window = self.window();
        let length = window.length;
        let before = self.places.get(asked.place).unwrap_or_default();
        match standing {
            Standing::Known => {}
            Standing::Stranger if of_one(standing, length).failures(&before, second) < FREE_OF_STRANGERS => {
                self.strangers.update(asked.account, |recent| recent.worth(window, second), |recent| recent.with(second));
            }
            Standing::Stranger => self.beyond.update(asked.account, |until| until, |until| self.rate.used(until, clock(second))),
        }
        self.places.update(asked.place, |recent| recent.worth(window, second), |recent| recent.with(second));
        self.all.update(asked.account, |recent| recent.worth(window, second), |recent| recent.with(second));
    }

    /// What strangers have used up of this account, if they have to wait now.
    pub(super) fn used_up(&self, account: Key, second: u32) -> Option<UsedUp> {
        match self.rule {
            Rule::Window(window) => {
                let recent = self.all.get(account).unwrap_or_default();
                let (used, most) = (recent.within(window, second), window.of_strangers());
                (used >= most).then(|| used_up(used, recent.frees_one_of(most, window, second)))
            }
            Rule::Pauses(length) => waits(together(length), &self.strangers.get(account).unwrap_or_default(), second),
        }
    }

    /// What this network has used up of this account, if it has to wait now for itself.
    pub(super) fn used_up_from(&self, asked: &Keys, standing: Standing, second: u32) -> Option<UsedUp> {
        match self.rule {
            Rule::Window(_) => None,
            Rule::Pauses(length) => waits(of_one(standing, length), &self.places.get(asked.place).unwrap_or_default(), second),
        }
    }

    /// Forgets the failures of an account; whether there were any.
    pub(super) fn forget(&mut self, account: Key) -> bool {
        let shared = [self.strangers.forget(account), self.beyond.forget(account)].contains(&true);
        [self.all.forget(account), self.places.forget_beside(account), shared].contains(&true)
    }

    pub(super) fn forget_all(&mut self) {
        (self.all, self.places, self.strangers, self.beyond) = (Table::new(), Table::new(), Table::new(), Table::new());
    }
}

/// Of one network.
fn of_one(standing: Standing, length: Duration) -> Pauses {
    let free = match standing {
        Standing::Known => FREE_OF_KNOWN,
        Standing::Stranger => FREE_OF_STRANGERS,
    };
    Pauses { free, length, after_ten: AfterTen::Window }
}

/// Of all networks that are not known.
fn together(length: Duration) -> Pauses {
    Pauses { free: FREE_OF_STRANGERS, length, after_ten: AfterTen::Pause }
}

fn clock(second: u32) -> u64 {
    u64::from(second) * 1000
}

fn waits(pauses: Pauses, recent: &Recent, second: u32) -> Option<UsedUp> {
    let wait = pauses.wait(recent, second);
    (wait > 0).then(|| used_up(pauses.failures(recent, second), wait))
}

fn used_up(failures: usize, wait: u64) -> UsedUp {
    UsedUp { failures: u32::try_from(failures).unwrap_or(u32::MAX), wait: Duration::from_secs(wait) }
}
