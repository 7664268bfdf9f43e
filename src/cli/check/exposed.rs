//! Secrets in a place that the key process can read.
//!
//! Its sandbox is on the directory above the certificates where that one is the relay's own (`/etc/pamrelay`), so nothing that is
//! somebody else's secret belongs there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Finding;
use crate::config::Config;
use crate::{guests, sandbox};

/// Files that only some users may read, outside of the certificate directory.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let reach = sandbox::reachable(&config.tls.directory);
    if reach == config.tls.directory {
        return Vec::new();
    }
    let entries = fs::read_dir(reach).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| *path != config.tls.directory && is_secret(path)).map(|path| exposed(&path)).collect()
}

/// What is not everybody's to read. The configuration has no secrets in it, whatever its mode, and each role has a copy.
fn is_secret(path: &Path) -> bool {
    let is_configuration = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "lock");
    !is_configuration && fs::symlink_metadata(path).is_ok_and(|about| !about.is_symlink() && about.mode() & 0o004 == 0)
}

fn exposed(path: &Path) -> Finding {
    let remedy = if path == Path::new(guests::BEFORE) {
        guests::MOVE.to_owned()
    } else {
        format!(
            "install -d -m 0700 {directory} && mv {} {directory}/, and change what names it",
            path.display(),
            directory = "/var/lib/pamrelay"
        )
    };
    Finding::warning(format!("{} is a secret in a place that the key process can read", path.display()), remedy)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_beside_the_certificates_are_named_with_the_command_that_moves_them() {
        let directory = tempfile::tempdir().unwrap();
        let ours = directory.path().join("pamrelay");
        for name in ["certs", "archive"] {
            fs::create_dir_all(ours.join(name)).unwrap();
        }
        for (name, mode) in
            [("pamrelay.yaml", 0o600), ("smart-host-ca.pem", 0o644), ("guests", 0o600), ("users.db", 0o640), ("guests.lock", 0o600)]
        {
            fs::write(ours.join(name), "").unwrap();
            fs::set_permissions(ours.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(ours.join("archive"), fs::Permissions::from_mode(0o755)).unwrap();
        let text = format!("listen: [{{ address: \"127.0.0.1:1\", tls: starttls }}]\ntls: {{ directory: {}/certs }}\n", ours.display());
        let config = Config::parse(&text, Path::new("t")).unwrap();

        let mut found: Vec<String> = look(&config).iter().map(ToString::to_string).collect();
        found.sort();

        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("pamrelay/guests is") && found[1].contains("users.db"), "{found:?}");
        assert!(exposed(Path::new(guests::BEFORE)).to_string().contains(guests::MOVE));
    }
}
