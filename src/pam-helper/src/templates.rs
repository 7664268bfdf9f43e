//! The template processes, as the listener sees them: the one in use, and those that retire.
//!
//! ```text
//! spawned ─▶ ready ─▶ in use ──files changed, five minutes──▶ retiring (until its last worker ends)
//!    └─ unfit: the next one leaves loading to the workers      └─ lost or stuck: killed, the next after a pause
//! ```
//!
//! Invariant: none loads a service whose file is missing or incomplete; and a process is signalled only while its number
//! is its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::Pid;

use crate::brood::{self, Orphans};
use crate::control::{self, Heard, Word};
use crate::lockout::{self, Locks};
use crate::log::{Level, Line};
use crate::rules::Rules;
use crate::service::{self, Watch};
use crate::template::Loading;

/// A template is replaced after this time: what modules read at load time may have changed unseen.
const LIFE: Duration = Duration::from_secs(300);
/// And this much later it is gone: no worker has a longer deadline.
const RETIREMENT: Duration = Duration::from_secs(310);
/// Loading modules takes milliseconds; beyond this it hangs.
const LOADING: Duration = Duration::from_secs(5);
/// How often the watched files are looked at while questions come.
const LOOK: Duration = Duration::from_millis(200);
/// After a template was lost: for so long what its workers had started may still arrive here, and how
/// often that is looked at.
const AFTERMATH: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_millis(20);
/// How often it is looked at when the helper ends: grandchildren arrive one generation at a time.
const CLOSING: u32 = 50;
/// The longest pause between templates that fail one after the other.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Templates {
    rules: Rules,
    watch: Watch,
    fingerprint: u64,
    looked: Option<Instant>,
    /// The services without a good file.
    unusable: Vec<String>,
    locks: Locks,
    loading: Loading,
    in_use: Option<Template>,
    retiring: Vec<Template>,
    failures: u32,
    not_before: Option<Instant>,
    aftermath: Option<Instant>,
}

struct Template {
    pid: Pid,
    control: OwnedFd,
    born: Instant,
    ready: bool,
    /// It said itself that it is of no use, and ends.
    unfit: bool,
    /// Waited for: its number may be somebody else's by now.
    buried: bool,
}

/// Whether workers can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Now,
    Later,
}

impl Templates {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            watch: Watch::new(),
            fingerprint: 0,
            looked: None,
            unusable: Vec::new(),
            locks: Locks::default(),
            loading: Loading::Once,
            in_use: None,
            retiring: Vec::new(),
            failures: 0,
            not_before: None,
            aftermath: None,
        }
    }

    /// Looks at the files and starts a template if there is none.
    pub(crate) fn readiness(&mut self, now: Instant) -> Readiness {
        self.look(now);
        match &self.in_use {
            Some(template) if template.ready => Readiness::Now,
            Some(_) => Readiness::Later,
            None if self.not_before.is_some_and(|time| now < time) => Readiness::Later,
            None => {
                self.start(now);
                Readiness::Later
            }
        }
    }

    /// Whether the file of this service was good when it was looked at.
    pub(crate) fn is_usable(&self, service: &str) -> bool {
        !self.unusable.iter().any(|unusable| unusable == service)
    }

    /// What locks accounts behind the services. Known as soon as there was a template.
    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The process in use.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.in_use.as_ref().map(|template| template.pid)
    }

    /// Has a worker forked with this end of its socket, and so much nicer to others. Gives back whose child it will be.
    pub(crate) fn fork(&self, job: u64, nice: i32, socket: BorrowedFd<'_>) -> io::Result<Pid> {
        let template = self.in_use.as_ref().ok_or_else(|| io::Error::other("no template"))?;
        control::say(template.control.as_fd(), Word::Fork { job, nice }, Some(socket))?;
        Ok(template.pid)
    }

    /// Reads one word about workers from this template; those about itself are dealt with here.
    pub(crate) fn hear(&mut self, pid: Pid) -> Heard {
        loop {
            let Some(template) = self.in_use.iter_mut().chain(&mut self.retiring).find(|template| template.pid == pid) else {
                return Heard::Silence;
            };
            match control::hear(template.control.as_fd()) {
                Heard::Word(Word::Ready, _) => {
                    template.ready = true;
                    self.failures = 0;
                }
                Heard::Word(Word::Unfit { extra, code }, _) => {
                    Line::event(Level::Notice, "template").with("state", "unfit").with("extra", extra).with("code", code).write();
                    template.unfit = true;
                    self.loading = Loading::EachTime;
                }
                other => return other,
            }
        }
    }

    /// This one closed its socket: the end of a retiring one, a mishap for the one in use.
    pub(crate) fn lost(&mut self, pid: Pid, now: Instant) {
        if let Some(template) = self.in_use.as_ref().filter(|template| template.pid == pid) {
            if !template.unfit {
                let state = if template.ready { "lost" } else { "dies-at-start" };
                Line::event(Level::Error, "template").with("state", state).with("pid", pid).write();
            }
            self.abandon(now);
        }
        for template in self.retiring.extract_if(.., |template| template.pid == pid) {
            template.kill();
        }
        self.aftermath = Some(now + AFTERMATH);
    }

    /// The one in use is of no use: it is killed, and the next look makes another.
    pub(crate) fn abandon(&mut self, now: Instant) {
        if let Some(template) = self.in_use.take() {
            template.kill();
            self.retiring.push(template);
        }
        self.failures = self.failures.saturating_add(1);
        // The first failure costs next to no time: somebody is waiting for an answer.
        let pause = Duration::from_millis(if self.failures < 2 { 10 } else { 100 << self.failures.min(6) });
        self.not_before = Some(now + pause.min(LONGEST_PAUSE));
    }

    /// This one, in use or retiring, does not answer: it is killed.
    pub(crate) fn abandon_stuck(&mut self, pid: Pid, now: Instant) {
        if self.in_use.as_ref().is_some_and(|template| template.pid == pid) {
            self.abandon(now);
        }
        self.retiring.iter().filter(|template| template.pid == pid).for_each(Template::kill);
    }

    /// Waits for what ended, kills what hangs or was left behind.
    pub(crate) fn expire(&mut self, now: Instant) {
        for ended in brood::reap() {
            for template in self.in_use.iter_mut().chain(&mut self.retiring).filter(|template| template.pid == ended.pid) {
                template.buried = true;
            }
        }
        if let Some(end) = self.aftermath {
            let ours: Vec<Pid> = self.pids().collect();
            brood::kill_orphans(&ours);
            self.aftermath = (now < end).then_some(end);
        }
        if self.in_use.as_ref().is_some_and(|template| !template.ready && template.is_older(LOADING, now)) {
            Line::event(Level::Error, "template").with("state", "hangs-at-start").write();
            self.loading = Loading::EachTime;
            self.abandon(now);
        }
        self.retiring.iter().filter(|template| template.is_older(LIFE + RETIREMENT, now)).for_each(Template::kill);
    }

    /// When [`expire`](Self::expire) or [`readiness`](Self::readiness) has something to do.
    pub(crate) fn deadlines(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let loading = self.in_use.as_ref().filter(|template| !template.ready).map(|template| template.born + LOADING);
        let sweep = self.aftermath.map(|_| now + SWEEP);
        [loading, sweep, self.not_before].into_iter().flatten()
    }

    /// Where words may come from.
    pub(crate) fn controls(&self) -> impl Iterator<Item = (Pid, BorrowedFd<'_>)> {
        self.in_use.iter().chain(&self.retiring).map(|template| (template.pid, template.control.as_fd()))
    }

    /// Ends them all, their workers and everything that those left running.
    pub(crate) fn close(self) {
        for _ in 0..CLOSING {
            brood::reap();
            if brood::kill_orphans(&[]) == Orphans::None {
                return;
            }
            std::thread::sleep(SWEEP);
        }
    }

    /// Notices changed files, and the template's age.
    fn look(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        let first = self.looked.replace(now).is_none();
        let Some(fingerprint) = self.watch.fingerprint() else { return };
        if fingerprint != self.fingerprint {
            self.fingerprint = fingerprint;
            self.loading = Loading::Once;
            self.failures = 0;
            self.not_before = None;
            let services = self.rules.services();
            let unusable: Vec<(&str, String)> =
                services.iter().filter_map(|service| service::unusable(service).map(|why| (*service, why))).collect();
            if !first {
                Line::event(Level::Notice, "template").with("state", "replaced").with("because", "files-changed").write();
            }
            for (service, why) in &unusable {
                Line::event(Level::Error, "service").with("service", service).with("state", "unusable").text("text", why).write();
            }
            self.locks = lockout::of(&services);
            self.unusable = unusable.into_iter().map(|(service, _)| service.to_owned()).collect();
            self.retire();
        } else if self.in_use.as_ref().is_some_and(|template| template.is_older(LIFE, now)) {
            self.retire();
        }
    }

    /// Lets the one in use end with its last worker.
    fn retire(&mut self) {
        if let Some(template) = self.in_use.take() {
            let _ = shutdown(template.control.as_raw_fd(), Shutdown::Write);
            self.retiring.push(template);
        }
    }

    fn start(&mut self, now: Instant) {
        match spawn(&self.rules, self.loading) {
            Ok((pid, control)) => {
                self.not_before = None;
                self.in_use = Some(Template { pid, control, born: now, ready: false, unfit: false, buried: false });
            }
            Err(error) => {
                Line::event(Level::Error, "template").with("state", "not-started").text("text", error.to_string()).write();
                self.abandon(now);
            }
        }
    }

    fn pids(&self) -> impl Iterator<Item = Pid> {
        self.in_use.iter().chain(&self.retiring).map(|template| template.pid)
    }
}

impl Template {
    fn is_older(&self, age: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.born) >= age
    }

    fn kill(&self) {
        if !self.buried {
            let _ = kill(self.pid, Signal::SIGKILL); // our child, not waited for
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
