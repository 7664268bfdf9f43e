//! The queue's way to a report: a message and what was settled about it go in, a finished report comes out.
//!
//! The queue decides who is told what; here it is only put into the words of a report.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Zoned;
use jiff::tz::TimeZone;

use super::{FULL_LIMIT, Kind, Original, Told, report};
use crate::delivery::job::{Body, Content};
use crate::queue::message::Message;
use crate::queue::moment::Moment;
use crate::queue::report::{Report, Reporter};
use crate::queue::settle::{self, Event};

/// Writes reports in the name of `host`, with dates in `zone`.
pub fn reporter(host: String, zone: TimeZone) -> Reporter {
    Arc::new(move |message, told, now| write(message, told, now, &host, &zone))
}

fn write(message: &Message, told: &[settle::Told], now: Moment, host: &str, zone: &TimeZone) -> Option<Report> {
    let text = match beginning(&message.content) {
        Ok(text) => text,
        Err(error) => {
            // Better a report without the original than none.
            tracing::error!(event = "original_unreadable", id = %message.id, error = %error);
            Vec::new()
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
        size: message.content.size(),
        text: &text,
    };
    let report = report(&original, &told, &now, host)?;
    Some(Report { envelope: report.envelope, bytes: Bytes::from(report.content) })
}

/// As much of the message as a report can use.
fn beginning(content: &Content) -> io::Result<Vec<u8>> {
    let limit = usize::try_from(FULL_LIMIT).unwrap_or(usize::MAX);
    let mut text = content.trace.to_vec();
    let room = limit.saturating_sub(text.len());
    match &content.body {
        Body::Memory(bytes) => text.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default()),
        Body::File { file, size } => {
            let mut body = vec![0; room.min(usize::try_from(*size).unwrap_or(usize::MAX))];
            file.read_exact_at(&mut body, 0)?;
            text.append(&mut body);
        }
    }
    text.truncate(limit);
    Ok(text)
}
