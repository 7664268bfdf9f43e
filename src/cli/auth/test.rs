//! `pamrelay auth test USER`: one real question to the real helper, and its answer in words.

use std::net::IpAddr;
use std::time::Duration;

use nix::unistd::User;
use pamrelay_authwire::{OutcomeKind, rewrite};

use super::super::out::say;
use super::super::{Failure, Status, as_root, password};
use super::{advice, runtime};
use crate::auth::{Answer, Helper, Password, Trouble, Visit};
use crate::config::Config;
use crate::smtp::session_id;

/// Beyond the helper's own deadline: the way there and back.
const SLACK: Duration = Duration::from_secs(2);

pub(super) fn main(user: &str, rhost: IpAddr, service: Option<&str>, config: &Config) -> Result<Status, Failure> {
    as_root("ask the helper")?;
    let listener = listener(service, config)?;
    let helper = Helper::new(config.jail().join("auth"), config.auth.deadline + SLACK);
    let password = Password::from(password::ask(&format!("Password of {}: ", user.escape_debug()))?);
    let session = session_id::fresh();
    let visit = Visit { session: session.0, peer: rhost, listener };
    let answer = runtime()?.block_on(helper.ask(visit, user.as_bytes(), password));
    let service = service.unwrap_or_else(|| service_of(user, config));
    say!("{}", explain(&answer, service, config));
    if !matches!(answer, Answer::Accept(_) | Answer::Unavailable(Trouble::NoAnswer(_))) {
        say!("More about this very login: pamrelay auth explain {session}");
    }
    Ok(status(&answer))
}

/// The service that answers for this name: what the host does not know is the guests'.
fn service_of<'a>(user: &str, config: &'a Config) -> &'a str {
    let asked = rewrite(&config.auth.names, user);
    let guests = config.auth.guests.as_ref().filter(|_| matches!(User::from_name(&asked), Ok(None)));
    guests.map_or(&config.auth.service, |guests| &guests.service)
}

/// A listener with this service: the helper asks no other than those of its own list.
fn listener<'a>(service: Option<&str>, config: &'a Config) -> Result<&'a str, Failure> {
    let Some(service) = service.filter(|service| *service != config.auth.service) else { return Ok("") };
    let found = config.listen.iter().find(|listen| listen.service.as_deref() == Some(service));
    found.map(|listen| listen.name.as_str()).ok_or_else(|| {
        let hint = match &config.auth.guests {
            Some(guests) if guests.service == service => {
                "; it is asked for every name that this host does not know: leave --service out".to_owned()
            }
            Some(_) | None => format!("; the services are {}", config.services().join(", ")),
        };
        Failure::new(Status::Usage, format!("no listener has the PAM service {service}{hint}"))
    })
}

fn status(answer: &Answer) -> Status {
    match answer.kind() {
        OutcomeKind::Accept => Status::Ok,
        OutcomeKind::Reject | OutcomeKind::MustChange | OutcomeKind::Expired | OutcomeKind::NotPermitted => Status::No,
        OutcomeKind::Throttled | OutcomeKind::Unavailable => Status::Later,
    }
}

/// What it means, what a mail client hears, and what can be done.
fn explain(answer: &Answer, service: &str, config: &Config) -> String {
    let advice = match answer {
        Answer::Accept(who) => {
            let groups = if who.groups().is_empty() { String::new() } else { format!(", in {}", who.groups().join(", ")) };
            return format!(
                "accepted: {} (uid {}{groups}) may send mail.\nA mail client hears: {}",
                who.user().escape_debug(),
                who.uid(),
                OutcomeKind::Accept.reply()
            );
        }
        Answer::Reject(cause)
        | Answer::Throttled(cause)
        | Answer::MustChange(cause)
        | Answer::Expired(cause)
        | Answer::NotPermitted(cause)
        | Answer::Unavailable(Trouble::Helper(cause)) => advice::remedy(*cause, service, config),
        Answer::Unavailable(Trouble::NoAnswer(_)) => {
            "see whether it runs: systemctl status pamrelay-auth, journalctl -u pamrelay-auth".to_owned()
        }
    };
    let unanswered = matches!(answer, Answer::Unavailable(Trouble::NoAnswer(_)));
    let meaning = if unanswered { "nobody knows: the helper did not answer" } else { advice::meaning(answer.kind()) };
    format!("{meaning}.\nA mail client hears: {}\nWhy: {answer}\nWhat to do: {advice}", answer.kind().reply())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pamrelay_authwire::{Cause, Phase, Reason};

    use super::*;
    use crate::auth::AuthError;

    fn config() -> Config {
        let listen = "listen: [{ address: \"127.0.0.1:1\", tls: starttls }, { name: g, address: \"127.0.0.1:2\", tls: starttls, service: devices }]\n";
        Config::parse(&format!("{listen}auth: {{ guest_service: guests, guest_account: mail }}\n"), Path::new("t")).unwrap()
    }

    #[test]
    fn every_refusal_says_what_a_client_hears_and_what_to_do() {
        let cause = Cause { phase: Phase::Account, code: 13, reason: Reason::AccountExpired };

        let text = explain(&Answer::Expired(cause), "smtp", &config());

        assert!(text.contains("535 5.7.13") && text.contains("chage"), "{text}");
        assert_eq!(status(&Answer::Expired(cause)), Status::No);
        let away = Answer::Unavailable(Trouble::NoAnswer(AuthError::Nonsense));
        assert!(explain(&away, "smtp", &config()).contains("454 4.7.0"));
        assert_eq!(status(&away), Status::Later);
    }

    #[test]
    fn a_service_is_asked_through_a_listener_that_has_it() {
        let config = config();

        assert_eq!(listener(None, &config).unwrap(), "");
        assert_eq!(listener(Some("smtp"), &config).unwrap(), "");
        assert_eq!(listener(Some("devices"), &config).unwrap(), "g");
        assert!(listener(Some("login"), &config).is_err());
        assert!(listener(Some("guests"), &config).is_err());
    }
}
