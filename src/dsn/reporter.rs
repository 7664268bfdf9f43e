//! The queue's way to a report: a message and what was settled about it go in, a finished report comes out.
//!
//! The queue decides who is told what; here it is only put into the words of a report.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Zoned;
use jiff::tz::TimeZone;

use super::{FULL_LIMIT, Kind, Original, Told, report};
use crate::queue::message::Message;
use crate::queue::moment::Moment;
use crate::queue::report::{Report, Reporter};
use crate::queue::settle::{self, Event};
use crate::smtp::address::Mailbox;

/// Writes reports in the name of `host`, with dates in `zone`; those about reports go to the postmaster, if there is one.
pub fn reporter(host: String, zone: TimeZone, postmaster: Option<Mailbox>) -> Reporter {
    let desk = Desk { host, zone, postmaster };
    Arc::new(move |message, told, now| desk.write(message, told, now))
}

struct Desk {
    host: String,
    zone: TimeZone,
    postmaster: Option<Mailbox>,
}

impl Desk {
    fn write(&self, message: &Message, told: &[settle::Told], now: Moment) -> Option<Report> {
        let limit = usize::try_from(FULL_LIMIT).unwrap_or(usize::MAX);
        let content = &message.content;
        let (text, size) = match content.beginning(limit).and_then(|text| Ok((text, content.size_from(content.start()?)))) {
            Ok(original) => original,
            Err(error) => {
                // Better a report without the original than none.
                tracing::error!(event = "original_unreadable", id = %message.id, error = %error);
                (Vec::new(), content.size())
            }
        };
        let date = |moment: Moment| Zoned::new(moment.timestamp(), self.zone.clone());
        let (arrived, now) = (date(message.timing.arrived), date(now));
        let ends: Vec<Zoned> =
            told.iter().map(|told| if let Event::Delayed { until } = told.what { date(until) } else { now.clone() }).collect();
        let told: Vec<Told<'_>> = told
            .iter()
            .zip(&ends)
            .map(|(told, until)| Told {
                recipient: &told.recipient,
                account: &told.account,
                kind: match told.what {
                    Event::Delivered => Kind::Success,
                    Event::Failed | Event::Expired => Kind::Failure,
                    Event::Delayed { .. } => Kind::Delay { until },
                },
            })
            .collect();
        let original = Original {
            id: &message.id,
            sender: &message.envelope.sender,
            postmaster: self.postmaster.as_ref(),
            envid: message.envelope.envid.as_ref(),
            ret: message.envelope.ret,
            international: message.envelope.international,
            arrived: &arrived,
            size,
            text: &text,
        };
        let report = report(&original, &told, &now, &self.host)?;
        Some(Report { envelope: report.envelope, bytes: Bytes::from(report.content) })
    }
}
