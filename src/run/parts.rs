//! Which role a change of the configuration concerns.
//!
//! A role whose part did not change is left alone, with its sessions and its deliveries.

use std::net::SocketAddr;

use super::role::Name;
use crate::config::{Config, ListenTls};

/// What a role must do to follow from `old` to `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    Nothing,
    /// Reads its files again (SIGHUP).
    Reread,
    Restart,
}

/// What cannot be followed without ending everything.
pub fn needs_new_start(old: &Config, new: &Config) -> Option<String> {
    (old.runtime_dir != new.runtime_dir).then(|| {
        format!("runtime_dir changed from {} to {}; stop and start pamrelay for that", old.runtime_dir.display(), new.runtime_dir.display())
    })
}

pub fn follow(role: Name, old: &Config, new: &Config) -> Follow {
    let common = old.log == new.log && old.sandbox == new.sandbox;
    let same = match role {
        Name::Auth => super::activate::auth_env(old) == super::activate::auth_env(new),
        Name::Keys => common && old.tls == new.tls && old.hostname == new.hostname && old.secrets() == new.secrets(),
        Name::Queue => {
            common
                && old.hostname == new.hostname
                && old.spool == new.spool
                && old.routes == new.routes
                && old.delivery == new.delivery
                && old.limits.message_size == new.limits.message_size
                && old.limits.recipients == new.limits.recipients
                && old.tls.client == new.tls.client
        }
        Name::Front => {
            common
                && old.hostname == new.hostname
                && listeners(old).eq(listeners(new))
                && old.limits == new.limits
                && old.auth.deadline == new.auth.deadline
                && old.auth.failure_floor == new.auth.failure_floor
        }
    };
    match (role, same) {
        // Certificates change without any change of the configuration: our own, and those of the trust store.
        (Name::Keys | Name::Queue, true) => Follow::Reread,
        (Name::Auth | Name::Front, true) => Follow::Nothing,
        (Name::Auth | Name::Keys | Name::Queue | Name::Front, false) => Follow::Restart,
    }
}

/// What the front end knows of a listener; its PAM service is the helper's alone.
fn listeners(config: &Config) -> impl Iterator<Item = (&str, SocketAddr, ListenTls)> {
    config.listen.iter().map(|listen| (listen.name.as_str(), listen.address, listen.tls))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(more: &str) -> Config {
        Config::parse(&format!("listen: [{{ address: \"127.0.0.1:1\", tls: starttls }}]\n{more}\n"), Path::new("t")).unwrap()
    }

    fn restarted(more: &str) -> Vec<Name> {
        let (old, new) = (config(""), config(more));
        [Name::Auth, Name::Keys, Name::Queue, Name::Front].into_iter().filter(|role| follow(*role, &old, &new) == Follow::Restart).collect()
    }

    #[test]
    fn only_those_concerned_are_restarted() {
        assert_eq!(restarted(""), []);
        assert_eq!(restarted("limits: { bad_commands: 5 }"), [Name::Front]);
        assert_eq!(restarted("limits: { message_size: 1MiB }"), [Name::Queue, Name::Front]);
        assert_eq!(restarted("auth: { groups: [staff] }"), [Name::Auth]);
        assert_eq!(restarted("tls: { certificate: other.crt }"), [Name::Keys]);
        assert_eq!(restarted("delivery: { connections: 2 }"), [Name::Queue]);
        assert_eq!(restarted("log: debug"), [Name::Keys, Name::Queue, Name::Front]);
        assert_eq!(restarted("limits: { session_timeout: 2h }"), [Name::Auth, Name::Front]);
    }

    #[test]
    fn another_service_for_a_listener_is_the_helper_s_affair_and_ends_no_session() {
        let with = |service: &str| {
            let text = format!("listen: [{{ name: office, address: \"127.0.0.1:1\", tls: starttls{service} }}]\n");
            Config::parse(&text, Path::new("t")).unwrap()
        };
        let (old, new) = (with(""), with(", service: smtp-office"));

        assert_eq!(follow(Name::Front, &old, &new), Follow::Nothing);
        assert_eq!(follow(Name::Auth, &old, &new), Follow::Restart);
        assert_eq!(follow(Name::Front, &old, &config("")), Follow::Restart, "another name is another listener");
    }

    #[test]
    fn keys_and_queue_reread_their_files_though_nothing_changed() {
        assert_eq!(follow(Name::Keys, &config(""), &config("")), Follow::Reread);
        assert_eq!(follow(Name::Queue, &config(""), &config("")), Follow::Reread);
        assert!(needs_new_start(&config(""), &config("runtime_dir: /run/other")).is_some());
    }
}
