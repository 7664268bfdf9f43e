//! The cage of the key process: it reads the certificate directory and answers on one socket.
//!
//! Invariant: CAP_DAC_READ_SEARCH, which opens root's 0600 files, reaches no further than the Landlock rule on
//! the certificate directory, where necessary on its parent. Secrets of others are kept elsewhere: `/var/lib/pamrelay`.

use std::path::{Path, PathBuf};

use caps::Capability;

use super::{
    Account, Caged, Policy, SandboxError,
    account::{Groups, become_user},
    alone,
    calls::{self, Families, Servers},
    draw_a_random_byte, limits, memory,
    paths::{self, Absent, Rule, Tcp},
};

/// What the cage of the key process depends on.
#[derive(Debug, Clone)]
pub struct KeysCage {
    pub account: Account,
    /// The certificate directory.
    pub directory: PathBuf,
    pub policy: Policy,
}

/// Enters the cage. The listener is bound and the service manager connected by now; no other thread exists yet.
///
/// Where CAP_DAC_READ_SEARCH is not to be had (containers), the files must belong to the user; if they do not, the
/// permission law says so with the command that helps.
pub fn keys(cage: &KeysCage) -> Result<Caged, SandboxError> {
    alone()?;
    draw_a_random_byte()?;
    let directory = std::path::absolute(&cage.directory).map_err(|error| SandboxError::step("name the certificate directory", error))?;

    let mut missing = Vec::from_iter(memory::lock()?);
    become_user(&cage.account, Groups::Own, &[Capability::CAP_DAC_READ_SEARCH])?;
    limits::settle()?;
    missing.extend(paths::confine(&[Rule::read(reachable(&directory), Absent::Skip)], Tcp::Nothing)?);
    missing.extend(calls::confine_role(Families::Unix, Servers::Old)?);
    cage.policy.judge(missing, PathBuf::from("."))
}

/// Where the rule goes. In a directory of the relay's own it is on the parent, so that a certificate directory
/// that was replaced by another of the same name (`mv new certs`) stays readable. In a directory shared with others (`/etc`,
/// `/etc/ssl`) or with secrets of root's (`/var/lib/pamrelay`) that would open too much: there it is on the directory itself, and a
/// replaced one needs a restart.
pub fn reachable(directory: &Path) -> &Path {
    let is_ours = |parent: &Path| parent.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pamrelay"));
    let has_secrets = |parent: &Path| Path::new(crate::guests::PATH).starts_with(parent);
    match directory.parent() {
        Some(parent) if is_ours(parent) && !has_secrets(parent) => parent,
        Some(_) | None => directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_on_the_parent_only_where_the_parent_is_the_relays_own() {
        let reach = |path| reachable(Path::new(path)).to_path_buf();

        assert_eq!(reach("/etc/pamrelay/certs"), Path::new("/etc/pamrelay"));
        assert_eq!(reach("/etc/pamrelay-certs"), Path::new("/etc/pamrelay-certs"));
        assert_eq!(reach("/etc/ssl/private"), Path::new("/etc/ssl/private"));
        assert_eq!(reach("/"), Path::new("/"));
    }

    #[test]
    fn the_rule_never_opens_the_directory_of_guests_and_of_the_helper() {
        for directory in ["/etc/pamrelay/certs", "/etc/ssl/private", "/var/lib/pamrelay/certs", "/var/lib/pamrelay-certs/new"] {
            assert!(!Path::new(crate::guests::PATH).starts_with(reachable(Path::new(directory))), "{directory}");
        }
        assert_eq!(reachable(Path::new("/var/lib/pamrelay/certs")), Path::new("/var/lib/pamrelay/certs"));
    }
}
