//! What a client has said and nobody has read yet.
//!
//! Invariant: but for the unread octets the buffer holds zeros: what is read is wiped, and so is the place that something
//! moved away from. A buffer that is too small is wiped too, and a larger one takes its place.

use std::io;

use pamrelay_authwire::wipe;
use tokio::io::{AsyncRead, AsyncReadExt as _};

#[derive(Default)]
pub(super) struct Input {
    octets: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { octets: vec![0; capacity], start: 0, end: 0 }
    }

    pub(super) fn capacity(&self) -> usize {
        self.octets.len()
    }

    pub(super) fn unread(&self) -> &[u8] {
        self.octets.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next `count` octets are read; no more than there are.
    pub(super) fn consume(&mut self, count: usize) {
        let read = self.start..self.start.saturating_add(count).min(self.end);
        self.start = read.end;
        wipe(self.octets.get_mut(read).unwrap_or_default());
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Takes in what the stream has, into room for `room` octets at least. 0 is its end.
    pub(super) async fn fill<S: AsyncRead + Unpin>(&mut self, stream: &mut S, room: usize) -> io::Result<usize> {
        if self.capacity() - self.end < room {
            self.make(room);
        }
        let count = stream.read(self.octets.get_mut(self.end..).unwrap_or_default()).await?;
        self.end += count;
        Ok(count)
    }

    fn make(&mut self, room: usize) {
        let unread = self.end - self.start;
        if self.capacity() - unread >= room {
            self.octets.copy_within(self.start..self.end, 0);
            wipe(self.octets.get_mut(unread..self.end).unwrap_or_default());
        } else {
            // Twice as large, so that a long line is not copied each time that some of it comes.
            let mut larger = vec![0; (unread + room).max(2 * self.capacity())];
            larger[..unread].copy_from_slice(self.unread());
            wipe(&mut self.octets);
            self.octets = larger;
        }
        (self.start, self.end) = (0, unread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn holding(capacity: usize, text: &[u8]) -> Input {
        let mut input = Input::with_capacity(capacity);
        assert_eq!(input.fill(&mut &text[..], text.len()).await.unwrap(), text.len());
        input
    }

    #[tokio::test]
    async fn what_was_read_is_wiped() {
        let mut input = holding(12, b"NOOP\r\nAUTH").await;

        input.consume(6);

        assert_eq!(input.unread(), b"AUTH");
        assert_eq!(input.octets, b"\0\0\0\0\0\0AUTH\0\0");
        input.consume(99);
        assert!(input.is_empty() && input.octets == [0; 12]);
    }

    #[tokio::test]
    async fn what_moves_to_the_front_leaves_nothing_where_it_was() {
        let mut input = holding(12, b"NOOP\r\nAUTH").await;
        input.consume(6);

        input.fill(&mut &b" x\r\n"[..], 4).await.unwrap();

        assert_eq!(input.unread(), b"AUTH x\r\n");
        assert_eq!(input.octets, b"AUTH x\r\n\0\0\0\0");
    }

    #[tokio::test]
    async fn a_buffer_that_is_too_small_is_replaced() {
        let mut input = holding(12, b"NOOP\r\nAUTH").await;
        input.consume(6);

        input.fill(&mut &b" PLAIN xyz\r\n"[..], 12).await.unwrap();

        assert_eq!(input.unread(), b"AUTH PLAIN xyz\r\n");
        assert_eq!(input.capacity(), 24);
    }
}
