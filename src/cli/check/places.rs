//! Users, the PAM service, directories, the trust store: what must be there and whose it must be.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Finding;
use crate::config::Config;
use crate::run::{FRONT_USER, KEYS_USER, QUEUE_USER};

pub(super) fn uid_of(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

pub(super) fn accounts() -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut uids: Vec<(u32, &str)> = Vec::new();
    for name in [FRONT_USER, KEYS_USER, QUEUE_USER] {
        match uid_of(name) {
            None => findings.push(Finding::fault(
                format!("there is no user {name}"),
                format!("useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {name}"),
            )),
            Some(0) => findings.push(Finding::fault(
                format!("the user {name} has uid 0"),
                format!("give {name} a uid of its own: usermod --uid UID {name}"),
            )),
            Some(uid) => {
                if let Some((_, other)) = uids.iter().find(|(seen, _)| *seen == uid) {
                    findings.push(Finding::fault(
                        format!("the users {other} and {name} have one uid, {uid}; nothing would part them"),
                        format!("usermod --uid UID {name}"),
                    ));
                }
                uids.push((uid, name));
            }
        }
        if Group::from_name(name).ok().flatten().is_none() {
            findings.push(Finding::fault(format!("there is no group {name}"), format!("groupadd --system {name}")));
        }
    }
    findings
}

/// Groups that the name service does not know: without any of them everybody would be refused.
pub(super) fn groups(config: &Config) -> Vec<Finding> {
    let wanted = &config.auth.groups;
    let mut findings = Vec::new();
    let (mut unknown, mut unsure) = (Vec::new(), false);
    for name in wanted {
        match Group::from_name(name) {
            Ok(Some(_)) => {}
            Ok(None) => unknown.push(name.as_str()),
            Err(error) => {
                unsure = true;
                let what = format!("auth.groups: the name service cannot say whether there is a group {name}: {error}");
                findings.push(Finding::warning(what, format!("getent group {name}")));
            }
        }
    }
    let names = unknown.join(", ");
    let repair = "compare with: getent group; make one with groupadd, or correct auth.groups";
    if unknown.is_empty() {
    } else if unknown.len() == wanted.len() && !unsure {
        findings.push(Finding::fault(format!("auth.groups: none of its groups exists ({names}), so everybody would be refused"), repair));
    } else {
        findings.push(Finding::warning(format!("auth.groups: there is no group {names}; nobody is let in by it"), repair));
    }
    findings
}

/// The account that guests have in common: it must be there, not root's, and not one that may not send.
pub(super) fn guests(config: &Config) -> Vec<Finding> {
    let Some(guests) = &config.auth.guests else { return Vec::new() };
    let name = &guests.account;
    let mend = format!(
        "make it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin --uid NUMBER {name}, with a number from auth.min_uid up"
    );
    match User::from_name(name) {
        Ok(Some(account)) if account.uid.is_root() => vec![Finding::fault(format!("auth.guest_account {name} is root's"), mend)],
        Ok(Some(account)) if account.uid.as_raw() < config.auth.min_uid => {
            let what = format!(
                "auth.guest_account {name} has the uid {}, below auth.min_uid ({}): no guest could send",
                account.uid, config.auth.min_uid
            );
            vec![Finding::fault(what, mend)]
        }
        Ok(Some(_)) => Vec::new(),
        Ok(None) => vec![Finding::fault(format!("there is no account {name}, which auth.guest_account names"), mend)],
        Err(error) => vec![Finding::fault(
            format!("the name service cannot say whether there is an account {name}: {error}"),
            format!("getent passwd {name}"),
        )],
    }
}

pub(super) fn directories(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let queue = uid_of(QUEUE_USER);
    match (fs::symlink_metadata(&config.spool), queue) {
        (Ok(about), Some(queue)) => {
            findings.extend(spool(&config.spool, &about, queue));
            findings.extend(spool_contents(&config.spool, queue));
        }
        (Ok(_), None) => {}
        (Err(_), _) => findings.extend(parent_is_there(&config.spool)),
    }
    findings.extend(writable_above(&config.spool));
    findings.extend(writable_above(&config.runtime_dir));
    match fs::symlink_metadata(&config.runtime_dir) {
        Ok(about) if !about.is_dir() => {
            let shown = config.runtime_dir.display();
            findings.push(Finding::fault(format!("{shown} is not a directory"), format!("mv {shown} {shown}.away")));
        }
        Ok(about) => findings.extend(shared(&config.runtime_dir, &about)),
        Err(_) => findings.extend(parent_is_there(&config.runtime_dir)),
    }
    for maildir in config.maildirs() {
        findings.extend(maildir_owner(maildir, queue));
    }
    findings
}

/// Where the administrator's additions to the unit of the queue are.
const DROP_INS: &str = "/etc/systemd/system/pamrelay-queue.service.d";
/// All that the unit lets the queue write, but for its own socket.
const UNIT_WRITES: &str = "/var/spool/pamrelay";

/// Under systemd the queue writes only where its unit lets it, and the umbrella makes nothing elsewhere.
pub(super) fn beyond_the_unit(config: &Config) -> Vec<Finding> {
    if !Path::new("/run/systemd/system").exists() {
        return Vec::new();
    }
    let allowed = allowed_by(Path::new(DROP_INS));
    std::iter::once(config.spool.as_path()).chain(config.maildirs()).filter_map(|path| beyond(path, &allowed)).collect()
}

fn beyond(path: &Path, allowed: &[PathBuf]) -> Option<Finding> {
    if path.starts_with(UNIT_WRITES) || allowed.iter().any(|above| path.starts_with(above)) {
        return None;
    }
    let shown = path.display();
    let made = if path.exists() { String::new() } else { format!("install -d -o {QUEUE_USER} -g {QUEUE_USER} -m 0700 {shown}, then ") };
    let home = if ["/home", "/root", "/run/user"].iter().any(|home| path.starts_with(home)) { "\n    ProtectHome=no" } else { "" };
    Some(Finding::warning(
        format!("{shown} is not among the places that pamrelay-queue.service may write; under systemd no mail gets there"),
        format!("{made}systemctl edit pamrelay-queue, with these lines:\n    [Service]\n    ReadWritePaths={shown}{home}"),
    ))
}

/// The paths of `ReadWritePaths=` in all drop-ins.
fn allowed_by(drop_ins: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(drop_ins).into_iter().flatten().flatten().map(|entry| entry.path());
    let texts = files.filter(|path| path.extension().is_some_and(|it| it == "conf")).filter_map(|path| fs::read_to_string(path).ok());
    let allowed = |text: String| -> Vec<PathBuf> {
        let values = text.lines().filter_map(|line| line.trim().strip_prefix("ReadWritePaths="));
        values.flat_map(str::split_whitespace).map(|path| path.trim_matches('"').trim_start_matches(['-', '+']).into()).collect()
    };
    texts.flat_map(allowed).collect()
}

fn spool(path: &Path, about: &Metadata, queue: u32) -> Option<Finding> {
    let shown = path.display();
    if !about.is_dir() {
        return Some(Finding::fault(
            format!("the spool {shown} is not a directory"),
            format!("mv {shown} {shown}.away; pamrelay makes a new one"),
        ));
    }
    (about.uid() != queue || about.mode() & 0o077 != 0).then(|| {
        Finding::fault(
            format!(
                "the spool {shown} has owner uid {} and mode {:04o}; wanted are {QUEUE_USER} and 0700",
                about.uid(),
                about.mode() & 0o7777
            ),
            format!("chown {QUEUE_USER}: {shown} && chmod 0700 {shown}"),
        )
    })
}

/// What a restore by root leaves behind.
fn spool_contents(spool: &Path, queue: u32) -> Option<Finding> {
    let foreign =
        ["queue.db", "queue.db-wal", "queue.db-shm", "bodies", "damaged"].into_iter().map(|name| spool.join(name)).find_map(|path| {
            let owner = fs::symlink_metadata(&path).ok()?.uid();
            (owner != queue).then_some((path, owner))
        });
    let (path, owner) = foreign?;
    let what = format!("{} does not belong to {QUEUE_USER}, which must write it (owner uid {owner})", path.display());
    Some(Finding::fault(what, format!("chown -R {QUEUE_USER}: {}", spool.display())))
}

fn parent_is_there(path: &Path) -> Option<Finding> {
    let parent = path.parent()?;
    (!parent.is_dir()).then(|| {
        Finding::fault(
            format!("{} cannot be made: there is no directory {}", path.display(), parent.display()),
            format!("mkdir -p {}", parent.display()),
        )
    })
}

/// The runtime directory is made root's alone when a configuration is accepted; that must not happen to /tmp or to somebody's directory.
fn shared(path: &Path, about: &Metadata) -> Option<Finding> {
    (about.uid() != 0 || about.mode() & 0o022 != 0).then(|| {
        let shown = path.display();
        Finding::fault(
            format!("the runtime directory {shown} is shared with others (owner uid {}, mode {:04o})", about.uid(), about.mode() & 0o7777),
            format!("write runtime_dir: {shown}/pamrelay, or, if nothing else uses it: chown root: {shown} && chmod 0755 {shown}"),
        )
    })
}

/// Whoever may write a directory above may put another in the place of ours.
fn writable_above(path: &Path) -> Option<Finding> {
    path.ancestors().skip(1).find_map(|above| {
        let about = fs::metadata(above).ok()?;
        let sticky = about.mode() & 0o1000 != 0;
        (about.mode() & 0o022 != 0 && !sticky).then(|| {
            let shown = above.display();
            Finding::fault(
                format!(
                    "others may write {shown} (mode {:04o}), and so put something else in the place of {}",
                    about.mode() & 0o7777,
                    path.display()
                ),
                format!("chmod go-w {shown}"),
            )
        })
    })
}

fn maildir_owner(maildir: &Path, queue: Option<u32>) -> Option<Finding> {
    let shown = maildir.display();
    match fs::metadata(maildir) {
        Ok(about) if !about.is_dir() => {
            Some(Finding::fault(format!("the maildir {shown} is not a directory"), format!("mv {shown} {shown}.away")))
        }
        Ok(about) if queue.is_some_and(|queue| queue != about.uid()) => {
            let what = format!("the maildir {shown} does not belong to {QUEUE_USER}, which writes it (owner uid {})", about.uid());
            Some(Finding::warning(what, format!("chown {QUEUE_USER}: {shown}")))
        }
        Ok(_) => None,
        Err(_) => parent_is_there(maildir),
    }
}

pub(super) fn trust(config: &Config) -> Option<Finding> {
    let path = config.delivery.trust.as_deref()?;
    let shown = path.display();
    let what = match CertificateDer::pem_file_iter(path) {
        Err(error) => format!("delivery.trust: {shown} cannot be read: {error}"),
        Ok(certificates) => {
            let read: Result<Vec<_>, _> = certificates.collect();
            match read {
                Ok(found) if !found.is_empty() => return readable(path),
                Ok(_) => format!("delivery.trust: {shown} has no certificate"),
                Err(error) => format!("delivery.trust: {shown} is damaged: {error}"),
            }
        }
    };
    Some(Finding::fault(what, "write the PEM certificates of those who vouch for your smart hosts into it, or leave the key out"))
}

fn readable(path: &Path) -> Option<Finding> {
    let about = fs::metadata(path).ok()?;
    let mine = uid_of(QUEUE_USER) == Some(about.uid());
    (about.mode() & 0o004 == 0 && !mine).then(|| {
        let shown = path.display();
        Finding::fault(
            format!("delivery.trust: {QUEUE_USER} may not read {shown} (mode {:04o})", about.mode() & 0o7777),
            format!("chmod a+r {shown}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_write_is_found_above_the_spool() {
        let top = tempfile::tempdir().unwrap();
        let loose = top.path().join("loose");
        fs::create_dir(&loose).unwrap();
        fs::set_permissions(&loose, fs::Permissions::from_mode(0o775)).unwrap();

        let found = writable_above(&loose.join("spool")).unwrap().to_string();

        assert!(found.contains("chmod go-w") && found.contains("mode 0775"), "{found}");
        assert!(writable_above(&top.path().join("spool")).is_none());
    }

    #[test]
    fn a_maildir_that_the_unit_may_not_write_is_found_until_a_drop_in_allows_it() {
        let drop_ins = tempfile::tempdir().unwrap();
        let found = |path: &str| beyond(Path::new(path), &allowed_by(drop_ins.path())).map(|finding| finding.to_string());

        let said = found("/var/mail/archive").unwrap();
        assert!(said.contains("[Service]\n    ReadWritePaths=/var/mail/archive") && !said.contains("ProtectHome"), "{said}");
        assert!(found("/home/archive").unwrap().contains("ProtectHome=no"));
        assert_eq!(found("/var/spool/pamrelay"), None);

        fs::write(drop_ins.path().join("override.conf"), "[Service]\nReadWritePaths=-/srv /var/mail\n").unwrap();
        assert_eq!(found("/var/mail/archive"), None);
        assert!(found("/home/archive").is_some());
    }

    #[test]
    fn a_shared_runtime_directory_is_found() {
        let about = |path: &str| fs::metadata(path).unwrap();

        assert!(shared(Path::new("/tmp"), &about("/tmp")).unwrap().to_string().contains("mode 1777"));
        assert!(shared(Path::new("/usr"), &about("/usr")).is_none());
    }

    #[test]
    fn a_queue_that_root_restored_is_found() {
        let spool = tempfile::tempdir().unwrap();
        let us = fs::metadata(spool.path()).unwrap().uid();
        fs::write(spool.path().join("queue.db"), "").unwrap();

        assert!(spool_contents(spool.path(), us).is_none());
        assert!(spool_contents(spool.path(), us + 1).unwrap().to_string().contains("chown -R pamrelay-queue:"));
    }
}
