//! Where workers come from: the templates that fork them, and all jobs under way.
//!
//! The listener asks for a worker and hears one thing about it: a report or a loss. Invariant: a job holds
//! its place until its process is really gone, so hung workers are bounded whatever holds them.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd};
use std::thread::available_parallelism;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::Pid;

use crate::control::{self, Heard, Word};
use crate::job::{Job, News};
use crate::limits::Standing;
use crate::lockout::Locks;
use crate::log::{Level, Line};
use crate::pending::Pending;
use crate::places::Places;
use crate::settings::Settings;
use crate::templates::{Readiness, Templates};

/// How much a stranger's worker yields to others when the processor is short: nine parts in ten (see `nice(2)`). Hashing
/// a guess then costs those who are known little time, and nothing is lost when nobody else wants to compute.
const YIELDS: i32 = 10;

pub(crate) struct Workshop {
    templates: Templates,
    jobs: Vec<Job>,
    next_job: u64,
    empty: Places,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Control(Pid),
    Report(u64),
    End(u64),
}

/// Why no worker could be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWorker {
    /// The listener has no descriptor left for it.
    Ours,
    /// The template does not listen.
    Template,
}

/// Workers, and their memory.
pub(crate) struct Census {
    pub(crate) busy: usize,
    /// Those that wait for a back end or hang.
    pub(crate) slow: usize,
    pub(crate) workers_kib: u64,
    pub(crate) template_kib: u64,
}

impl Workshop {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            templates: Templates::new(settings.rules.clone()),
            jobs: Vec::new(),
            next_job: 1,
            // Looked at once: a site that takes processors away while we run loses little.
            empty: Places::new(settings, available_parallelism().map_or(1, NonZero::get)),
        }
    }

    /// Who has which place now; `None` without a template.
    pub(crate) fn places(&mut self, now: Instant) -> Option<Places> {
        match self.templates.readiness(now) {
            Readiness::Now => {
                let mut places = self.empty.clone();
                self.jobs.iter_mut().for_each(|job| places.taken(job.standing, job.is_busy(now), job.is_computing(now)));
                Some(places)
            }
            Readiness::Later => None,
        }
    }

    pub(crate) fn is_usable(&self, service: &str) -> bool {
        self.templates.is_usable(service)
    }

    pub(crate) fn locks(&self) -> &Locks {
        self.templates.locks()
    }

    /// How many workers there are now, and what they take.
    pub(crate) fn census(&self, now: Instant) -> Census {
        let busy = self.jobs.iter().filter(|job| job.is_busy(now)).count();
        Census {
            busy,
            slow: self.jobs.len().saturating_sub(busy),
            workers_kib: self.jobs.iter().filter_map(Job::pid).map(own_kib).sum(),
            template_kib: self.templates.pid().map_or(0, own_kib),
        }
    }

    /// Has a worker made for this question. The frame goes into the worker's own socket.
    pub(crate) fn start(&mut self, pending: &Pending, now: Instant, deadline: Instant) -> Result<u64, NoWorker> {
        let (answers, worker) = control::pair().map_err(|_| NoWorker::Ours)?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(answers.as_raw_fd(), pending.frame.as_bytes(), flags).map_err(|_| NoWorker::Ours)?;
        let id = self.next_job;
        let yields = match pending.standing {
            Standing::Known => 0,
            Standing::Stranger => YIELDS,
        };
        let template = self.templates.fork(id, yields, worker.as_fd()).map_err(|_| NoWorker::Template)?;
        self.next_job += 1;
        self.jobs.push(Job::new(id, pending.id, pending.standing, template, answers, now, deadline));
        Ok(id)
    }

    /// A worker could not be asked for: the template is replaced.
    pub(crate) fn abandon_template(&mut self, now: Instant) {
        self.templates.abandon(now);
    }

    /// Kills what is over time and says what is lost.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<News> {
        self.templates.expire(now);
        let mut news = Vec::new();
        let mut stuck = None;
        for job in &mut self.jobs {
            if job.is_stuck(now) {
                stuck = Some(job.template);
                news.extend(job.not_started(now, "the template process does not answer"));
            }
            news.extend(job.expire(now));
        }
        if let Some(template) = stuck {
            Line::event(Level::Error, "template").with("state", "stuck").with("pid", template).write();
            self.templates.abandon_stuck(template, now);
        }
        self.jobs.retain(|job| !job.is_over());
        news
    }

    /// The next moment at which there is something to do without being woken.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let jobs = self.jobs.iter().flat_map(|job| job.deadlines(now));
        jobs.chain(self.templates.deadlines(now)).filter(|time| *time > now).min()
    }

    /// Adds the descriptors to wait for.
    pub(crate) fn watched<'a>(&'a self, sources: &mut Vec<Source>, set: &mut Vec<PollFd<'a>>) {
        for (pid, control) in self.templates.controls() {
            sources.push(Source::Control(pid));
            set.push(PollFd::new(control, PollFlags::POLLIN));
        }
        for job in &self.jobs {
            if job.listens_for_report() {
                sources.push(Source::Report(job.id));
                set.push(PollFd::new(job.answers.as_fd(), PollFlags::POLLIN));
            }
            if let Some(pidfd) = job.awaited() {
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
            Source::Report(id) => news.extend(self.job(id).and_then(Job::report)),
            Source::End(id) => news.extend(self.job(id).and_then(|job| job.is_gone(now))),
        }
        self.jobs.retain(|job| !job.is_over());
        news
    }

    /// Ends everything that was ever started here.
    pub(crate) fn close(self) {
        self.templates.close();
    }

    fn hear(&mut self, pid: Pid, now: Instant, news: &mut Vec<News>) {
        loop {
            match self.templates.hear(pid) {
                Heard::Silence => return,
                Heard::Word(Word::Started { job, pid }, pidfd) => {
                    if let Some(job) = self.job(job) {
                        job.started(Pid::from_raw(pid), pidfd);
                    }
                }
                Heard::Word(Word::NotStarted { job, errno }, _) => {
                    let why = io::Error::from_raw_os_error(errno).to_string();
                    news.extend(self.job(job).and_then(|job| job.not_started(now, &why)));
                }
                Heard::Word(Word::Ended { job, status, signal }, _) => {
                    let how = if signal == 0 { format!("ended with status {status}") } else { format!("killed by signal {signal}") };
                    news.extend(self.job(job).and_then(|job| job.ended(how)));
                }
                Heard::Gone | Heard::Word(Word::Fork { .. } | Word::Ready | Word::Unfit { .. }, _) => {
                    for job in self.jobs.iter_mut().filter(|job| job.template == pid && job.pidfd.is_none()) {
                        news.extend(job.not_started(now, "the template process ended"));
                    }
                    return self.templates.lost(pid, now);
                }
            }
        }
    }

    fn job(&mut self, id: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }
}

/// The memory that a process has written to; nought if it is gone. Pages of programs and libraries are in memory once for all.
pub(crate) fn own_kib(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
