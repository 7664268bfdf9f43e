//! A stream that gives a peer a bounded number of octets until it was answered: during a handshake, the ClientHello.
//!
//! The TLS library would gather 64 KiB of a handshake message. Invariant: before [`HelloLimit::lift`] at most [`LIMIT`]
//! octets are read between two writes; what comes beyond is an error, which ends the handshake.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A ClientHello of 16 KiB, and the header of the record that it comes in.
const LIMIT: usize = 16 * 1024 + 5;

#[derive(Debug)]
pub struct HelloLimit<S> {
    stream: S,
    /// Octets that may still be read; nothing once there is no limit any more.
    left: Option<usize>,
}

impl<S> HelloLimit<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, left: Some(LIMIT) }
    }

    /// The handshake is over.
    pub fn lift(&mut self) {
        self.left = None;
    }

    /// The peer was answered: its next message may be as long again.
    fn answered(&mut self) {
        self.left = self.left.map(|_| LIMIT);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HelloLimit<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(left) = self.left else { return polled };
        match left.checked_sub(buf.filled().len().saturating_sub(before)) {
            Some(left) => {
                self.left = Some(left);
                polled
            }
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the ClientHello is longer than 16 KiB"))),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HelloLimit<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.answered();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.answered();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_longest_hello_passes_before_each_answer_and_one_octet_more_does_not() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let mut near = HelloLimit::new(near);
        let mut hello = vec![0; LIMIT];

        for _ in 0..2 {
            far.write_all(&hello).await.unwrap();
            near.read_exact(&mut hello).await.unwrap();
            near.write_all(b"answer").await.unwrap();
        }
        far.write_all(&vec![0; LIMIT + 1]).await.unwrap();
        near.read_exact(&mut hello).await.unwrap();

        assert_eq!(near.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn after_the_handshake_there_is_no_limit() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let mut near = HelloLimit::new(near);

        near.lift();
        far.write_all(&vec![0; 4 * LIMIT]).await.unwrap();

        assert!(near.read_exact(&mut vec![0; 4 * LIMIT]).await.is_ok());
    }
}
