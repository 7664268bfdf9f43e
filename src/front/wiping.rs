//! The socket below TLS: what lies where the next record will lie is wiped before anything is read.
//!
//! The TLS library decrypts each record in place, in the buffer that it reads into, and what it decrypted stays there until
//! something overwrites it: a password until the client says something as long. But all that is free of that buffer is
//! handed to the socket to be filled, at every read. Invariant: when a session waits for its client, nothing that the
//! client said before is in that buffer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use pamrelay_authwire::wipe;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that wipes what it is given to fill.
#[derive(Debug)]
pub struct Wiping<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Wiping<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        wipe(buf.initialize_unfilled());
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wiping<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Reads once into a buffer that still has something in it; gives what is in it then.
    fn read_over(stream: &mut (impl AsyncRead + Unpin), before: &[u8; 8]) -> (bool, [u8; 8]) {
        let mut octets = *before;
        let mut buf = ReadBuf::new(&mut octets);
        let read = pin!(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        (read.is_ready(), octets)
    }

    #[tokio::test]
    async fn nothing_old_stays_whether_little_comes_or_nothing() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut near = Wiping(near);

        assert_eq!(read_over(&mut near, b"password"), (false, [0; 8]));
        far.write_all(b"NO").await.unwrap();
        assert_eq!(read_over(&mut near, b"password"), (true, *b"NO\0\0\0\0\0\0"));
    }
}
