//! YAML text as a tree in which every key and every value knows its line and column.
//!
//! Built from the events of one parser, so a position and a value can never come from two readings of the text.
//! Only the plain part of YAML exists here: no anchors, aliases, tags or second documents, little depth, and no repeated keys.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::mistake::{Mistake, Position, shown};

/// Deeper than any key we have; more is a mistake or an attack.
const DEEPEST: usize = 8;
/// With so many mistakes of form the rest is noise.
const MOST_MISTAKES: usize = 50;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Empty,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) value: Node,
}

/// Reads one document. On mistakes of form (a repeated key, an alias) the tree is still given, so that the rest can be checked too;
/// without a tree the text is not YAML.
pub(super) fn read(text: &str) -> (Option<Node>, Vec<Mistake>) {
    let mut builder = Builder { open: Vec::new(), root: None, mistakes: Vec::new() };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                if let Grown::Stopped = builder.take(event, span) {
                    return (None, builder.mistakes);
                }
            }
            Err(error) => {
                builder.mistake(position(error.marker()), format!("this is not YAML: {}", error.info()));
                return (None, builder.mistakes);
            }
        }
    }
    (Some(builder.root.unwrap_or(Node { at: Position::START, value: Value::Empty })), builder.mistakes)
}

struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    mistakes: Vec<Mistake>,
}

/// A list or map that has begun and not ended.
enum Open {
    List { at: Position, items: Vec<Node> },
    Map { at: Position, entries: Vec<Entry>, key: Option<(String, Position)> },
}

enum Grown {
    On,
    Stopped,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Grown {
        let at = position(&span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.plain_yaml(anchor, tag.is_some(), at);
                let empty = matches!(style, ScalarStyle::Plain) && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                let value = if empty { Value::Empty } else { Value::Scalar(text.into_owned()) };
                self.add(Node { at, value });
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain_yaml(anchor, tag.is_some(), at);
                self.open.push(Open::List { at, items: Vec::new() });
            }
            Event::MappingStart(anchor, tag) => {
                self.plain_yaml(anchor, tag.is_some(), at);
                self.open.push(Open::Map { at, entries: Vec::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(_) => {
                self.mistake(at, "aliases (*name) are not used here; write the value out".to_owned());
                self.add(Node { at, value: Value::Empty });
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                self.mistake(at, "a second document begins here; wanted is one document in one file".to_owned());
                return Grown::Stopped;
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {}
        }
        if self.open.len() > DEEPEST {
            self.mistake(at, format!("nested deeper than {DEEPEST} levels; no key of ours is"));
            return Grown::Stopped;
        }
        if self.mistakes.len() > MOST_MISTAKES { Grown::Stopped } else { Grown::On }
    }

    fn plain_yaml(&mut self, anchor: usize, tagged: bool, at: Position) {
        if anchor != 0 {
            self.mistake(at, "anchors (&name) are not used here; write the value where it is wanted".to_owned());
        }
        if tagged {
            self.mistake(at, "tags (!name) are not used here; write the plain value".to_owned());
        }
    }

    fn add(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                None => match node.value {
                    Value::Scalar(text) => *key = Some((text, node.at)),
                    Value::Empty | Value::List(_) | Value::Map(_) => {
                        *key = Some((String::new(), node.at));
                        self.mistake(node.at, "a key must be a word".to_owned());
                    }
                },
                Some((key, at)) => match entries.iter().find(|entry| entry.key == key).map(|entry| entry.at.line) {
                    Some(line) => {
                        self.mistake(at, format!("the key {} is repeated; it is already on line {line}", shown(&key)));
                    }
                    None => entries.push(Entry { key, at, value: node }),
                },
            },
        }
    }

    fn close(&mut self) {
        match self.open.pop() {
            Some(Open::List { at, items }) => self.add(Node { at, value: Value::List(items) }),
            Some(Open::Map { at, entries, .. }) => self.add(Node { at, value: Value::Map(entries) }),
            None => {}
        }
    }

    fn mistake(&mut self, at: Position, words: String) {
        self.mistakes.push(Mistake { at: Some(at), words });
    }
}

fn position(marker: &Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}
