//! Who PAM's user is on this machine: the name service's word on name, uid and groups.
//!
//! Invariant: an account that comes out of here is not root, is at least `min_uid`, and is in one of the
//! configured groups if there are any. A name service that cannot answer is a fault, never a refusal.

use std::ffi::CString;

use nix::unistd::{Gid, Group, User, getgrouplist};
use pamrelay_authwire::{Accepted, Cause, MAX_NAME, Outcome, Phase, Reason};

use crate::settings::Rules;

/// Looks up the name that PAM gave back after both phases.
pub(crate) fn identify(pam_user: Option<CString>, rules: &Rules) -> Result<Accepted, Outcome> {
    let name = pam_user.and_then(|name| name.into_string().ok()).ok_or_else(|| unavailable(Reason::NoSuchUid))?;
    let user = match User::from_name(&name) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(unavailable(Reason::NoSuchUid)),
        Err(_) => return Err(unavailable(Reason::Fault)),
    };
    if user.uid.is_root() {
        return Err(Outcome::Reject(cause(Reason::Root))); // told like a wrong password
    }
    if user.uid.as_raw() < rules.min_uid {
        return Err(Outcome::NotPermitted(cause(Reason::BelowMinUid)));
    }
    let groups = memberships(&user, &rules.groups)?;
    if groups.is_empty() && !rules.groups.is_empty() {
        return Err(Outcome::NotPermitted(cause(Reason::NotInGroups)));
    }
    // The account's own spelling: directories take many forms and cases for one and the same uid.
    if user.name.is_empty() || user.name.len() > MAX_NAME || user.name.contains(char::is_control) {
        return Err(unavailable(Reason::Fault));
    }
    Ok(Accepted { user: user.name, uid: user.uid.as_raw(), groups, ticket: Vec::new() })
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
        Rules { service: "smtp".into(), min_uid, groups: groups.iter().map(|g| (*g).to_owned()).collect(), worker_memory_mib: 512 }
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
    fn a_name_without_an_account_is_a_fault() {
        assert_eq!(reason(identify(Some(c"no-such-user-here".to_owned()), &rules(1, &[]))), ("unavailable", Reason::NoSuchUid));
        assert_eq!(reason(identify(None, &rules(1, &[]))), ("unavailable", Reason::NoSuchUid));
    }
}
