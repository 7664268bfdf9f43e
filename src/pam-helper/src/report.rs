//! What a worker tells the listener: the verdict, and what the modules said, for the log.
//!
//! ```text
//! 0 verdict length  2 verdict (without a ticket)  … service length  … service, text (at most 600 bytes)
//! ```
//!
//! Invariant: only one complete report, with the id of the worker's own question, is an answer. An exit
//! status is not, nor is a part, nor anything a module wrote.

use pamrelay_authwire::{MAX_TEXT, MAX_VERDICT, Outcome, Verdict};

use crate::pam::TEXT_LIMIT;

/// The longest report; a longer datagram is none.
pub(crate) const MAX_REPORT: usize = 2 + MAX_VERDICT + 1 + 255 + MAX_TEXT;

/// So many octets of a password's beginning are too many for the log.
const TELLING: usize = 3;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// The PAM service that was asked; empty if none was.
    pub(crate) service: String,
    pub(crate) text: String,
}

impl Report {
    /// Makes one from raw module text. A text in which the password occurs, or may have before its end was
    /// cut off, is withheld.
    pub(crate) fn new(outcome: Outcome, service: &str, said: &[u8], password: &[u8]) -> Self {
        let reveals = !password.is_empty() && said.windows(password.len()).any(|part| part == password);
        let begins = |at: usize| said.get(at..).is_some_and(|end| end.len() >= TELLING && password.starts_with(end));
        let reveals = reveals || said.len() >= TEXT_LIMIT && (said.len().saturating_sub(password.len())..said.len()).any(begins);
        let text = if reveals { "(withheld: it contains the password)".to_owned() } else { clean(said) };
        Self { outcome, service: service.to_owned(), text }
    }

    pub(crate) fn encode(self, id: u64) -> Option<Vec<u8>> {
        let verdict = Verdict { id, outcome: self.outcome }.encode()?;
        let mut out = u16::try_from(verdict.len()).ok()?.to_le_bytes().to_vec();
        out.extend_from_slice(&verdict);
        out.push(u8::try_from(self.service.len()).ok()?);
        out.extend_from_slice(self.service.as_bytes());
        out.extend_from_slice(self.text.as_bytes());
        Some(out)
    }

    pub(crate) fn decode(bytes: &[u8], id: u64) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (verdict, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (length, rest) = rest.split_first()?;
        let (service, text) = rest.split_at_checked(usize::from(*length))?;
        let service = std::str::from_utf8(service).ok()?.to_owned();
        let verdict = Verdict::decode(verdict).filter(|verdict| verdict.id == id)?;
        let text = String::from_utf8(text.to_vec()).ok().filter(|text| text.len() <= MAX_TEXT)?;
        Some(Self { outcome: verdict.outcome, service, text })
    }
}

/// Control characters become blanks, broken UTF-8 a mark, and the end is cut off.
fn clean(said: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(said).trim().chars() {
        let character = if character.is_control() { ' ' } else { character };
        if text.len() + character.len_utf8() > MAX_TEXT {
            break;
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use pamrelay_authwire::{Cause, Phase, Reason};

    use super::*;

    fn refused() -> Outcome {
        Outcome::Reject(Cause { phase: Phase::Auth, code: 7, reason: Reason::Refused })
    }

    #[test]
    fn comes_back_as_it_was_but_only_for_its_own_question() {
        let bytes = Report::new(refused(), "smtp", b"Account locked", b"x y").encode(9).unwrap();

        assert_eq!(Report::decode(&bytes, 9), Some(Report { outcome: refused(), service: "smtp".into(), text: "Account locked".into() }));
        assert_eq!(Report::decode(&bytes, 8), None);
        assert!((0..bytes.len() - "Account locked".len()).all(|cut| Report::decode(&bytes[..cut], 9).is_none()));
    }

    #[test]
    fn module_text_is_cleaned_and_cut() {
        let report = Report::new(refused(), "smtp", &[b"a\r\nb\x1b\xff".as_slice(), &[b'z'; 5000]].concat(), b"secret");

        assert!(report.text.starts_with("a  b \u{fffd}zzz"));
        assert!(report.text.len() <= MAX_TEXT);
        assert!(report.encode(1).unwrap().len() <= MAX_REPORT);
    }

    #[test]
    fn a_module_that_repeats_the_password_is_not_quoted() {
        assert!(!Report::new(refused(), "smtp", b"you said hunter2!", b"hunter2").text.contains("hunter2"));
    }

    #[test]
    fn a_text_cut_within_the_password_is_not_quoted_either() {
        for shown in 3..7 {
            let said = [vec![b'x'; TEXT_LIMIT - shown], b"hunter2"[..shown].to_vec()].concat();

            assert!(!Report::new(refused(), "smtp", &said, b"hunter2").text.contains("hun"), "{shown}");
        }
        assert_eq!(Report::new(refused(), "smtp", b"you may hun", b"hunter2").text, "you may hun", "nothing was cut here");
    }
}
