//! What may reach PAM: the helper's own look at a question, whatever the front end did before.
//!
//! Invariant: a name that passes is a C string of printable UTF-8 that no module can take for an option,
//! a path or two fields of a line, without blanks that a directory would drop; a password that passes is a C string that pam_unix hashes whole.

use std::ffi::CString;

use pamrelay_authwire::{MAX_USER, NameRule, Question, Reason, rewrite};

/// From 512 bytes on pam_unix answers "wrong" without hashing (and the time shows it).
const LONGEST_PASSWORD: usize = 511;

/// The name as PAM will get it, made by the rules from what was typed, or why it never will.
pub(crate) fn admissible(question: &Question<'_>, rules: &[NameRule]) -> Result<CString, Reason> {
    let typed = name(question.user)?;
    let asked = rewrite(rules, typed);
    let asked = name(asked.as_bytes())?;
    if asked == "root" {
        return Err(Reason::Root);
    }
    // An empty password is nobody's: accounts without one are refused.
    if question.password.is_empty() || question.password.len() > LONGEST_PASSWORD || question.password.contains(&0) {
        return Err(Reason::BadPassword);
    }
    CString::new(asked).map_err(|_| Reason::BadName)
}

fn name(octets: &[u8]) -> Result<&str, Reason> {
    let name = std::str::from_utf8(octets).map_err(|_| Reason::BadName)?;
    let bad = name.is_empty()
        || name.len() > MAX_USER
        || name.starts_with('-')
        || name.trim() != name // some directories drop blanks: a second spelling of one account
        || name.contains("  ")
        || name.contains(|c: char| c.is_control() || matches!(c, '/' | ':' | '\u{fffe}' | '\u{ffff}') || is_disguise(c));
    if bad { Err(Reason::BadName) } else { Ok(name) }
}

/// Characters that cannot be seen, and forms of letters that a directory takes for the letters themselves: a name with one
/// of them is another spelling of somebody's, and nobody types it.
fn is_disguise(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{2070}'..='\u{209c}' | '\u{2100}'..='\u{214f}'
        | '\u{2460}'..='\u{24ff}' | '\u{3164}' | '\u{fb00}'..='\u{fb06}' | '\u{fe00}'..='\u{fe0f}' | '\u{fe20}'..='\u{fe2f}' | '\u{feff}'
        | '\u{ff00}'..='\u{ffef}' | '\u{fff9}'..='\u{fffc}' | '\u{1d400}'..='\u{1d7ff}' | '\u{1f100}'..='\u{1f1ff}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// What is left of the letters from À to ſ without their marks, one each; a star leaves a letter as it is.
const BARE: &str = "AAAAAAACEEEEIIIIDNOOOOO*OUUUUYT*aaaaaaaceeeeiiiidnooooo*ouuuuytyAaAaAaCcCcCcCcDdDdEeEeEeEeEeGgGgGgGgHhHhIiIiIiIiIiIiJjKkkLlLlLlLlLlNnNnNnnNnOoOoOoOoRrRrRrSsSsSsSsTtTtTtUuUuUuUuUuUuWwYyYZzZzZzs";

/// The account that a name most likely means, whatever back end reads it: without case, marks, `DOMAIN\` or `DOMAIN+`, and
/// `@realm`. For counting only; PAM gets the name as it was typed.
pub(crate) fn account(name: &[u8]) -> String {
    let typed = String::from_utf8_lossy(name);
    let user = typed.rsplit(['\\', '+']).next().unwrap_or_default();
    let user = user.split('@').next().unwrap_or_default().trim();
    let user = if user.is_empty() { &typed } else { user };
    let bare = user.chars().filter(|c| !('\u{300}'..='\u{36f}').contains(c)).map(|c| {
        let place = u32::from(c).checked_sub(0xc0).and_then(|at| BARE.as_bytes().get(at as usize));
        place.filter(|letter| **letter != b'*').map_or(c, |letter| char::from(*letter))
    });
    // To upper case and back, so that letters with several small forms (ß, ς, ſ) become one.
    bare.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// The same name in other letters: case alone is folded.
pub(crate) fn spelling(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
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
    fn disguises_of_a_name_are_no_names() {
        for name in [
            "\u{ff41}lice",
            "\u{24d0}lice",
            "a\u{200b}lice",
            "a\u{ad}lice",
            "alice\u{feff}",
            "\u{1d41a}lice",
            "alice\u{202e}",
            "\u{2061}alice",
        ] {
            assert_eq!(check(name.as_bytes(), b"x"), Err(Reason::BadName), "{name:?}");
        }
        assert!(check("\u{65e5}\u{672c} \u{416}\u{3a9}".as_bytes(), b"x").is_ok(), "other scripts are no disguise");
    }

    #[test]
    fn the_letters_without_marks_stand_where_they_should() {
        assert_eq!(BARE.len(), 0x180 - 0xc0);
        for (name, bare) in [
            ("\u{c1}\u{e1}\u{101}", "aaa"),
            ("zo\u{eb}", "zoe"),
            ("\u{159}\u{17e}\u{142}\u{f1}", "rzln"),
            ("a\u{301}", "a"),
            ("\u{d7}\u{f7}", "\u{d7}\u{f7}"),
        ] {
            assert_eq!(account(name.as_bytes()), bare, "{name}");
        }
        assert_eq!(account("\u{178}\u{17d}\u{17f}".as_bytes()), "yzs");
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
