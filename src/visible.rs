//! Text from anywhere, made safe to look at: on a terminal, in a line of the log, in JSON.
//!
//! Invariant: what comes out has no character that moves the cursor, changes the direction of text or cannot be seen. JSON keeps its meaning.

/// Letters without a shape: Hangul fillers.
const FILLERS: [char; 4] = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'];

/// Letters and digits of every script, and nothing that moves, hides or reverses.
pub(crate) fn is_letter(c: char) -> bool {
    c.is_alphanumeric() && !FILLERS.contains(&c)
}

/// The text on one line, with everything else escaped as `\u{202e}`.
pub(crate) fn visible(text: &str) -> String {
    escaped(text, |c| matches!(c, '\t' | ' '..='~') || (!c.is_ascii() && is_letter(c)), |c, out| out.extend(c.escape_unicode()))
}

/// The same for text of several lines, which stay lines.
pub(crate) fn visible_lines(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t' | ' '..='~') || (!c.is_ascii() && is_letter(c)), |c, out| out.extend(c.escape_unicode()))
}

/// JSON whose strings have no character that cannot be seen: such a character becomes `\uXXXX`, or two of them (RFC 8259 §7). A parser reads the
/// same values as before, because outside of its strings JSON is plain ASCII.
pub(crate) fn visible_json(json: &str) -> String {
    escaped(
        json,
        |c| matches!(c, '\n' | ' '..='~') || (!c.is_ascii() && is_printable(c)),
        |c, out| {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        },
    )
}

/// No control, format, private, unassigned or separating character, and no mark that needs another character: what `Debug` shows as itself.
fn is_printable(c: char) -> bool {
    c.escape_debug().eq([c]) && !FILLERS.contains(&c) && c != '\u{2800}'
}

fn escaped(text: &str, stays: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if stays(c) { out.push(c) } else { escape(c, &mut out) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One of each kind: C0, DEL, C1, directions, joiners, separators, tags, private, unassigned, fillers, marks, blanks.
    const UNSEEN: &str = "\u{0}\u{1b}\r\u{7f}\u{80}\u{9b}\u{a0}\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{2029}\u{202e}\u{2066}\u{2069}\u{2800}\u{3164}\u{e000}\u{feff}\u{fff9}\u{ffff}\u{e0041}\u{f0000}\u{10ffff}\u{378}\u{301}\u{fe0f}";

    #[test]
    fn what_moves_or_hides_is_escaped() {
        assert_eq!(visible("ann@ex.org \u{e9}\u{1b}[2J\u{202e}\n"), "ann@ex.org \u{e9}\\u{1b}[2J\\u{202e}\\u{a}");
        assert_eq!(visible_lines("a\n\u{9b}b\n"), "a\n\\u{9b}b\n");
        assert!(visible(UNSEEN).is_ascii(), "{}", visible(UNSEEN));
    }

    #[test]
    fn json_escapes_every_character_that_cannot_be_seen_and_keeps_the_rest() {
        let json = serde_json::to_string(&UNSEEN).unwrap();

        let shown = visible_json(&json);

        assert!(shown.is_ascii() && !shown.contains(|c: char| c.is_control()), "{shown}");
        assert!(shown.contains("\\u007f") && shown.contains("\\u202e") && shown.contains("\\udb40\\udc41"), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), UNSEEN);
        assert_eq!(
            visible_json("\"J\u{fc}rgen \u{20ac} \u{201e}x\u{201c} \u{1f4e7}\""),
            "\"J\u{fc}rgen \u{20ac} \u{201e}x\u{201c} \u{1f4e7}\""
        );
    }

    proptest! {
        #[test]
        fn a_parser_reads_the_same_values(text in ".*", more in "\\PC*|\\p{Cf}*|\\p{Co}*") {
            let value = serde_json::json!({ "text": text, "more": [more] });

            let shown = visible_json(&serde_json::to_string_pretty(&value).unwrap());

            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }
}
