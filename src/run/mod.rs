//! All four roles in the foreground, where there is no systemd: containers, trials, tests.
//!
//! ```text
//! check ▸ activate ▸ bind the three sockets ▸ start auth, keys, queue, front ▸ restart what dies ▸ end them in order
//! ```
//!
//! The sockets between the roles belong to the supervisor, which opens nothing else and speaks to nobody: a role that dies leaves no gap,
//! connections wait in the backlog until it is back.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use tokio::signal::unix::{SignalKind, signal};

pub mod activate;
mod alone;
pub mod child;
mod parts;
mod role;
pub mod units;

pub use alone::{Reloads, Supervisor, running, runs};
pub use parts::{Follow, follow, needs_new_start};
pub use role::Name;

use crate::config::Config;
use crate::directory::{self, Given};
use crate::sockets::{self, Askers};
use activate::{Accepted, Accounts, ActivateError, auth_env};
use alone::{Alone, NotAlone};
use role::{Happening, Readiness, Role, Start};

/// Who the roles run as; the helper runs as root.
pub const FRONT_USER: &str = "pamrelay";
pub const KEYS_USER: &str = "pamrelay-keys";
pub const QUEUE_USER: &str = "pamrelay-queue";

/// How long a role may take to end: the front gives its sessions 10 s, the queue 15 s to what is behind the final dot.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts in a row that may fail before the first of all is given up.
const TRIES: u32 = 8;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Activate(#[from] ActivateError),
    #[error("pamrelay run must be started by root: it starts roles under several users")]
    NotRoot,
    #[error("another pamrelay runs here already (pid {0})")]
    Running(String),
    #[error("the relay runs here already, as units of systemd ({0}); to stop them: systemctl stop pamrelay")]
    Units(String),
    #[error("{0}; end it first")]
    Answered(io::Error),
    #[error("the role {role} cannot start ({status}); its reason is in the lines above")]
    CannotStart { role: Name, status: std::process::ExitStatus },
    #[error("there is no {0}; it comes with pamrelay")]
    NoHelper(PathBuf),
    #[error("{doing}: {source}")]
    Step { doing: String, source: io::Error },
}

fn step(doing: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let doing = doing.into();
    move |source| RunError::Step { doing, source }
}

/// Reads the configuration and judges it and all it names; in words, line by line, why it cannot hold.
pub type Accept = Box<dyn Fn() -> Result<Accepted, String>>;

/// Runs until SIGTERM or SIGINT. The configuration was accepted already; SIGHUP has it accepted again, by the same judge.
pub fn run(accepted: Accepted, accept: Accept) -> Result<(), RunError> {
    if !Uid::effective().is_root() {
        return Err(RunError::NotRoot);
    }
    let accounts = Accounts::look_up()?;
    let directory = accepted.config.runtime_dir.clone();
    directory::make(&directory, Given::to_root(0o755)).map_err(step(format!("cannot make {}", directory.display())))?;
    // 1. Nobody else, before anything of theirs is touched.
    let alone = Alone::take(&directory).map_err(|not| match not {
        NotAlone::Taken(pid) => RunError::Running(pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())),
        NotAlone::File(source) => step(format!("cannot lock the pid file in {}", directory.display()))(source),
    })?;
    nobody_answers(&accepted.config)?;
    accepted.activate(accounts)?; // 2.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(step("cannot start the runtime"))?;
    // Children die with the *thread* that made them, so everything happens on this one.
    runtime.block_on(async {
        let roles = roles(&accepted.config, accounts)?; // 3.
        Running { accept, config: accepted.config, accounts, roles, alone, reloading: Reloading::No, reached: Reached::Nothing }
            .supervise()
            .await
    })
}

/// The sockets of units, of roles and of a helper that were started by hand.
fn nobody_answers(config: &Config) -> Result<(), RunError> {
    // systemd may be about to bind what nobody answers at yet: its units count from the moment they are wanted.
    let units = units::not_at_rest();
    if !units.is_empty() {
        return Err(RunError::Units(units.join(", ")));
    }
    sockets_of(config).iter().try_for_each(|path| sockets::refuse_if_answered(path)).map_err(RunError::Answered)
}

/// Whether a configuration may be accepted for units: a relay that was started in another way is not to lose its sockets to them.
pub fn may_be_activated(config: &Config) -> Result<(), RunError> {
    match running(&config.runtime_dir) {
        Ok(None) => {}
        Ok(Some(supervisor)) => return Err(RunError::Running(supervisor.pid.to_string())),
        Err(error) => return Err(step("cannot see whether another pamrelay runs here")(error)),
    }
    for path in sockets_of(config) {
        if sockets::answerer(&path).is_some_and(|somebody| !somebody.is_systemd()) {
            return sockets::refuse_if_answered(&path).map_err(RunError::Answered);
        }
    }
    Ok(())
}

/// All sockets between the roles.
pub(crate) fn sockets_of(config: &Config) -> [PathBuf; 4] {
    let jail = config.jail();
    [jail.join("auth"), jail.join("keys"), jail.join("queue"), config.keys_for_queue()]
}

struct Running {
    accept: Accept,
    config: Config,
    accounts: Accounts,
    /// In the order of their start.
    roles: [Role; 4],
    alone: Alone,
    reloading: Reloading,
    reached: Reached,
}

/// Whether somebody waits for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reloading {
    No,
    /// Until every role is ready, or one of them died.
    UntilReady,
}

/// Whether all roles have been ready at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Nothing,
    AllReady,
}

/// What wakes the supervisor.
enum Wake {
    Role(usize, Happening),
    Reload,
    End(&'static str),
}

impl Running {
    async fn supervise(mut self) -> Result<(), RunError> {
        let mut term = signal(SignalKind::terminate()).map_err(step("cannot wait for SIGTERM"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(step("cannot wait for SIGINT"))?;
        let mut hup = signal(SignalKind::hangup()).map_err(step("cannot wait for SIGHUP"))?;
        for role in &mut self.roles {
            role.launch();
        }
        loop {
            let [auth, keys, queue, front] = &mut self.roles;
            let wake = tokio::select! {
                happening = auth.next() => Wake::Role(0, happening),
                happening = keys.next() => Wake::Role(1, happening),
                happening = queue.next() => Wake::Role(2, happening),
                happening = front.next() => Wake::Role(3, happening),
                _ = hup.recv() => Wake::Reload,
                _ = term.recv() => Wake::End("SIGTERM"),
                _ = int.recv() => Wake::End("SIGINT"),
            };
            match wake {
                Wake::Role(at, happening) => {
                    let died = if let Happening::Died(status) = &happening { Some(*status) } else { None };
                    if let Some(role) = self.roles.get_mut(at) {
                        happened(role, happening);
                    }
                    if let Err(error) = self.look(at, died) {
                        self.end().await;
                        return Err(error);
                    }
                }
                Wake::Reload => {
                    self.alone.reload_begins();
                    match self.reload().await {
                        Ok(()) => {
                            self.reloading = Reloading::UntilReady;
                            self.finish_reload(None);
                        }
                        Err(mistakes) => {
                            for mistake in &mistakes {
                                tracing::error!(event = "reload_refused", mistake);
                            }
                            self.alone.reload_is_done(mistakes);
                        }
                    }
                }
                Wake::End(signal) => {
                    tracing::info!(event = "ending", signal);
                    break;
                }
            }
        }
        self.end().await;
        Ok(())
    }

    /// What follows from what happened to the role at `at`.
    fn look(&mut self, at: usize, died: Option<ExitStatus>) -> Result<(), RunError> {
        if self.all_are_ready() && self.reached == Reached::Nothing {
            tracing::info!(event = "ready", listen = %self.listening());
            self.reached = Reached::AllReady;
        }
        let Some(role) = self.roles.get(at) else { return Ok(()) };
        match died {
            // It will say the same again and again, and nobody sees that nothing works.
            Some(status) if self.reached == Reached::Nothing && (needs_a_person(status) || role.deaths >= TRIES) => {
                return Err(RunError::CannotStart { role: role.name, status });
            }
            Some(status) => {
                let words = format!("{} ended after the reload ({status}) and is started again; see the log", role.name);
                self.finish_reload(Some(words));
            }
            None => self.finish_reload(None),
        }
        Ok(())
    }

    fn all_are_ready(&self) -> bool {
        self.roles.iter().all(|role| role.ready == Readiness::Ready)
    }

    /// Tells whoever waits for a reload, once all roles are ready or with what went wrong.
    fn finish_reload(&mut self, wrong: Option<String>) {
        match self.reloading {
            Reloading::UntilReady if wrong.is_some() || self.all_are_ready() => {
                self.reloading = Reloading::No;
                self.alone.reload_is_done(wrong.into_iter().collect());
            }
            Reloading::UntilReady | Reloading::No => {}
        }
    }

    fn listening(&self) -> String {
        self.config.listen.iter().map(|listen| listen.address.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Makes the changed file hold, or says why not and goes on with the old. The front end ends before what it asks is restarted, so
    /// that its sessions finish.
    async fn reload(&mut self) -> Result<(), Vec<String>> {
        let accepted = (self.accept)().map_err(|mistakes| mistakes.lines().map(str::to_owned).collect::<Vec<_>>())?;
        if let Some(reason) = needs_new_start(&self.config, &accepted.config) {
            return Err(vec![reason]);
        }
        accepted.activate(self.accounts).map_err(|error| vec![error.to_string()])?;
        let mut restarted = Vec::new();
        for at in (0..self.roles.len()).rev() {
            let Some(role) = self.roles.get_mut(at) else { continue };
            match follow(role.name, &self.config, &accepted.config) {
                Follow::Nothing => {}
                Follow::Reread => role.signal(Signal::SIGHUP),
                Follow::Restart => {
                    tracing::info!(event = "role_restarts", role = %role.name, reason = "its part of the configuration changed");
                    role.end(PATIENCE).await;
                    restarted.push(at);
                }
            }
        }
        for at in restarted.into_iter().rev() {
            let Some(role) = self.roles.get_mut(at) else { continue };
            if role.name == Name::Auth {
                role.start.environment = auth_env(&accepted.config);
            }
            role.launch();
        }
        self.config = accepted.config;
        tracing::info!(event = "reloaded", listen = %self.listening());
        Ok(())
    }

    /// First no more sessions, then no more mail, then nobody who would ask the last two.
    async fn end(&mut self) {
        for name in [Name::Front, Name::Queue, Name::Auth, Name::Keys] {
            if let Some(role) = self.roles.iter_mut().find(|role| role.name == name) {
                role.end(PATIENCE).await;
            }
        }
        tracing::info!(event = "ended");
    }
}

fn happened(role: &mut Role, happening: Happening) {
    match happening {
        Happening::Ready => tracing::info!(event = "role_ready", role = %role.name),
        Happening::Died(status) => {
            let again = role.plan();
            tracing::error!(event = "role_died", role = %role.name, status = %status, again_after = ?again);
        }
        Happening::Due => role.launch(),
    }
}

/// Exit statuses of a role that would end the same way again: misuse, no permission, configuration (sysexits(3)).
fn needs_a_person(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| [64, 77, 78].contains(&code))
}

/// The sockets, and what is started behind each.
fn roles(config: &Config, accounts: Accounts) -> Result<[Role; 4], RunError> {
    let us = std::env::current_exe().map_err(step("cannot find this program"))?;
    let helper = helper(&us)?;
    let notify = config.runtime_dir.join("notify");
    // Passed through by the roles, each to its own socket; listed by root alone.
    directory::make(&notify, Given::to_root(0o711)).map_err(step(format!("cannot make {}", notify.display())))?;
    let (jail, active, front) = (config.jail(), config.active(), accounts.front.1);
    let lock = config.runtime_dir.join(sockets::LOCK);
    let ours = |role: &str, user: Uid| Start {
        user,
        program: us.clone(),
        arguments: vec![role.into(), "--config".into(), active.join(role).with_extension("yaml").into()],
        environment: Vec::new(),
    };
    let role = |name: Name, start: Start, listeners: Vec<UnixListener>| {
        Role::new(name, start, us.clone(), listeners, &notify).map_err(step(format!("cannot prepare the role {name}")))
    };
    Ok([
        role(
            Name::Auth,
            Start { program: helper, arguments: Vec::new(), user: Uid::from_raw(0), environment: auth_env(config) },
            vec![bind(&jail.join("auth"), front, &lock)?],
        )?,
        role(
            Name::Keys,
            ours("keys", accounts.keys.0),
            vec![bind(&jail.join("keys"), front, &lock)?, bind(&config.keys_for_queue(), accounts.queue.1, &lock)?],
        )?,
        role(Name::Queue, ours("queue", accounts.queue.0), vec![bind(&jail.join("queue"), front, &lock)?])?,
        role(Name::Front, ours("front", accounts.front.0), Vec::new())?,
    ])
}

/// `pamrelay-auth`, beside us or where a package puts it.
fn helper(us: &Path) -> Result<PathBuf, RunError> {
    let beside = us.with_file_name("pamrelay-auth");
    let packaged = PathBuf::from("/usr/libexec/pamrelay/pamrelay-auth");
    [beside.clone(), packaged].into_iter().find(|path| path.is_file()).ok_or(RunError::NoHelper(beside))
}

/// A socket that root and one group can connect to.
fn bind(path: &Path, group: Gid, lock: &Path) -> Result<UnixListener, RunError> {
    let askers = Askers { uid: None, gid: Some(group.as_raw()) };
    sockets::bind(path, askers, Some(lock)).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => RunError::Answered(source),
        _ => step(format!("cannot listen on {}", path.display()))(source),
    })
}

/// Removes what an earlier run left; anything but a socket stays, and is in the way.
fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.file_type().is_socket() => fs::remove_file(path),
        Ok(_) | Err(_) => Ok(()),
    }
}
