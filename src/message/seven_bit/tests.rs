//! Messages before and after: what changes, what does not, and what Python's `email` package makes of both.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn converted(text: &str) -> String {
    String::from_utf8(convert(text.as_bytes()).unwrap()).unwrap()
}

#[test]
fn text_that_nobody_declared_gets_the_fields_that_say_what_it_is() {
    assert_eq!(
        converted("Subject: x\r\n\r\nüber = alles\r\n"),
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
         =C3=BCber =3D alles\r\n"
    );
    let latin = convert(b"Subject: x\r\n\r\na f\xfcr b\r\n").unwrap();
    assert!(memchr::memmem::find(&latin, b"charset=unknown-8bit\r\n").is_some());
}

#[test]
fn parts_are_encoded_by_their_kind_and_what_is_ascii_stays_octet_by_octet() {
    let plain = "Content-Type: text/html\r\n\r\n<p> trailing \r\n.dot\r\nFrom x\r\n";
    let text = format!(
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"=_b\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         Präambel\r\n--=_b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nein für alle mal\r\n\r\n\
         --=_b  \r\n{plain}--=_b\r\nContent-Type: image/x; name=\"ü.png\"\r\nContent-Transfer-Encoding: binary\r\n\r\n\u{ff}\r\n\u{fe}\r\n--=_b--\r\nEpilög\r\n"
    );

    assert_eq!(
        converted(&text),
        format!(
            "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"=_b\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
             Pr??ambel\r\n--=_b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nein f=C3=BCr alle mal\r\n\r\n\
             --=_b  \r\n{plain}--=_b\r\nContent-Type: image/x;\r\n\tname*=utf-8''%C3%BC.png\r\nContent-Transfer-Encoding: base64\r\n\r\nw78NCsO+\r\n--=_b--\r\nEpil??g\r\n"
        )
    );
}

#[test]
fn no_line_that_is_broken_becomes_a_delimiter() {
    for coding in ["8bit", "quoted-printable"] {
        let text = (60..90).map(|before| format!("{}--b--\r\n{}--b\r\n", "x".repeat(before), "x".repeat(before))).collect::<String>();
        let message = format!(
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: {coding}\r\n\r\n{text}über\r\n--b--\r\n"
        );

        let got = converted(&message);

        assert_eq!(got.lines().filter(|line| line.starts_with("--b")).count(), 2, "{got}");
    }
}

#[test]
fn text_of_a_multipart_without_delimiters_is_not_lost() {
    let outer = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let inner = "Content-Type: multipart/mixed; boundary=c\r\n\r\n";
    for text in [
        format!("{outer}über\r\n"),
        format!("{outer}über\r\n--b--\r\n"),
        format!("{outer}--b\r\n{inner}über\r\n--b\r\n\r\nx\r\n--b--\r\n"),
        format!("{outer}--b\r\n{inner}über"),
    ] {
        assert_eq!(convert(text.as_bytes()), Err(Unfit::Structure), "{text}");
    }
    assert!(converted(&format!("{outer}über\r\n--b\r\n\r\nx\r\n--b--\r\n")).contains("??ber"), "no reader shows it");
}

#[test]
fn a_message_inside_a_message_is_converted_too() {
    let text = "Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\nSubject: Grüße\r\n\r\nüber alle Berge\r\n--d--\r\n";

    let got = converted(text);

    assert!(got.contains("--d\r\n\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\nMIME-Version: 1.0\r\n"), "{got}");
    assert!(got.contains("\r\n\r\n=C3=BCber alle Berge\r\n--d--\r\n"), "{got}");
}

#[test]
fn what_is_signed_stays_as_it_is_and_cannot_be_converted_if_it_needs_it() {
    let message = |inner: &str, last: &str| {
        format!(
            "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: multipart/signed; boundary=s\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
             --s\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{inner}\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--s--\r\n\
             --a\r\n\r\n{last}\r\n--a--\r\n"
        )
    };

    assert_eq!(convert(message("für", "plain").as_bytes()), Err(Unfit::Fixed));
    let got = converted(&message("plain", "ein für alle mal"));
    let signed = message("plain", "").split("--a\r\n").nth(1).unwrap().to_owned();
    assert!(got.contains(&signed) && got.contains("ein f=C3=BCr alle mal"), "{got}");
    let pkcs = "Content-Type: application/pkcs7-mime\r\n\r\n\u{ff}\r\n";
    assert_eq!(convert(pkcs.as_bytes()), Err(Unfit::Fixed));
    assert!(convert(format!("Subject: Grüße\r\n{}", pkcs.replace('\u{ff}', "x")).as_bytes()).is_ok(), "its own header is not signed");
}

#[test]
fn quoted_printable_with_raw_octets_is_put_right_and_base64_is_not() {
    let head = "Content-Type: text/plain\r\nContent-Transfer-Encoding: ";
    let long = "x".repeat(80);

    let got = converted(&format!("{head}quoted-printable\r\n\r\n=C3=BC ü {long}=\r\nend\r\n"));

    let body = got.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(encode::tests::from_quoted_printable(body.as_bytes()), format!("ü ü {long}end\r\n").as_bytes());
    assert!(body.split("\r\n").all(|line| line.len() <= 76), "{body}");
    assert_eq!(convert(format!("{head}base64\r\n\r\nAAAÄ\r\n").as_bytes()), Err(Unfit::Fixed));
}

#[test]
fn what_is_built_to_cost_much_is_refused_within_bounds() {
    let mut nested = String::new();
    for level in 0..200 {
        nested.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"));
    }
    let many = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n\r\nü\r\n".repeat(20_000));
    let messages = "Content-Type: message/rfc822\r\n\r\n".repeat(20_000);
    let header = format!("X: ü{}\r\n", "\r\n y".repeat(200_000));

    for text in [nested, many, messages, header, "ü".repeat(200_000)] {
        assert_eq!(convert(text.as_bytes()), Err(Unfit::Structure), "{:.40}", text);
    }
}

#[test]
fn a_header_in_utf8_stays_where_smtputf8_is_in_use() {
    let text = "Subject: Grüße\r\nTo: jörg@b.example\r\n\r\nein für alle mal\r\n";
    let mut survey = Survey::new(Headers::Utf8);
    survey.read(text.as_bytes()).unwrap();
    let mut conversion = Conversion::new(Arc::new(survey.finish().unwrap()));
    let mut out = Vec::new();
    conversion.read(text.as_bytes(), &mut out).unwrap();
    conversion.finish(&mut out).unwrap();

    let got = String::from_utf8(out).unwrap();
    assert!(got.starts_with("Subject: Grüße\r\nTo: jörg@b.example\r\n") && got.ends_with("\r\nein f=C3=BCr alle mal\r\n"), "{got}");
    assert_eq!(convert(text.as_bytes()), Err(Unfit::Header), "else the address keeps it from being converted");
}

fn in_pieces(text: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Unfit> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(text.len())).chain([0, text.len()]).collect();
    cuts.sort_unstable();
    let pieces = || cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
    let mut survey = Survey::new(Headers::Ascii);
    for piece in pieces() {
        survey.read(piece)?;
    }
    let (mut conversion, mut out) = (Conversion::new(Arc::new(survey.finish()?)), Vec::new());
    for piece in pieces() {
        conversion.read(piece, &mut out)?;
    }
    conversion.finish(&mut out)?;
    Ok(out)
}

fn message() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "Subject: ü",
        "To: Jörg (ü) <a@b.example>, \"ä\" <c@d.example>",
        "Content-Type: multipart/mixed; boundary=b",
        "Content-Type: multipart/mixed; boundary=\"b--\"",
        "Content-Type: multipart/signed; boundary=b",
        "Content-Type: message/rfc822",
        "Content-Type: text/plain; name=\"ö\"",
        "Content-Type: image/png",
        "Content-Transfer-Encoding: 8bit",
        "Content-Transfer-Encoding: quoted-printable",
        "",
        "",
        "--b",
        "--b--",
        "--b----",
        " ü",
        "text",
        "=C3=B",
        "ü",
    ]);
    prop::collection::vec(line, 0..24).prop_map(|lines| lines.join("\r\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_comes_out_is_ascii_and_the_same_however_it_is_cut(text in message(), cuts in prop::collection::vec(0_usize..300, 0..5)) {
        let whole = convert(text.as_bytes());

        if let Ok(out) = &whole {
            prop_assert!(out.is_ascii());
            prop_assert_eq!(convert(out).unwrap().len() >= out.len(), true, "it can be read again");
        }
        prop_assert_eq!(in_pieces(text.as_bytes(), &cuts), whole);
    }

    #[test]
    fn a_message_in_ascii_is_not_touched(text in message()) {
        let text = text.replace(|c: char| !c.is_ascii(), "x").replace("8bit", "7bit");
        let out = convert(text.as_bytes()).unwrap();

        prop_assert!(out == text.as_bytes() || out == [text.as_bytes(), b"\r\n"].concat());
    }
}

/// Prints the leaves of a message, decoded, with their names.
const READER: &str = r#"
import email, email.policy, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTPUTF8)
print(message["Subject"], "|", message["From"])
for part in message.walk():
    if not part.is_multipart():
        print(part.get_content_type(), part.get_filename(), part.get_payload(decode=True).replace(b"\r\n", b"\n").strip())
"#;

#[test]
fn python_reads_the_same_before_and_after() {
    let text = "Subject: Grüße aus Köln\r\nFrom: Jörg Groß <j@b.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nein für = alle mal \r\n.\r\n\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: innen\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<p>für</p>\r\n\
         --b\r\nContent-Type: application/x\r\nContent-Disposition: attachment; filename=\"ü.x\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\nüüü\r\nüüü\r\n--b--\r\n";
    let read = |content: &[u8]| {
        let child = Command::new("python3")
            .args(["-c", READER])
            .env("PYTHONIOENCODING", "utf-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.ok()?;
        child.stdin.take().unwrap().write_all(content).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(before) = read(text.as_bytes()) else {
        eprintln!("skipped: there is no python3");
        return;
    };

    assert_eq!(read(&convert(text.as_bytes()).unwrap()), Some(before));
}
