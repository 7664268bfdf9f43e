//! Where workers come from: the template process in use, the ones that are retiring, and all jobs.
//!
//! ```text
//! job:  asked ─▶ started (pidfd) ─▶ report ─▶ ended
//!          └─ NotStarted   └─ deadline: SIGKILL ─▶ ended without a report
//! ```
//!
//! The listener asks for a worker and hears three things: a report, a loss, nothing more. Invariant: a job
//! holds its place until its process is really gone, so hung workers are bounded whatever holds them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;
use pamrelay_authwire::Reason;

use crate::brood::{self, Orphans};
use crate::control::{self, Heard, Word};
use crate::log::{Level, Line};
use crate::report::{MAX_REPORT, Report};
use crate::service::{self, Watch};
use crate::settings::{Rules, Settings};
use crate::sys;
use crate::template::Loading;

/// A template is replaced after this time: what modules read at load time may have changed unseen.
const TEMPLATE_LIFE: Duration = Duration::from_secs(300);
/// Loading modules takes milliseconds; beyond this it hangs.
const LOADING: Duration = Duration::from_secs(5);
/// A fork takes less than a millisecond; beyond this the template is stopped or stuck.
const FORKING: Duration = Duration::from_secs(2);
/// How often the watched files are looked at while questions come.
const LOOK: Duration = Duration::from_millis(200);
/// A worker that takes longer waits for something; it no longer counts among the busy ones.
const BUSY: Duration = Duration::from_secs(1);
/// And from this age on one that has slept for most of its life.
const SLEEPY: Duration = Duration::from_millis(200);
/// After a template was lost: for so long what its workers had started may still arrive here, and how
/// often that is looked at.
const AFTERMATH: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_millis(20);
/// How often it is looked at when the helper ends: grandchildren arrive one generation at a time.
const CLOSING: u32 = 50;
/// How long the news of how a worker ended may lag behind its end.
const NEWS: Duration = Duration::from_millis(100);

pub(crate) struct Workshop {
    rules: Rules,
    workers: usize,
    slow_workers: usize,
    watch: Watch,
    fingerprint: u64,
    looked: Option<Instant>,
    unusable: Option<String>,
    loading: Loading,
    template: Option<Template>,
    retiring: Vec<Template>,
    failures: u32,
    not_before: Option<Instant>,
    aftermath: Option<Instant>,
    jobs: Vec<Job>,
    next_job: u64,
}

struct Template {
    pid: Pid,
    control: OwnedFd,
    born: Instant,
    ready: bool,
    /// Waited for: its number may be somebody else's by now.
    buried: bool,
}

struct Job {
    id: u64,
    question: u64,
    template: Pid,
    answers: OwnedFd,
    pidfd: Option<OwnedFd>,
    pid: i32,
    asked: Instant,
    deadline: Instant,
    gone: Option<Instant>,
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

/// Whether a worker can be had.
pub(crate) enum Readiness {
    Now,
    Later,
    /// Not before an administrator does something.
    Never,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Control(Pid),
    Answers(u64),
    End(u64),
}

impl Workshop {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            rules: settings.rules.clone(),
            workers: settings.workers,
            slow_workers: settings.slow_workers,
            watch: Watch::new(),
            fingerprint: 0,
            looked: None,
            unusable: None,
            loading: Loading::Once,
            template: None,
            retiring: Vec::new(),
            failures: 0,
            not_before: None,
            aftermath: None,
            jobs: Vec::new(),
            next_job: 1,
        }
    }

    /// Ends the templates, their workers and everything that those left running.
    pub(crate) fn close(self) {
        for _ in 0..CLOSING {
            brood::reap();
            if brood::kill_orphans(&[]) == Orphans::None {
                return;
            }
            std::thread::sleep(SWEEP);
        }
    }

    /// Looks after the template; called before workers are asked for.
    pub(crate) fn readiness(&mut self, now: Instant) -> Readiness {
        self.look(now);
        if self.unusable.is_some() {
            return Readiness::Never;
        }
        match &self.template {
            None if self.not_before.is_some_and(|time| now < time) => Readiness::Later,
            None => {
                self.start_template(now);
                Readiness::Later
            }
            Some(template) if !template.ready => Readiness::Later,
            Some(_) => {
                let busy = self.jobs.iter().filter(|job| job.is_busy(now)).count();
                let room = busy < self.workers && self.jobs.len() < self.workers + self.slow_workers;
                if room { Readiness::Now } else { Readiness::Later }
            }
        }
    }

    /// Has a worker made for this question. The frame goes into the worker's own socket.
    pub(crate) fn start(&mut self, frame: &[u8], question: u64, now: Instant, deadline: Instant) -> io::Result<u64> {
        let template = self.template.as_ref().ok_or_else(|| io::Error::other("no template"))?;
        let (answers, worker) = control::pair()?;
        send(answers.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
        let id = self.next_job;
        control::say(template.control.as_fd(), Word::Fork { job: id }, Some(worker.as_fd()))?;
        self.next_job += 1;
        self.jobs.push(Job {
            id,
            question,
            template: template.pid,
            answers,
            pidfd: None,
            pid: 0,
            asked: now,
            deadline,
            gone: None,
            ended: None,
            told: false,
            killed: false,
            closed: false,
        });
        Ok(id)
    }

    /// The template is of no use: the next look makes another.
    pub(crate) fn abandon_template(&mut self, now: Instant) {
        if let Some(template) = self.template.take() {
            template.kill();
            self.retiring.push(template);
        }
        self.failures = self.failures.saturating_add(1);
        let pause = Duration::from_millis(100 << self.failures.min(6)).min(Duration::from_secs(5));
        self.not_before = Some(now + if self.failures < 2 { Duration::ZERO } else { pause });
    }

    /// Kills what is over time and says what is lost.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<News> {
        self.bury();
        self.clear_away(now);
        let mut news = Vec::new();
        let mut stuck = false;
        for job in &mut self.jobs {
            let waits_for_fork = job.pidfd.is_none() && job.gone.is_none();
            if waits_for_fork && now.saturating_duration_since(job.asked) >= FORKING {
                stuck = true;
                job.gone = Some(now);
                job.lose(&mut news, Reason::NoWorker, "the template process does not answer");
            }
            if now >= job.deadline {
                job.kill();
                job.lose(&mut news, Reason::Deadline, "");
            }
            if job.gone.is_some_and(|gone| now.saturating_duration_since(gone) >= NEWS) {
                let how = job.ended.take().unwrap_or_default();
                job.lose(&mut news, Reason::Crashed, &how);
            }
        }
        let hangs =
            self.template.as_ref().is_some_and(|template| !template.ready && now.saturating_duration_since(template.born) >= LOADING);
        if hangs {
            self.loading = Loading::EachTime;
        }
        if stuck || hangs {
            Line::event(Level::Error, "template").with("state", "stuck").write();
            self.abandon_template(now);
        }
        self.sweep();
        news
    }

    /// The next moment at which [`expire`](Self::expire) or [`readiness`](Self::readiness) has something to do.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let jobs = self.jobs.iter().flat_map(|job| {
            let fork = job.pidfd.is_none().then(|| job.asked + FORKING);
            let busy = (1..=5).map(|look| job.asked + SLEEPY * look).find(|time| *time > now);
            let deadline = (!job.killed).then_some(job.deadline);
            let news = job.gone.map(|gone| gone + NEWS);
            [fork, busy, deadline, news].into_iter().flatten()
        });
        let loading = self.template.as_ref().filter(|template| !template.ready).map(|template| template.born + LOADING);
        let sweep = self.aftermath.map(|_| now + SWEEP);
        jobs.chain(loading).chain(self.not_before).chain(sweep).filter(|time| *time > now).min()
    }

    /// Adds the descriptors to wait for.
    pub(crate) fn watched<'a>(&'a self, sources: &mut Vec<Source>, set: &mut Vec<PollFd<'a>>) {
        for template in self.template.iter().chain(&self.retiring) {
            sources.push(Source::Control(template.pid));
            set.push(PollFd::new(template.control.as_fd(), PollFlags::POLLIN));
        }
        for job in &self.jobs {
            if !job.told && !job.closed {
                sources.push(Source::Answers(job.id));
                set.push(PollFd::new(job.answers.as_fd(), PollFlags::POLLIN));
            }
            if let (Some(pidfd), None) = (&job.pidfd, job.gone) {
                sources.push(Source::End(job.id));
                set.push(PollFd::new(pidfd.as_fd(), PollFlags::POLLIN));
            }
        }
    }

    /// Something can be read there.
    pub(crate) fn ready(&mut self, source: Source, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        match source {
            Source::Control(pid) => self.hear(pid, now, &mut news),
            Source::Answers(id) => {
                if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
                    job.read_report(&mut news);
                }
            }
            Source::End(id) => {
                if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
                    job.gone = Some(now);
                    job.read_report(&mut news); // said before it ended
                    if let Some(how) = job.ended.take() {
                        job.lose(&mut news, Reason::Crashed, &how);
                    }
                }
            }
        }
        self.sweep();
        news
    }

    fn hear(&mut self, pid: Pid, now: Instant, news: &mut Vec<News>) {
        loop {
            let Some(template) = self.template.iter_mut().chain(&mut self.retiring).find(|template| template.pid == pid) else { return };
            let (word, attached) = match control::hear(template.control.as_fd()) {
                Heard::Word(word, attached) => (word, attached),
                Heard::Silence => return,
                Heard::Gone => return self.lost_template(pid, now, news),
            };
            match word {
                Word::Ready => {
                    template.ready = true;
                    self.failures = 0;
                }
                Word::Unfit { extra, code } => {
                    Line::event(Level::Notice, "template").with("state", "unfit").with("extra", extra).with("code", code).write();
                    self.loading = Loading::EachTime;
                }
                Word::Started { job, pid } => {
                    if let Some(job) = self.jobs.iter_mut().find(|found| found.id == job) {
                        job.pidfd = attached;
                        job.pid = pid;
                        if job.killed {
                            job.kill();
                        }
                    }
                }
                Word::NotStarted { job, errno } => {
                    if let Some(job) = self.jobs.iter_mut().find(|found| found.id == job) {
                        job.gone = Some(now);
                        job.lose(news, Reason::NoWorker, &io::Error::from_raw_os_error(errno).to_string());
                    }
                }
                Word::Ended { job, status, signal } => {
                    if let Some(job) = self.jobs.iter_mut().find(|found| found.id == job) {
                        job.read_report(news);
                        let how = if signal == 0 { format!("ended with status {status}") } else { format!("killed by signal {signal}") };
                        match job.gone {
                            Some(_) => job.lose(news, Reason::Crashed, &how),
                            None => job.ended = Some(how),
                        }
                    }
                }
                Word::Fork { .. } => return self.lost_template(pid, now, news),
            }
        }
    }

    /// A template closed its socket: the end of a retiring one, a mishap for the one in use.
    fn lost_template(&mut self, pid: Pid, now: Instant, news: &mut Vec<News>) {
        if let Some(template) = self.template.iter().chain(&self.retiring).find(|template| template.pid == pid) {
            template.kill();
        }
        for job in self.jobs.iter_mut().filter(|job| job.template == pid && job.pidfd.is_none()) {
            job.gone = Some(now);
            job.lose(news, Reason::NoWorker, "the template process ended");
        }
        if self.template.as_ref().is_some_and(|template| template.pid == pid) {
            let ready = self.template.take().is_some_and(|template| template.ready);
            if ready {
                Line::event(Level::Error, "template").with("state", "lost").with("pid", pid).write();
            }
            self.abandon_template(now);
        }
        self.retiring.retain(|template| template.pid != pid);
        self.aftermath = Some(now + AFTERMATH);
    }

    /// Kills what the workers of a lost template left running; it comes to us as they end.
    fn clear_away(&mut self, now: Instant) {
        if let Some(end) = self.aftermath {
            let ours: Vec<Pid> = self.template.iter().chain(&self.retiring).map(|template| template.pid).collect();
            brood::kill_orphans(&ours);
            self.aftermath = (now < end).then_some(end);
        }
    }

    /// Waits for templates that ended, and for workers that were left to us by one.
    fn bury(&mut self) {
        for ended in brood::reap() {
            for template in self.template.iter_mut().chain(&mut self.retiring).filter(|template| template.pid == ended.pid) {
                template.buried = true;
            }
        }
    }

    /// Notices changed files, and the template's age.
    fn look(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        let first = self.looked.is_none();
        self.looked = Some(now);
        let fingerprint = self.watch.fingerprint();
        let aged = self.template.as_ref().is_some_and(|template| now.saturating_duration_since(template.born) >= TEMPLATE_LIFE);
        let changed = fingerprint != self.fingerprint;
        if !changed && !aged {
            return;
        }
        self.fingerprint = fingerprint;
        if changed {
            self.loading = Loading::Once;
            self.failures = 0;
            self.not_before = None;
            self.unusable = service::unusable(&self.rules.service);
            if !first {
                Line::event(Level::Notice, "template").with("state", "replaced").with("because", "files-changed").write();
            }
            if let Some(why) = &self.unusable {
                Line::event(Level::Error, "service").with("state", "unusable").text("text", why).write();
            }
        }
        if let Some(template) = self.template.take() {
            let _ = nix::sys::socket::shutdown(template.control.as_raw_fd(), nix::sys::socket::Shutdown::Write);
            self.retiring.push(template); // lives until its last worker has ended
        }
    }

    fn start_template(&mut self, now: Instant) {
        match spawn(&self.rules, self.loading) {
            Ok((pid, control)) => {
                self.not_before = None;
                self.template = Some(Template { pid, control, born: now, ready: false, buried: false });
            }
            Err(error) => {
                Line::event(Level::Error, "template").with("state", "not-started").text("text", error.to_string()).write();
                self.abandon_template(now);
            }
        }
    }

    /// Forgets jobs whose process is gone and whose end was told.
    fn sweep(&mut self) {
        self.jobs.retain(|job| !(job.told && job.gone.is_some()));
    }
}

impl Template {
    fn kill(&self) {
        if !self.buried {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

impl Job {
    /// Whether it uses or wants the processor, as hashing does. One that waits for a server or hangs makes
    /// room for others, so that a dead back end does not stop the rest.
    fn is_busy(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.asked);
        age < SLEEPY || age < BUSY && self.slept(age).is_none_or(|slept| slept < age / 2)
    }

    /// The kernel's account: all but the time spent on a processor or in line for one.
    fn slept(&self, age: Duration) -> Option<Duration> {
        let account = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid)).ok()?;
        let mut nanoseconds = account.split_whitespace().map(str::parse);
        let awake = Duration::from_nanos(nanoseconds.next()?.ok()?).checked_add(Duration::from_nanos(nanoseconds.next()?.ok()?))?;
        Some(age.saturating_sub(awake))
    }

    /// Takes the report, if a whole one is there; anything else in its place is none.
    fn read_report(&mut self, news: &mut Vec<News>) {
        if self.told {
            return;
        }
        let mut bytes = [0; MAX_REPORT + 1];
        match recv(self.answers.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            // 0: every copy of the worker's end is closed; the pidfd tells the rest.
            Ok(0) => {
                self.closed = true;
                self.lose_if_gone(news);
            }
            Ok(count) => match bytes.get(..count).and_then(|bytes| Report::decode(bytes, self.question)) {
                Some(report) => {
                    self.told = true;
                    news.push(News::Answered(self.id, report));
                }
                None => {
                    self.kill();
                    self.lose(news, Reason::Garbled, "");
                }
            },
            Err(_) => self.lose_if_gone(news),
        }
    }

    fn lose_if_gone(&mut self, news: &mut Vec<News>) {
        if let (Some(_), Some(how)) = (self.gone, self.ended.take()) {
            self.lose(news, Reason::Crashed, &how);
        }
    }

    fn lose(&mut self, news: &mut Vec<News>, reason: Reason, how: &str) {
        if !self.told {
            self.told = true;
            news.push(News::Lost(self.id, reason, how.to_owned()));
        }
    }

    /// Kills the worker; one that is still being made is killed when it is known.
    fn kill(&mut self) {
        self.killed = true;
        if let Some(pidfd) = &self.pidfd {
            sys::pidfd_kill(pidfd.as_fd());
        }
    }
}

/// Starts this very program again as a template: nothing of our memory goes along.
fn spawn(rules: &Rules, loading: Loading) -> io::Result<(Pid, OwnedFd)> {
    let (ours, theirs) = control::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg0("pamrelay-auth")
        .args(["template", loading.word()])
        .args(rules.to_args())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok((Pid::from_raw(pid), ours)) // waited for by `brood::reap`
}
