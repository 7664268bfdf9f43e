//! `pamrelay auth test USER`: one real question to the real helper, and its answer in words.

use std::io::{self, BufRead, IsTerminal};
use std::net::IpAddr;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use pamrelay_authwire::{Cause, MAX_PASSWORD, Phase, Reason};
use zeroize::Zeroizing;

use super::{Failure, Status, as_root};
use crate::auth::{Answer, Helper, Password, Trouble};
use crate::config::Config;
use crate::smtp::SessionId;

pub(super) fn main(user: &str, rhost: IpAddr, config: &Config) -> Result<Status, Failure> {
    as_root("ask the helper")?;
    let helper = Helper::new(config.jail().join("auth"), config.auth.deadline + std::time::Duration::from_secs(2));
    let password = ask(user).map_err(|error| Failure::new(Status::Usage, format!("cannot read a password: {error}")))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure::new(Status::System, error))?;
    let answer = runtime.block_on(helper.ask(SessionId::fresh().0, rhost, user.as_bytes(), password));
    println!("{}", explain(&answer, &config.auth.service, config.auth.min_uid));
    Ok(status(&answer))
}

/// Reads one line, from the terminal without showing it.
fn ask(user: &str) -> io::Result<Password> {
    let input = io::stdin();
    let _quiet = if input.is_terminal() {
        eprint!("Password of {}: ", user.escape_debug());
        Some(Quiet::begin()?)
    } else {
        None
    };
    // Room from the start: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD + 2));
    let mut input = input.lock();
    loop {
        let available = input.fill_buf()?;
        let end = available.iter().position(|octet| *octet == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        let text = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        if line.len() + text.len() > MAX_PASSWORD {
            return Err(io::Error::other(format!("it is longer than {MAX_PASSWORD} octets, as none can be")));
        }
        line.extend_from_slice(text);
        input.consume(taken);
        if end.is_some() || taken == 0 {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Password::from(line))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
        eprintln!();
    }
}

fn status(answer: &Answer) -> Status {
    match answer {
        Answer::Accept(_) => Status::Ok,
        Answer::Reject(_) | Answer::MustChange(_) | Answer::Expired(_) | Answer::NotPermitted(_) => Status::No,
        Answer::Throttled(_) | Answer::Unavailable(_) => Status::Later,
    }
}

/// What it means, what a mail client hears, and what can be done.
fn explain(answer: &Answer, service: &str, min_uid: u32) -> String {
    let (meaning, reply, advice) = match answer {
        Answer::Accept(who) => {
            let groups = if who.groups().is_empty() { String::new() } else { format!(", in {}", who.groups().join(", ")) };
            return format!(
                "accepted: {} (uid {}{groups}) may send mail.\nA mail client hears: 235 2.7.0",
                who.user().escape_debug(),
                who.uid()
            );
        }
        Answer::Reject(cause) => ("refused: wrong password, unknown user, or locked", "535 5.7.8", advice(*cause, service, min_uid)),
        Answer::Throttled(cause) => ("not asked: too many wrong passwords lately", "454 4.7.0", advice(*cause, service, min_uid)),
        Answer::MustChange(cause) => {
            ("refused: the password is right, but it must be changed first", "535 5.7.8", advice(*cause, service, min_uid))
        }
        Answer::Expired(cause) => {
            ("refused: the password is right, but the account has expired", "535 5.7.13", advice(*cause, service, min_uid))
        }
        Answer::NotPermitted(cause) => {
            ("refused: the password is right, but this account may not send", "535 5.7.1", advice(*cause, service, min_uid))
        }
        Answer::Unavailable(Trouble::Helper(cause)) => {
            ("nobody knows: the password could not be checked", "454 4.7.0", advice(*cause, service, min_uid))
        }
        Answer::Unavailable(Trouble::NoAnswer(_)) => (
            "nobody knows: the helper did not answer",
            "454 4.7.0",
            "see whether it runs: systemctl status pamrelay-auth, journalctl -u pamrelay-auth".to_owned(),
        ),
    };
    format!("{meaning}.\nA mail client hears: {reply}\nWhy: {answer}\nWhat to do: {advice}")
}

fn advice(cause: Cause, service: &str, min_uid: u32) -> String {
    match cause.reason {
        Reason::BadName => "this cannot be a user name; look for blanks, colons, or a domain that PAM does not know".to_owned(),
        Reason::BadPassword => format!("this cannot be a password: it is empty, has a NUL, or is longer than {MAX_PASSWORD} octets"),
        Reason::Refused => format!(
            "PAM does not say which it was. Look at the account (getent passwd, passwd -S, chage -l, faillock --user) and at what /etc/pam.d/{service} asks; its modules log to the journal"
        ),
        Reason::AskedForMore => {
            format!("a module of /etc/pam.d/{service} asks for a second secret, which mail clients cannot give; leave it out there")
        }
        Reason::NeverAsked => format!(
            "PAM said yes without looking at the password; mend /etc/pam.d/{service} (pam_permit, or a module that ends the stack early)"
        ),
        Reason::Root => "root never sends mail through the relay; use a personal account".to_owned(),
        Reason::BelowMinUid => format!("its uid is below auth.min_uid ({min_uid}), as those of system accounts are"),
        Reason::NotInGroups => "put the user into one of the groups in auth.groups, or change the list".to_owned(),
        Reason::AccountRefused => {
            format!("the account lines of /etc/pam.d/{service} refused it (access rules, time, host); their modules log to the journal")
        }
        Reason::AccountExpired => "see when: chage -l USER; set a new date: chage -E".to_owned(),
        Reason::PasswordAged => "the user changes it with passwd, where a shell or desktop can be reached".to_owned(),
        Reason::NoSuchUid => {
            "PAM knows the account and the name service does not: compare getent passwd USER with /etc/nsswitch.conf".to_owned()
        }
        Reason::AccountFailures => "wait; the limits are auth.account_failures_per_minute and _per_hour".to_owned(),
        Reason::AllFailures => "somebody is guessing at many accounts; the limit is auth.failures_per_second".to_owned(),
        Reason::PeerFailures => "wait: too many wrong passwords came from that address; the limit is the helper's PAMRELAY_PEER_FAILURES_PER_MINUTE, see pamrelay-auth(8)".to_owned(),
        Reason::Busy => "more questions than auth.workers can answer: see whether a back end is slow".to_owned(),
        Reason::Deadline => "a module or the back end behind it was slower than auth.deadline".to_owned(),
        Reason::Crashed | Reason::Garbled => {
            format!("a module in /etc/pam.d/{service} crashed or wrote nonsense; journalctl -u pamrelay-auth says how the worker ended")
        }
        Reason::NoWorker => "no process could be started: see TasksMax and memory, journalctl -u pamrelay-auth".to_owned(),
        Reason::NoService => format!("install /etc/pam.d/{service}"),
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
    use crate::auth::AuthError;

    #[test]
    fn every_refusal_says_what_a_client_hears_and_what_to_do() {
        let cause = Cause { phase: Phase::Account, code: 13, reason: Reason::AccountExpired };

        let text = explain(&Answer::Expired(cause), "smtp", 1000);

        assert!(text.contains("535 5.7.13") && text.contains("chage"), "{text}");
        assert_eq!(status(&Answer::Expired(cause)), Status::No);
        let away = Answer::Unavailable(Trouble::NoAnswer(AuthError::Nonsense));
        assert!(explain(&away, "smtp", 1000).contains("454 4.7.0"));
        assert_eq!(status(&away), Status::Later);
    }
}
