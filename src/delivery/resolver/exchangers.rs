//! Which hosts take mail for a domain, from its MX records (RFC 5321 §5.1, RFC 7505). Pure but for the dice.

use std::net::IpAddr;

use hickory_proto::rr::RData;

use super::{Answer, Failure, is_localhost};
use crate::delivery::job::{Account, Origin, PassedOn};
use crate::smtp::status::{Class, EnhancedStatus};

/// A host that takes mail for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchanger {
    /// Lower is better.
    pub(crate) preference: u16,
    /// As DNS has it, without its final dot.
    pub(crate) name: String,
}

/// Why a domain's mail has nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoExchanger {
    #[error("556 the domain says that it accepts no mail (null MX)")]
    NullMx,
    #[error("DNS: the domain does not exist ({0} MX)")]
    NoDomain(String),
    #[error("DNS: the domain has neither a mail exchanger nor an address ({0} MX, A, AAAA)")]
    NoHost(String),
    #[error("DNS: no mail exchanger of the domain has an address ({0} MX)")]
    NoAddress(String),
    #[error("mail for the domain would come back to this host: DNS names us as the best exchanger ({0} MX)")]
    Loop(String),
    #[error("the address {address} of {name} {reason}")]
    Refused { name: String, address: IpAddr, reason: &'static str },
    #[error("{0}")]
    Temporary(String),
}

impl NoExchanger {
    pub(crate) fn account(&self) -> Account {
        let (class, subject, detail) = match self {
            Self::NullMx => (Class::Permanent, 1, 10),
            Self::NoDomain(_) | Self::NoHost(_) => (Class::Permanent, 1, 2),
            Self::NoAddress(_) | Self::Refused { .. } => (Class::Permanent, 4, 4),
            Self::Loop(_) => (Class::Permanent, 4, 6),
            Self::Temporary(_) => (Class::Transient, 4, 3),
        };
        Account {
            status: EnhancedStatus::new(class, subject, detail),
            remote: None,
            diagnostic: self.to_string(),
            origin: Origin::Local,
            passed_on: PassedOn::WithoutDsn,
        }
    }
}

/// The exchangers in the order to try them; those of equal preference shuffled, so that load spreads.
pub(super) fn choose(domain: &str, own: &str, answer: Result<&Answer, &Failure>) -> Result<Vec<Exchanger>, NoExchanger> {
    let mut listed: Vec<(u16, u64, String)> = match answer {
        Err(Failure::NoName) => return Err(NoExchanger::NoDomain(domain.to_owned())),
        Err(Failure::NoData) => vec![(0, 0, domain.to_owned())], // implicit MX
        Err(Failure::Temporary(why)) => return Err(NoExchanger::Temporary(why.clone())),
        Ok(answer) => answer.records.iter().filter_map(listed).collect(),
    };
    // A null MX is alone; beside others it is a mistake and says nothing (RFC 7505 §3).
    if matches!(listed.as_slice(), [(_, _, name)] if name.is_empty()) {
        return Err(NoExchanger::NullMx);
    }
    listed.retain(|(_, _, name)| !name.is_empty());
    // Mail goes towards lower preferences only, or it would circle (RFC 5321 §5.1).
    if let Some(ours) = listed.iter().filter(|(_, _, name)| is_ours(name, own)).map(|(preference, _, _)| *preference).min() {
        listed.retain(|(preference, _, _)| *preference < ours);
        if listed.is_empty() {
            return Err(NoExchanger::Loop(domain.to_owned()));
        }
    }
    listed.sort();
    Ok(listed.into_iter().map(|(preference, _, name)| Exchanger { preference, name }).collect())
}

/// Preference, a die, name without its final dot.
fn listed(data: &RData) -> Option<(u16, u64, String)> {
    let RData::MX(mx) = data else { return None };
    let mut die = [0; 8];
    aws_lc_rs::rand::fill(&mut die).expect("the library's generator never runs dry once seeded");
    let name = mx.exchange.to_ascii();
    Some((mx.preference, u64::from_le_bytes(die), name.trim_end_matches('.').to_ascii_lowercase()))
}

/// Whether the name alone says that it is this host. Others are told by their addresses.
fn is_ours(name: &str, own: &str) -> bool {
    name.eq_ignore_ascii_case(own.trim_end_matches('.')) || is_localhost(name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::MX;

    use super::*;

    fn names(chosen: Vec<Exchanger>) -> Vec<String> {
        chosen.into_iter().map(|exchanger| exchanger.name).collect()
    }

    fn chosen(records: &[(u16, &str)]) -> Result<Vec<String>, NoExchanger> {
        let records = records.iter().map(|(preference, name)| RData::MX(MX::new(*preference, Name::from_ascii(name).unwrap()))).collect();
        choose("d.example", "Us.example", Ok(&Answer { records, authentic: false })).map(names)
    }

    #[test]
    fn lower_preferences_come_first() {
        assert_eq!(chosen(&[(20, "b."), (10, "a."), (30, "c.")]).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn equal_preferences_take_turns() {
        let firsts: HashSet<String> = (0..200).map(|_| chosen(&[(10, "a."), (10, "b."), (20, "c.")]).unwrap().remove(0)).collect();

        assert_eq!(firsts, HashSet::from(["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn a_domain_without_mx_is_its_own_exchanger() {
        assert_eq!(names(choose("d.example", "us.example", Err(&Failure::NoData)).unwrap()), ["d.example"]);
        assert_eq!(choose("Us.example", "us.example.", Err(&Failure::NoData)), Err(NoExchanger::Loop("Us.example".into())));
    }

    #[test]
    fn a_null_mx_takes_no_mail() {
        assert_eq!(chosen(&[(0, ".")]), Err(NoExchanger::NullMx));
        assert_eq!(chosen(&[(0, "."), (10, "a.")]).unwrap(), ["a"]);
        assert_eq!(NoExchanger::NullMx.account().status.to_string(), "5.1.10");
    }

    #[test]
    fn our_own_name_cuts_itself_and_all_that_is_no_better() {
        assert_eq!(chosen(&[(10, "a."), (20, "us.EXAMPLE."), (20, "b."), (30, "c.")]).unwrap(), ["a"]);
        assert_eq!(chosen(&[(10, "us.example."), (10, "a.")]), Err(NoExchanger::Loop("d.example".into())));
    }

    #[test]
    fn localhost_by_any_name_is_this_host() {
        for name in ["localhost.", "LocalHost.", "x.localhost."] {
            assert_eq!(chosen(&[(10, name), (20, "a.")]), Err(NoExchanger::Loop("d.example".into())), "{name}");
            assert_eq!(chosen(&[(20, name), (10, "a.")]).unwrap(), ["a"], "{name}");
        }
    }

    #[test]
    fn a_missing_domain_is_for_good_and_a_failing_server_for_now() {
        let of = |failure: Failure| choose("d.example", "us.example", Err(&failure)).unwrap_err().account().status.to_string();

        assert_eq!(of(Failure::NoName), "5.1.2");
        assert_eq!(of(Failure::Temporary("x".into())), "4.4.3");
    }
}
