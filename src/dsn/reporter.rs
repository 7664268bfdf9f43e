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

/// Writes reports in the name of `host`, with dates in `zone`.
pub fn reporter(host: String, zone: TimeZone) -> Reporter {
    Arc::new(move |message, told, now| write(message, told, now, &host, &zone))
}

fn write(message: &Message, told: &[settle::Told], now: Moment, host: &str, zone: &TimeZone) -> Option<Report> {
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
    let date = |moment: Moment| Zoned::new(moment.timestamp(), zone.clone());
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
        envid: message.envelope.envid.as_ref(),
        ret: message.envelope.ret,
        international: message.envelope.international,
        arrived: &arrived,
        size,
        text: &text,
    };
    let report = report(&original, &told, &now, host)?;
    Some(Report { envelope: report.envelope, bytes: Bytes::from(report.content) })
}
