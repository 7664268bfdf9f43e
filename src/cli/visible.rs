//! What strangers chose, on an administrator's terminal: letters and digits of every script, and nothing that moves or hides.

/// The text with everything else escaped.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ' '..='~' | '\t') || (!c.is_ascii() && c.is_alphanumeric()) { out.push(c) } else { out.extend(c.escape_unicode()) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_or_hides_is_escaped() {
        assert_eq!(visible("ann@ex.org \u{e9}\u{1b}[2J\u{202e}"), "ann@ex.org \u{e9}\\u{1b}[2J\\u{202e}");
    }
}
