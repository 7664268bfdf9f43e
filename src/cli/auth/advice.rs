//! What a verdict means to a person, and what can be done about it.

use pamrelay_authwire::{Cause, OutcomeKind, Phase, Reason};

use crate::config::{Config, duration_text};

pub(super) fn meaning(outcome: OutcomeKind) -> &'static str {
    match outcome {
        OutcomeKind::Accept => "accepted",
        OutcomeKind::Reject => "refused: wrong password, unknown user, or locked",
        OutcomeKind::Throttled => "not asked: too many wrong passwords lately",
        OutcomeKind::MustChange => "refused: the password is right, but it must be changed first",
        OutcomeKind::Expired => "refused: the password is right, but the account has expired",
        OutcomeKind::NotPermitted => "refused: the password is right, but this account may not send",
        OutcomeKind::Unavailable => "nobody knows: the password could not be checked",
    }
}

/// The name of a return value of PAM, as pam(3) and the modules' manuals have it.
pub(super) fn pam_code(code: i32) -> &'static str {
    const NAMES: [&str; 32] = [
        "PAM_SUCCESS",
        "PAM_OPEN_ERR",
        "PAM_SYMBOL_ERR",
        "PAM_SERVICE_ERR",
        "PAM_SYSTEM_ERR",
        "PAM_BUF_ERR",
        "PAM_PERM_DENIED",
        "PAM_AUTH_ERR",
        "PAM_CRED_INSUFFICIENT",
        "PAM_AUTHINFO_UNAVAIL",
        "PAM_USER_UNKNOWN",
        "PAM_MAXTRIES",
        "PAM_NEW_AUTHTOK_REQD",
        "PAM_ACCT_EXPIRED",
        "PAM_SESSION_ERR",
        "PAM_CRED_UNAVAIL",
        "PAM_CRED_EXPIRED",
        "PAM_CRED_ERR",
        "PAM_NO_MODULE_DATA",
        "PAM_CONV_ERR",
        "PAM_AUTHTOK_ERR",
        "PAM_AUTHTOK_RECOVERY_ERR",
        "PAM_AUTHTOK_LOCK_BUSY",
        "PAM_AUTHTOK_DISABLE_AGING",
        "PAM_TRY_AGAIN",
        "PAM_IGNORE",
        "PAM_ABORT",
        "PAM_AUTHTOK_EXPIRED",
        "PAM_MODULE_UNKNOWN",
        "PAM_BAD_ITEM",
        "PAM_CONV_AGAIN",
        "PAM_INCOMPLETE",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("no value that PAM knows")
}

pub(super) fn remedy(cause: Cause, service: &str, config: &Config) -> String {
    match cause.reason {
        Reason::BadName if cause.phase == Phase::Identity => format!(
            "a module of /etc/pam.d/{service} replaced the name (PAM_USER) by one that nobody could type; see which one with journalctl -u pamrelay-auth"
        ),
        Reason::BadName => {
            "this cannot be a user name; look for blanks, colons, or a domain that PAM does not know (auth.names can strip it)".to_owned()
        }
        Reason::BadPassword => {
            "this cannot be a password: it is empty, has a NUL, or is longer than the 511 octets that PAM's modules take".to_owned()
        }
        Reason::Refused => format!(
            "PAM does not say which it was. Look at the account (getent passwd, passwd -S, chage -l, faillock --user) and at what /etc/pam.d/{service} asks; its modules log to the journal"
        ),
        Reason::AskedForMore => {
            format!(
                "a module of /etc/pam.d/{service} asks for a second secret (a new password, a code), which mail clients cannot give. An expired password is changed elsewhere; a second factor is left out of this service"
            )
        }
        Reason::NeverAsked => format!(
            "PAM said yes without looking at the password; mend /etc/pam.d/{service} (pam_permit, or a module that ends the stack early)"
        ),
        Reason::Root => "root never sends mail through the relay; use a personal account".to_owned(),
        Reason::BelowMinUid => format!("its uid is below auth.min_uid ({}), as those of system accounts are", config.auth.min_uid),
        Reason::NotInGroups => "put the user into one of the groups in auth.groups, or change the list".to_owned(),
        Reason::AccountRefused => {
            format!("the account lines of /etc/pam.d/{service} refused it (access rules, time, host); their modules log to the journal")
        }
        Reason::AccountExpired => "see when: chage -l USER; set a new date: chage -E".to_owned(),
        Reason::PasswordAged => "the user changes it with passwd, where a shell or desktop can be reached".to_owned(),
        Reason::NoSuchUid => "PAM knows the account and the name service does not: compare getent passwd USER with /etc/nsswitch.conf. \
                              For people without an account on this host there is auth.guest_service"
            .to_owned(),
        Reason::AccountFailures => "wait (pamrelay auth throttled says how long), or lift the limit: pamrelay auth release USER. The limit in force is \
                                    shown by pamrelay auth status: auth.account_failures, what pam_faillock makes of it, or pauses that grow. A network where the account logged in \
                                    within seven days has tries of its own, and waits once they are used up"
            .to_owned(),
        Reason::AllFailures => {
            format!("somebody is guessing at many accounts; the limit is auth.failures_per_second ({})", config.auth.failures_per_second)
        }
        Reason::PeerFailures => format!(
            "wait, or lift the limit: pamrelay auth release ADDRESS. Too many wrong passwords came from that address (an IPv6 /64), or from the /24 or /48 around it; the limit is auth.network_failures_per_minute ({}). Accounts that logged in from there within seven days are not subject to it",
            config.auth.network_failures_per_minute
        ),
        Reason::SameAgain => {
            "PAM refused this very password a while ago and was not asked again, so that the account is not locked by it: \
                              a device has an old password. If it has become right since: pamrelay auth release USER"
                .to_owned()
        }
        Reason::NoGuest => format!("this name has an account on this host, and /etc/pam.d/{service} is for guests: use another listener"),
        Reason::NoListener => "front and helper have different configurations: pamrelay reload".to_owned(),
        Reason::Abandoned => {
            "the client hung up while its question waited; see whether a back end is slow (pamrelay auth status)".to_owned()
        }
        Reason::Busy => "more questions than auth.workers can answer: see whether a back end is slow (pamrelay auth status)".to_owned(),
        Reason::Deadline => format!(
            "a module or the back end behind it was slower than auth.deadline ({}): see whether the directory answers",
            duration_text(config.auth.deadline)
        ),
        Reason::Crashed | Reason::Garbled => {
            format!("a module in /etc/pam.d/{service} crashed or wrote nonsense; journalctl -u pamrelay-auth says how the worker ended")
        }
        Reason::NoWorker => "no process could be started: see TasksMax and memory, journalctl -u pamrelay-auth".to_owned(),
        Reason::NoService => format!("install /etc/pam.d/{service}, with auth and account lines"),
        Reason::Fault => match cause.phase {
            Phase::Identity => "the name service is out of order: try getent passwd USER".to_owned(),
            Phase::Check | Phase::Limit | Phase::Start | Phase::Auth | Phase::Account | Phase::Worker => {
                "the back end (LDAP, directory, database) or a module is out of order; its modules log to the journal".to_owned()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_linux_pam() {
        assert_eq!(
            [0, 7, 9, 10, 12, 13, 25, 27, 28].map(pam_code),
            [
                "PAM_SUCCESS",
                "PAM_AUTH_ERR",
                "PAM_AUTHINFO_UNAVAIL",
                "PAM_USER_UNKNOWN",
                "PAM_NEW_AUTHTOK_REQD",
                "PAM_ACCT_EXPIRED",
                "PAM_IGNORE",
                "PAM_AUTHTOK_EXPIRED",
                "PAM_MODULE_UNKNOWN"
            ]
        );
        assert_eq!([-1, 32, 99].map(pam_code), ["no value that PAM knows"; 3]);
    }
}
