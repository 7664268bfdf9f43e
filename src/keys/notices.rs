//! What is unwise about a certificate: names, dates, order. None of it stops the relay.
//!
//! Invariant: reads no clock; the caller says what time it is.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate that ends within this time is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// One remark on a certificate file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub path: PathBuf,
    pub remark: Remark,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// Mail clients will refuse it: another name. Holds the name wanted and those found.
    OtherName { wanted: String, found: Vec<String> },
    /// Its time is over, by that many seconds.
    Expired { ago: Duration },
    /// Its time ends soon.
    ExpiresSoon { left: Duration },
    /// Its time has not begun.
    NotYetValid { wait: Duration },
    /// The certificate at this place (0 is the leaf) is not vouched for by the next one.
    BrokenChain { place: usize },
    /// Names and dates could not be read.
    Unreadable,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.remark {
            Remark::OtherName { wanted, found } if found.is_empty() => {
                write!(f, "names no host; mail clients that connect to {wanted} will refuse it")
            }
            Remark::OtherName { wanted, found } => {
                write!(f, "names {}; mail clients that connect to {wanted} will refuse it", found.join(", "))
            }
            Remark::Expired { ago } => write!(f, "expired {} ago; mail clients will refuse it", span(*ago)),
            Remark::ExpiresSoon { left } => write!(f, "expires in {}", span(*left)),
            Remark::NotYetValid { wait } => {
                write!(f, "becomes valid in {}; until then mail clients will refuse it", span(*wait))
            }
            Remark::BrokenChain { place } => write!(
                f,
                "certificate {} is not vouched for by the one after it; wanted: the server's own first, then its issuers in order",
                place + 1
            ),
            Remark::Unreadable => f.write_str("names and dates cannot be read"),
        }
    }
}

/// What to say about a chain; `hostname` is what its leaf should name.
pub fn about(path: &Path, chain: &[CertificateDer<'_>], hostname: Option<&str>, now: SystemTime) -> Vec<Notice> {
    remarks(chain, hostname, now).into_iter().map(|remark| Notice { path: path.to_path_buf(), remark }).collect()
}

fn remarks(chain: &[CertificateDer<'_>], hostname: Option<&str>, now: SystemTime) -> Vec<Remark> {
    let parsed: Result<Vec<_>, _> = chain.iter().map(|der| X509Certificate::from_der(der).map(|(_, certificate)| certificate)).collect();
    let Ok(certificates) = parsed else { return vec![Remark::Unreadable] };
    let Some(leaf) = certificates.first() else { return vec![Remark::Unreadable] };

    let mut remarks = Vec::new();
    if let Some(wanted) = hostname {
        let found = names(leaf);
        if !found.iter().any(|name| covers(name, wanted)) {
            remarks.push(Remark::OtherName { wanted: wanted.to_owned(), found });
        }
    }
    remarks.extend(date_remark(leaf, now));
    for (place, pair) in certificates.windows(2).enumerate() {
        if let [below, above] = pair
            && below.issuer().as_raw() != above.subject().as_raw()
        {
            remarks.push(Remark::BrokenChain { place });
        }
    }
    remarks
}

fn date_remark(leaf: &X509Certificate<'_>, now: SystemTime) -> Option<Remark> {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let begins = leaf.validity().not_before.timestamp();
    let ends = leaf.validity().not_after.timestamp();
    let seconds = |from: i64, to: i64| Duration::from_secs(u64::try_from(to.saturating_sub(from)).unwrap_or(0));

    if now < begins {
        Some(Remark::NotYetValid { wait: seconds(now, begins) })
    } else if now > ends {
        Some(Remark::Expired { ago: seconds(ends, now) })
    } else if seconds(now, ends) < SOON {
        Some(Remark::ExpiresSoon { left: seconds(now, ends) })
    } else {
        None
    }
}

/// The host names a certificate speaks for (RFC 9525 §6.3: only those in subjectAltName count).
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let printable = |name: &&str| name.bytes().all(|byte| byte.is_ascii_graphic());
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .filter(printable)
        .map(str::to_owned)
        .collect()
}

/// Whether a certificate's name, which may begin with `*.` for one label, is that host's.
fn covers(name: &str, host: &str) -> bool {
    let (name, host) = (name.trim_end_matches('.'), host.trim_end_matches('.'));
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(suffix), Some((label, rest))) => !label.is_empty() && suffix.eq_ignore_ascii_case(rest),
        (Some(_), None) | (None, _) => false,
    }
}

fn span(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    match hours {
        0 => "less than an hour".into(),
        1..48 => format!("{hours} hours"),
        _ => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label_and_no_more() {
        assert!(covers("mail.example.org", "MAIL.example.org."));
        assert!(covers("*.example.org", "mail.example.org"));
        assert!(!covers("*.example.org", "a.mail.example.org"));
        assert!(!covers("*.example.org", "example.org"));
        assert!(!covers("*.example.org", ".example.org"));
        assert!(!covers("example.org", "mail.example.org"));
    }

    #[test]
    fn spans_are_told_in_words() {
        assert_eq!(span(Duration::from_secs(59)), "less than an hour");
        assert_eq!(span(Duration::from_secs(13 * 3600)), "13 hours");
        assert_eq!(span(Duration::from_secs(14 * 86_400)), "14 days");
    }
}
