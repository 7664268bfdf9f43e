//! What a PAM code means for the client.
//!
//! Codes lie: an unreachable directory may say "unknown user", a full table "wrong password". So only a
//! plain success accepts, only what modules say about a person refuses, and the rest is *unavailable*.
//! Invariant: nothing but a success of the auth phase can lead to a reply that admits that the password
//! was right.

use pamrelay_authwire::{Cause, Outcome, Phase, Reason};

use crate::pam::{Code, Prompts};

/// After `pam_authenticate`: `Ok` leads on to the account phase.
pub(crate) fn authenticated(code: Code, prompts: Prompts) -> Result<(), Outcome> {
    let cause = |reason| Cause { phase: Phase::Auth, code: code.0, reason };
    match (code, prompts) {
        (Code::SUCCESS, Prompts::Password | Prompts::PasswordAndMore) => Ok(()),
        // A stack that lets people in without looking at the password is a mistake of its writer.
        (Code::SUCCESS, Prompts::None | Prompts::Unanswerable) => Err(Outcome::Unavailable(cause(Reason::NeverAsked))),
        // Whatever the module made of the refused prompt (pam_krb5: 9, which looks temporary).
        (_, Prompts::PasswordAndMore | Prompts::Unanswerable) => Err(Outcome::Reject(cause(Reason::AskedForMore))),
        (
            Code::AUTH_ERR
            | Code::USER_UNKNOWN
            | Code::PERM_DENIED
            | Code::MAXTRIES
            | Code::ACCT_EXPIRED
            | Code::NEW_AUTHTOK_REQD
            | Code::AUTHTOK_EXPIRED,
            Prompts::None | Prompts::Password,
        ) => Err(Outcome::Reject(cause(Reason::Refused))),
        (Code(_), Prompts::None | Prompts::Password) => Err(Outcome::Unavailable(cause(Reason::Fault))),
    }
}

/// A refusal of somebody about whom the name service has no answer: an outage, unless the module said more.
pub(crate) fn doubted(refusal: Outcome) -> Outcome {
    match refusal {
        Outcome::Reject(cause) if cause.reason == Reason::Refused => Outcome::Unavailable(Cause { reason: Reason::Fault, ..cause }),
        other => other,
    }
}

/// After `pam_acct_mgmt`, with a right password: `Ok` leads on to the name service.
pub(crate) fn permitted(code: Code) -> Result<(), Outcome> {
    let cause = |reason| Cause { phase: Phase::Account, code: code.0, reason };
    match code {
        Code::SUCCESS => Ok(()),
        Code::NEW_AUTHTOK_REQD => Err(Outcome::MustChange(cause(Reason::PasswordAged))),
        Code::ACCT_EXPIRED | Code::AUTHTOK_EXPIRED => Err(Outcome::Expired(cause(Reason::AccountExpired))),
        Code::PERM_DENIED | Code::AUTH_ERR | Code::MAXTRIES => Err(Outcome::NotPermitted(cause(Reason::AccountRefused))),
        Code(_) => Err(Outcome::Unavailable(cause(Reason::Fault))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_PROMPTS: [Prompts; 4] = [Prompts::None, Prompts::Password, Prompts::PasswordAndMore, Prompts::Unanswerable];

    #[test]
    fn only_a_success_that_used_the_password_goes_on() {
        for code in -2..100 {
            for prompts in EVERY_PROMPTS {
                let goes_on = authenticated(Code(code), prompts).is_ok();
                let used = matches!(prompts, Prompts::Password | Prompts::PasswordAndMore);
                assert_eq!(goes_on, code == 0 && used, "{code} {prompts:?}");
            }
            assert_eq!(permitted(Code(code)).is_ok(), code == 0);
        }
    }

    #[test]
    fn a_failed_auth_phase_never_admits_that_the_password_was_right() {
        for code in (-2..100).filter(|code| *code != 0) {
            for prompts in EVERY_PROMPTS {
                let outcome = authenticated(Code(code), prompts).unwrap_err();
                assert!(matches!(outcome, Outcome::Reject(_) | Outcome::Unavailable(_)), "{code} {outcome:?}");
            }
        }
    }

    #[test]
    fn what_is_said_about_a_person_refuses_and_what_is_said_about_a_machine_does_not() {
        let word = |code| authenticated(Code(code), Prompts::Password).unwrap_err().word();

        assert_eq!([7, 10, 6, 11, 13].map(word), ["reject"; 5]);
        assert_eq!([1, 2, 3, 4, 5, 8, 9, 14, 19, 20, 21, 25, 26, 28, 30, 99, -1].map(word), ["unavailable"; 17]);
    }

    #[test]
    fn asking_for_a_new_password_is_a_refusal_and_not_an_outage() {
        for prompts in [Prompts::PasswordAndMore, Prompts::Unanswerable] {
            let Err(Outcome::Reject(cause)) = authenticated(Code(9), prompts) else { panic!("not a refusal") };

            assert_eq!(cause.reason, Reason::AskedForMore);
        }
    }

    #[test]
    fn a_refusal_in_doubt_is_an_outage_but_what_a_module_asked_for_stays_asked_for() {
        let refused = |prompts| doubted(authenticated(Code::USER_UNKNOWN, prompts).unwrap_err());

        assert_eq!(
            refused(Prompts::Password),
            Outcome::Unavailable(Cause { phase: Phase::Auth, code: Code::USER_UNKNOWN.0, reason: Reason::Fault })
        );
        assert_eq!(refused(Prompts::PasswordAndMore).word(), "reject");
    }

    #[test]
    fn the_account_phase_tells_expiry_change_and_permission_apart() {
        let word = |code| permitted(Code(code)).unwrap_err().word();

        assert_eq!(word(12), "must-change");
        assert_eq!([13, 27].map(word), ["expired"; 2]);
        assert_eq!([6, 7].map(word), ["not-permitted"; 2]);
        assert_eq!([4, 9, 10, 28].map(word), ["unavailable"; 4]);
    }
}
