//! Who is asked by which PAM service, and whom a worker may accept: what the workers know of the settings.
//!
//! The front end names the listener that a client came to; which service that means is decided here.
//! Invariant: the guest service answers only for names that the host does not know, every other only for people
//! with an account on it.

use pamrelay_authwire::NameRule;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// For listeners that have none of their own.
    pub(crate) service: String,
    /// Every listener with its service.
    pub(crate) listeners: Vec<(String, String)>,
    pub(crate) names: Vec<NameRule>,
    pub(crate) guests: Option<Guests>,
    pub(crate) min_uid: u32,
    pub(crate) groups: Vec<String>,
    pub(crate) worker_memory_mib: u32,
}

/// People without an account on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guests {
    pub(crate) service: String,
    /// Whose uid and groups they have.
    pub(crate) account: String,
}

impl Rules {
    /// The service of a listener; `None` for a listener that there is not.
    pub(crate) fn service_of(&self, listener: &str) -> Option<&str> {
        if listener.is_empty() {
            return Some(&self.service);
        }
        self.listeners.iter().find(|(name, _)| name == listener).map(|(_, service)| service.as_str())
    }

    /// Every service, once.
    pub(crate) fn services(&self) -> Vec<&str> {
        let own = self.listeners.iter().map(|(_, service)| service);
        let mut services = Vec::new();
        for service in std::iter::once(&self.service).chain(own).chain(self.guests.iter().map(|guests| &guests.service)) {
            if !services.contains(&service.as_str()) {
                services.push(service.as_str());
            }
        }
        services
    }

    /// As arguments for the template process; [`from_args`](Self::from_args) reads them back.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let Self { service, listeners, names, guests, min_uid, groups, worker_memory_mib } = self;
        let mut args = vec![service.clone(), min_uid.to_string(), worker_memory_mib.to_string()];
        args.extend(listeners.iter().map(|(name, service)| format!("listener={name}={service}")));
        args.extend(names.iter().map(|rule| format!("name={rule}")));
        args.extend(guests.iter().map(|guests| format!("guests={}={}", guests.service, guests.account)));
        args.extend(groups.iter().map(|group| format!("group={group}")));
        args
    }

    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let (service, min_uid, memory) = (args.next()?, args.next()?, args.next()?);
        let mut rules = Self {
            service,
            listeners: Vec::new(),
            names: Vec::new(),
            guests: None,
            min_uid: min_uid.parse().ok()?,
            groups: Vec::new(),
            worker_memory_mib: memory.parse().ok()?,
        };
        for arg in args {
            match arg.split_once('=')? {
                ("listener", pair) => {
                    rules.listeners.push(pair.rsplit_once('=').map(|(name, service)| (name.to_owned(), service.to_owned()))?)
                }
                ("name", rule) => rules.names.push(NameRule::parse(rule)?),
                ("guests", pair) => {
                    let (service, account) = pair.split_once('=')?;
                    rules.guests = Some(Guests { service: service.to_owned(), account: account.to_owned() });
                }
                ("group", group) => rules.groups.push(group.to_owned()),
                _ => return None,
            }
        }
        Some(rules)
    }
}

#[cfg(test)]
impl Rules {
    /// Rules without particulars.
    pub(crate) fn plain(min_uid: u32, groups: &[&str]) -> Self {
        let args = ["smtp".to_owned(), min_uid.to_string(), "512".to_owned()].into_iter();
        Self::from_args(args.chain(groups.iter().map(|group| format!("group={group}")))).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            listeners: vec![("[::]:587".into(), "smtp".into()), ("guests".into(), "smtp-guests".into())],
            names: vec![NameRule::StripRealm("example.org".into()), NameRule::LowerCase],
            guests: Some(Guests { service: "smtp-guests".into(), account: "mail=guests".into() }),
            ..Rules::plain(500, &["mail users", "Domain=Users"])
        }
    }

    #[test]
    fn rules_survive_their_way_to_the_template() {
        assert_eq!(Rules::from_args(rules().to_args().into_iter()), Some(rules()));
        assert_eq!(Rules::from_args(["smtp".to_owned()].into_iter()), None);
        assert_eq!(Rules::from_args(["smtp", "1", "512", "other=x"].map(str::to_owned).into_iter()), None);
    }

    #[test]
    fn a_listener_has_the_service_of_the_list_and_an_unknown_one_has_none() {
        let rules = rules();

        assert_eq!(
            ["", "[::]:587", "guests", "elsewhere"].map(|listener| rules.service_of(listener)),
            [Some("smtp"), Some("smtp"), Some("smtp-guests"), None]
        );
        assert_eq!(rules.services(), ["smtp", "smtp-guests"]);
    }
}
