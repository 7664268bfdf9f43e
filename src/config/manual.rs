//! The manual page pamrelay.yaml(5) and the example file, written from the table of options.
//!
//! Nobody edits them by hand: a test writes both again and compares.

use std::fmt::Write;

use super::options::{Fallback, ROWS, Row, Wants, rows_of};
use super::section::wanted;

const WIDTH: usize = 100;

/// packaging/pamrelay.yaml: what must be written stands there, what has a default is shown in a comment.
/// Prose is `# ` and a word; a key is `#` and the line as it would be, so that it holds when the `#` goes.
pub fn example() -> String {
    let mut out = String::from(
        "# The configuration of pamrelay. Keys behind a # show their defaults, or an example where there is none;\n\
         # take the # away to set one, and leave the line's indentation. pamrelay.yaml(5) explains them all.\n\
         # `pamrelay check` says what is wrong; `pamrelay reload` makes a change hold.\n",
    );
    for row in rows_of("") {
        out.push('\n');
        comment(&mut out, row.about);
        match &row.wants {
            // An empty section is taken, so that one only has to uncomment the key within it.
            Wants::Section => {
                let _ = writeln!(out, "{}:", row.name());
                for inner in rows_of(row.key) {
                    comment(&mut out, inner.about);
                    let _ = writeln!(out, "#  {}", line(inner));
                }
            }
            Wants::Sections(text) => {
                for inner in ROWS.iter().filter(|inner| inner.key.starts_with(&format!("{}[]", row.key))) {
                    let name = inner.key.trim_start_matches(row.key).trim_start_matches("[].").replace("[]", "");
                    out.push_str("#\n");
                    comment(&mut out, &format!("{name}{}: {}", fallback_note(inner), inner.about));
                }
                let sign = if matches!(row.fallback, Fallback::Required(_)) { "" } else { "#" };
                let _ = writeln!(out, "{sign}{}:", row.name());
                for text in text.lines() {
                    let _ = writeln!(out, "{sign}{text}");
                }
            }
            Wants::Duration { .. }
            | Wants::Size { .. }
            | Wants::Count { .. }
            | Wants::Word(_)
            | Wants::Domain
            | Wants::Mailbox
            | Wants::Host
            | Wants::Socket
            | Wants::Path
            | Wants::File
            | Wants::Service
            | Wants::Login
            | Wants::Patterns
            | Wants::Groups
            | Wants::Account
            | Wants::Label
            | Wants::NameRules
            | Wants::Sockets => {
                let _ = writeln!(out, "#{}", line(row));
            }
        }
    }
    out
}

/// ` (default 25)` or nothing.
fn fallback_note(row: &Row) -> String {
    match row.fallback {
        Fallback::Value(text) => format!(" (default {text})"),
        Fallback::Otherwise { words, .. } => format!(" (without it: {words})"),
        Fallback::Required(_) => String::new(),
    }
}

fn line(row: &Row) -> String {
    match row.fallback {
        Fallback::Value(text) | Fallback::Required(text) => format!("{}: {text}", row.name()),
        Fallback::Otherwise { words, example } => format!("{}: {example}    # without it: {}", row.name(), words.replace('`', "")),
    }
}

fn comment(out: &mut String, about: &str) {
    let mut column = 0;
    for word in about.replace('`', "").split_whitespace() {
        if column == 0 || column + 1 + word.len() > WIDTH {
            if column > 0 {
                out.push('\n');
            }
            let _ = write!(out, "# {word}");
            column = 2 + word.len();
        } else {
            let _ = write!(out, " {word}");
            column += 1 + word.len();
        }
    }
    out.push('\n');
}

/// packaging/man/pamrelay.yaml.5 in the man macros of groff.
pub fn page() -> String {
    let mut out = String::from(
        ".TH PAMRELAY.YAML 5 \"\" pamrelay \"File formats\"\n\
         .SH NAME\n\
         pamrelay.yaml \\- configuration of the submission relay pamrelay\n\
         .SH DESCRIPTION\n\
         .I /etc/pamrelay/pamrelay.yaml\n\
         is YAML without anchors, aliases and tags, at most 1 MiB, writable by its owner alone.\n\
         It holds no secret. Unknown and repeated keys are refused; all mistakes are reported at once, with line and column.\n\
         .PP\n\
         The relay works from an accepted copy:\n\
         .B pamrelay reload\n\
         checks the file and, if all is well, makes it hold.\n\
         .B pamrelay check\n\
         checks it together with what it names: certificates, PAM service, users, spool.\n\
         .PP\n\
         Durations are numbers with a unit (ms, s, m, h, d, w) such as 90s or 1h30m. Sizes are octets, or have a unit (KiB, MiB, GiB, kB, MB, GB).\n\
         .SH KEYS\n",
    );
    for row in ROWS {
        let _ = writeln!(out, ".TP\n.B {}", escaped(row.key));
        for (i, paragraph) in row.about.split("\n\n").enumerate() {
            if i > 0 {
                out.push_str(".IP\n");
            }
            let _ = writeln!(out, "{}", prose(paragraph));
        }
        if !matches!(row.wants, Wants::Section) {
            let _ = writeln!(out, ".IP\nWanted: {}.", escaped(&wanted(row)));
            let _ = match row.fallback {
                Fallback::Value(text) => writeln!(out, "Default: {}.", escaped(text)),
                Fallback::Required(_) => writeln!(out, "It must be there."),
                Fallback::Otherwise { words, .. } => writeln!(out, "Without it: {}.", escaped(words)),
            };
        }
    }
    out.push_str(".SH EXAMPLE\n.nf\n");
    for row in ROWS.iter().filter(|row| matches!(row.wants, Wants::Sections(text) if !text.is_empty())) {
        if let Wants::Sections(text) = row.wants {
            let _ = writeln!(out, "{}:\n{}", row.name(), escaped(text.trim_end()));
        }
    }
    out.push_str(
        ".fi\n\
         .SH FILES\n\
         .TP\n.I /etc/pamrelay/pamrelay.yaml\nThe configuration.\n\
         .TP\n.I /run/pamrelay/active/pamrelay.yaml\nThe accepted copy that the relay works from.\n\
         .SH SEE ALSO\n\
         .BR pamrelay (8),\n.BR pamrelay\\-auth (8),\n.BR pam.d (5)\n",
    );
    out
}

/// Code between back quotes becomes bold.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in escaped(&text.split_whitespace().collect::<Vec<_>>().join(" ")).split('`').enumerate() {
        if i > 0 {
            out.push_str(if i % 2 == 1 { "\\fB" } else { "\\fR" });
        }
        out.push_str(part);
    }
    out
}

/// No text of ours becomes a request of groff.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('§', "\\(sc");
    text.lines().map(|line| if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() }).collect::<Vec<_>>().join("\n")
}
