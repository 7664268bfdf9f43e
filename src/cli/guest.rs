//! `pamrelay guest …`: people who may send and have no account on this host.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pamrelay_authwire::rewrite;

use super::out::say;
use super::{Failure, RunningRelay, Status, as_root, password};
use crate::guests::{self, GuestError, Guests};

#[derive(Subcommand)]
pub(super) enum Ask {
    /// Add a guest
    ///
    /// Asks for a password without showing it (or reads one line if standard input is no terminal). The name may be an address. Nobody with an account
    /// on this host can be a guest.
    Add {
        #[command(flatten)]
        guest: Guest,
    },
    /// Give a guest another password
    Password {
        #[command(flatten)]
        guest: Guest,
    },
    /// List the guests
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        file: GuestFile,
    },
    /// Remove a guest; sessions that are open end by themselves
    #[command(visible_alias = "rm")]
    Remove {
        #[command(flatten)]
        guest: Guest,
    },
}

#[derive(Args)]
pub(super) struct Guest {
    /// The name to log in with
    name: String,
    #[command(flatten)]
    file: GuestFile,
}

#[derive(Args)]
pub(super) struct GuestFile {
    /// The file that pam_pwdfile reads
    #[arg(long, value_name = "FILE", default_value = guests::PATH)]
    file: PathBuf,
}

pub(super) fn main(ask: Ask) -> Result<Status, Failure> {
    as_root("see or change guests")?;
    match ask {
        Ask::Add { guest } => {
            reachable(&guest.name)?;
            let mut guests = open(&guest.file.file)?;
            guests.add(&guest.name, &password::ask_for_new(&prompt(&guest.name))?).map_err(failed)?;
            say!("{} may send now, if auth.guest_service has a PAM service that reads {}.", guest.name, guest.file.file.display());
        }
        Ask::Password { guest } => {
            let mut guests = open(&guest.file.file)?;
            guests.change(&guest.name, &password::ask_for_new(&prompt(&guest.name))?).map_err(failed)?;
        }
        Ask::List { file } => open(&file.file)?.names().for_each(|name| say!("{}", name.escape_debug())),
        Ask::Remove { guest } => open(&guest.file.file)?.remove(&guest.name).map_err(failed)?,
    }
    Ok(Status::Ok)
}

/// A name that `auth.names` makes another of would be nobody's.
fn reachable(name: &str) -> Result<(), Failure> {
    let Ok(config) = RunningRelay::default().config() else { return Ok(()) }; // there is none yet
    let asked = rewrite(&config.auth.names, name);
    if asked == name {
        return Ok(());
    }
    Err(Failure::new(
        Status::Usage,
        format!("auth.names makes {} of {}: add the guest under that name", asked.escape_debug(), name.escape_debug()),
    ))
}

fn prompt(name: &str) -> String {
    format!("Password for {}: ", name.escape_debug())
}

fn open(path: &Path) -> Result<Guests, Failure> {
    Guests::open(path).map_err(failed)
}

fn failed(error: GuestError) -> Failure {
    let status = match error {
        GuestError::File { .. } | GuestError::Hash(_) => Status::System,
        GuestError::Loose { .. } | GuestError::NotMoved => Status::Config,
        GuestError::There(_) | GuestError::NotThere(_) => Status::No,
        GuestError::Name(..) | GuestError::Password => Status::Usage,
    };
    Failure::new(status, error)
}
