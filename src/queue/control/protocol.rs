//! The words of the control socket, as types for both of its ends.

use serde::{Deserialize, Serialize};

use crate::delivery::job::Account;
use crate::queue::message::{Author, Standing};
use crate::queue::store::{self, Claimed, Hold};

/// Longest request: room for some ten thousand ids.
pub(super) const REQUEST_LIMIT: usize = 256 * 1024;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    List {
        #[serde(default)]
        filter: Filter,
    },
    Show {
        id: String,
    },
    Status,
    Retry(Target),
    Hold(Target),
    Release(Target),
    Delete(Target),
}

/// Which messages: by name, or all that match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Ids(Vec<String>),
    Filter(Filter),
}

/// What a message must be like; nothing said, anything goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// An address without regard to case, `@domain` for all of a domain, `<>` for reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// The same for any of the recipients that still wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The login name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not tried yet.
    Queued,
    /// Being delivered now.
    Active,
    /// Tried, and to be tried again.
    Deferred,
    /// Waits for an administrator.
    Held,
}

/// One message in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: String,
    pub state: State,
    pub arrived: String,
    /// The next attempt; absent while held or active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    pub attempts: u32,
    pub size: u64,
    /// Empty for a report.
    pub sender: String,
    /// Who logged in; absent for a report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The message that this is a report about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    pub recipients: Vec<RecipientEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientEntry {
    pub address: String,
    pub state: RecipientState,
    /// Of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientState {
    Waiting,
    Deferred,
    Delivered,
    Failed,
}

/// One message with its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub entry: Entry,
    /// Our trace field and the message's own header, as text; what is not UTF-8 is replaced.
    pub headers: String,
}

/// The queue as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Delivery reports that could not be delivered since the role began.
    pub undelivered_reports: u64,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Note {
    Entry(Entry),
    Shown(Box<Shown>),
    Status(Status),
    Changed(Vec<String>),
    Done { count: u64 },
    Error(String),
}

impl Filter {
    pub(super) fn matches(&self, entry: &store::Entry) -> bool {
        let sender = || entry.envelope.sender.to_string();
        let user = |name: &String| matches!(&entry.author, Author::User { user, .. } if user == name);
        let waiting = || entry.envelope.recipients().zip(&entry.progress.standings).filter(|(_, standing)| standing.is_open());
        self.state.is_none_or(|state| state == State::of(entry))
            && self.sender.as_ref().is_none_or(|wanted| is_like(&sender(), wanted))
            && self.user.as_ref().is_none_or(user)
            && self.recipient.as_ref().is_none_or(|wanted| waiting().any(|(it, _)| is_like(&it.mailbox.to_string(), wanted)))
    }
}

fn is_like(address: &str, wanted: &str) -> bool {
    match wanted.strip_prefix('@') {
        _ if wanted == "<>" => address.is_empty(),
        Some(domain) => address.rsplit_once('@').is_some_and(|(_, it)| it.eq_ignore_ascii_case(domain)),
        None => address.eq_ignore_ascii_case(wanted.trim_start_matches('<').trim_end_matches('>')),
    }
}

impl State {
    fn of(entry: &store::Entry) -> Self {
        match (entry.claimed, entry.hold) {
            (Claimed::Yes, _) => Self::Active,
            (Claimed::No, Hold::Held) => Self::Held,
            (Claimed::No, Hold::Free) if entry.timing.attempts > 0 => Self::Deferred,
            (Claimed::No, Hold::Free) => Self::Queued,
        }
    }
}

impl Entry {
    pub(super) fn of(entry: &store::Entry) -> Self {
        let state = State::of(entry);
        let (user, uid, session, about) = match &entry.author {
            Author::User { user, uid, session } => (Some(user.clone()), Some(*uid), Some(session.to_string()), None),
            Author::Report { about } => (None, None, None, Some(about.to_string())),
        };
        let recipients = entry.envelope.recipients().zip(&entry.progress.standings);
        Self {
            id: entry.id.to_string(),
            state,
            arrived: entry.timing.arrived.to_string(),
            next: matches!(state, State::Queued | State::Deferred).then(|| entry.timing.due.to_string()),
            attempts: entry.timing.attempts,
            size: entry.size,
            sender: entry.envelope.sender.to_string(),
            user,
            uid,
            session,
            about,
            recipients: recipients.map(|(it, standing)| RecipientEntry::of(it.mailbox.to_string(), standing)).collect(),
        }
    }
}

impl RecipientEntry {
    fn of(address: String, standing: &Standing) -> Self {
        let (state, account): (_, Option<&Account>) = match standing {
            Standing::New => (RecipientState::Waiting, None),
            Standing::Deferred(account) => (RecipientState::Deferred, Some(account)),
            Standing::Delivered { .. } => (RecipientState::Delivered, None),
            Standing::Failed => (RecipientState::Failed, None),
        };
        Self {
            address,
            state,
            status: account.map(|it| it.status.to_string()),
            remote: account.and_then(|it| it.remote.clone()),
            reason: account.map(|it| it.diagnostic.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Request> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn the_documented_requests_are_read() {
        let filter = Filter { state: Some(State::Deferred), user: Some("alice".into()), ..Filter::default() };
        let requests = [
            (r#"{"do":"list","filter":{"state":"deferred","user":"alice"}}"#, Request::List { filter: filter.clone() }),
            (r#"{"do":"list"}"#, Request::List { filter: Filter::default() }),
            (r#"{"do":"status"}"#, Request::Status),
            (r#"{"do":"show","id":"01"}"#, Request::Show { id: "01".into() }),
            (r#"{"do":"retry","ids":["01"]}"#, Request::Retry(Target::Ids(vec!["01".into()]))),
            (r#"{"do":"delete","filter":{"state":"deferred","user":"alice"}}"#, Request::Delete(Target::Filter(filter))),
            (r#"{"do":"release","filter":{}}"#, Request::Release(Target::Filter(Filter::default()))),
        ];
        for (text, request) in requests {
            assert_eq!(read(text).as_ref(), Some(&request), "{text}");
            assert_eq!(read(&serde_json::to_string(&request).unwrap()), Some(request));
        }
    }

    #[test]
    fn a_misspelt_filter_never_means_everything() {
        for text in [
            r#"{"do":"delete"}"#,
            r#"{"do":"delete","filter":{"usr":"alice"}}"#,
            r#"{"do":"delete","filter":{"state":"odd"}}"#,
            r#"{"do":"delete","ids":"all"}"#,
            r#"{"do":"delete","ids":["01"],"filter":{}}"#,
            r#"{"do":"format"}"#,
            "[]",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_compared_whole_or_by_domain() {
        for (address, wanted, like) in [
            ("a@b.example", "A@B.example", true),
            ("a@b.example", "<a@b.example>", true),
            ("a@b.example", "@b.example", true),
            ("a@sub.b.example", "@b.example", false),
            ("a@b.example", "b.example", false),
            ("", "<>", true),
            ("a@b.example", "<>", false),
            ("", "@b.example", false),
        ] {
            assert_eq!(is_like(address, wanted), like, "{address} {wanted}");
        }
    }
}
