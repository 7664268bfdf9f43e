//! One worker, as the listener sees it: from the wish for it until its process is gone.
//!
//! ```text
//! asked ─▶ started (pidfd) ─▶ report ─▶ gone
//!   └─ not started   └─ deadline: SIGKILL ─▶ gone without a report
//! ```
//!
//! Invariant: of a job exactly one thing is told, its report or its loss, whichever is known first.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::Pid;
use pamrelay_authwire::Reason;

use crate::limits::Standing;
use crate::report::{MAX_REPORT, Report};
use crate::sys;

/// A fork takes less than a millisecond; beyond this the template is stopped or stuck.
pub(crate) const FORKING: Duration = Duration::from_secs(2);
/// A worker that takes longer waits for something; it no longer counts among the busy ones.
const BUSY: Duration = Duration::from_secs(1);
/// And from this age on one that has slept for most of its life.
const SLEEPY: Duration = Duration::from_millis(200);
/// How long it is believed that one computes, before it is looked at again: a look costs a file of /proc.
const GLANCE: Duration = Duration::from_millis(10);
/// How long the news of how a worker ended may lag behind its end.
const NEWS: Duration = Duration::from_millis(100);

pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) standing: Standing,
    pub(crate) template: Pid,
    pub(crate) answers: OwnedFd,
    pub(crate) pidfd: Option<OwnedFd>,
    question: u64,
    pid: Pid,
    asked: Instant,
    /// When it was last known to compute. It begins with that.
    computed: Instant,
    deadline: Instant,
    /// Since when its process is known to be no more.
    gone: Option<Instant>,
    /// How it ended, in words, if that came before the end itself.
    ended: Option<String>,
    told: bool,
    killed: bool,
    /// Every copy of the worker's end of the socket is closed: nothing can be said any more.
    closed: bool,
}

/// What became of a job.
pub(crate) enum News {
    Answered(u64, Report),
    Lost(u64, Reason, String),
}

impl Job {
    pub(crate) fn new(
        id: u64,
        question: u64,
        standing: Standing,
        template: Pid,
        answers: OwnedFd,
        asked: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            id,
            standing,
            template,
            answers,
            pidfd: None,
            question,
            pid: Pid::from_raw(0),
            asked,
            computed: asked,
            deadline,
            gone: None,
            ended: None,
            told: false,
            killed: false,
            closed: false,
        }
    }

    /// The template has forked it.
    pub(crate) fn started(&mut self, pid: Pid, pidfd: Option<OwnedFd>) {
        self.pid = pid;
        self.pidfd = pidfd;
        if self.killed {
            self.kill();
        }
    }

    /// Its process, while there is one.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.pidfd.is_some().then_some(self.pid).filter(|_| self.gone.is_none())
    }

    /// It never came to be.
    pub(crate) fn not_started(&mut self, now: Instant, why: &str) -> Option<News> {
        self.gone = Some(now);
        self.lost(Reason::NoWorker, why)
    }

    /// Its process is gone; how it ended may be known already or not.
    pub(crate) fn is_gone(&mut self, now: Instant) -> Option<News> {
        self.gone = Some(now);
        let said = self.report(); // said before it ended
        said.or_else(|| self.crashed())
    }

    /// The template tells how it ended; its end itself may not have been seen yet.
    pub(crate) fn ended(&mut self, how: String) -> Option<News> {
        self.ended = Some(how);
        let said = self.report();
        said.or_else(|| self.crashed())
    }

    /// Takes the report, if a whole one is there; anything else in its place is none.
    pub(crate) fn report(&mut self) -> Option<News> {
        if self.told {
            return None;
        }
        let mut bytes = [0; MAX_REPORT + 1];
        match recv(self.answers.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.closed = true;
                None
            }
            Ok(count) => match bytes.get(..count).and_then(|bytes| Report::decode(bytes, self.question)) {
                Some(report) => {
                    self.told = true;
                    Some(News::Answered(self.id, report))
                }
                None => {
                    self.kill();
                    self.lost(Reason::Garbled, "")
                }
            },
            Err(_) => None,
        }
    }

    /// Kills it if it is over time.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<News> {
        if now >= self.deadline && self.gone.is_none() {
            self.kill();
            return self.lost(Reason::Deadline, "");
        }
        let late = self.gone.is_some_and(|gone| now.saturating_duration_since(gone) >= NEWS);
        if late { self.lost(Reason::Crashed, "") } else { None }
    }

    /// The template should have forked it by now.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        self.pidfd.is_none() && self.gone.is_none() && now.saturating_duration_since(self.asked) >= FORKING
    }

    /// Nothing is left to do or to hold a place for.
    pub(crate) fn is_over(&self) -> bool {
        self.told && self.gone.is_some()
    }

    pub(crate) fn listens_for_report(&self) -> bool {
        !self.told && !self.closed
    }

    /// Its end has to be waited for by this descriptor.
    pub(crate) fn awaited(&self) -> Option<&OwnedFd> {
        self.pidfd.as_ref().filter(|_| self.gone.is_none())
    }

    /// When it has to be looked at again.
    pub(crate) fn deadlines(&self, now: Instant) -> impl Iterator<Item = Instant> + use<> {
        let fork = self.pidfd.is_none().then(|| self.asked + FORKING);
        let busy = (1..=5).map(|look| self.asked + SLEEPY * look).find(|time| *time > now);
        let deadline = (!self.killed).then_some(self.deadline);
        let news = self.gone.map(|gone| gone + NEWS);
        [fork, busy, deadline, news].into_iter().flatten()
    }

    /// Whether it uses or wants the processor, as hashing does. One that waits for a server or hangs makes
    /// room for others, so that a dead back end does not stop the rest.
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.asked);
        age < SLEEPY || age < BUSY && self.slept(age).is_none_or(|slept| slept < age / 2)
    }

    /// Whether it is on a processor this moment, or in line for one. One that has been for longer leaves its turn to others:
    /// it may be in an endless loop.
    pub(crate) fn is_computing(&mut self, now: Instant) -> bool {
        if self.gone.is_some() || now.saturating_duration_since(self.asked) >= SLEEPY {
            return false;
        }
        if now.saturating_duration_since(self.computed) >= GLANCE && self.runs() {
            self.computed = now;
        }
        now.saturating_duration_since(self.computed) < GLANCE
    }

    fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('R'))
    }

    /// The kernel's account: all but the time spent on a processor or in line for one.
    fn slept(&self, age: Duration) -> Option<Duration> {
        let account = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid)).ok()?;
        let mut nanoseconds = account.split_whitespace().map(str::parse);
        let awake = Duration::from_nanos(nanoseconds.next()?.ok()?).checked_add(Duration::from_nanos(nanoseconds.next()?.ok()?))?;
        Some(age.saturating_sub(awake))
    }

    fn crashed(&mut self) -> Option<News> {
        self.gone?;
        let how = self.ended.take()?;
        self.lost(Reason::Crashed, &how)
    }

    fn lost(&mut self, reason: Reason, how: &str) -> Option<News> {
        if self.told {
            return None;
        }
        self.told = true;
        Some(News::Lost(self.id, reason, how.to_owned()))
    }

    /// Kills the worker; one that is still being made is killed when it is known.
    fn kill(&mut self) {
        self.killed = true;
        if let Some(pidfd) = &self.pidfd {
            sys::pidfd_kill(pidfd.as_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::socket::send;
    use pamrelay_authwire::{Cause, Outcome, Phase};

    use super::*;
    use crate::control;

    /// A job whose worker is a sleeping program, and the worker's end of its socket.
    fn job() -> (Job, OwnedFd, Child, Instant) {
        let (ours, theirs) = control::pair().unwrap();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let now = Instant::now();
        let mut job = Job::new(1, 7, Standing::Stranger, pid, ours, now, now + Duration::from_secs(5));
        job.started(pid, Some(sys::pidfd_open(pid).unwrap()));
        (job, theirs, child, now)
    }

    fn says(worker: &OwnedFd, question: u64) {
        let outcome = Outcome::Reject(Cause { phase: Phase::Auth, code: 7, reason: Reason::Refused });
        let bytes = Report::new(outcome, "smtp", b"", b"").encode(question).unwrap();
        send(worker.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
    }

    fn reason(news: Option<News>) -> Reason {
        let Some(News::Lost(1, reason, _)) = news else { panic!("not a loss") };
        reason
    }

    #[test]
    fn a_report_is_told_once() {
        let (mut job, worker, mut child, now) = job();
        says(&worker, 7);
        says(&worker, 7);

        assert!(matches!(job.report(), Some(News::Answered(1, _))));
        assert!(job.report().is_none() && job.is_gone(now).is_none() && job.ended("x".into()).is_none());
        assert!(job.is_over());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_report_on_another_question_is_none_and_ends_the_worker() {
        let (mut job, worker, mut child, _) = job();
        says(&worker, 8);

        assert_eq!(reason(job.report()), Reason::Garbled);
        assert!(!child.wait().unwrap().success());
        assert!(!job.is_over(), "its place is free when its process is gone");
    }

    #[test]
    fn the_deadline_kills_and_a_report_after_it_is_not_heard() {
        let (mut job, worker, mut child, now) = job();

        assert_eq!(reason(job.expire(now + Duration::from_secs(5))), Reason::Deadline);
        says(&worker, 7);

        assert!(job.report().is_none());
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_report_that_was_said_before_the_end_counts() {
        let (mut job, worker, mut child, now) = job();
        says(&worker, 7);
        drop(worker);

        assert!(matches!(job.is_gone(now), Some(News::Answered(1, _))));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_end_without_a_report_is_a_crash_in_whatever_order_it_is_learnt() {
        let (mut job_a, _, mut child_a, now) = job();
        assert!(job_a.is_gone(now).is_none());
        assert_eq!(reason(job_a.ended("killed".into())), Reason::Crashed);
        let (mut job_b, _, mut child_b, now) = job();
        assert!(job_b.ended("killed".into()).is_none());
        assert_eq!(reason(job_b.is_gone(now)), Reason::Crashed);
        let (mut job_c, _, mut child_c, now) = job();
        assert!(job_c.is_gone(now).is_none());
        assert_eq!(reason(job_c.expire(now + NEWS)), Reason::Crashed);
        for child in [&mut child_a, &mut child_b, &mut child_c] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn one_that_sleeps_is_soon_no_longer_busy() {
        let (job, _worker, mut child, now) = job();
        assert!(job.is_busy(now));

        std::thread::sleep(SLEEPY + Duration::from_millis(50));

        assert!(!job.is_busy(Instant::now()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn one_that_computes_does_so_until_it_has_for_long_and_one_that_sleeps_does_not() {
        let (mut sleeper, _worker, mut sleeps, _) = job();
        let (mut computer, _worker, mut unused, now) = job();
        let mut loops = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = Pid::from_raw(loops.id().try_into().unwrap());
        computer.started(pid, Some(sys::pidfd_open(pid).unwrap()));

        let are_told_apart = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            computer.is_computing(now + GLANCE) && !sleeper.is_computing(now + GLANCE * 2)
        });
        let for_long = computer.is_computing(now + SLEEPY);

        for child in [&mut sleeps, &mut unused, &mut loops] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(are_told_apart && !for_long);
    }
}
