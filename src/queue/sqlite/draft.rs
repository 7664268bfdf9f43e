//! A large body while it comes in: gathered, summed and written in strides, off the runtime's thread.
//!
//! Invariant: a draft has a file from its first stride on, and the file goes with the draft unless it was kept.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::handoff::QueueId;
use crate::queue::spool::Spool;
use crate::queue::store::{Draft, StoreError};

/// Octets written at once.
const STRIDE: usize = 256 * 1024;

static NEXT: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub struct BodyDraft {
    pending: Vec<Bytes>,
    gathered: usize,
    /// `None` while a stride is being written, and for good after one that failed.
    ink: Option<Ink>,
}

/// What goes to the writing thread and comes back.
#[derive(Debug)]
struct Ink {
    spool: Arc<Spool>,
    name: String,
    file: Option<Arc<File>>,
    size: u64,
    sum: crc32fast::Hasher,
}

/// A body that is durable under its id.
#[derive(Debug)]
pub(super) struct KeptBody {
    pub(super) file: Arc<File>,
    pub(super) size: u64,
    pub(super) sum: u32,
}

impl BodyDraft {
    pub(super) fn new(spool: Arc<Spool>) -> Self {
        let name = format!("new-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let ink = Ink { spool, name, file: None, size: 0, sum: crc32fast::Hasher::new() };
        Self { pending: Vec::new(), gathered: 0, ink: Some(ink) }
    }

    /// Writes the rest, syncs it, gives it its name and syncs that.
    pub(super) async fn keep(mut self, id: QueueId) -> Result<KeptBody, StoreError> {
        let pending = std::mem::take(&mut self.pending);
        let mut ink = self.ink.take().ok_or(StoreError::Closed)?;
        blocking(move || {
            ink.write(&pending)?;
            let file = ink.file.as_ref().map(Arc::clone).ok_or(StoreError::Closed)?;
            if let Err(error) = ink.spool.keep_draft(&file, &ink.name, id) {
                ink.spool.remove_body(id); // it may have got its name before
                return Err(error);
            }
            ink.file = None;
            Ok(KeptBody { file, size: ink.size, sum: ink.sum.clone().finalize() })
        })
        .await
    }
}

impl Draft for BodyDraft {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.gathered += bytes.len();
        self.pending.push(bytes);
        if self.gathered < STRIDE {
            return Ok(());
        }
        self.gathered = 0;
        let pending = std::mem::take(&mut self.pending);
        let mut ink = self.ink.take().ok_or(StoreError::Closed)?;
        let written = blocking(move || ink.write(&pending).map(|()| ink)).await?;
        self.ink = Some(written);
        Ok(())
    }
}

impl Ink {
    fn write(&mut self, pending: &[Bytes]) -> Result<(), StoreError> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(self.spool.create_draft(&self.name)?);
                self.file = Some(Arc::clone(&file));
                file
            }
        };
        for bytes in pending {
            self.sum.update(bytes);
            self.size += bytes.len() as u64;
            self.spool.write_draft(&file, &self.name, bytes)?;
        }
        Ok(())
    }
}

impl Drop for Ink {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.spool.remove_draft(&self.name);
        }
    }
}

/// Runs what waits for the disk on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}
