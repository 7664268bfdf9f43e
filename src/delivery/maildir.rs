//! Delivery into a maildir: written in `tmp`, synced, renamed into `new`, directory synced.
//!
//! A message is in `new` completely and durably, or not at all. Lines end with LF there, as every reader of maildirs
//! expects; `Return-Path`, `Delivered-To` and, when it differs, `X-Original-To` say what the envelope said.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::client::transaction::Fate;
use super::job::{Account, Body, Content, Job, Origin, Outcome, PassedOn};
use super::parcel::{Parcel, Relay};
use crate::smtp::envelope::{International, Recipient};
use crate::smtp::status::{Class, EnhancedStatus};
use crate::smtp::xtext;

/// Octets read from a body file at once.
const PIECE: usize = 128 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum MaildirError {
    #[error("cannot make the maildir {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot put {path} in place: {source}")]
    Place { path: PathBuf, source: io::Error },
}

/// Puts the message there once for each recipient, and settles the parcel.
pub(crate) async fn deliver(parcel: Parcel, maildir: &Path, host: &str) {
    let (path, host) = (maildir.to_owned(), host.to_owned());
    let label = maildir.display().to_string();
    let work = move || {
        let outcomes =
            parcel.recipients().iter().map(|(_, recipient)| Fate::Settled(outcome(parcel.job(), recipient, &path, &host))).collect();
        (parcel, outcomes)
    };
    // A task that panics drops its parcel, which then answers for itself.
    if let Ok((parcel, outcomes)) = tokio::task::spawn_blocking(work).await {
        parcel.settle(outcomes, Relay { label: &label, tls: "none" }).await;
    }
}

fn outcome(job: &Job, recipient: &Recipient, maildir: &Path, host: &str) -> Outcome {
    let account = |status, diagnostic| Account {
        status,
        remote: Some(maildir.display().to_string()),
        diagnostic,
        origin: Origin::Local,
        passed_on: PassedOn::WithoutDsn,
    };
    match place(job, recipient, maildir, host) {
        Ok(()) => Outcome::Delivered(account(EnhancedStatus::new(Class::Success, 0, 0), "delivered to the maildir".to_owned())),
        Err(error) => {
            // All of it can be mended: room, rights, a missing disk. So nothing is returned before its time.
            let (MaildirError::Make { source, .. } | MaildirError::Write { source, .. } | MaildirError::Place { source, .. }) = &error;
            let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            let (subject, detail) = if full { (2, 2) } else { (3, 0) };
            Outcome::Deferred(account(EnhancedStatus::new(Class::Transient, subject, detail), error.to_string()))
        }
    }
}

fn place(job: &Job, recipient: &Recipient, maildir: &Path, host: &str) -> Result<(), MaildirError> {
    make(maildir).map_err(|source| MaildirError::Make { path: maildir.to_owned(), source })?;
    let name = unique_name(host);
    let (tmp, new) = (maildir.join("tmp").join(&name), maildir.join("new").join(&name));
    let written = write(job, recipient, &tmp).map_err(|source| MaildirError::Write { path: tmp.clone(), source });
    let placed = written.and_then(|()| {
        // The name is ours alone, so nothing can be overwritten.
        let place = || fs::rename(&tmp, &new).and_then(|()| File::open(maildir.join("new"))?.sync_all());
        place().map_err(|source| MaildirError::Place { path: new.clone(), source })
    });
    if placed.is_err() {
        // Neither half a message, nor a whole one that will be delivered again, is left behind.
        let _ = fs::remove_file(&tmp);
        let _ = fs::remove_file(&new);
    }
    placed
}

fn make(maildir: &Path) -> io::Result<()> {
    if maildir.join("new").is_dir() && maildir.join("tmp").is_dir() {
        return Ok(());
    }
    for part in ["tmp", "cur", "new"] {
        DirBuilder::new().recursive(true).mode(0o700).create(maildir.join(part))?;
    }
    File::open(maildir)?.sync_all()?;
    match maildir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

fn write(job: &Job, recipient: &Recipient, path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut lines = Unix::new(BufWriter::with_capacity(64 * 1024, file));
    lines.write(envelope(job, recipient).as_bytes())?;
    copy(&job.content, &mut lines)?;
    let file = lines.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

fn envelope(job: &Job, recipient: &Recipient) -> String {
    let to = recipient.mailbox.to_string();
    let mut fields = format!("Return-Path: <{}>\nDelivered-To: {to}\n", job.sender);
    if let Some(original) = recipient.original.as_ref().filter(|original| original.address != to) {
        // The parser let only printable text through; a line end here would be a field of the sender's making.
        let address: String = original.address.chars().filter(|c| !c.is_control()).collect();
        // The header is US-ASCII unless the sender made it international.
        let address = if job.international == International::Ascii { xtext::utf8_in_ascii(&address) } else { address };
        fields.push_str(&format!("X-Original-To: {address}\n"));
    }
    fields
}

fn copy<W: Write>(content: &Content, lines: &mut Unix<W>) -> io::Result<()> {
    let start = content.start()?;
    lines.write(&content.trace)?;
    lines.write(start.separator.octets())?;
    match &content.body {
        Body::Memory(bytes) => lines.write(bytes.get(start.skip..).unwrap_or_default()),
        Body::File { file, size } => {
            let mut buffer = vec![0; PIECE];
            let mut at = start.skip as u64;
            while at < *size {
                let wanted = usize::try_from(*size - at).unwrap_or(PIECE).min(PIECE);
                let piece = buffer.get_mut(..wanted).unwrap_or_default();
                file.read_exact_at(piece, at)?;
                lines.write(piece)?;
                at += wanted as u64;
            }
            Ok(())
        }
    }
}

/// Makes CR LF to LF, also where it is cut in two, and leaves every other octet alone.
struct Unix<W> {
    out: W,
    /// A CR that may belong to the LF to come.
    held: bool,
}

impl<W: Write> Unix<W> {
    fn new(out: W) -> Self {
        Self { out, held: false }
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        if octets.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.held) && octets.first() != Some(&b'\n') {
            self.out.write_all(b"\r")?;
        }
        let (octets, held) = match octets.strip_suffix(b"\r") {
            Some(before) => (before, true),
            None => (octets, false),
        };
        self.held = held;
        let mut rest = octets;
        while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
            let (line, end) = rest.split_at(at);
            self.out.write_all(line)?;
            self.out.write_all(b"\n")?;
            rest = end.get(2..).unwrap_or_default();
        }
        self.out.write_all(rest)
    }

    fn finish(mut self) -> io::Result<W> {
        if self.held {
            self.out.write_all(b"\r")?;
        }
        Ok(self.out)
    }
}

/// Time, process, count and chance: nobody else has this name (see maildir(5)).
fn unique_name(host: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut chance = [0; 4];
    aws_lc_rs::rand::fill(&mut chance).expect("the library's generator never runs dry once seeded");
    format!(
        "{}.M{}P{}Q{}R{:08x}.{}",
        now.as_secs(),
        now.subsec_micros(),
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed),
        u32::from_le_bytes(chance),
        host.replace('/', "\\057").replace(':', "\\072"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::samples;
    use crate::smtp::envelope::OriginalRecipient;

    fn delivered(maildir: &Path) -> Vec<String> {
        fs::read_dir(maildir.join("new")).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn writes_the_envelope_and_the_message_with_unix_lines() {
        let directory = tempfile::tempdir().unwrap();
        let maildir = directory.path().join("a/b");
        let job = samples::job("s@a.example", &["x@b.example"]);
        let mut recipient = job.recipients[0].1.clone();
        recipient.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "y@b.example".into() });

        assert!(matches!(outcome(&job, &recipient, &maildir, "h/o:st"), Outcome::Delivered(_)));

        let wanted = "Return-Path: <s@a.example>\nDelivered-To: x@b.example\nX-Original-To: y@b.example\n\
                      Received: x\nSubject: x\n\nhello\n.dot\n";
        assert_eq!(delivered(&maildir), [wanted]);
        assert_eq!(fs::read_dir(maildir.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_text_without_a_header_neither_goes_on_in_our_fields_nor_breaks_them() {
        let directory = tempfile::tempdir().unwrap();
        for (number, (text, wanted)) in [
            (" folded\r\nSubject: x\r\n", "\n folded\nSubject: x\n"),
            ("From a@b.example Fri Nov 20\r\n>From x\r\nSubject: x\r\n\r\nbody\r\n", "Subject: x\n\nbody\n"),
            ("From a@b.example Fri Nov 20\r\nno header\r\n", "\nno header\n"),
        ]
        .into_iter()
        .enumerate()
        {
            for in_file in [false, true] {
                let maildir = directory.path().join(format!("{number}{in_file}"));
                let mut job = samples::job("s@a.example", &["x@b.example"]);
                job.content = samples::content(text);
                if in_file {
                    job.content.body = samples::in_file(text.as_bytes());
                }

                outcome(&job, &job.recipients[0].1, &maildir, "h");

                assert_eq!(delivered(&maildir), [format!("Return-Path: <s@a.example>\nDelivered-To: x@b.example\nReceived: x\n{wanted}")]);
            }
        }
    }

    #[test]
    fn an_original_recipient_beyond_ascii_does_not_make_an_ascii_header_international() {
        let mut job = samples::job("s@a.example", &["x@b.example"]);
        let mut recipient = job.recipients[0].1.clone();
        recipient.original = Some(OriginalRecipient { kind: "rfc822".into(), address: "jürgen@b.example".into() });

        assert!(envelope(&job, &recipient).ends_with("X-Original-To: j\\x{FC}rgen@b.example\n"));
        job.international = International::Utf8;
        assert!(envelope(&job, &recipient).ends_with("X-Original-To: jürgen@b.example\n"));
    }

    #[test]
    fn a_maildir_that_cannot_be_written_defers_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let job = samples::job("s@a.example", &["x@b.example"]);

        match outcome(&job, &job.recipients[0].1, &file.join("maildir"), "h") {
            Outcome::Deferred(account) => assert_eq!(account.status.to_string(), "4.3.0"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_file_cut_short_is_not_delivered_in_part() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = samples::job("s@a.example", &["x@b.example"]);
        job.content.body = Body::File { file: std::sync::Arc::new(tempfile::tempfile().unwrap()), size: 7 };

        assert!(matches!(outcome(&job, &job.recipients[0].1, directory.path(), "h"), Outcome::Deferred(_)));

        assert!(delivered(directory.path()).is_empty());
        assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn only_cr_lf_becomes_lf_wherever_it_is_cut() {
        let text = b"a\r\nb\rc\nd\r\r\ne\r";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut lines = Unix::new(Vec::new());
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    lines.write(piece).unwrap();
                }

                assert_eq!(lines.finish().unwrap(), b"a\nb\rc\nd\r\ne\r");
            }
        }
    }

    #[test]
    fn names_are_never_the_same_and_stay_in_the_directory() {
        let names: std::collections::HashSet<String> = (0..1000).map(|_| unique_name("a/../b:c")).collect();

        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| !name.contains('/') && !name.contains(':')));
    }
}
