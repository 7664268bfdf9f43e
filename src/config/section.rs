//! Reading one map of the configuration by the table of options.
//!
//! A key that is missing gives its default; a value that is wrong gives a mistake *and* a default, so that reading goes on to the next mistake.
//! Whoever collects the mistakes must look at them before the values are believed.

use std::cell::RefCell;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::mistake::{Mistake, Position, shown};
use super::options::{Fallback, Row, Wants, row, rows_of};
use super::tree::{Entry, Node, Value};
use super::value::{self, Bytes, Host, duration_text};
use crate::smtp::address::{Domain, Mailbox};

/// A word that stands for one of our variants.
pub(super) trait Word: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

/// Where mistakes are collected.
pub(super) struct Findings(RefCell<Vec<Mistake>>);

impl Findings {
    pub(super) fn new(mistakes: Vec<Mistake>) -> Self {
        Self(RefCell::new(mistakes))
    }

    pub(super) fn add(&self, at: Option<Position>, words: impl Into<String>) {
        self.0.borrow_mut().push(Mistake { at, words: words.into() });
    }

    pub(super) fn into_inner(self) -> Vec<Mistake> {
        self.0.into_inner()
    }
}

pub(super) struct Section<'a> {
    /// As in the table: `routes[].smart_hosts[]`.
    name: String,
    /// Where it begins in the text; `None` when the text does not have it.
    at: Option<Position>,
    entries: &'a [Entry],
    form: Form,
    findings: &'a Findings,
}

/// Whether the section is a map at all. If not, that was said, and what it lacks need not be said too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Map,
    Broken,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn top(root: &'a Node, findings: &'a Findings) -> Self {
        Self::of("", root, findings)
    }

    fn of(name: &str, node: &'a Node, findings: &'a Findings) -> Self {
        let (entries, form): (&[Entry], Form) = match &node.value {
            Value::Map(entries) => (entries.as_slice(), Form::Map),
            Value::Empty => (&[], Form::Map),
            Value::Scalar(_) | Value::List(_) => {
                let wanted = format!("{} where keys are wanted, such as {}", kind(node), names(name));
                findings.add(Some(node.at), if name.is_empty() { wanted } else { format!("{name}: {wanted}") });
                (&[], Form::Broken)
            }
        };
        let section = Self { name: name.to_owned(), at: Some(node.at), entries, form, findings };
        section.refuse_unknown();
        section
    }

    fn refuse_unknown(&self) {
        for entry in self.entries {
            if rows_of(&self.name).any(|row| row.name() == entry.key) {
                continue;
            }
            let hint = if matches!(entry.key.as_str(), "password" | "pass") {
                "a password has no place here, where everybody may read; write it into a file of mode 0600 in tls.directory and name that file with \"secret\"".to_owned()
            } else if let Some(near) = nearest(&entry.key, rows_of(&self.name).map(Row::name)) {
                format!("did you mean {near}?")
            } else {
                format!("the keys here are {}", names(&self.name))
            };
            self.findings.add(Some(entry.at), format!("{}: there is no such key; {hint}", self.full(&shown_key(&entry.key))));
        }
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn row(&self, key: &str) -> &'static Row {
        row(&self.full(key))
    }

    /// The place of a key's value, or of the section.
    pub(super) fn place(&self, key: &str) -> Option<Position> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.at).or(self.at)
    }

    pub(super) fn mistake(&self, at: Option<Position>, key: &str, words: impl Display) {
        self.findings.add(at, format!("{}: {words}", self.full(key)));
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    pub(super) fn is_map(&self) -> bool {
        self.form == Form::Map
    }

    /// The value of a key that is there and not empty.
    fn given(&self, key: &str) -> Option<&'a Node> {
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => match &entry.value.value {
                Value::Empty => {
                    let words = "it has no value; write one, or leave the line out";
                    self.mistake(Some(entry.at), key, words);
                    None
                }
                Value::Scalar(_) | Value::List(_) | Value::Map(_) => Some(&entry.value),
            },
            None => {
                if let Fallback::Required(such_as) = self.row(key).fallback
                    && self.form == Form::Map
                {
                    self.mistake(self.at, key, format!("it is missing; wanted is {}, such as {such_as}", wanted(self.row(key))));
                }
                None
            }
        }
    }

    /// A section of keys; empty when it is not there.
    pub(super) fn section(&self, key: &str) -> Section<'a> {
        let name = self.full(key);
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => Section::of(&name, &entry.value, self.findings),
            None => Section { name, at: None, entries: &[], form: Form::Map, findings: self.findings },
        }
    }

    /// The same, without reporting again what is wrong with its form.
    pub(super) fn quiet_section(&self, key: &str) -> Section<'a> {
        let found = self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let entries = match found.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.as_slice(),
            Some(Value::Empty | Value::Scalar(_) | Value::List(_)) | None => &[],
        };
        Section { name: self.full(key), at: found.map(|node| node.at), entries, form: Form::Map, findings: self.findings }
    }

    /// A list of maps; `None` when it is not there, and never an empty list without a mistake.
    pub(super) fn sections(&self, key: &str) -> Option<Vec<Section<'a>>> {
        let node = self.given(key)?;
        let Value::List(items) = &node.value else {
            self.mistake(Some(node.at), key, format!("{} where a list is wanted; begin each item with \"- \"", kind(node)));
            return Some(Vec::new());
        };
        if items.is_empty() {
            self.mistake(Some(node.at), key, "the list is empty");
        }
        let name = format!("{}[]", self.full(key));
        Some(items.iter().map(|item| Section::of(&name, item, self.findings)).collect())
    }

    /// A value by its parser; a wrong one is reported with what is wanted.
    fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let node = self.given(key)?;
        self.parse_node(key, node, parse)
    }

    fn parse_node<T>(&self, key: &str, node: &Node, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let row = self.row(key);
        let Value::Scalar(text) = &node.value else {
            self.mistake(Some(node.at), key, format!("{} where {} is wanted", kind(node), wanted(row)));
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.mistake(Some(node.at), key, format!("{} cannot be taken: {why}; wanted is {}", shown(text), wanted(row)));
                None
            }
        }
    }

    /// The value that is written, else the default from the table, parsed by the same parser.
    fn or_default<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if let Some(value) = self.parsed(key, &parse) {
            return value;
        }
        match self.row(key).fallback {
            Fallback::Value(text) | Fallback::Required(text) => match parse(text) {
                Ok(value) => value,
                Err(why) => unreachable!("the table's own value for {key}: {why}"),
            },
            Fallback::Otherwise { .. } => unreachable!("{key} has no value to fall back to"),
        }
    }

    pub(super) fn duration(&self, key: &str) -> Duration {
        let Wants::Duration { least, most } = self.row(key).wants else { unreachable!("{key} is no duration") };
        self.or_default(key, |text| within(value::duration(text)?, least, most, duration_text))
    }

    pub(super) fn size(&self, key: &str) -> Bytes {
        let Wants::Size { least, most } = self.row(key).wants else { unreachable!("{key} is no size") };
        self.or_default(key, |text| within(value::size(text)?, least, most, |size| size.to_string()))
    }

    pub(super) fn count<T: TryFrom<u64>>(&self, key: &str) -> T {
        self.or_default(key, |text| self.count_of(key, text))
    }

    pub(super) fn optional_count<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        self.parsed(key, |text| self.count_of(key, text))
    }

    fn count_of<T: TryFrom<u64>>(&self, key: &str, text: &str) -> Result<T, String> {
        let Wants::Count { least, most } = self.row(key).wants else { unreachable!("{key} is no number") };
        let number = within(value::count(text)?, least, most, |number| number.to_string())?;
        T::try_from(number).map_err(|_| "the number is too large".to_owned())
    }

    pub(super) fn word<T: Word>(&self, key: &str) -> T {
        self.or_default(key, one_of)
    }

    pub(super) fn optional_word<T: Word>(&self, key: &str) -> Option<T> {
        self.parsed(key, one_of)
    }

    pub(super) fn socket(&self, key: &str) -> SocketAddr {
        self.or_default(key, socket)
    }

    pub(super) fn domain(&self, key: &str) -> Option<Domain> {
        self.parsed(key, value::dns_domain)
    }

    pub(super) fn mailbox(&self, key: &str) -> Option<Mailbox> {
        self.parsed(key, value::mailbox)
    }

    pub(super) fn host(&self, key: &str) -> Option<Host> {
        self.parsed(key, Host::parse)
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.or_default(key, value::path)
    }

    pub(super) fn optional_path(&self, key: &str) -> Option<PathBuf> {
        self.parsed(key, value::path)
    }

    pub(super) fn file(&self, key: &str) -> String {
        self.or_default(key, value::file_name)
    }

    pub(super) fn optional_file(&self, key: &str) -> Option<String> {
        self.parsed(key, value::file_name)
    }

    pub(super) fn service(&self, key: &str) -> String {
        self.or_default(key, value::service)
    }

    pub(super) fn optional_service(&self, key: &str) -> Option<String> {
        self.parsed(key, value::service)
    }

    pub(super) fn optional_name(&self, key: &str) -> Option<String> {
        self.parsed(key, value::name)
    }

    pub(super) fn listener_name(&self, key: &str) -> Option<String> {
        self.parsed(key, value::listener_name)
    }

    pub(super) fn login(&self, key: &str) -> Option<String> {
        self.parsed(key, value::login)
    }

    pub(super) fn names(&self, key: &str) -> Vec<String> {
        self.list(key, value::name).into_iter().map(|(name, _)| name).collect()
    }

    pub(super) fn socket_list(&self, key: &str) -> Vec<SocketAddr> {
        self.list(key, socket).into_iter().map(|(socket, _)| socket).collect()
    }

    /// A list of values with their places; one value without a list is taken as a list of one.
    pub(super) fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<(T, Position)> {
        let Some(node) = self.given(key) else { return Vec::new() };
        match &node.value {
            Value::List(items) => {
                if items.is_empty() {
                    self.mistake(Some(node.at), key, "the list is empty; leave the line out for the default");
                }
                items.iter().filter_map(|item| self.parse_node(key, item, &parse).map(|value| (value, item.at))).collect()
            }
            Value::Scalar(_) | Value::Map(_) | Value::Empty => {
                self.parse_node(key, node, &parse).map(|value| (value, node.at)).into_iter().collect()
            }
        }
    }
}

fn within<T: PartialOrd + Copy>(value: T, least: T, most: T, text: impl Fn(T) -> String) -> Result<T, String> {
    if value < least {
        Err(format!("it is less than {}", text(least)))
    } else if value > most {
        Err(format!("it is more than {}", text(most)))
    } else {
        Ok(value)
    }
}

fn one_of<T: Word>(text: &str) -> Result<T, String> {
    T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| "there is no such word".to_owned())
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        if text.parse::<std::net::IpAddr>().is_ok() {
            "it has no port".to_owned()
        } else if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            "names are not looked up here".to_owned()
        } else {
            "it is not an address with a port".to_owned()
        }
    })
}

/// What a row wants, as a phrase.
pub(super) fn wanted(row: &Row) -> String {
    match &row.wants {
        Wants::Section => format!("keys such as {}", names(row.key)),
        Wants::Sections(_) => "a list".to_owned(),
        Wants::Duration { least, most } => {
            format!("a duration from {} to {}, such as 30s, 5m or 1h30m", duration_text(*least), duration_text(*most))
        }
        Wants::Size { least, most } => format!("a size from {least} to {most}, such as 25MiB"),
        Wants::Count { least, most } => format!("a whole number from {least} to {most}"),
        Wants::Word(words) => match words {
            [only] => format!("the word {only}"),
            [.., _] | [] => format!("one of {}", words.join(", ")),
        },
        Wants::Domain => "a domain name such as mail.example.org".to_owned(),
        Wants::Mailbox => "a mail address such as postmaster@example.org".to_owned(),
        Wants::Host => "a host name such as relay.example.net, or an address".to_owned(),
        Wants::Socket => "an address with a port such as \"0.0.0.0:587\" or \"[::]:465\"".to_owned(),
        Wants::Path => "a path from the root such as /var/spool/pamrelay".to_owned(),
        Wants::File => "the name of a file in tls.directory, such as server.crt".to_owned(),
        Wants::Service => "the name of a file in /etc/pam.d, such as smtp".to_owned(),
        Wants::Login => "a user name".to_owned(),
        Wants::Patterns => "a domain such as example.org, .example.org for all below it, or \"*\"".to_owned(),
        Wants::Groups => "the name of a group".to_owned(),
        Wants::Account => "the name of an account on this host".to_owned(),
        Wants::Label => "a short name of letters, digits, \".\", \"_\" and \"-\"".to_owned(),
        Wants::NameRules => {
            "a rule such as strip-realm=example.org, strip-domain=LAB, add-realm=lab.example, add-domain=LAB, case=lower".to_owned()
        }
        Wants::Sockets => "an address with a port such as \"127.0.0.1:53\"".to_owned(),
    }
}

fn kind(node: &Node) -> &'static str {
    match node.value {
        Value::Empty => "there is nothing",
        Value::Scalar(_) => "there is a single value",
        Value::List(_) => "there is a list",
        Value::Map(_) => "there are keys",
    }
}

fn names(section: &str) -> String {
    rows_of(section).map(Row::name).collect::<Vec<_>>().join(", ")
}

fn shown_key(key: &str) -> String {
    let plain = !key.is_empty() && key.len() <= 40 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if plain { key.to_owned() } else { shown(key) }
}

/// The name that was probably meant: equal but for case and hyphens, or few letters away.
fn nearest<'n>(key: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let plain = key.to_ascii_lowercase().replace('-', "_");
    names
        .map(|name| (strsim::damerau_levenshtein(&plain, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
