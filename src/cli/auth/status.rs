//! `pamrelay auth status`: the helper's workers, its memory, what it answered since its start.

use std::time::Duration;

use pamrelay_authwire::{Order, Statement, Status as Fares};
use serde_json::json;

use super::super::out;
use super::super::{Failure, Status};
use super::{nonsense, order};
use crate::config::{Config, duration_text};

pub(super) fn main(json: bool, config: &Config) -> Result<Status, Failure> {
    let Statement::Status(fares) = order(&Order::Status, config)? else { return Err(nonsense()) };
    if json {
        out::json(&in_json(&fares));
    } else {
        out::text(page(&fares));
    }
    Ok(Status::Ok)
}

fn page(fares: &Fares) -> String {
    let seconds = |seconds| duration_text(Duration::from_secs(seconds));
    let limit = match fares.account_failures {
        0 => "none".to_owned(),
        failures if fares.account_pauses => {
            format!(
                "{failures} wrong passwords from one network within {}, with pauses that grow from 10s to 5m",
                seconds(fares.account_window)
            )
        }
        failures => format!("{failures} wrong passwords within {}", seconds(fares.account_window)),
    };
    format!(
        "up                {}\n\
         workers busy      {} of {}\n\
         workers waiting   {} of {} (for a back end that is slow or hangs)\n\
         questions in line {} of {}\n\
         memory            {} KiB, its template {} KiB, all workers {} KiB\n\
         answered          {} accepted, {} refused, {} throttled, {} unavailable\n\
         workers lost      {} killed at the deadline, {} ended without an answer\n\
         limit per account {limit}\n",
        seconds(fares.uptime),
        fares.busy,
        fares.workers,
        fares.slow,
        fares.slow_workers,
        fares.waiting,
        fares.most_waiting,
        fares.listener_kib,
        fares.template_kib,
        fares.workers_kib,
        fares.accepted,
        fares.refused,
        fares.throttled,
        fares.unavailable,
        fares.killed,
        fares.crashed,
    )
}

fn in_json(fares: &Fares) -> serde_json::Value {
    json!({
        "uptime": fares.uptime,
        "workers": { "busy": fares.busy, "most_busy": fares.workers, "slow": fares.slow, "most_slow": fares.slow_workers,
                     "killed": fares.killed, "crashed": fares.crashed },
        "waiting": fares.waiting, "most_waiting": fares.most_waiting,
        "kib": { "listener": fares.listener_kib, "template": fares.template_kib, "workers": fares.workers_kib },
        "answered": { "accepted": fares.accepted, "refused": fares.refused, "throttled": fares.throttled, "unavailable": fares.unavailable },
        "account": { "failures": fares.account_failures, "seconds": fares.account_window, "pauses": fares.account_pauses },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_is_and_what_may_be() {
        let page =
            page(&Fares { busy: 2, workers: 8, slow: 24, slow_workers: 24, account_failures: 2, account_window: 900, ..Fares::default() });

        for part in ["2 of 8", "24 of 24", "2 wrong passwords within 15m"] {
            assert!(page.contains(part), "{page}");
        }
    }
}
