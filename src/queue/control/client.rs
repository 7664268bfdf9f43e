//! The administrator's end of the control socket, for commands: blocking, one request for each call.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::protocol::{Entry, Filter, Note, Request, Shown, Status, Target};

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the queue at {}: {source}; is it running, and are you root?", path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the queue went away in the middle of its answer: {0}")]
    Cut(#[source] io::Error),
    #[error("the queue's answer makes no sense")]
    Nonsense,
    /// In the queue's words.
    #[error("{0}")]
    Refused(String),
}

/// Asks the queue at one path.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Calls `each` with every message that matches, as they come; gives their number.
    pub fn list(&self, filter: Filter, mut each: impl FnMut(Entry)) -> Result<u64, ClientError> {
        self.list_while(filter, |entry| {
            each(entry);
            ControlFlow::Continue(())
        })
    }

    /// The same, until `each` has enough; what was not asked for any more is not counted.
    pub fn list_while(&self, filter: Filter, mut each: impl FnMut(Entry) -> ControlFlow<()>) -> Result<u64, ClientError> {
        self.ask(&Request::List { filter }, |note| match note {
            Note::Entry(entry) => Ok(each(entry)),
            Note::Shown(_) | Note::Status(_) | Note::Changed(_) | Note::Done { .. } | Note::Error(_) => Err(ClientError::Nonsense),
        })
    }

    pub fn show(&self, id: &str) -> Result<Shown, ClientError> {
        let mut shown = None;
        self.ask(&Request::Show { id: id.to_owned() }, |note| match note {
            Note::Shown(it) => {
                shown = Some(*it);
                Ok(ControlFlow::Continue(()))
            }
            Note::Entry(_) | Note::Status(_) | Note::Changed(_) | Note::Done { .. } | Note::Error(_) => Err(ClientError::Nonsense),
        })?;
        shown.ok_or(ClientError::Nonsense)
    }

    pub fn status(&self) -> Result<Status, ClientError> {
        let mut status = None;
        self.ask(&Request::Status, |note| match note {
            Note::Status(it) => {
                status = Some(it);
                Ok(ControlFlow::Continue(()))
            }
            Note::Entry(_) | Note::Shown(_) | Note::Changed(_) | Note::Done { .. } | Note::Error(_) => Err(ClientError::Nonsense),
        })?;
        status.ok_or(ClientError::Nonsense)
    }

    /// Due at once, unless held. Gives the ids of those that were there, as do the others.
    pub fn retry(&self, target: Target) -> Result<Vec<String>, ClientError> {
        self.alter(&Request::Retry(target))
    }

    /// Not tried until released.
    pub fn hold(&self, target: Target) -> Result<Vec<String>, ClientError> {
        self.alter(&Request::Hold(target))
    }

    /// No longer held, and due at once.
    pub fn release(&self, target: Target) -> Result<Vec<String>, ClientError> {
        self.alter(&Request::Release(target))
    }

    /// Gone, without a report to anybody.
    pub fn delete(&self, target: Target) -> Result<Vec<String>, ClientError> {
        self.alter(&Request::Delete(target))
    }

    fn alter(&self, request: &Request) -> Result<Vec<String>, ClientError> {
        let mut changed = Vec::new();
        self.ask(request, |note| match note {
            Note::Changed(ids) => {
                changed.extend(ids);
                Ok(ControlFlow::Continue(()))
            }
            Note::Entry(_) | Note::Shown(_) | Note::Status(_) | Note::Done { .. } | Note::Error(_) => Err(ClientError::Nonsense),
        })?;
        Ok(changed)
    }

    /// Sends one request and gives its notes to `each` until the queue is done.
    fn ask(&self, request: &Request, mut each: impl FnMut(Note) -> Result<ControlFlow<()>, ClientError>) -> Result<u64, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).map_err(unreachable)?;
        let mut line = serde_json::to_vec(request).map_err(|_| ClientError::Nonsense)?;
        line.push(b'\n');
        stream.write_all(&line).map_err(ClientError::Cut)?;
        for (count, line) in (0..).zip(BufReader::with_capacity(64 * 1024, stream).lines()) {
            match serde_json::from_str(&line.map_err(ClientError::Cut)?) {
                Ok(Note::Done { count }) => return Ok(count),
                Ok(Note::Error(words)) => return Err(ClientError::Refused(words)),
                Ok(note) => match each(note)? {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(()) => return Ok(count + 1),
                },
                Err(_) => return Err(ClientError::Nonsense),
            }
        }
        Err(ClientError::Cut(io::ErrorKind::UnexpectedEof.into()))
    }
}
