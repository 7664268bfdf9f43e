//! `pamrelay auth explain`: why a login was answered as it was, from what the helper remembers and the name service says now.

use std::ffi::CString;
use std::fmt::Write as _;

use jiff::Timestamp;
use nix::unistd::{Group, User, getgrouplist};
use pamrelay_authwire::{Attempt, Held, HeldSubject, Logins, Order, OutcomeKind, Phase, Question, Statement, network, site, spelling};
use serde_json::json;

use super::super::out::{self, say};
use super::super::{Failure, Status};
use super::{advice, nonsense, order};
use crate::config::Config;
use crate::smtp::SessionId;
use crate::visible::visible;

pub(super) fn main(session: Option<&str>, user: Option<String>, json: bool, config: &Config) -> Result<Status, Failure> {
    let logins = match (session, user) {
        (Some(text), _) => {
            let unknown =
                || Failure::new(Status::Usage, format!("{} is no session: those have 13 letters and digits", text.escape_debug()));
            Logins::OfSession(SessionId::parse(text).ok_or_else(unknown)?.0)
        }
        (None, Some(name)) => Logins::OfUser(name),
        (None, None) => Logins::Latest,
    };
    let latest_alone = logins == Logins::Latest;
    let Statement::Attempts(mut attempts) = order(&Order::Explain(logins), config)? else { return Err(nonsense()) };
    if latest_alone {
        attempts.truncate(1);
    }
    if json {
        out::json(&attempts.iter().map(in_json).collect::<Vec<_>>());
    } else if attempts.is_empty() {
        say!(
            "The helper remembers no such login (it has the latest 512 since its start). Older ones are in its log: journalctl -u pamrelay-auth | grep event=login"
        );
    } else {
        let Statement::Throttled(held) = order(&Order::Throttled, config)? else { return Err(nonsense()) };
        let pages: Vec<String> = attempts.iter().map(|attempt| page(attempt, &name_service(attempt), &held, config)).collect();
        say!("{}", pages.join("\n"));
    }
    Ok(if attempts.is_empty() { Status::No } else { Status::Ok })
}

fn page(attempt: &Attempt, name_service: &str, held: &[Held], config: &Config) -> String {
    let peer = Question::address(attempt.peer);
    let listener = if attempt.listener.is_empty() { "none, it was a trial".to_owned() } else { attempt.listener.clone() };
    let mut out = format!("{}  session {}\n", time(attempt.at), SessionId(attempt.session));
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "  {name:<16} {value}");
    };
    line("name typed", &visible(&attempt.typed));
    line("PAM was asked for", &visible(&attempt.asked));
    line("from", &peer);
    line("listener", &listener);
    line("PAM service", &attempt.service);
    line("answer", &advice::meaning(attempt.outcome));
    line("the client heard", &attempt.outcome.reply());
    if let Some(cause) = attempt.cause {
        let pam = match cause.phase {
            Phase::Auth | Phase::Account => format!(", {} ({})", cause.code, advice::pam_code(cause.code)),
            Phase::Check | Phase::Limit | Phase::Start | Phase::Identity | Phase::Worker => String::new(),
        };
        line("decided in", &format!("{}: {}{pam}", cause.phase, cause.reason));
    }
    if !attempt.account.is_empty() {
        line("account", &visible(&attempt.account));
    }
    if !attempt.text.is_empty() {
        line("modules said", &visible(&attempt.text));
    }
    line("time", &format!("{} ms, {} of them before a worker began", attempt.took, attempt.waited));
    line("name service now", &name_service);
    line("held back now", &throttle(attempt, held));
    if let Some(cause) = attempt.cause {
        line("what to do", &advice::remedy(cause, &attempt.service, config));
    }
    out
}

/// What the limits say of this account and network at this moment.
fn throttle(attempt: &Attempt, held: &[Held]) -> String {
    let peer = Question::address(attempt.peer);
    let named = |held: &&Held| match &held.subject {
        // The list has the latest spelling of each.
        HeldSubject::Account(name) => spelling::account(name.as_bytes()) == spelling::account(attempt.asked.as_bytes()),
        HeldSubject::AccountFrom(name, address) => {
            spelling::account(name.as_bytes()) == spelling::account(attempt.asked.as_bytes()) && network(*address) == network(peer)
        }
        HeldSubject::Network(address) => network(*address) == network(peer),
        HeldSubject::Site(address) => site(*address) == site(peer),
        HeldSubject::All => true,
    };
    let found: Vec<String> = held
        .iter()
        .filter(named)
        .map(|held| match held.subject {
            HeldSubject::Account(_) => format!("the account, {} s more", held.wait),
            HeldSubject::AccountFrom(..) => format!("the account from this network, {} s more", held.wait),
            HeldSubject::Network(_) => format!("the network, {} s more", held.wait),
            HeldSubject::Site(_) => format!("the site around the network, {} s more", held.wait),
            HeldSubject::All => format!("everybody from a new network, {} s more", held.wait),
        })
        .collect();
    if found.is_empty() { "no".to_owned() } else { found.join("; ") }
}

/// What this host knows of the name, asked now and here.
fn name_service(attempt: &Attempt) -> String {
    let name = if attempt.account.is_empty() { &attempt.asked } else { &attempt.account };
    match User::from_name(name) {
        Ok(Some(user)) => {
            let gids = CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, user.gid).ok()).unwrap_or_default();
            let groups: Vec<String> = gids
                .into_iter()
                .map(|gid| Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name))
                .collect();
            format!("{}, uid {}, in {}", visible(&user.name), user.uid, visible(&groups.join(", ")))
        }
        Ok(None) => "it knows no such name".to_owned(),
        Err(error) => format!("it cannot answer: {error}"),
    }
}

fn in_json(attempt: &Attempt) -> serde_json::Value {
    let cause = attempt.cause.map(|cause| json!({ "phase": cause.phase.word(), "code": cause.code, "reason": cause.reason.word() }));
    json!({
        "time": time(attempt.at), "session": SessionId(attempt.session).to_string(), "peer": Question::address(attempt.peer),
        "listener": attempt.listener, "service": attempt.service, "user": attempt.typed, "asked": attempt.asked,
        "account": (attempt.outcome == OutcomeKind::Accept).then_some(&attempt.account), "verdict": attempt.outcome.word(),
        "reply": attempt.outcome.reply(), "cause": cause, "text": attempt.text, "ms": attempt.took, "waited_ms": attempt.waited,
    })
}

fn time(milliseconds: u64) -> String {
    let moment = i64::try_from(milliseconds).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    moment.map_or_else(|| "?".to_owned(), |moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pamrelay_authwire::{Cause, Reason};

    use super::*;

    #[test]
    fn a_page_says_who_why_and_what_to_do() {
        let config = Config::parse("listen: [{ address: \"127.0.0.1:1\", tls: starttls }]\n", Path::new("t")).unwrap();
        let attempt = Attempt {
            at: 1_800_000_000_000,
            session: 33,
            peer: Question::peer_bytes("192.0.2.7".parse().unwrap()),
            listener: "submission".into(),
            service: "smtp".into(),
            typed: "ann@example.org".into(),
            asked: "ann".into(),
            account: String::new(),
            outcome: OutcomeKind::Reject,
            cause: Some(Cause { phase: Phase::Auth, code: 7, reason: Reason::Refused }),
            took: 73,
            waited: 2,
            text: "account \u{1b}locked".into(),
        };
        let held = [Held { subject: HeldSubject::Account("LAB\\Ann".into()), failures: 3, wait: 600 }];

        let page = page(&attempt, "ann, uid 1001, in ann, staff", &held, &config);

        for part in [
            "2027-01-15T08:00:00Z",
            "0000000000011",
            "ann@example.org",
            "192.0.2.7",
            "535 5.7.8",
            "auth: refused, 7 (PAM_AUTH_ERR)",
            "73 ms",
            "uid 1001",
            "600 s more",
            "faillock --user",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains('\u{1b}'));
    }
}
