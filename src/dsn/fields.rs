//! The second part: message/delivery-status (RFC 3464 §2), for programs.
//!
//! A value can be no second field: control characters are gone and long values are folded here. All of it is US-ASCII:
//! addresses beyond it are written in the ASCII form of their type (RFC 6533 §3), and words of a server lose what is not.

use jiff::Zoned;

use super::{Kind, Original, Part, Told, action, cut, date};
use crate::delivery::job::Origin;
use crate::smtp::status::{Class, EnhancedStatus};
use crate::smtp::xtext;

/// Where a long line is folded, if there is a blank.
const FOLD: usize = 76;

pub(super) fn part(original: &Original<'_>, told: &[Told<'_>], now: &Zoned, host: &str) -> Part {
    let mut fields = Fields { text: String::new() };
    if let Some(envid) = original.envid {
        fields.add("Original-Envelope-Id", envid.as_str());
    }
    fields.add("Reporting-MTA", &format!("dns; {host}"));
    fields.add("X-Pamrelay-Queue-ID", &original.id.to_string());
    fields.add("Arrival-Date", &date(original.arrived));
    for told in told {
        fields.text.push_str("\r\n");
        fields.recipient(told, now);
    }
    Part::of_text("Delivery report", "message/delivery-status", fields.text.into_bytes())
}

/// The status as it may stand beside the action: no failure and no delay has the class of success
/// (RFC 3463 §3.1), not even one that an earlier version recorded so.
fn status(kind: Kind<'_>, status: EnhancedStatus) -> EnhancedStatus {
    let class = match (kind, status.class) {
        (Kind::Failure, Class::Success) => Class::Permanent,
        (Kind::Delay { .. }, Class::Success) => Class::Transient,
        (Kind::Success, class) | (Kind::Failure | Kind::Delay { .. }, class @ (Class::Transient | Class::Permanent)) => class,
    };
    EnhancedStatus { class, ..status }
}

struct Fields {
    text: String,
}

impl Fields {
    fn recipient(&mut self, told: &Told<'_>, now: &Zoned) {
        let Told { recipient, kind, account } = *told;
        if let Some(original) = &recipient.original {
            let kind = if original.address.is_ascii() { &original.kind } else { "utf-8" };
            self.add("Original-Recipient", &format!("{kind};{}", xtext::utf8_in_ascii(&original.address)));
        }
        let address_type = if recipient.mailbox.is_ascii() { "rfc822" } else { "utf-8" };
        self.add("Final-Recipient", &format!("{address_type}; {}", xtext::utf8_in_ascii(&recipient.mailbox.to_string())));
        self.add("Action", action(kind, account));
        self.add("Status", &status(kind, account.status).to_string());
        match (account.origin, &account.remote) {
            (Origin::Remote, Some(remote)) => self.add("Remote-MTA", &format!("dns; {}", host_of(remote))),
            (Origin::Remote, None) | (Origin::Local, _) => {}
        }
        let origin = match account.origin {
            Origin::Remote => "smtp",
            Origin::Local => "X-Pamrelay",
        };
        self.add("Diagnostic-Code", &format!("{origin}; {}", account.diagnostic));
        self.add("Last-Attempt-Date", &date(now));
        match kind {
            Kind::Delay { until } => self.add("Will-Retry-Until", &date(until)),
            Kind::Failure | Kind::Success => {}
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        let clean = |c: char| if c.is_control() || !c.is_ascii() { '?' } else { c };
        let value: String = value.chars().map(clean).collect();
        self.text.push_str(name);
        self.text.push(':');
        let mut column = name.len() + 1;
        for word in value.split_whitespace() {
            if column + 1 + word.len() > FOLD && column > name.len() + 1 {
                self.text.push_str("\r\n\t");
                column = 8;
            } else {
                self.text.push(' ');
                column += 1;
            }
            self.text.push_str(cut(word));
            column += word.len();
        }
        self.text.push_str("\r\n");
    }
}

/// The name in `relay.example.net[192.0.2.1]:587`.
fn host_of(remote: &str) -> &str {
    remote.split('[').next().filter(|name| !name.is_empty()).unwrap_or(remote)
}
