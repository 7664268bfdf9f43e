//! Replies of a remote server (RFC 5321 §4.2), read from octets it chose.
//!
//! One reply is at most `REPLY` octets long; a longer one is an error and is never cut, because a
//! cut reply to EHLO could hide STARTTLS. Only the words for logs and reports are cut, in
//! `Reply::words`.
//!
//! Servers write odd lines, and one odd line does not void a reply:
//!
//! - An empty line is skipped.
//! - A line without a code inside a reply continues the text of the line before it.
//! - A tab may follow the code.
//! - The code of the last line counts. Where the lines disagree on the class, the reply means
//!   nothing: see `Meaning`.

use bytes::{Buf, BytesMut};

use crate::smtp::status::{Class, EnhancedStatus};

/// Octets in one reply with all its lines: hundreds of EHLO keywords, or lines far above the 512 of
/// RFC 5321 §4.5.3.1.5.
pub(crate) const REPLY: usize = 64 * 1024;
/// Octets of text in `words`, so that with the code, and some words about it, it is at most 2 KiB.
const WORDS: usize = 1900;
/// A text buffer that has grown beyond this shrinks at the next reply.
const SPARE: usize = 4096;

/// Reads replies one after the other; its text buffer is used again for each.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    begun: Begun,
    manners: Manners,
    /// Octets of this reply so far, empty lines included.
    octets: usize,
    /// The code of the first line.
    first: u16,
    /// The code of the last line.
    code: u16,
    classes: Classes,
    /// The lines' texts, joined by `\n`.
    text: String,
    /// Where the text of the first line with a code begins.
    start: usize,
}

/// How much of the next reply has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Begun {
    #[default]
    Nothing,
    /// Lines without a code, and none with one.
    WithoutCode,
    /// The reply goes on.
    WithCode,
}

/// Whether there was a line without a code in front of any reply so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Manners {
    #[default]
    Good,
    Odd,
}

/// Whether all lines of a reply have codes of the same class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Classes {
    #[default]
    Agree,
    Differ,
}

/// How many replies the server owes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    One,
    /// Commands were pipelined. A line without a code in front of a reply may then be the reply to
    /// an earlier command, and everything after it would be taken for the answer to the wrong
    /// command.
    Several,
}

/// One complete reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    code: u16,
    first: u16,
    classes: Classes,
    text: &'a str,
    start: usize,
}

/// What a reply means in a transaction, whatever it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// 2yz, except the codes that answer other commands: 21z, 22z and 23z.
    Yes,
    /// 3yz: the server waits for more.
    More,
    /// 4yz
    NotNow,
    /// 5yz
    Never,
    /// The server wants TLS or a login first: about the connection, never about the message.
    Channel,
    /// Lines that contradict each other, or the reply to another command.
    Nonsense,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Complete,
    NeedsMore,
}

/// The server does not speak SMTP, or too much of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplyError {
    #[error("the server sent what is no SMTP reply: {0}")]
    Malformed(String),
    #[error("the server's reply is longer than {REPLY} octets")]
    TooLong,
}

/// One line of a reply, without its end.
enum Line<'a> {
    Empty,
    Coded {
        code: u16,
        /// A hyphen after the code: more lines follow.
        last: bool,
        text: &'a [u8],
    },
    /// A code that no SMTP reply has, such as 150 or 650.
    Foreign,
    WithoutCode,
}

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Self {
        if line.trim_ascii().is_empty() {
            return Self::Empty;
        }
        let (Some((digits, rest)), true) = (line.split_at_checked(3), line.iter().take(3).all(u8::is_ascii_digit)) else {
            return Self::WithoutCode;
        };
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b'-', text)) => (false, text),
            Some((separator, text)) if separator.is_ascii_whitespace() => (true, text),
            Some(_) => return Self::WithoutCode,
        };
        match code_of(digits) {
            Some(code) => Self::Coded { code, last, text },
            None => Self::Foreign,
        }
    }
}

impl Replies {
    /// Takes the next reply off `input`; whether it is complete, or more octets are needed.
    pub(crate) fn take(&mut self, input: &mut BytesMut, owed: Owed) -> Result<Progress, ReplyError> {
        loop {
            let Some(end) = memchr::memchr(b'\n', input) else {
                let too_long = self.octets + input.len() > REPLY;
                return if too_long { Err(ReplyError::TooLong) } else { Ok(Progress::NeedsMore) };
            };
            self.octets += end + 1;
            if self.octets > REPLY {
                return Err(ReplyError::TooLong);
            }
            let progress = self.line(input.get(..end).unwrap_or_default(), owed)?;
            input.advance(end + 1);
            if progress == Progress::Complete {
                self.begun = Begun::Nothing;
                self.octets = 0;
                return Ok(Progress::Complete);
            }
        }
    }

    /// The reply that was last complete.
    pub(crate) fn current(&self) -> Reply<'_> {
        Reply { code: self.code, first: self.first, classes: self.classes, text: &self.text, start: self.start }
    }

    /// Whether lines arrived and none of them has a code. The server probably does not speak SMTP.
    pub(crate) fn is_odd(&self) -> bool {
        self.begun == Begun::WithoutCode
    }

    /// Whether this server writes lines without a code in front of its replies.
    pub(crate) fn have_been_odd(&self) -> bool {
        self.manners == Manners::Odd
    }

    /// The words of a reply that never became complete, if there are any.
    pub(crate) fn unfinished(&self) -> Option<String> {
        match self.begun {
            Begun::Nothing => None,
            Begun::WithoutCode => Some(one_line(&self.text)),
            Begun::WithCode => Some(format!("{}-{}", self.code, one_line(&self.text))),
        }
    }

    fn line(&mut self, line: &[u8], owed: Owed) -> Result<Progress, ReplyError> {
        let line = without_cr(line);
        match (Line::of(line), self.begun) {
            (Line::Empty, _) => {}
            (Line::Coded { code, last, text }, Begun::Nothing | Begun::WithoutCode) => {
                if self.begun == Begun::Nothing {
                    self.clear();
                } else {
                    self.text.push('\n');
                }
                (self.begun, self.first, self.code, self.classes) = (Begun::WithCode, code, code, Classes::Agree);
                self.start = self.text.len();
                self.keep(text);
                return Ok(if last { Progress::Complete } else { Progress::NeedsMore });
            }
            (Line::Coded { code, last, text }, Begun::WithCode) => {
                if code / 100 != self.first / 100 {
                    self.classes = Classes::Differ;
                }
                self.code = code;
                self.text.push('\n');
                self.keep(text);
                return Ok(if last { Progress::Complete } else { Progress::NeedsMore });
            }
            (Line::Foreign, Begun::Nothing | Begun::WithoutCode) => return Err(malformed(line)),
            (Line::WithoutCode, Begun::Nothing) if owed == Owed::Several => return Err(malformed(line)),
            (Line::WithoutCode, Begun::Nothing) => {
                self.clear();
                self.begun = Begun::WithoutCode;
                self.manners = Manners::Odd;
                self.keep(line);
            }
            (Line::WithoutCode, Begun::WithoutCode) | (Line::WithoutCode | Line::Foreign, Begun::WithCode) => {
                self.text.push(' ');
                self.keep(line);
            }
        }
        Ok(Progress::NeedsMore)
    }

    fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(SPARE);
        self.start = 0;
    }

    fn keep(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            self.text.extend(chunk.valid().chars().map(clean));
            if !chunk.invalid().is_empty() {
                self.text.push('?');
            }
        }
    }
}

/// Takes empty lines off the front. Some servers put one behind each reply.
pub(crate) fn skip_empty_lines(input: &mut BytesMut) {
    let empty = input.iter().take_while(|octet| matches!(octet, b'\r' | b'\n')).count();
    input.advance(empty);
}

fn without_cr(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_suffix(b"\r") {
        line = rest;
    }
    line
}

fn malformed(line: &[u8]) -> ReplyError {
    let text: String = String::from_utf8_lossy(line).chars().map(clean).collect();
    ReplyError::Malformed(one_line(&text))
}

/// A blank for a tab, and no control character nor one that hides, or changes the order of, the
/// text around it.
fn clean(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => '?',
        c if c.is_control() => '?',
        c => c,
    }
}

/// The text on one line, cut to what logs and reports take.
fn one_line(text: &str) -> String {
    let mut words = text.get(..text.floor_char_boundary(WORDS)).unwrap_or(text).replace('\n', " ");
    words.truncate(words.trim_end().len());
    words
}

/// Three digits, of which the first is 2 to 5 (RFC 5321 §4.2).
fn code_of(digits: &[u8]) -> Option<u16> {
    match digits {
        [first @ b'2'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9'] => {
            Some(u16::from(first - b'0') * 100 + u16::from(second - b'0') * 10 + u16::from(third - b'0'))
        }
        _ => None,
    }
}

impl<'a> Reply<'a> {
    #[cfg(test)]
    pub(crate) fn of(code: u16, text: &'a str) -> Self {
        Self { code, first: code, classes: Classes::Agree, text, start: 0 }
    }

    /// Whether it is this code, and no line says otherwise.
    pub(crate) fn is(&self, code: u16) -> bool {
        self.code == code && self.classes == Classes::Agree
    }

    /// The text of each line with a code.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &'a str> {
        self.text.get(self.start..).unwrap_or_default().split('\n')
    }

    pub(crate) fn meaning(&self) -> Meaning {
        match (self.classes, self.code) {
            (Classes::Differ, _) | (_, 210..=239) => Meaning::Nonsense,
            // RFC 4954 §6, RFC 3207 §4. `5.7.10` is "encryption needed", whatever the code.
            (_, 523 | 530 | 534 | 535 | 538) => Meaning::Channel,
            (_, 500..) if self.status() == EnhancedStatus::new(Class::Permanent, 7, 10) => Meaning::Channel,
            (_, ..300) => Meaning::Yes,
            (_, 300..400) => Meaning::More,
            (_, 400..500) => Meaning::NotNow,
            (_, 500..) => Meaning::Never,
        }
    }

    /// Whether it is about the connection when it comes before the first MAIL.
    pub(crate) fn is_about_the_opening(&self) -> bool {
        matches!(self.code, 454 | 504) || self.meaning() == Meaning::Channel
    }

    /// The enhanced status it carries, if it agrees with the code (RFC 2034 §4); else the code's
    /// class alone. The class is never success unless the code is 2yz and was due: see `Meaning`.
    pub(crate) fn status(&self) -> EnhancedStatus {
        let class = match (self.classes, Class::of_code(self.code)) {
            (Classes::Agree, Some(class)) => class,
            (Classes::Agree, None) | (Classes::Differ, _) => return EnhancedStatus::new(Class::Transient, 5, 0),
        };
        let fits = |line| EnhancedStatus::parse_prefix(line).map(|(status, _)| status).filter(|status| status.class == class);
        self.lines().find_map(fits).unwrap_or(EnhancedStatus::new(class, 0, 0))
    }

    /// Code and text on one line, for logs and reports.
    pub(crate) fn words(&self) -> String {
        let text = one_line(self.text);
        let mut words = match self.classes {
            Classes::Agree => format!("{} {text}", self.code),
            Classes::Differ => format!("{}-/{} {text}", self.first, self.code),
        };
        words.truncate(words.trim_end().len());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_owing(input: &[u8], owed: Owed) -> Result<Option<(u16, String)>, ReplyError> {
        let mut replies = Replies::default();
        let mut input = BytesMut::from(input);
        Ok(match replies.take(&mut input, owed)? {
            Progress::Complete => Some((replies.current().code, replies.current().text.to_owned())),
            Progress::NeedsMore => None,
        })
    }

    fn read(input: &[u8]) -> Result<Option<(u16, String)>, ReplyError> {
        read_owing(input, Owed::One)
    }

    /// Meaning, status and words of a whole reply.
    fn understood(input: &str) -> (Meaning, String, String) {
        let mut replies = Replies::default();
        let mut input = BytesMut::from(input.as_bytes());
        assert_eq!(replies.take(&mut input, Owed::One), Ok(Progress::Complete), "{input:?}");
        assert!(input.is_empty());
        let reply = replies.current();
        (reply.meaning(), reply.status().to_string(), reply.words())
    }

    #[test]
    fn reads_one_line_and_several() {
        assert_eq!(read(b"250 ok\r\n"), Ok(Some((250, "ok".into()))));
        assert_eq!(read(b"250\r\n"), Ok(Some((250, "".into()))));
        assert_eq!(read(b"250-a\r\n250-b\r\n250 c\r\n"), Ok(Some((250, "a\nb\nc".into()))));
        assert_eq!(read(b"250-a\r\n250"), Ok(None));
    }

    #[test]
    fn reads_replies_that_came_together_one_by_one_and_in_pieces() {
        let mut replies = Replies::default();
        let mut input = BytesMut::from(&b"250 a\r\n354-b\r\n"[..]);

        assert_eq!(replies.take(&mut input, Owed::Several), Ok(Progress::Complete));
        assert_eq!(replies.current(), Reply::of(250, "a"));
        assert_eq!(replies.take(&mut input, Owed::Several), Ok(Progress::NeedsMore));
        input.extend_from_slice(b"354 c\r\n");
        assert_eq!(replies.take(&mut input, Owed::Several), Ok(Progress::Complete));
        assert_eq!(replies.current(), Reply::of(354, "b\nc"));
        assert!(input.is_empty());
    }

    #[test]
    fn one_odd_line_does_not_void_a_reply() {
        for input in [
            "550-5.1.1 no such user\r\n550 ask ann\r\n",
            "550-5.1.1 no such user\n550 ask ann\n",
            "550-5.1.1 no such user\r\r\n550 ask ann\r\r\n",
            "550-5.1.1 no such user\r\n554 ask ann\r\n",
            "550-5.1.1 no such user\r\n\r\n550 ask ann\r\n",
            "\r\n \r\n550-5.1.1 no such user\r\n550 ask ann\r\n",
            "550-5.1.1 no such user\r\nask ann\r\n550\r\n",
            "550-5.1.1 no such user\r\n550-ask ann\r\n550 \r\n",
            "550-5.1.1 no such user\r\nask\r\nann\r\n550\t\r\n",
            "550\t5.1.1 no such user ask ann\r\n",
            "550-5.1.1 no such user\r\n550\task ann\r\n",
            "550-look:\r\n550 5.1.1 no such user ask ann\r\n",
        ] {
            let (meaning, status, words) = understood(input);

            assert_eq!((meaning, status.as_str()), (Meaning::Never, "5.1.1"), "{input:?}");
            assert!(words.ends_with("5.1.1 no such user ask ann"), "{input:?} {words}");
            assert_eq!(&words[..4], if input.contains("554") { "554 " } else { "550 " });
        }
        assert_eq!(understood("Sorry,\r\n550 5.1.1 no\r\n"), (Meaning::Never, "5.1.1".into(), "550 Sorry, 5.1.1 no".into()));
        assert_eq!(understood("550-at\r\n100 Main Street\r\n550 end\r\n").2, "550 at 100 Main Street end");
        assert_eq!(understood("550\r\n"), (Meaning::Never, "5.0.0".into(), "550".into()));
    }

    #[test]
    fn lines_that_contradict_each_other_mean_nothing_and_never_success_or_failure() {
        for input in ["550-no\r\n250 yes\r\n", "250-yes\r\n550 no\r\n", "250-2.0.0 a\r\n354 b\r\n", "450-a\r\n550-5.1.1 b\r\n450 c\r\n"] {
            let (meaning, status, _) = understood(input);

            assert_eq!((meaning, status.as_str()), (Meaning::Nonsense, "4.5.0"), "{input:?}");
        }
        assert_eq!(understood("550-no\r\n250 yes\r\n").2, "550-/250 no yes");
    }

    #[test]
    fn what_asks_for_tls_or_a_login_is_about_the_connection() {
        for reply in ["530 Must issue STARTTLS", "530-x\r\n530 x", "523 x", "534 5.7.9 x", "535 5.7.8 x", "538 x", "550 5.7.10 encrypt"] {
            assert_eq!(understood(&format!("{reply}\r\n")).0, Meaning::Channel, "{reply}");
        }
        for code in [454, 504] {
            assert!(Reply::of(code, "").is_about_the_opening());
            assert_ne!(Reply::of(code, "").meaning(), Meaning::Channel);
        }
    }

    #[test]
    fn a_line_without_a_code_may_be_the_answer_to_an_earlier_command_when_several_are_owed() {
        assert!(matches!(read_owing(b"what?\r\n250 ok\r\n", Owed::Several), Err(ReplyError::Malformed(words)) if words == "what?"));
        assert_eq!(read_owing(b"\r\n250 ok\r\n", Owed::Several), Ok(Some((250, "ok".into()))));
        assert_eq!(read_owing(b"250-a\r\nwhat?\r\n250 ok\r\n", Owed::Several), Ok(Some((250, "a what?\nok".into()))));
    }

    #[test]
    fn refuses_what_is_no_reply() {
        for input in [&b"150 x\r\n"[..], b"150-x\r\n", b"650 x\r\n", b"000 x\r\n", b"999 x\r\n", b"hi\r\n650 x\r\n"] {
            assert!(matches!(read(input), Err(ReplyError::Malformed(_))), "{input:?}");
        }
        for input in [&b"25\r\n"[..], b"hello there\r\n", b"250_ok\r\n", b"2500 ok\r\n", b"HTTP/1.1\n", b" 250 ok\r\n", b"\0\0\0\r\n"] {
            assert_eq!(read(input), Ok(None), "{input:?}");
        }
    }

    #[test]
    fn an_endless_reply_ends_here() {
        for line in ["250-x\r\n", "\r\n", "x\r\n", "250-", "x"] {
            assert_eq!(read(line.repeat(REPLY + 1).as_bytes()), Err(ReplyError::TooLong), "{line:?}");
        }
    }

    #[test]
    fn a_reply_within_its_bound_is_kept_whole_and_only_its_words_are_cut() {
        let mut input = b"550-".to_vec();
        input.extend_from_slice(&[b'x'; 50_000]);
        input.extend_from_slice(b"\r\n550-\x1b[2J\x00 \xff\xfe z\xc3\xa4\xe2\x80\xae\r\n550 ");
        input.extend_from_slice(&[b'y'; 10_000]);
        input.extend_from_slice(b"\r\n");

        let (_, text) = read(&input).unwrap().unwrap();

        let middle = "\n?[2J? ?? zä?\n";
        assert!(text.contains(middle), "{}", &text[49_990..50_030]);
        assert_eq!(text.len(), 60_000 + middle.len());
        assert!(Reply::of(550, &text).words().len() <= WORDS + 4);
        assert!(Reply::of(550, &"ä".repeat(3000)).words().len() <= WORDS + 4);
    }

    #[test]
    fn takes_an_enhanced_status_only_if_it_agrees_with_the_code() {
        assert_eq!(Reply::of(550, "5.1.1 no such user\nx").status().to_string(), "5.1.1");
        assert_eq!(Reply::of(450, "5.1.1 no such user").status().to_string(), "4.0.0");
        assert_eq!(Reply::of(550, "2.1.0 odd").status().to_string(), "5.0.0");
        assert_eq!(Reply::of(550, "no such user").status().to_string(), "5.0.0");
        assert_eq!(Reply::of(354, "2.0.0 go").status().to_string(), "4.5.0");
        assert_eq!(Reply::of(550, "5.1.1 no\nsuch").words(), "550 5.1.1 no such");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_keeps_more_than_it_may(input: Vec<u8>) {
            let mut replies = Replies::default();
            let mut input = BytesMut::from(&input[..]);
            while replies.take(&mut input, Owed::One) == Ok(Progress::Complete) {
                let reply = replies.current();
                prop_assert!(reply.text.len() <= REPLY && !reply.text.contains('\r'));
                prop_assert!(reply.words().len() <= WORDS + 9);
            }
        }

        #[test]
        fn lines_of_one_class_are_one_verdict_whatever_stands_between_them(
            codes in proptest::collection::vec(500_u16..600, 1..5),
            between in "(|\r\n|call us\r\n|123 Main Street\r\n|55\r\n)",
        ) {
            let (last, before) = codes.split_last().unwrap();
            let mut input: String = before.iter().map(|code| format!("{code}-x\r\n{between}")).collect();
            input.push_str(&format!("{last} y\r\n"));

            let (meaning, status, _) = understood(&input);

            prop_assert!(matches!(meaning, Meaning::Never | Meaning::Channel));
            prop_assert!(status.starts_with("5."));
        }
    }
}
