//! All four roles in the foreground, where there is no systemd: containers, trials, tests.
//!
//! ```text
//! check ▸ activate ▸ bind the three sockets ▸ start auth, keys, queue, front ▸ restart what dies ▸ end them in order
//! ```
//!
//! The sockets between the roles belong to the supervisor, which opens nothing else and speaks to nobody: a role that dies leaves no gap,
//! connections wait in the backlog until it is back.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chown};
use tokio::signal::unix::{SignalKind, signal};

pub mod activate;
pub mod child;
mod parts;
mod role;

pub use parts::{Follow, follow, needs_new_start};
pub use role::Name;

use crate::config::Config;
use crate::directory::{self, Given};
use activate::{Accepted, Accounts, ActivateError, auth_env};
use role::{Happening, Readiness, Role, Start};

/// Who the roles run as; the helper runs as root.
pub const FRONT_USER: &str = "pamrelay";
pub const KEYS_USER: &str = "pamrelay-keys";
pub const QUEUE_USER: &str = "pamrelay-queue";

/// How long a role may take to end: the front gives its sessions 10 s, the queue 15 s to what is behind the final dot.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Activate(#[from] ActivateError),
    #[error("pamrelay run must be started by root: it starts roles under several users")]
    NotRoot,
    #[error("another pamrelay runs here already (pid {0})")]
    Running(String),
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
    let _alone = alone(&directory)?; // 1. nobody else, before anything of theirs is touched
    accepted.activate(accounts)?; // 2.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(step("cannot start the runtime"))?;
    // Children die with the *thread* that made them, so everything happens on this one.
    runtime.block_on(async {
        let roles = roles(&accepted.config, accounts)?; // 3.
        Supervisor { accept, config: accepted.config, accounts, roles }.supervise().await
    })
}

struct Supervisor {
    accept: Accept,
    config: Config,
    accounts: Accounts,
    /// In the order of their start.
    roles: [Role; 4],
}

/// What wakes the supervisor.
enum Wake {
    Role(usize, Happening),
    Reload,
    End(&'static str),
}

impl Supervisor {
    async fn supervise(mut self) -> Result<(), RunError> {
        let mut term = signal(SignalKind::terminate()).map_err(step("cannot wait for SIGTERM"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(step("cannot wait for SIGINT"))?;
        let mut hup = signal(SignalKind::hangup()).map_err(step("cannot wait for SIGHUP"))?;
        for role in &mut self.roles {
            role.launch();
        }
        let mut all_were_ready = false;
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
                    if let Some(role) = self.roles.get_mut(at) {
                        happened(role, happening);
                    }
                    let ready = self.roles.iter().all(|role| role.ready == Readiness::Ready);
                    if ready && !all_were_ready {
                        tracing::info!(event = "ready", listen = %self.listening());
                        all_were_ready = true;
                    }
                }
                Wake::Reload => self.reload().await,
                Wake::End(signal) => {
                    tracing::info!(event = "ending", signal);
                    break;
                }
            }
        }
        self.end().await;
        Ok(())
    }

    fn listening(&self) -> String {
        self.config.listen.iter().map(|listen| listen.address.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Makes the changed file hold, or says why not and goes on with the old.
    async fn reload(&mut self) {
        let accepted = match (self.accept)() {
            Ok(accepted) => accepted,
            Err(mistakes) => {
                for line in mistakes.lines() {
                    tracing::error!(event = "reload_refused", mistake = line);
                }
                return;
            }
        };
        if let Some(reason) = needs_new_start(&self.config, &accepted.config) {
            tracing::error!(event = "reload_refused", mistake = reason);
            return;
        }
        if let Err(error) = accepted.activate(self.accounts) {
            tracing::error!(event = "reload_refused", mistake = %error);
            return;
        }
        for role in &mut self.roles {
            let what = follow(role.name, &self.config, &accepted.config);
            match what {
                Follow::Nothing => {}
                Follow::Reread => role.signal(Signal::SIGHUP),
                Follow::Restart => {
                    tracing::info!(event = "role_restarts", role = %role.name, reason = "its part of the configuration changed");
                    role.end(PATIENCE).await;
                    if role.name == Name::Auth {
                        role.start.environment = auth_env(&accepted.config);
                    }
                    role.launch();
                }
            }
        }
        self.config = accepted.config;
        tracing::info!(event = "reloaded", listen = %self.listening());
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

/// The sockets, and what is started behind each.
fn roles(config: &Config, accounts: Accounts) -> Result<[Role; 4], RunError> {
    let us = std::env::current_exe().map_err(step("cannot find this program"))?;
    let helper = helper(&us)?;
    let notify = config.runtime_dir.join("notify");
    // Passed through by the roles, each to its own socket; listed by root alone.
    directory::make(&notify, Given::to_root(0o711)).map_err(step(format!("cannot make {}", notify.display())))?;
    let jail = config.jail();
    let active = config.active();
    let ours = |role: &str, user: Uid| Start {
        user,
        program: us.clone(),
        arguments: vec![role.into(), "--config".into(), active.join(role).with_extension("yaml").into()],
        environment: Vec::new(),
    };
    let role = |name: Name, start: Start, listener: Option<UnixListener>| {
        Role::new(name, start, us.clone(), listener, &notify).map_err(step(format!("cannot prepare the role {name}")))
    };
    Ok([
        role(
            Name::Auth,
            Start { program: helper, arguments: Vec::new(), user: Uid::from_raw(0), environment: auth_env(config) },
            Some(bind(&jail.join("auth"), 0o660, accounts.front.1)?),
        )?,
        role(Name::Keys, ours("keys", accounts.keys.0), Some(bind(&jail.join("keys"), 0o666, accounts.keys.1)?))?,
        role(Name::Queue, ours("queue", accounts.queue.0), Some(bind(&jail.join("queue"), 0o660, accounts.front.1)?))?,
        role(Name::Front, ours("front", accounts.front.0), None)?,
    ])
}

/// `pamrelay-auth`, beside us or where a package puts it.
fn helper(us: &Path) -> Result<PathBuf, RunError> {
    let beside = us.with_file_name("pamrelay-auth");
    let packaged = PathBuf::from("/usr/libexec/pamrelay/pamrelay-auth");
    [beside.clone(), packaged].into_iter().find(|path| path.is_file()).ok_or(RunError::NoHelper(beside))
}

/// A socket that only `group` (or, with 0666, everybody) can connect to; there is no moment in which it is wider.
fn bind(path: &Path, mode: u32, group: Gid) -> Result<UnixListener, RunError> {
    let bound = || -> io::Result<UnixListener> {
        remove_socket(path)?;
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        nix::sys::stat::umask(before);
        let listener = listener?;
        chown(path, Some(Uid::from_raw(0)), Some(group))?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(listener)
    };
    bound().map_err(step(format!("cannot listen on {}", path.display())))
}

/// Removes what an earlier run left; anything but a socket stays, and is in the way.
fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.file_type().is_socket() => fs::remove_file(path),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Held as long as a supervisor runs.
pub struct Alone(#[expect(dead_code, reason = "the lock is what it is for")] Flock<File>);

fn alone(directory: &Path) -> Result<Alone, RunError> {
    let path = pid_file(directory);
    let doing = format!("cannot lock {}", path.display());
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(step(doing.clone()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            written.map_err(step(doing))?;
            Ok(Alone(file))
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RunError::Running(fs::read_to_string(&path).unwrap_or_default().trim().to_owned())),
        Err((_, error)) => Err(step(doing)(error.into())),
    }
}

fn pid_file(directory: &Path) -> PathBuf {
    directory.join("supervisor.pid")
}

/// The pid of the supervisor that runs here, if one does.
pub fn running(directory: &Path) -> Option<i32> {
    let file = File::open(pid_file(directory)).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => None,
        Err(_) => fs::read_to_string(pid_file(directory)).ok()?.trim().parse().ok(),
    }
}
