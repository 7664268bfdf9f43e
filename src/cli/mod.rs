//! The command line: one program, and each word after its name is a role or a question to one.
//!
//! What goes wrong ends with a sentence on standard error and a status of sysexits(3), so that a script can tell a bad configuration (78) from
//! a relay that is not there (69).

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

mod auth;
pub mod check;
mod guest;
mod out;
mod password;
mod queue;
mod reload;
mod roles;
mod umbrella;

use crate::config::{ACTIVE, Config, Mistakes, PATH};
use crate::run::{self, activate::Accepted, child};
use crate::visible::visible;
use crate::watch;

/// Exit statuses, as sysexits(3) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok = 0,
    /// An answer that is not good news: `check` found faults, a password was refused.
    No = 1,
    Usage = 64,
    Unavailable = 69,
    /// Text that is no answer.
    Software = 70,
    System = 71,
    /// The answer could not be written.
    Output = 74,
    Later = 75,
    NotPermitted = 77,
    Config = 78,
    /// Whoever read the answer has gone: what a shell shows for a program that SIGPIPE ended.
    Unread = 141,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// A failure that ends the program: what to say and how to end.
#[derive(Debug)]
pub struct Failure {
    words: String,
    status: Status,
}

impl Failure {
    pub(crate) fn new(status: Status, words: impl ToString) -> Self {
        Self { words: words.to_string(), status }
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::new(Status::Config, mistakes)
    }
}

#[derive(Parser)]
#[command(
    name = "pamrelay",
    version,
    about = "A mail submission relay for Unix sites",
    long_about = "pamrelay takes mail from people who have an account on this host, and from nobody else. They send it from anywhere with their normal \
                  Unix password, over TLS; the host's PAM stack checks the password. The mail is queued durably and relayed.\n\n\
                  It is four processes under four users. An administrator starts them with `systemctl start pamrelay`, or all in the foreground with \
                  `pamrelay run`.",
    after_help = "Files:\n  /etc/pamrelay/pamrelay.yaml  the configuration, see pamrelay.yaml(5)\n  /etc/pam.d/smtp              who may log in, see pam.d(5)\n  /etc/pamrelay/certs          certificate and key",
    arg_required_else_help = true,
    subcommand_required = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration to read
    #[arg(long, short, value_name = "FILE", default_value = PATH)]
    config: PathBuf,
}

#[derive(Args)]
struct ActiveFile {
    /// The accepted configuration to start from, instead of the role's own copy in /run/pamrelay/active
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ActiveFile {
    /// Each role may read a copy of its own.
    fn path(self, role: run::Name) -> PathBuf {
        self.config.unwrap_or_else(|| Path::new(ACTIVE).with_file_name(format!("{role}.yaml")))
    }
}

#[derive(Args, Default)]
struct RunningRelay {
    /// The configuration of the relay to ask, if it is not the usual one
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole relay in the foreground
    ///
    /// Starts the four roles, each with its own user and sandbox, and starts one that dies again. SIGTERM or Ctrl-C ends them all; SIGHUP reads the
    /// configuration again. For containers, trials and tests; a host with systemd has the unit pamrelay.service.
    Run(ConfigFile),
    /// Say what is wrong with the set-up, and how to mend it
    ///
    /// Reads the configuration and looks at what it names: certificates and keys, the PAM service, users, directories, listeners, smart hosts. Changes
    /// nothing. The exit status is 1 if pamrelay would not start, and 0 otherwise, warnings or not. The form of --json is in pamrelay(8).
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a changed configuration hold
    ///
    /// Checks the file. If all is well, it becomes the accepted configuration, certificates are read again, and the roles that are concerned are told or
    /// restarted. If not, the mistakes are shown and the relay goes on as it was.
    Reload(ConfigFile),
    /// Accept the configuration without starting anything
    ///
    /// Checks it, makes the directories in /run/pamrelay and writes the accepted copies. The unit pamrelay-activate.service does this before the
    /// roles start.
    Activate {
        #[command(flatten)]
        file: ConfigFile,
        /// If the file is broken, keep the configuration that was accepted before, if there is one, and say so
        #[arg(long)]
        or_keep: bool,
    },
    /// Watch the units of systemd: the process of pamrelay.service
    ///
    /// READY when all four roles are; ends when one of them cannot start or stays down, and says why.
    #[command(hide = true)]
    WatchUnits {
        #[command(flatten)]
        file: ConfigFile,
        /// Wait until what systemd is to stop has stopped
        #[arg(long)]
        until_stopped: bool,
    },
    /// The role that speaks SMTP with mail clients
    ///
    /// Started by pamrelay-front.service or `pamrelay run`, not by hand.
    Front(ActiveFile),
    /// The role that holds the private keys
    ///
    /// Started by pamrelay-keys.service or `pamrelay run`, not by hand. SIGHUP reads certificates and keys again.
    Keys(ActiveFile),
    /// Look at the queue and change it; without a command: the role that owns it
    ///
    /// With a command it asks the running role, as root. Without one it is the role itself, started by pamrelay-queue.service or `pamrelay run`.
    #[command(args_conflicts_with_subcommands = true)]
    Queue {
        #[command(flatten)]
        role: ActiveFile,
        #[command(subcommand)]
        ask: Option<queue::Ask>,
    },
    /// Ask what becomes of a login, and of those that were
    #[command(subcommand)]
    Auth(auth::Ask),
    /// Add, list and remove people without an account on this host
    #[command(subcommand)]
    Guest(guest::Ask),
    #[command(name = watch::SUBCOMMAND, hide = true)]
    WatchFiles(ActiveFile),
    #[command(name = child::SUBCOMMAND, hide = true)]
    RoleExec {
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=2))]
        sockets: u8,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// For the manual page and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return Status::Usage.into();
        }
        Err(help) => {
            out::printed(help.print());
            return end(out::finish(Status::Ok));
        }
    };
    // Whatever it is, a password or a key may pass through it.
    let obeyed = crate::sandbox::opaque().map_err(|error| Failure::new(Status::System, error)).and_then(|()| obey(cli.command));
    end(obeyed.and_then(out::finish))
}

/// The status of the program; a failure is said first. What a file or a peer chose may be among its words.
fn end(outcome: Result<Status, Failure>) -> ExitCode {
    match outcome {
        Ok(status) => status.into(),
        Err(failure) => {
            let mut err = io::stderr().lock();
            for line in failure.words.lines() {
                let _ = writeln!(err, "pamrelay: {}", visible(line));
            }
            failure.status.into()
        }
    }
}

fn obey(command: Command) -> Result<Status, Failure> {
    match command {
        Command::Run(file) => relay(&file.config),
        Command::Check { file, json } => Ok(check::main(&file.config, if json { check::Form::Json } else { check::Form::Words })),
        Command::Reload(file) => reload::main(&file.config),
        Command::Activate { file, or_keep } => {
            activate(&file.config, if or_keep { Broken::KeepTheLast } else { Broken::Refuse }).map(|()| Status::Ok)
        }
        Command::WatchUnits { until_stopped: true, .. } => Ok(umbrella::until_stopped()),
        Command::WatchUnits { file, .. } => umbrella::main(&file.config),
        Command::Front(file) => roles::front(&file.path(run::Name::Front)),
        Command::Auth(ask) => auth::main(ask),
        Command::Guest(ask) => guest::main(ask),
        Command::Queue { role, ask: None } => roles::queue(&role.path(run::Name::Queue)),
        Command::Queue { ask: Some(ask), .. } => queue::main(ask),
        Command::Keys(file) => roles::keys(&file.path(run::Name::Keys)),
        Command::WatchFiles(file) => roles::watch_files(&file.path(run::Name::Queue)),
        Command::RoleExec { sockets, command } => {
            let Some(sockets) = child::Sockets::of(sockets) else { return Err(Failure::new(Status::Usage, "too many sockets")) };
            let Some((program, arguments)) = command.split_first() else { return Err(Failure::new(Status::Usage, "no program")) };
            Err(Failure::new(Status::System, child::exec(program, arguments, sockets)))
        }
    }
}

/// Nothing is started, and nothing replaced, unless all of it would work.
fn accepted(path: &Path) -> Result<Accepted, Failure> {
    let accepted = Accepted::load(path)?;
    let findings = check::system(&accepted.config);
    let faults: Vec<String> = findings.iter().filter(|finding| finding.is_fault()).map(ToString::to_string).collect();
    if faults.is_empty() { Ok(accepted) } else { Err(Failure::new(Status::Config, faults.join("\n"))) }
}

fn relay(path: &Path) -> Result<Status, Failure> {
    let accepted = accepted(path)?;
    crate::log::start("supervisor", accepted.config.log);
    let path = path.to_owned();
    let accept = Box::new(move || self::accepted(&path).map_err(|failure| failure.words));
    run::run(accepted, accept).map(|()| Status::Ok).map_err(failed_run)
}

fn failed_run(error: run::RunError) -> Failure {
    let status = match &error {
        run::RunError::NotRoot => Status::NotPermitted,
        run::RunError::Running(_) | run::RunError::Units(_) | run::RunError::Answered(_) => Status::Unavailable,
        run::RunError::CannotStart { status, .. } if status.code() == Some(Status::Config as i32) => Status::Config,
        run::RunError::CannotStart { .. } => Status::System,
        run::RunError::Activate(_) | run::RunError::NoHelper(_) | run::RunError::Step { .. } => Status::System,
    };
    Failure::new(status, error)
}

/// What to do about a file that cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Refuse,
    KeepTheLast,
}

fn activate(path: &Path, broken: Broken) -> Result<(), Failure> {
    as_root("accept a configuration")?;
    let accepted = match (accepted(path), broken) {
        (Ok(accepted), _) => accepted,
        (Err(failure), Broken::KeepTheLast) => kept(failure)?,
        (Err(failure), Broken::Refuse) => return Err(failure),
    };
    run::may_be_activated(&accepted.config).map_err(failed_run)?;
    let failed = |error: run::activate::ActivateError| Failure::new(Status::System, error);
    accepted.activate(run::activate::Accounts::look_up().map_err(failed)?).map_err(failed)
}

/// The configuration accepted before, of this boot: /run is empty after one. It must still fit the host.
fn kept(failure: Failure) -> Result<Accepted, Failure> {
    let Ok(before) = accepted(Path::new(ACTIVE)) else { return Err(failure) };
    let mut err = io::stderr().lock();
    for line in failure.words.lines() {
        let _ = writeln!(err, "pamrelay: {line}");
    }
    let _ = writeln!(
        err,
        "pamrelay: the configuration is broken; the one accepted before stays in force until it is repaired (then: systemctl reload pamrelay)"
    );
    Ok(before)
}

fn as_root(what: &str) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Failure::new(Status::NotPermitted, format!("only root may {what}"))) }
}

impl RunningRelay {
    /// The configuration that holds now; before anything was accepted, the one that would.
    fn config(&self) -> Result<Config, Failure> {
        let usual = [ACTIVE, PATH].map(Path::new).into_iter().find(|path| path.exists()).unwrap_or(Path::new(PATH));
        Ok(Config::load(self.config.as_deref().unwrap_or(usual))?)
    }
}
