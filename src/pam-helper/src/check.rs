//! What may reach PAM: the helper's own look at a question, whatever the front end did before.
//!
//! Invariant: name and password that pass are C strings, and what [`spelling`] takes for a name and a password.

use std::ffi::CString;

use pamrelay_authwire::{NameRule, Question, Reason, rewrite, spelling};

/// The name as PAM will get it, made by the rules from what was typed, or why it never will.
pub(crate) fn admissible(question: &Question<'_>, rules: &[NameRule]) -> Result<CString, Reason> {
    let typed = name(question.user)?;
    let asked = rewrite(rules, typed);
    let asked = name(asked.as_bytes())?;
    if asked == "root" {
        return Err(Reason::Root);
    }
    if !spelling::is_password(question.password) {
        return Err(Reason::BadPassword);
    }
    CString::new(asked).map_err(|_| Reason::BadName)
}

fn name(octets: &[u8]) -> Result<&str, Reason> {
    spelling::name(octets).ok_or(Reason::BadName)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(user: &[u8], password: &[u8]) -> Result<CString, Reason> {
        admissible(&Question { id: 1, session: 1, peer: [0; 16], listener: "", user, password }, &[])
    }

    #[test]
    fn names_of_people_pass_in_every_form_that_directories_use() {
        for name in ["alice", "LAB\\aduser", "aduser@lab.test", "zoë", "first last", "%n", "a.b+c"] {
            assert_eq!(check(name.as_bytes(), b"x").unwrap().to_bytes(), name.as_bytes());
        }
    }

    #[test]
    fn names_that_are_options_paths_fields_or_junk_do_not() {
        let long = [b'u'; 256];
        for name in [&b""[..], b"-froot", b"../x", b"a/b", b"a:b", b"a\0b", b"a\nb", b"\x7f", b"\xff", "a\u{85}b".as_bytes(), &long] {
            assert_eq!(check(name, b"x"), Err(Reason::BadName), "{name:?}");
        }
    }

    #[test]
    fn blanks_that_a_directory_would_drop_make_no_other_name() {
        for name in ["user ", " user", "first  last", " ", "user\u{a0}", "\u{3000}user"] {
            assert_eq!(check(name.as_bytes(), b"x"), Err(Reason::BadName), "{name:?}");
        }
    }

    #[test]
    fn what_the_rules_make_is_judged_as_what_was_typed() {
        let rules = ["strip-realm=example.org", "strip-domain=LAB", "add-realm=lab.test"].map(|rule| NameRule::parse(rule).unwrap());
        let check = |user: &str| {
            admissible(&Question { id: 1, session: 1, peer: [0; 16], listener: "", user: user.as_bytes(), password: b"x" }, &rules[..2])
        };

        assert_eq!(check("LAB\\ann@example.org").unwrap().to_bytes(), b"ann");
        assert_eq!(check("root@example.org"), Err(Reason::Root));
        assert_eq!(check("-f@example.org"), Err(Reason::BadName));
        assert_eq!(check("LAB\\-f"), Err(Reason::BadName));
        assert_eq!(check("ann @example.org"), Err(Reason::BadName), "a blank is left at the end");
        let long = Question { id: 1, session: 1, peer: [0; 16], listener: "", user: &[b'u'; 250], password: b"x" };
        assert_eq!(admissible(&long, &rules), Err(Reason::BadName), "longer than a name may be");
    }

    #[test]
    fn root_is_not_even_asked_for() {
        assert_eq!(check(b"root", b"x"), Err(Reason::Root));
    }

    #[test]
    fn passwords_pass_as_they_are_up_to_511_bytes() {
        for password in [&b"p\xe4ss"[..], "pässwörd€ with blanks\t".as_bytes(), &[b'x'; 511]] {
            assert!(check(b"alice", password).is_ok());
        }
        for password in [&b""[..], b"right\0x", &[b'x'; 512]] {
            assert_eq!(check(b"alice", password), Err(Reason::BadPassword));
        }
    }
}
