//! What is wrong with a configuration, in words for the person who wrote it.
//!
//! Mistakes are collected, never thrown one at a time: a person mends a file once, not once for every line.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in the text: line and column, both from 1. The column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// `None` when it is about the file as a whole.
    pub at: Option<Position>,
    /// What is there and what is wanted instead.
    pub words: String,
}

/// Everything that is wrong with one configuration; never empty. `Display` gives one line for each mistake, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    path: PathBuf,
    all: Vec<Mistake>,
}

impl Mistakes {
    pub(super) fn new(path: &Path, mut all: Vec<Mistake>) -> Self {
        all.sort_by_key(|mistake| mistake.at);
        Self { path: path.to_owned(), all }
    }

    /// A single mistake about the file itself.
    pub(super) fn of_file(path: &Path, words: String) -> Self {
        Self { path: path.to_owned(), all: vec![Mistake { at: None, words }] }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.all.iter()
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.all.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.path.display())?;
            if let Some(at) = mistake.at {
                write!(f, ":{}:{}", at.line, at.column)?;
            }
            write!(f, ": {}", mistake.words)?;
        }
        Ok(())
    }
}

/// Text from the file as it may be shown: between quotes, short, without control characters.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = String::from("\"");
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('"');
    out
}
