//! `pamrelay auth throttled` and `release`: who is held back now, and letting them go.

use std::net::IpAddr;

use pamrelay_authwire::{Held, HeldSubject, Order, Question, Statement, Subject, network};
use serde_json::json;

use super::super::out::{self, say};
use super::super::{Failure, Status};
use super::{nonsense, order};
use crate::config::Config;
use crate::visible::visible;

pub(super) fn list(json: bool, config: &Config) -> Result<Status, Failure> {
    let Statement::Throttled(held) = order(&Order::Throttled, config)? else { return Err(nonsense()) };
    if json {
        out::json(&held.iter().map(in_json).collect::<Vec<_>>());
    } else if held.is_empty() {
        say!("Nobody is held back.");
    } else {
        say!("{:<8} {:<40} {:>8}  {:>12}", "WHAT", "WHO", "FAILURES", "FREE IN");
        held.iter().for_each(|held| say!("{}", row(held)));
    }
    Ok(Status::Ok)
}

/// `None` is everybody.
pub(super) fn release(subject: Option<&str>, config: &Config) -> Result<Status, Failure> {
    let subject = subject.map_or(Subject::All, |text| match text.parse::<IpAddr>() {
        Ok(address) => Subject::Network(Question::peer_bytes(address)),
        Err(_) => Subject::Account(text.to_owned()),
    });
    let Statement::Released(found) = order(&Order::Release(subject), config)? else { return Err(nonsense()) };
    say!("{}", if found { "Released." } else { "There was nothing to forget." });
    Ok(if found { Status::Ok } else { Status::No })
}

fn row(held: &Held) -> String {
    let (what, who) = names(held);
    format!("{what:<8} {:<40} {:>8}  {:>10} s", visible(&who), held.failures, held.wait)
}

fn names(held: &Held) -> (&'static str, String) {
    match &held.subject {
        HeldSubject::Account(name) => ("account", name.clone()),
        HeldSubject::AccountFrom(name, address) => ("account", format!("{name} from {}", named(*address))),
        HeldSubject::Network(address) => ("network", named(*address)),
        HeldSubject::Site(IpAddr::V4(four)) => ("site", format!("{four}/24")),
        HeldSubject::Site(IpAddr::V6(six)) => ("site", format!("{six}/48")),
        HeldSubject::All => ("all", "everybody from a new network".to_owned()),
    }
}

/// An IPv6 address stands for its /64.
fn named(address: IpAddr) -> String {
    match network(address) {
        IpAddr::V4(four) => four.to_string(),
        IpAddr::V6(six) => format!("{six}/64"),
    }
}

fn in_json(held: &Held) -> serde_json::Value {
    let (what, who) = names(held);
    json!({ "what": what, "who": who, "failures": held.failures, "seconds": held.wait })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_the_account_or_the_network() {
        let held = |subject| Held { subject, failures: 3, wait: 900 };

        assert_eq!(
            row(&held(HeldSubject::Account("ann\u{1b}".into()))).split_whitespace().collect::<Vec<_>>(),
            ["account", "ann\\u{1b}", "3", "900", "s"]
        );
        assert!(row(&held(HeldSubject::Network("2001:db8:0:1:2::3".parse().unwrap()))).contains("2001:db8:0:1::/64"));
        let from = HeldSubject::AccountFrom("ann".into(), "2001:db8:0:1:2::3".parse().unwrap());
        assert!(row(&held(from)).contains("ann from 2001:db8:0:1::/64"));
        assert!(row(&held(HeldSubject::Site("2001:db8:1::".parse().unwrap()))).starts_with("site     2001:db8:1::/48"));
        assert!(row(&held(HeldSubject::All)).starts_with("all"));
    }
}
