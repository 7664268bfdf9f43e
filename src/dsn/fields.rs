//! The second part: message/delivery-status (RFC 3464 §2), for programs.
//!
//! A value can be no second field: control characters are gone and long values are folded here.

use jiff::Zoned;

use super::{Kind, Original, Part, Told, action, cut, date};
use crate::delivery::job::Origin;

/// Where a long line is folded, if there is a blank.
const FOLD: usize = 76;

pub(super) fn part(original: &Original<'_>, told: &[Told<'_>], now: &Zoned, host: &str) -> Part {
    // RFC 6533 §3: addresses beyond ASCII need the global form; words of a server do not, and lose what is not ASCII.
    let global = told.iter().any(|Told { recipient, .. }| {
        let original = recipient.original.as_ref().is_none_or(|original| original.address.is_ascii());
        !recipient.mailbox.is_ascii() || !original
    });
    let mut fields = Fields { text: String::new(), global };
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
    let kind = if global { "message/global-delivery-status" } else { "message/delivery-status" };
    Part { description: "Delivery report", kind, body: fields.text.into_bytes() }
}

struct Fields {
    text: String,
    global: bool,
}

impl Fields {
    fn recipient(&mut self, told: &Told<'_>, now: &Zoned) {
        let Told { recipient, kind, account } = *told;
        if let Some(original) = &recipient.original {
            self.add("Original-Recipient", &format!("{};{}", original.kind, original.address));
        }
        let address_type = if recipient.mailbox.is_ascii() { "rfc822" } else { "utf-8" };
        self.add("Final-Recipient", &format!("{address_type}; {}", recipient.mailbox));
        self.add("Action", action(kind, account));
        self.add("Status", &account.status.to_string());
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
        let clean = |c: char| if c.is_control() || (!self.global && !c.is_ascii()) { '?' } else { c };
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
