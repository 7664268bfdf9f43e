//! Who PAM's user is on this machine: the name service's word on name, uid and groups.
//!
//! Invariant: an account that comes out of here is not root, is at least `min_uid`, and is in one of the
//! configured groups if there are any; a guest has the name of nobody on this host, in any case; and every name that comes
//! out could also have been typed. A name service that cannot answer is a fault, never a refusal.

use std::ffi::{CStr, CString};

use nix::unistd::{Gid, Group, User, getgrouplist, getpid};
use pamrelay_authwire::{Accepted, Cause, MAX_NAME, Outcome, Phase, Reason, spelling};

use crate::rules::{Guests, Rules};
use crate::sys;

/// Whether the host knows this name. Where nobody can say so, nobody is taken for a guest.
pub(crate) fn is_known(name: &CStr) -> Result<bool, Outcome> {
    let fault = || unavailable(Reason::Fault);
    match look_up(name.to_str().map_err(|_| fault())?) {
        Ok(Some(_)) => Ok(true),
        Ok(None) | Err(_) if is_answered(name) => Ok(false),
        Ok(None) | Err(_) => Err(fault()),
    }
}

/// Looks up the name that PAM gave back after both phases.
pub(crate) fn identify(pam_user: Option<CString>, rules: &Rules) -> Result<Accepted, Outcome> {
    let name = text(pam_user)?;
    let user = look_up(&name)?.ok_or_else(|| unavailable(Reason::NoSuchUid))?;
    if user.uid.is_root() {
        return Err(Outcome::Reject(cause(Reason::Root))); // told like a wrong password
    }
    // The account's own spelling: directories take many forms and cases for one and the same uid.
    permitted(user.name.clone(), &user, rules)
}

/// The same for somebody whom the host does not know: the name is PAM's, the uid and the groups are of the account
/// that guests have in common. A module may have replaced the name, so that it is judged again like one that was typed.
pub(crate) fn identify_guest(pam_user: Option<CString>, guests: &Guests, rules: &Rules) -> Result<Accepted, Outcome> {
    let name = text(pam_user)?;
    if !is_sayable(&name) || name.contains('/') {
        return Err(unavailable(Reason::BadName));
    }
    // Whatever its case: a queue entry of "Root" would look like root's.
    for form in [name.clone(), name.to_lowercase(), spelling::spelling(name.as_bytes())] {
        if is_known(&CString::new(form.as_str()).map_err(|_| unavailable(Reason::Fault))?)? {
            return Err(Outcome::Reject(cause(Reason::NoGuest)));
        }
        if form == "root" {
            return Err(Outcome::Reject(cause(Reason::Root)));
        }
    }
    let account = look_up(&guests.account)?.filter(|account| !account.uid.is_root()).ok_or_else(|| unavailable(Reason::NoSuchUid))?;
    permitted(name, &account, rules)
}

fn permitted(name: String, user: &User, rules: &Rules) -> Result<Accepted, Outcome> {
    if user.uid.as_raw() < rules.min_uid {
        return Err(Outcome::NotPermitted(cause(Reason::BelowMinUid)));
    }
    let groups = memberships(user, &rules.groups)?;
    if groups.is_empty() && !rules.groups.is_empty() {
        return Err(Outcome::NotPermitted(cause(Reason::NotInGroups)));
    }
    if !is_sayable(&name) {
        return Err(unavailable(Reason::BadName));
    }
    Ok(Accepted { user: name, uid: user.uid.as_raw(), groups, ticket: Vec::new() })
}

/// Whether it follows the rules for a name that is typed. Only the name service may put a slash into one: winbind does so between
/// domain and user where it is told to.
fn is_sayable(name: &str) -> bool {
    name.len() <= MAX_NAME && spelling::name(name.replace('/', "\\").as_bytes()).is_some()
}

fn text(pam_user: Option<CString>) -> Result<String, Outcome> {
    pam_user.and_then(|name| name.into_string().ok()).ok_or_else(|| unavailable(Reason::NoSuchUid))
}

fn look_up(name: &str) -> Result<Option<User>, Outcome> {
    User::from_name(name).map_err(|_| unavailable(Reason::Fault))
}

/// Whether the name service can be believed when it knows nobody of this name. nss_ldap has an error for names
/// that no directory could have (`*`), as it has while it is out of order: then a name that could be
/// somebody's, and that no cache remembers, shows which it is.
pub(crate) fn is_answered(name: &CStr) -> bool {
    sys::name_is_answered(name) || CString::new(format!("pamrelay-{}", getpid())).is_ok_and(|somebody| sys::name_is_answered(&somebody))
}

fn memberships(user: &User, configured: &[String]) -> Result<Vec<String>, Outcome> {
    if configured.is_empty() {
        return Ok(Vec::new());
    }
    let name = CString::new(user.name.as_str()).map_err(|_| unavailable(Reason::Fault))?;
    let member_of: Vec<Gid> = getgrouplist(&name, user.gid).map_err(|_| unavailable(Reason::Fault))?;
    let mut groups = Vec::new();
    for wanted in configured {
        let group = Group::from_name(wanted).map_err(|_| unavailable(Reason::Fault))?;
        if group.is_some_and(|group| member_of.contains(&group.gid)) {
            groups.push(wanted.clone());
        }
    }
    Ok(groups)
}

fn cause(reason: Reason) -> Cause {
    Cause { phase: Phase::Identity, code: 0, reason }
}

fn unavailable(reason: Reason) -> Outcome {
    Outcome::Unavailable(cause(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(min_uid: u32, groups: &[&str]) -> Rules {
        Rules::plain(min_uid, groups)
    }

    fn reason(result: Result<Accepted, Outcome>) -> (&'static str, Reason) {
        let outcome = result.unwrap_err();
        (outcome.word(), outcome.cause().unwrap().reason)
    }

    #[test]
    fn root_is_refused_like_a_wrong_password() {
        assert_eq!(reason(identify(Some(c"root".to_owned()), &rules(1, &[]))), ("reject", Reason::Root));
    }

    #[test]
    fn system_accounts_are_below_min_uid() {
        assert_eq!(reason(identify(Some(c"daemon".to_owned()), &rules(1000, &[]))), ("not-permitted", Reason::BelowMinUid));
        let daemon = identify(Some(c"daemon".to_owned()), &rules(1, &[])).unwrap();
        assert_eq!((daemon.user.as_str(), daemon.uid), ("daemon", 1));
    }

    #[test]
    fn groups_admit_their_members_alone() {
        let daemon = || Some(c"daemon".to_owned());

        assert_eq!(identify(daemon(), &rules(1, &["daemon", "root", "no-such-group"])).unwrap().groups, ["daemon"]);
        assert_eq!(reason(identify(daemon(), &rules(1, &["root"]))), ("not-permitted", Reason::NotInGroups));
    }

    #[test]
    fn guests_have_their_own_name_and_the_uid_of_their_account() {
        let guests = |account: &str| Guests { service: "smtp-guests".into(), account: account.into() };
        let identify = |name: &std::ffi::CStr, account: &str, rules| identify_guest(Some(name.to_owned()), &guests(account), &rules);

        let guest = identify(c"friend@example.org", "daemon", rules(1, &[])).unwrap();
        assert_eq!((guest.user.as_str(), guest.uid), ("friend@example.org", 1));
        assert_eq!(reason(identify(c"daemon", "daemon", rules(1, &[]))), ("reject", Reason::NoGuest));
        assert_eq!(reason(identify(c"root", "daemon", rules(1, &[]))), ("reject", Reason::NoGuest));
        assert_eq!(reason(identify(c"friend", "daemon", rules(1000, &[]))), ("not-permitted", Reason::BelowMinUid));
        assert_eq!(reason(identify(c"friend", "daemon", rules(1, &["root"]))), ("not-permitted", Reason::NotInGroups));
        assert_eq!(reason(identify(c"friend", "root", rules(1, &[]))), ("unavailable", Reason::NoSuchUid));
        assert_eq!(reason(identify(c"friend", "no-such-user-here", rules(1, &[]))), ("unavailable", Reason::NoSuchUid));
    }

    #[test]
    fn a_guest_s_name_after_pam_is_judged_like_any_name() {
        let guests = Guests { service: "smtp-guests".into(), account: "daemon".into() };
        let identify = |name: &[u8]| identify_guest(Some(CString::new(name).unwrap()), &guests, &rules(1, &[]));

        for odd in [
            &b""[..],
            b"-froot",
            b"../friend",
            b"a:b",
            b"a\nb",
            b"friend ",
            b"a  b",
            "fri\u{200b}end".as_bytes(),
            "\u{ff46}riend".as_bytes(),
            &[b'x'; 256],
        ] {
            assert_eq!(reason(identify(odd)), ("unavailable", Reason::BadName), "{odd:?}");
        }
        assert_eq!(reason(identify(b"\xff")).0, "unavailable");
        for host in ["ROOT", "Root", "Daemon", "DAEMON"] {
            assert_eq!(reason(identify(host.as_bytes())), ("reject", Reason::NoGuest), "{host}");
        }
        assert_eq!(identify("fri\u{eb}nd@example.org".as_bytes()).unwrap().user, "fri\u{eb}nd@example.org");
    }

    #[test]
    fn a_name_without_an_account_is_a_fault() {
        assert_eq!(reason(identify(Some(c"no-such-user-here".to_owned()), &rules(1, &[]))), ("unavailable", Reason::NoSuchUid));
        assert_eq!(reason(identify(None, &rules(1, &[]))), ("unavailable", Reason::NoSuchUid));
    }
}
