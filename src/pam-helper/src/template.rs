//! The template process: has run `pam_start` for each service and nothing more, and forks one worker for each question.
//!
//! ```text
//! exec ─▶ pam_start ─▶ fit? ──yes──▶ Ready ─▶ fork, fork, fork … ─▶ listener hangs up ─▶ last worker ends ─▶ exit
//!                       └────no───▶ Unfit (the listener starts one that leaves loading to the workers)
//! ```
//!
//! It is a program of its own start (exec, not fork), so it holds none of the listener's memory: no ticket
//! key, no waiting password. Invariant: when it forks it has one thread, and no descriptor that it did
//! not open itself.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, dup2_stdin, getpid, setsid};

use crate::brood::{self, Orphans};
use crate::control::{self, Heard, Word};
use crate::pam::Transaction;
use crate::rules::Rules;
use crate::worker::{self, Stacks};
use crate::{harden, service, sys};

/// Whether the template loads the modules or each worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loading {
    Once,
    EachTime,
}

impl Loading {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::EachTime => "each",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Once, Self::EachTime].into_iter().find(|loading| loading.word() == word)
    }
}

struct Template {
    control: OwnedFd,
    stacks: Stacks,
    rules: Rules,
    workers: Vec<Worker>,
}

struct Worker {
    job: u64,
    pid: Pid,
    pidfd: OwnedFd,
}

/// The whole life of the process. Standard input is the control socket.
pub(crate) fn run(loading: Loading, rules: Rules) -> io::Result<()> {
    prctl::set_name(c"auth-template")?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    harden::no_core()?;
    harden::descriptors(harden::OF_WORKERS)?;
    harden::plain_signals()?;
    // Without a terminal. And the kernel may share out the processor by sessions first: all workers are in this one.
    setsid()?;
    brood::adopt_orphans()?;
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    std::env::set_current_dir("/")?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;

    let stacks = match loading {
        Loading::EachTime => Stacks::default(),
        Loading::Once => match load(&rules) {
            Ok(stacks) => stacks,
            Err(unfit) => {
                control::say(control.as_fd(), unfit, None)?;
                sys::exit_now(0); // threads may be running: no destructors
            }
        },
    };
    control::say(control.as_fd(), Word::Ready, None)?;
    Template { control, stacks, rules, workers: Vec::new() }.serve()
}

/// `pam_start` for each service that can be used, and the check that it left nothing that a fork must not inherit.
fn load(rules: &Rules) -> Result<Stacks, Word> {
    let descriptors = names("/proc/self/fd");
    let mut stacks = Stacks::default();
    for service in rules.services().into_iter().filter(|service| service::unusable(service).is_none()) {
        let name = CString::new(service).map_err(|_| Word::Unfit { extra: 0, code: 0 })?;
        let transaction = Transaction::start(&name).map_err(|code| Word::Unfit { extra: 0, code: code.0 })?;
        // Looked at again: had the file gone before libpam read it, `other` would now be loaded.
        if service::unusable(service).is_some() {
            return Err(Word::Unfit { extra: 0, code: 0 });
        }
        stacks.add(service, transaction);
    }
    let extra = names("/proc/self/task").len().abs_diff(1) + usize::from(names("/proc/self/fd") != descriptors);
    if extra == 0 { Ok(stacks) } else { Err(Word::Unfit { extra: i32::try_from(extra).unwrap_or(i32::MAX), code: 0 }) }
}

/// The entries of a directory of /proc; none at all if it cannot be read, which fits no template.
fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

impl Template {
    fn serve(mut self) -> io::Result<()> {
        let mut hung_up = false;
        let mut orphans = Orphans::None;
        while !(hung_up && self.workers.is_empty()) {
            // Orphans of orphans arrive when their parents are gone: look again soon.
            let patience = match orphans {
                Orphans::None => PollTimeout::NONE,
                Orphans::Killed => PollTimeout::from(20u8),
            };
            let control = PollFd::new(self.control.as_fd(), if hung_up { PollFlags::empty() } else { PollFlags::POLLIN });
            let mut watched = vec![control];
            watched.extend(self.workers.iter().map(|worker| PollFd::new(worker.pidfd.as_fd(), PollFlags::POLLIN)));
            match poll(&mut watched, patience) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let spoken = watched.first().and_then(PollFd::any).unwrap_or(false) && !hung_up;
            let someone_ended = watched.iter().skip(1).any(|worker| worker.any().unwrap_or(false));

            if someone_ended || orphans == Orphans::Killed {
                orphans = self.bury();
            }
            while spoken && !hung_up {
                match control::hear(self.control.as_fd()) {
                    Heard::Word(Word::Fork { job, nice }, Some(socket)) => self.fork(job, nice, socket)?,
                    Heard::Silence => break,
                    Heard::Word(..) | Heard::Gone => hung_up = true,
                }
            }
        }
        sys::exit_now(0)
    }

    fn fork(&mut self, job: u64, nice: i32, socket: OwnedFd) -> io::Result<()> {
        let me = getpid();
        let started = sys::fork().and_then(|child| {
            let Some(pid) = child else { worker::run(socket, nice, &mut self.stacks, &self.rules, me) };
            let pidfd = sys::pidfd_open(pid)?; // ours and not waited for, so it is this child
            Ok(Worker { job, pid, pidfd })
        });
        match started {
            Ok(worker) => {
                let word = Word::Started { job, pid: worker.pid.as_raw() };
                control::say(self.control.as_fd(), word, Some(worker.pidfd.as_fd()))?;
                self.workers.push(worker);
                Ok(())
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                control::say(self.control.as_fd(), Word::NotStarted { job, errno }, None)
            }
        }
    }

    /// Takes leave of workers that ended and kills what they left running.
    fn bury(&mut self) -> Orphans {
        for ended in brood::reap() {
            if let Some(at) = self.workers.iter().position(|worker| worker.pid == ended.pid) {
                let worker = self.workers.swap_remove(at);
                let word = Word::Ended { job: worker.job, status: ended.status, signal: ended.signal };
                let _ = control::say(self.control.as_fd(), word, None); // news, not an answer: may be lost
            }
        }
        let ours: Vec<Pid> = self.workers.iter().map(|worker| worker.pid).collect();
        brood::kill_orphans(&ours)
    }
}
