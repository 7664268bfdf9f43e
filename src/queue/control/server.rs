//! The queue's end of the control socket.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use super::protocol::{Entry, Filter, Note, REQUEST_LIMIT, Request, Shown, Status, Target};
use crate::handoff::QueueId;
use crate::queue::message::Message;
use crate::queue::moment::Moment;
use crate::queue::report::Undelivered;
use crate::queue::server::Peers;
use crate::queue::store::{self, Change, Claimed, Hold, QueueStore, StoreError};

/// Administrators at once.
const CONNECTIONS: usize = 16;
/// Entries read from the store at once.
const PAGE: usize = 1000;
/// How long a request may take to come, and one line to be taken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of a message's header that are shown.
const HEADERS: usize = 64 * 1024;

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} must be a directory of uid {wanted} with mode 0700, so that only root and the queue reach its socket; mend it with: \
         install -d -m 0700 -o {wanted} {}",
        path.display(),
        path.display()
    )]
    Directory { path: PathBuf, wanted: u32 },
}

/// Binds `path` in a directory of its own, closed to others. The directory is made if it is missing.
pub fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |what, source| ControlError::Io { what, path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make the directory of", error)),
            Ok(()) | Err(_) => {}
        }
        let meta = directory.symlink_metadata().map_err(|error| failed("look at the directory of", error))?;
        let wanted = rustix::process::geteuid().as_raw();
        if !meta.is_dir() || meta.uid() != wanted || meta.mode() & 0o077 != 0 {
            return Err(ControlError::Directory { path: directory.to_owned(), wanted });
        }
    }
    // The last process may have left it behind. There is no second queue: the database's lock saw to that.
    if path.symlink_metadata().is_ok_and(|it| it.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(|error| failed("remove the old", error))?;
    }
    UnixListener::bind(path).map_err(|error| failed("bind", error))
}

/// What the socket shows and changes beside the store.
#[derive(Clone)]
pub struct Role {
    /// Is told when something became due.
    pub look: Arc<Notify>,
    pub undelivered: Arc<Undelivered>,
}

impl Role {
    fn status(&self) -> Status {
        Status { undelivered_reports: self.undelivered.so_far() }
    }
}

/// Serves until `stop` is true.
pub async fn serve<S: QueueStore>(listener: UnixListener, store: Arc<S>, peers: Peers, role: Role, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut conversations = JoinSet::new();
    loop {
        let next = async {
            let room = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, room))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, room)) if peers.include(&stream) => {
                let (store, role) = (Arc::clone(&store), role.clone());
                conversations.spawn(async move {
                    let _room = room;
                    match attend(stream, &*store, &role).await {
                        Ok(()) => {}
                        // Who has seen enough, as `head` has, may go.
                        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                            tracing::debug!(event = "control_ended", reason = %error);
                        }
                        Err(error) => tracing::info!(event = "control_ended", reason = %error),
                    }
                });
            }
            Ok(_) => {} // told of already
            Err(error) => {
                tracing::error!(event = "control_accept", error = %error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while conversations.try_join_next().is_some() {}
    }
    conversations.shutdown().await;
}

/// One request and its answer.
async fn attend<S: QueueStore>(stream: UnixStream, store: &S, role: &Role) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader).take(REQUEST_LIMIT as u64);
    tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    if line.is_empty() {
        return Ok(()); // only a look whether somebody answers
    }
    let mut out = Answer { writer: BufWriter::with_capacity(64 * 1024, writer) };
    match serde_json::from_slice(&line) {
        Ok(request) => match answer(&request, store, role, &mut out).await {
            Ok(()) => {}
            Err(Trouble::Store(error)) => out.say(&Note::Error(error.to_string())).await?,
            Err(Trouble::Said(text)) => out.say(&Note::Error(text)).await?,
            Err(Trouble::Gone(error)) => return Err(error),
        },
        Err(error) => out.say(&Note::Error(format!("this is no request: {error}"))).await?,
    }
    out.writer.flush().await
}

/// Why an answer ends early.
#[derive(Debug)]
enum Trouble {
    Store(StoreError),
    Said(String),
    Gone(io::Error),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

struct Answer {
    writer: BufWriter<tokio::net::unix::OwnedWriteHalf>,
}

impl Answer {
    async fn say(&mut self, note: &Note) -> io::Result<()> {
        let mut line = serde_json::to_vec(note)?;
        line.push(b'\n');
        tokio::time::timeout(PATIENCE, self.writer.write_all(&line)).await?
    }
}

async fn answer<S: QueueStore>(request: &Request, store: &S, role: &Role, out: &mut Answer) -> Result<(), Trouble> {
    let now = Moment::now();
    let count = match request {
        Request::List { filter } => list(filter, store, out).await?,
        Request::Show { id } => show(id, store, out).await?,
        Request::Status => {
            out.say(&Note::Status(role.status())).await?;
            1
        }
        Request::Retry(target) => alter(target, Change::Retry(now), store, out).await?,
        Request::Hold(target) => alter(target, Change::Hold, store, out).await?,
        Request::Release(target) => alter(target, Change::Release(now), store, out).await?,
        Request::Delete(target) => alter(target, Change::Delete, store, out).await?,
    };
    role.look.notify_one();
    out.say(&Note::Done { count }).await?;
    Ok(())
}

async fn list<S: QueueStore>(filter: &Filter, store: &S, out: &mut Answer) -> Result<u64, Trouble> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = store.page(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after = Some(last.id);
        for entry in page.iter().filter(|entry| filter.matches(entry)) {
            out.say(&Note::Entry(Entry::of(entry))).await?;
            count += 1;
        }
    }
}

async fn show<S: QueueStore>(id: &str, store: &S, out: &mut Answer) -> Result<u64, Trouble> {
    let unknown = || Trouble::Said(format!("there is no message {id}"));
    let id = named(id)?;
    // The page has what only the store knows, such as whether it is being delivered.
    let before = QueueId::of_number(id.number().saturating_sub(1));
    let entry = store.page(before, 1).await?.into_iter().find(|entry| entry.id == id).ok_or_else(unknown)?;
    let (message, _) = store.inspect(id).await?.ok_or_else(unknown)?;
    let headers = tokio::task::spawn_blocking(move || headers(&message)).await.map_err(io::Error::other)?;
    out.say(&Note::Shown(Box::new(Shown { entry: Entry::of(&entry), headers }))).await?;
    Ok(1)
}

async fn alter<S: QueueStore>(target: &Target, change: Change, store: &S, out: &mut Answer) -> Result<u64, Trouble> {
    match target {
        Target::Ids(ids) => {
            let ids = ids.iter().map(|id| named(id)).collect::<Result<Vec<_>, _>>()?;
            apply(ids, change, store, out).await
        }
        Target::Filter(filter) => {
            let (mut after, mut count) = (None, 0);
            loop {
                let page = store.page(after, PAGE).await?;
                let Some(last) = page.last() else { return Ok(count) };
                after = Some(last.id);
                let ids = page.iter().filter(|entry| filter.matches(entry) && is_of_use(change, entry)).map(|entry| entry.id).collect();
                count += apply(ids, change, store, out).await?;
            }
        }
    }
}

/// What is being delivered need not be tried again.
fn is_of_use(change: Change, entry: &store::Entry) -> bool {
    match change {
        Change::Retry(_) => entry.claimed == Claimed::No && entry.hold == Hold::Free,
        Change::Release(_) => entry.hold == Hold::Held,
        Change::Hold => entry.hold == Hold::Free,
        Change::Delete => true,
    }
}

async fn apply<S: QueueStore>(ids: Vec<QueueId>, change: Change, store: &S, out: &mut Answer) -> Result<u64, Trouble> {
    if ids.is_empty() {
        return Ok(0);
    }
    let changed = store.alter(ids, change).await?;
    for id in &changed {
        let what = match change {
            Change::Retry(_) => "retry",
            Change::Hold => "held",
            Change::Release(_) => "released",
            Change::Delete => "deleted",
        };
        tracing::info!(event = what, id = %id, by = "administrator");
    }
    out.say(&Note::Changed(changed.iter().map(QueueId::to_string).collect())).await?;
    Ok(changed.len() as u64)
}

fn named(id: &str) -> Result<QueueId, Trouble> {
    QueueId::named(id).ok_or_else(|| Trouble::Said(format!("{id:?} is no queue id")))
}

/// Our trace field and the message's own header, up to its empty line.
fn headers(message: &Message) -> String {
    let start = message.content.beginning(HEADERS).unwrap_or_else(|_| message.content.trace.to_vec());
    let end = memchr::memmem::find(&start, b"\r\n\r\n").map_or(start.len(), |at| at + 2);
    String::from_utf8_lossy(start.get(..end).unwrap_or(&start)).into_owned()
}
