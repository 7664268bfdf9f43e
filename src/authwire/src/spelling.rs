//! The one place that says what can be a name or a password, and which names mean the same account.
//!
//! Invariant: a name that passes is printable UTF-8 that no module can take for an option, a path or two fields of a line,
//! without blanks that a directory would drop and without characters that nobody can tell from others.

use crate::MAX_USER;

/// The name in these octets, if PAM may ever get it.
pub fn name(octets: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(octets).ok()?;
    let bad = name.is_empty()
        || name.len() > MAX_USER
        || name.starts_with('-')
        || name.trim() != name // some directories drop blanks: a second spelling of one account
        || name.contains("  ")
        || name.contains(|c: char| c.is_control() || matches!(c, '/' | ':' | '\u{fffe}' | '\u{ffff}') || is_disguise(c));
    (!bad).then_some(name)
}

/// From 512 octets on pam_unix answers "wrong" without hashing (and the time shows it).
pub const LONGEST_PASSWORD: usize = 511;

/// Whether this can be somebody's: a C string that PAM's modules hash whole. An empty one is nobody's; accounts without one
/// are refused.
pub fn is_password(octets: &[u8]) -> bool {
    !octets.is_empty() && octets.len() <= LONGEST_PASSWORD && !octets.contains(&0)
}

/// Characters that cannot be seen, and forms of letters that a directory takes for the letters themselves: a name with one
/// of them is another spelling of somebody's, and nobody types it.
fn is_disguise(c: char) -> bool {
    matches!(c,
        '\u{aa}' | '\u{ad}' | '\u{b2}'..='\u{b3}' | '\u{b9}'..='\u{ba}' | '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}'
        | '\u{205f}'..='\u{209c}' | '\u{2100}'..='\u{214f}' | '\u{2460}'..='\u{24ff}' | '\u{3164}' | '\u{fb00}'..='\u{fb06}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{fe20}'..='\u{fe2f}' | '\u{feff}' | '\u{ff00}'..='\u{ffef}' | '\u{fff9}'..='\u{fffc}'
        | '\u{1d400}'..='\u{1d7ff}' | '\u{1f100}'..='\u{1f1ff}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// What is left of the letters from U+C0 on without their marks, one each; a star leaves a letter as it is.
const BARE: &str = "aaaaaa*ceeeeiiiidnooooo*ouuuuy**aaaaaa*ceeeeiiiidnooooo*ouuuuy*yaaaaaaccccccccddddeeeeeeeeeegggggggghhhhiiiiiiiiii**jjkkkllllllllllnnnnnnn**oooooo**rrrrrrssssssssttttttuuuuuuuuuuuuwwyyyzzzzzzsbbbb***cc*ddd****ffg***ikkl**nnooo**pp*****ttttuu*vyyzz**************d**l**n*aaiioouuuuuuuuuu*aaaa**ggggkkoooo**j*d*gg**nnaa**ooaaaaeeeeiiiioooorrrruuuusstt**hhnd**zzaaeeooooooooyylntj**accltsz**b**eejj*qrryy";
/// The same from U+1E00 on.
const BARE_MORE: &str = "aabbbbbbccddddddddddeeeeeeeeeeffgghhhhhhhhhhiiiikkkkkkllllllllmmmmmmnnnnnnnnoooooooopppprrrrrrrrssssssssssttttttttuuuuuuuuuuvvvvwwwwwwwwwwxxxxyyzzzzzzhtwya*****aaaaaaaaaaaaaaaaaaaaaaaaeeeeeeeeeeeeeeeeiiiioooooooooooooooooooooooouuuuuuuuuuuuuuyyyyyyyy****yy";

/// The account that a name most likely means, whatever back end reads it: without case, marks, `DOMAIN\` or `DOMAIN+`, and
/// `@realm`. For counting only; PAM gets the name as it was typed.
pub fn account(name: &[u8]) -> String {
    let typed = String::from_utf8_lossy(name);
    let user = typed.rsplit(['\\', '+']).next().unwrap_or_default();
    let user = user.split('@').next().unwrap_or_default().trim();
    let mut account = String::new();
    for c in folded(if user.is_empty() { &typed } else { user }).filter(|c| !('\u{300}'..='\u{36f}').contains(c)) {
        match c {
            'æ' | 'ǣ' | 'ǽ' => account.push_str("ae"),
            'œ' => account.push_str("oe"),
            'þ' => account.push_str("th"),
            'ĳ' => account.push_str("ij"),
            other => account.push(bare(other)),
        }
    }
    account
}

/// The same name in other letters: case alone is folded.
pub fn spelling(name: &[u8]) -> String {
    folded(&String::from_utf8_lossy(name)).collect()
}

/// To upper case and back, so that letters with several small forms (ß, ς, ſ) become one.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

fn bare(c: char) -> char {
    let in_table = |table: &str, first: u32| u32::from(c).checked_sub(first).and_then(|at| table.as_bytes().get(at as usize).copied());
    let letter = in_table(BARE, 0xc0).or_else(|| in_table(BARE_MORE, 0x1e00));
    letter.filter(|letter| *letter != b'*').map_or(c, char::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disguises_of_a_name_are_no_names() {
        for disguised in [
            "\u{ff41}lice",
            "\u{24d0}lice",
            "a\u{200b}lice",
            "a\u{ad}lice",
            "alice\u{feff}",
            "\u{1d41a}lice",
            "alice\u{202e}",
            "\u{2061}alice",
            "\u{aa}lice",
            "alice\u{b9}",
            "\u{1c9}iljana",
        ] {
            assert_eq!(name(disguised.as_bytes()), None, "{disguised:?}");
        }
        assert!(name("\u{65e5}\u{672c} \u{416}\u{3a9}".as_bytes()).is_some(), "other scripts are no disguise");
    }

    #[test]
    fn the_letters_without_marks_stand_where_they_should() {
        assert_eq!((BARE.len(), BARE_MORE.len()), (0x250 - 0xc0, 0x1f00 - 0x1e00));
        for (name, bare) in [
            ("\u{c1}\u{e1}\u{101}\u{1ce}\u{1ea1}\u{1ea5}", "aaaaaa"),
            ("zo\u{eb}", "zoe"),
            ("\u{159}\u{17e}\u{142}\u{f1}\u{1e37}", "rzlnl"),
            ("a\u{301}", "a"),
            ("\u{d7}\u{f7}", "\u{d7}\u{f7}"),
            ("\u{178}\u{17d}\u{17f}\u{1ef9}\u{1e9b}", "yzsys"),
            ("\u{c6}\u{153}\u{de}\u{df}", "aeoethss"),
        ] {
            assert_eq!(account(name.as_bytes()), bare, "{name}");
        }
    }

    #[test]
    fn an_account_is_one_in_every_form() {
        for form in ["zoe", "Zo\u{eb}", "LAB\\zoe", "LAB+ZOE", "zoe@lab.test", "LAB\\Zoe@lab.test"] {
            assert_eq!(account(form.as_bytes()), "zoe", "{form}");
        }
        assert_eq!(account(b"@lab.test"), "@lab.test");
        assert_ne!(spelling(b"LAB\\zoe"), spelling(b"zoe"));
        assert_eq!(spelling(b"LAB\\ZOE"), spelling(b"lab\\zoe"));
    }
}
