//! Who may send, as the configuration says it: PAM services, names, guests, limits.
//!
//! What is decided here can only refuse more than PAM does; who is right is PAM's to say.

use std::time::Duration;

use pamrelay_authwire::NameRule;

use super::section::{Section, Word};
use super::value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// For listeners that have none of their own.
    pub service: String,
    /// In this order.
    pub names: Vec<NameRule>,
    pub guests: Option<Guests>,
    pub min_uid: u32,
    /// Empty: everybody may.
    pub groups: Vec<String>,
    pub deadline: Duration,
    pub workers: u32,
    /// 0: no such limit.
    pub account_failures: u32,
    pub account_window: Duration,
    /// Whether one of these two is in the configuration.
    pub account_limit: Chosen,
    pub lockout: Lockout,
    /// 0: no such limit.
    pub network_failures_per_minute: u32,
    pub failures_per_second: u32,
    pub low_ports: LowPorts,
    pub failure_floor: Duration,
}

/// People without an account on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guests {
    pub service: String,
    /// The account whose uid they have.
    pub account: String,
}

/// Whether the administrator has set a value, or nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    ByAdministrator,
    ByDefault,
}

/// Whether a back end that pamrelay cannot look into may lock accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockout {
    /// By the modules of the PAM services.
    Detect,
    None,
}

impl Word for Lockout {
    const WORDS: &'static [(&'static str, Self)] = &[("detect", Self::Detect), ("none", Self::None)];
}

/// Whether PAM modules may bind ports below 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowPorts {
    Dropped,
    Needed,
}

impl Word for LowPorts {
    const WORDS: &'static [(&'static str, Self)] = &[("no", Self::Dropped), ("yes", Self::Needed)];
}

pub(super) fn read(section: &Section<'_>) -> Auth {
    Auth {
        service: section.service("service"),
        names: section.list("names", value::name_rule).into_iter().map(|(rule, _)| rule).collect(),
        guests: guests(section),
        min_uid: section.count("min_uid"),
        groups: section.names("groups"),
        deadline: section.duration("deadline"),
        workers: section.count("workers"),
        account_failures: section.count("account_failures"),
        account_window: section.duration("account_window"),
        account_limit: account_limit(section),
        lockout: section.word("lockout"),
        network_failures_per_minute: section.count("network_failures_per_minute"),
        failures_per_second: section.count("failures_per_second"),
        low_ports: section.word("low_ports"),
        failure_floor: section.duration("failure_floor"),
    }
}

fn account_limit(section: &Section<'_>) -> Chosen {
    match section.has("account_failures") || section.has("account_window") {
        true => Chosen::ByAdministrator,
        false => Chosen::ByDefault,
    }
}

fn guests(section: &Section<'_>) -> Option<Guests> {
    let (service, account) = (section.optional_service("guest_service"), section.optional_name("guest_account"));
    match (section.has("guest_service"), section.has("guest_account")) {
        (true, false) => {
            section.mistake(section.place("guest_service"), "guest_service", "it wants guest_account beside it: whose uid guests have")
        }
        (false, true) => section.mistake(
            section.place("guest_account"),
            "guest_account",
            "it wants guest_service beside it: which PAM service knows the guests",
        ),
        (true, true) | (false, false) => {}
    }
    service.zip(account).map(|(service, account)| Guests { service, account })
}
