//! One role under the supervisor: what it is started with, whether it lives, whether it is ready.
//!
//! A role has a notify socket of its own, so that no role can speak for another, and its listening socket lives here, so that
//! connections wait while a role that died comes back.

use std::ffi::OsString;
use std::fmt;
use std::fs::Permissions;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};

use super::child;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A role that lived so long did not die of how it was started.
const PROVEN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Auth,
    Keys,
    Queue,
    Front,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auth => "auth",
            Self::Keys => "keys",
            Self::Queue => "queue",
            Self::Front => "front",
        })
    }
}

/// What a role is started with.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Whom it becomes.
    pub(super) user: Uid,
    pub(super) environment: Vec<(&'static str, String)>,
}

pub(super) struct Role {
    pub(super) name: Name,
    pub(super) start: Start,
    /// Our own program, which prepares the child before it becomes the role's.
    launcher: PathBuf,
    /// At most two.
    listeners: Vec<UnixListener>,
    notify: UnixDatagram,
    notify_path: PathBuf,
    child: Option<Child>,
    pub(super) ready: Readiness,
    begun: Instant,
    pause: Duration,
    /// Since it was last ready.
    pub(super) deaths: u32,
    /// When a dead one is started again.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Starting,
    Ready,
}

/// What happens to a role.
#[derive(Debug)]
pub(super) enum Happening {
    Ready,
    Died(ExitStatus),
    Due,
}

impl Role {
    /// `directory` holds the notify sockets, each for one user.
    pub(super) fn new(name: Name, start: Start, launcher: PathBuf, listeners: Vec<UnixListener>, directory: &Path) -> io::Result<Self> {
        let notify_path = directory.join(name.to_string());
        super::remove_socket(&notify_path)?;
        let notify = UnixDatagram::bind(&notify_path)?;
        std::fs::set_permissions(&notify_path, Permissions::from_mode(0o600))?;
        nix::unistd::chown(&notify_path, Some(start.user), None)?;
        let begun = Instant::now();
        Ok(Self {
            name,
            start,
            launcher,
            listeners,
            notify,
            notify_path,
            child: None,
            ready: Readiness::Starting,
            begun,
            pause: FIRST_PAUSE,
            deaths: 0,
            due: None,
        })
    }

    /// Starts it, or plans another try.
    pub(super) fn launch(&mut self) {
        self.due = None;
        self.ready = Readiness::Starting;
        self.begun = Instant::now();
        match self.spawn() {
            Ok(child) => {
                tracing::info!(event = "role_started", role = %self.name, pid = child.id());
                self.child = Some(child);
            }
            Err(error) => {
                tracing::error!(event = "role_not_started", role = %self.name, error = %error);
                self.plan();
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.launcher);
        command.arg(child::SUBCOMMAND);
        command.arg(format!("--sockets={}", self.listeners.len())).stdin(Stdio::null());
        let mut passed = self.listeners.iter().map(|listener| listener.try_clone().map(|listener| Stdio::from(OwnedFd::from(listener))));
        if let Some(first) = passed.next() {
            command.stdin(first?);
        }
        if let Some(second) = passed.next() {
            command.stdout(second?);
        }
        command.arg("--").arg(&self.start.program).args(&self.start.arguments);
        // Nothing of whoever started us reaches a role but where its log goes.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        for kept in ["JOURNAL_STREAM", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.env("NOTIFY_SOCKET", &self.notify_path).env(child::SUPERVISED, std::process::id().to_string());
        command.envs(self.start.environment.iter().map(|(name, value)| (name, value)));
        // A terminal's Ctrl-C is for the supervisor, which ends the roles in order.
        command.process_group(0).spawn()
    }

    /// Waits for the next thing. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Happening {
        let mut words = [0; 4096];
        let exited = async {
            match &mut self.child {
                Some(child) => child.wait().await,
                None => pending().await,
            }
        };
        let due = async {
            match self.due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        };
        let ready = async {
            loop {
                let said = self.notify.recv(&mut words).await.map_or(0, |count| count);
                if words.get(..said).unwrap_or_default().split(|octet| *octet == b'\n').any(|line| line == b"READY=1") {
                    return;
                }
            }
        };
        tokio::select! {
            status = exited => {
                self.child = None;
                self.ready = Readiness::Starting;
                self.deaths = self.deaths.saturating_add(1);
                Happening::Died(status.unwrap_or_default())
            }
            () = due => Happening::Due,
            () = ready => {
                self.ready = Readiness::Ready;
                self.deaths = 0;
                Happening::Ready
            }
        }
    }

    /// Plans the next start of one that died, later each time it dies soon. Gives the pause.
    pub(super) fn plan(&mut self) -> Duration {
        if self.begun.elapsed() >= PROVEN {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.due = Some(Instant::now() + pause);
        pause
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Until it was waited for, the pid is nobody else's.
        if let Some(pid) = self.child.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks it to end, insists after `patience`, and returns when it is gone.
    pub(super) async fn end(&mut self, patience: Duration) {
        self.due = None;
        self.signal(Signal::SIGTERM);
        let Some(child) = &mut self.child else { return };
        if tokio::time::timeout(patience, child.wait()).await.is_err() {
            tracing::warn!(event = "role_killed", role = %self.name, reason = "it did not end when asked to");
            let _ = child.kill().await;
        }
        self.child = None;
        self.ready = Readiness::Starting;
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.notify_path);
    }
}
