//! Reports as a mail program reads them: by hand, and by Python's `email` package where python3 is there.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::delivery::samples;
use crate::message::seven_bit::encode::tests::from_quoted_printable;
use crate::smtp::envelope::{NotifyOn, OriginalRecipient};
use crate::smtp::status::{Class, EnhancedStatus};

const TEXT: &[u8] = b"From: me\r\nSubject: x\r\nMessage-ID: <1@a.example>\r\n\r\nhello\r\n--=_x\r\nbye\r\n";

fn at(text: &str) -> Zoned {
    text.parse().unwrap()
}

fn account(class: Class, subject: u16, detail: u16, diagnostic: &str) -> Account {
    Account {
        status: EnhancedStatus::new(class, subject, detail),
        remote: Some("relay.example.net[192.0.2.1]:587".to_owned()),
        diagnostic: diagnostic.to_owned(),
        origin: Origin::Remote,
        passed_on: PassedOn::WithoutDsn,
    }
}

fn refused() -> Account {
    account(Class::Permanent, 1, 1, "550 5.1.1 no such user here")
}

/// An original, and reports on it.
struct Desk {
    id: QueueId,
    sender: ReversePath,
    postmaster: Option<Mailbox>,
    envid: Option<EnvelopeId>,
    ret: Option<Ret>,
    international: International,
    text: Vec<u8>,
    size: Option<u64>,
}

impl Desk {
    fn new(sender: &str) -> Self {
        Self {
            id: QueueId::named("0000000000007").expect("a number"),
            sender: samples::job(sender, &["x@b.example"]).sender,
            postmaster: None,
            envid: None,
            ret: None,
            international: International::Ascii,
            text: TEXT.to_vec(),
            size: None,
        }
    }

    fn report(&self, kind: Kind<'_>, recipients: &[(Recipient, Account)]) -> Option<Report> {
        let told: Vec<Told<'_>> = recipients.iter().map(|(recipient, account)| Told { recipient, kind, account }).collect();
        self.report_on(&told)
    }

    fn report_on(&self, told: &[Told<'_>]) -> Option<Report> {
        let arrived = at("2026-11-20T11:00:00+01:00[+01:00]");
        let original = Original {
            id: &self.id,
            sender: &self.sender,
            postmaster: self.postmaster.as_ref(),
            envid: self.envid.as_ref(),
            ret: self.ret,
            international: self.international,
            arrived: &arrived,
            size: self.size.unwrap_or(self.text.len() as u64),
            text: &self.text,
        };
        report(&original, told, &at("2026-11-20T12:00:00+01:00[+01:00]"), "mail.example")
    }

    /// The report as text; the content must be UTF-8.
    fn text(&self, kind: Kind<'_>, recipients: &[(Recipient, Account)]) -> String {
        String::from_utf8(self.report(kind, recipients).unwrap().content).unwrap()
    }
}

fn to(address: &str, notify: Notify) -> Recipient {
    Recipient { notify, ..samples::recipient(address) }
}

fn on(success: bool, failure: bool, delay: bool) -> Notify {
    Notify::On(NotifyOn { success, failure, delay })
}

/// Header and body of each part, split by hand.
fn parts(text: &str) -> Vec<(&str, &str)> {
    let boundary = text.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let mut pieces: Vec<&str> = text.split(delimiter.as_str()).skip(1).collect();
    assert_eq!(pieces.pop(), Some("--\r\n"));
    pieces.iter().map(|piece| piece.trim_start_matches("\r\n").split_once("\r\n\r\n").unwrap()).collect()
}

#[test]
fn a_failure_tells_programs_everything_they_need() {
    let mut desk = Desk::new("me@a.example");
    desk.envid = EnvelopeId::new("my+id 1");
    let mut recipient = to("x@b.example", Notify::Unspecified);
    recipient.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "list@b.example".into() });

    let text = desk.text(Kind::Failure, &[(recipient, refused())]);

    let parts = parts(&text);
    assert_eq!(
        parts[1].1,
        "Original-Envelope-Id: my+id 1\r\n\
         Reporting-MTA: dns; mail.example\r\n\
         X-Pamrelay-Queue-ID: 0000000000007\r\n\
         Arrival-Date: Fri, 20 Nov 2026 11:00:00 +0100\r\n\
         \r\n\
         Original-Recipient: rfc822;list@b.example\r\n\
         Final-Recipient: rfc822; x@b.example\r\n\
         Action: failed\r\n\
         Status: 5.1.1\r\n\
         Remote-MTA: dns; relay.example.net\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user here\r\n\
         Last-Attempt-Date: Fri, 20 Nov 2026 12:00:00 +0100\r\n"
    );
    assert_eq!(parts[2].1.as_bytes(), TEXT);
    assert!(parts[2].0.contains("message/rfc822"));
}

#[test]
fn a_report_is_from_nobody_to_the_sender_and_wants_no_answer() {
    let report = Desk::new("me@a.example").report(Kind::Failure, &[(to("x@b.example", Notify::Unspecified), refused())]).unwrap();
    let text = String::from_utf8(report.content).unwrap();

    assert!(report.envelope.sender.is_null());
    assert_eq!(report.envelope.first.mailbox.to_string(), "me@a.example");
    assert_eq!((report.envelope.first.notify, report.envelope.body), (Notify::Never, BodyType::SevenBit));
    for line in [
        "From: Mail Delivery System <MAILER-DAEMON@mail.example>",
        "To: <me@a.example>",
        "Auto-Submitted: auto-replied",
        "In-Reply-To: <1@a.example>",
        "Date: Fri, 20 Nov 2026 12:00:00 +0100",
        "Content-Transfer-Encoding: 7bit",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "{line}");
    }
}

#[test]
fn the_person_is_told_what_happened_and_what_to_do() {
    let text = Desk::new("me@a.example").text(Kind::Failure, &[(to("x@b.example", Notify::Unspecified), refused())]);

    let words = parts(&text)[0].1.replace("\r\n", " ").replace("    ", "");
    assert!(words.contains("<x@b.example> failed: relay.example.net[192.0.2.1]:587 said: 550 5.1.1 no such user here"), "{words}");
    assert!(words.contains("Please check its spelling"), "{words}");
    assert!(words.contains("the number 0000000000007"), "{words}");
}

#[test]
fn the_null_sender_is_never_answered() {
    assert_eq!(Desk::new("").report(Kind::Failure, &[(to("x@b.example", Notify::Unspecified), refused())]), None);
}

#[test]
fn notify_decides_who_is_told_of() {
    let until = at("2026-11-25T11:00:00+01:00[+01:00]");
    let desk = Desk::new("me@a.example");
    let cases = [
        (Notify::Unspecified, [true, true, false]),
        (Notify::Never, [false, false, false]),
        (on(true, false, false), [false, false, true]),
        (on(false, true, false), [true, false, false]),
        (on(false, false, true), [false, true, false]),
    ];
    for (notify, wanted) in cases {
        let kinds = [Kind::Failure, Kind::Delay { until: &until }, Kind::Success];
        let told = kinds.map(|kind| desk.report(kind, &[(to("x@b.example", notify), refused())]).is_some());
        assert_eq!(told, wanted, "{notify:?}");
    }

    let both = [(to("x@b.example", Notify::Never), refused()), (to("y@b.example", Notify::Unspecified), refused())];
    let text = desk.text(Kind::Failure, &both);
    assert!(text.contains("y@b.example") && !text.contains("x@b.example"));
}

#[test]
fn recipients_that_fared_differently_are_told_of_in_one_report_failures_first() {
    let until = at("2026-11-25T11:00:00+01:00[+01:00]");
    let desk = Desk::new("me@a.example");
    let (fine, late, lost) =
        (to("fine@b.example", on(true, true, true)), to("late@b.example", Notify::Unspecified), to("lost@b.example", Notify::Unspecified));
    let accounts = [account(Class::Success, 0, 0, "250 ok"), account(Class::Transient, 4, 1, "no answer"), refused()];
    let told = [
        Told { kind: Kind::Success, recipient: &fine, account: &accounts[0] },
        Told { kind: Kind::Delay { until: &until }, recipient: &late, account: &accounts[1] },
        Told { kind: Kind::Failure, recipient: &lost, account: &accounts[2] },
    ];

    let report = desk.report_on(&told).unwrap();

    let text = String::from_utf8(report.content).unwrap();
    assert!(text.contains("\r\nSubject: Your message could not be delivered\r\n"));
    let parts = parts(&text);
    let places = ["<lost@b.example>", "<late@b.example>", "<fine@b.example>"].map(|name| parts[0].1.find(name).unwrap());
    assert!(places.is_sorted(), "{}", parts[0].1);
    let actions: Vec<_> = parts[1].1.lines().filter_map(|line| line.strip_prefix("Action: ")).collect();
    assert_eq!(actions, ["failed", "delayed", "relayed"]);
    assert!(parts[2].0.contains("message/rfc822"));
}

#[test]
fn success_is_reported_only_where_the_next_server_will_not() {
    let desk = Desk::new("me@a.example");
    let relayed = account(Class::Success, 0, 0, "250 ok");
    let passed = Account { passed_on: PassedOn::WithDsn, ..relayed.clone() };
    let local = Account { origin: Origin::Local, remote: Some("/var/mail/archive".into()), ..relayed.clone() };
    let recipient = to("x@b.example", on(true, false, false));

    assert!(desk.text(Kind::Success, &[(recipient.clone(), relayed)]).contains("\r\nAction: relayed\r\n"));
    assert!(desk.text(Kind::Success, &[(recipient.clone(), local)]).contains("\r\nAction: delivered\r\n"));
    assert_eq!(desk.report(Kind::Success, &[(recipient, passed)]), None);
}

#[test]
fn no_failure_and_no_delay_has_the_status_of_a_success() {
    let until = at("2026-11-25T11:00:00+01:00[+01:00]");
    for (kind, status) in [(Kind::Failure, "5.0.0"), (Kind::Delay { until: &until }, "4.0.0")] {
        let odd = account(Class::Success, 0, 0, "250 2.0.0 ok, in reply to DATA");

        let text = Desk::new("me@a.example").text(kind, &[(to("x@b.example", Notify::Unspecified), odd)]);

        assert!(text.contains(&format!("\r\nStatus: {status}\r\n")), "{text}");
    }
}

#[test]
fn a_delay_says_until_when_and_gives_only_the_header_back() {
    let until = at("2026-11-25T11:00:00+01:00[+01:00]");
    let slow = account(Class::Transient, 4, 1, "no answer");

    let text = Desk::new("me@a.example").text(Kind::Delay { until: &until }, &[(to("x@b.example", Notify::Unspecified), slow)]);

    assert!(text.contains("\r\nAction: delayed\r\n") && text.contains("\r\nWill-Retry-Until: Wed, 25 Nov 2026 11:00:00 +0100\r\n"));
    let parts = parts(&text);
    assert!(parts[2].0.contains("text/rfc822-headers"));
    assert_eq!(parts[2].1, "From: me\r\nSubject: x\r\nMessage-ID: <1@a.example>\r\n");
}

#[test]
fn gives_back_the_whole_message_only_if_it_is_small_and_wanted() {
    let recipients = [(to("x@b.example", Notify::Unspecified), refused())];
    let mut headers = Desk::new("me@a.example");
    headers.ret = Some(Ret::Headers);
    let mut large = Desk::new("me@a.example");
    large.ret = Some(Ret::Full);
    large.size = Some(FULL_LIMIT + 1);
    let mut full = Desk::new("me@a.example");
    full.ret = Some(Ret::Full);

    assert!(headers.text(Kind::Failure, &recipients).contains("text/rfc822-headers"));
    assert!(large.text(Kind::Failure, &recipients).contains("text/rfc822-headers"));
    assert!(full.text(Kind::Failure, &recipients).contains("message/rfc822"));
}

#[test]
fn nothing_a_server_says_becomes_a_field_or_a_part() {
    let hostile = Account {
        remote: Some("evil\r\nX-Evil: 1[192.0.2.1]:25".into()),
        ..account(Class::Permanent, 0, 0, &format!("550 x\r\nAction: delivered\r\n\r\n--=_x\r\n\u{1b}[2J {}", "y".repeat(1990)))
    };
    let mut recipient = to("x@b.example", Notify::Unspecified);
    recipient.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "a\r\nX-Evil: 1".into() });

    let text = Desk::new("me@a.example").text(Kind::Failure, &[(recipient, hostile)]);

    assert!(!text.contains("\r\nX-Evil") && !text.contains("\r\nAction: delivered") && !text.contains('\u{1b}'));
    assert!(text.split("\r\n").all(|line| line.len() <= 998));
    assert_eq!(parts(&text).len(), 3);
}

/// A part's body as its reader has it.
fn decoded((head, body): &(&str, &str)) -> Vec<u8> {
    if head.contains("Content-Transfer-Encoding: base64") {
        return STANDARD.decode(body.replace("\r\n", "")).unwrap();
    }
    if head.contains("Content-Transfer-Encoding: quoted-printable") {
        return from_quoted_printable(body.as_bytes());
    }
    body.as_bytes().to_vec()
}

#[test]
fn what_is_not_ascii_is_marked_in_each_part_and_written_in_seven_bits() {
    let mut desk = Desk::new("jörg@a.example");
    desk.international = International::Utf8;
    desk.text = "Subject: ü\r\n\r\nhello\r\n".as_bytes().to_vec();

    let recipients = [(to("ümit@b.example", Notify::Unspecified), refused())];
    let report = desk.report(Kind::Failure, &recipients).unwrap();
    let text = String::from_utf8(report.content).unwrap();

    assert_eq!((report.envelope.body, report.envelope.international), (BodyType::SevenBit, International::Utf8));
    assert_eq!(
        text.lines().filter(|line| !line.is_ascii()).collect::<Vec<_>>(),
        ["To: <jörg@a.example>"],
        "nothing but the address itself"
    );
    let parts = parts(&text);
    assert!(parts[0].0.contains("charset=utf-8") && String::from_utf8(decoded(&parts[0])).unwrap().contains("<ümit@b.example>"));
    assert!(parts[1].0.contains("message/delivery-status") && parts[1].1.contains("Final-Recipient: utf-8; \\x{FC}mit@b.example\r\n"));
    assert!(parts[2].0.contains("message/global\r\n"));
    assert_eq!(decoded(&parts[2]), desk.text);
}

#[test]
fn a_report_is_in_seven_bits_whatever_the_message_and_the_words_of_the_server_are() {
    let plain = "Subject: x\r\n\r\nplain\r\n".as_bytes();
    let texts = [plain, b"Subject: \xe4\r\n\r\n\xfc\r\n", "Subject: x\r\n\r\nüber\r\n".as_bytes(), b"no header \xff", b""];
    let until = at("2026-11-25T11:00:00+01:00[+01:00]");
    for text in texts {
        for international in [International::Ascii, International::Utf8] {
            for ret in [None, Some(Ret::Headers), Some(Ret::Full)] {
                for kind in [Kind::Failure, Kind::Success, Kind::Delay { until: &until }] {
                    let mut desk = Desk::new("me@bücher.example");
                    (desk.international, desk.ret, desk.text) = (international, ret, text.to_vec());
                    let said = account(Class::Permanent, 0, 0, "550 unzulässige Anlage – 拒否");
                    let mut recipient = to("x@b.example", on(true, true, true));
                    recipient.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "ü@b.example".into() });

                    let report = desk.report(kind, &[(recipient, said)]).unwrap();

                    assert!(report.content.is_ascii());
                    assert_eq!((report.envelope.body, report.envelope.international), (BodyType::SevenBit, International::Ascii));
                    assert_eq!(report.envelope.first.mailbox.to_string(), "me@xn--bcher-kva.example");
                    let content = String::from_utf8(report.content).unwrap();
                    let parts = parts(&content);
                    let words = String::from_utf8(decoded(&parts[0])).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
                    assert!(words.contains("unzulässige Anlage – 拒否") && words.contains("ü@b.example"), "{words}");
                    assert!(parts[1].1.contains("Original-Recipient: utf-8;\\x{FC}@b.example"), "{}", parts[1].1);
                }
            }
        }
    }
}

#[test]
fn a_header_beyond_ascii_goes_back_octet_by_octet_in_an_encoding() {
    for (international, kind) in [(International::Ascii, "text/rfc822-headers"), (International::Utf8, "message/global-headers")] {
        let mut desk = Desk::new("me@a.example");
        (desk.international, desk.ret) = (international, Some(Ret::Headers));
        desk.text = "Subject: Grüße\r\n\r\nbody\r\n".as_bytes().to_vec();

        let text = desk.text(Kind::Failure, &[(to("x@b.example", Notify::Unspecified), refused())]);

        let parts = parts(&text);
        assert!(parts[2].0.contains(kind), "{}", parts[2].0);
        assert_eq!(decoded(&parts[2]), "Subject: Grüße\r\n".as_bytes());
    }
}

#[test]
fn lines_that_are_too_long_for_mail_are_encoded_too() {
    for local in ["x".repeat(480), "ü".repeat(240)] {
        let long = format!("{local}@b.example");
        let mut desk = Desk::new("me@a.example");
        desk.text = format!("Subject: x\r\n\r\n{}\r\n", "y".repeat(2000)).into_bytes();

        let text = desk.text(Kind::Failure, &[(to(&long, Notify::Unspecified), refused())]);

        assert!(text.is_ascii() && text.split("\r\n").all(|line| line.len() <= 998));
    }
}

#[test]
fn the_postmaster_hears_of_a_report_that_could_not_be_delivered() {
    let recipients = [(to("me@a.example", Notify::Never), refused())];
    let mut desk = Desk::new("");
    assert_eq!(desk.report(Kind::Failure, &recipients), None);
    desk.postmaster = Some(samples::mailbox("postmaster@a.example"));

    let report = desk.report(Kind::Failure, &recipients).unwrap();

    assert!(report.envelope.sender.is_null());
    assert_eq!(report.envelope.first.mailbox.to_string(), "postmaster@a.example");
    let text = String::from_utf8(report.content).unwrap();
    assert!(text.contains("\r\nTo: <postmaster@a.example>\r\nSubject: A delivery report could not be delivered\r\n"));
    let parts = parts(&text);
    assert!(parts[0].1.contains("<me@a.example>") && !parts[0].1.contains("spelling"), "{}", parts[0].1);
    assert_eq!(parts[2].1.as_bytes(), desk.text);
}

/// Parses a report from standard input and prints what it found, one thing a line.
const READER: &str = r#"
import email, email.policy, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTPUTF8)
assert not message.defects, message.defects
print(message.get_content_type(), message.get_param("report-type"), message["To"].addresses[0].addr_spec, message["Auto-Submitted"])
for part in message.iter_parts():
    assert not part.defects, part.defects
    print(part.get_content_type(), part["Content-Transfer-Encoding"])
    if part.get_content_type() == "message/delivery-status":
        for block in part.get_payload():
            for name, value in block.items():
                print("  ", name, "=", " ".join(str(value).split()))
    if part.get_content_type() == "message/rfc822":
        print("  ", part.get_content()["Subject"], part.get_content().get_content().splitlines())
"#;

#[test]
fn python_reads_it_as_it_was_meant() {
    let mut desk = Desk::new("me@a.example");
    desk.envid = EnvelopeId::new("id");
    let long = account(Class::Permanent, 7, 1, &format!("550 5.7.1 {}", "long words ".repeat(20).trim_end()));
    let recipients = [(to("x@b.example", Notify::Unspecified), refused()), (to("\"a b\"@b.example", on(false, true, false)), long)];
    let content = desk.report(Kind::Failure, &recipients).unwrap().content;

    let child = Command::new("python3").args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: there is no python3");
        return;
    };
    child.stdin.take().unwrap().write_all(&content).unwrap();
    let output = child.wait_with_output().unwrap();

    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = format!(
        "multipart/report delivery-status me@a.example auto-replied\n\
         text/plain 7bit\n\
         message/delivery-status 7bit\n\
         \x20  Original-Envelope-Id = id\n\
         \x20  Reporting-MTA = dns; mail.example\n\
         \x20  X-Pamrelay-Queue-ID = 0000000000007\n\
         \x20  Arrival-Date = Fri, 20 Nov 2026 11:00:00 +0100\n\
         \x20  Final-Recipient = rfc822; x@b.example\n\
         \x20  Action = failed\n\
         \x20  Status = 5.1.1\n\
         \x20  Remote-MTA = dns; relay.example.net\n\
         \x20  Diagnostic-Code = smtp; 550 5.1.1 no such user here\n\
         \x20  Last-Attempt-Date = Fri, 20 Nov 2026 12:00:00 +0100\n\
         \x20  Final-Recipient = rfc822; \"a b\"@b.example\n\
         \x20  Action = failed\n\
         \x20  Status = 5.7.1\n\
         \x20  Remote-MTA = dns; relay.example.net\n\
         \x20  Diagnostic-Code = smtp; 550 5.7.1 {}\n\
         \x20  Last-Attempt-Date = Fri, 20 Nov 2026 12:00:00 +0100\n\
         message/rfc822 7bit\n\
         \x20  x ['hello', '--=_x', 'bye']\n",
        "long words ".repeat(20).trim_end()
    );
    assert_eq!(said, expected);
}
