//! The octets between us and a server, with or without TLS.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) enum Stream {
    Clear(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Appends what came; 0 means the server has closed. A TLS stream cut without its alert counts as closed too:
    /// a reply is complete by its own syntax.
    pub(crate) async fn read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        input.reserve(1024);
        let read = match self {
            Self::Clear(stream) => stream.read_buf(input).await,
            Self::Encrypted(stream) => stream.read_buf(input).await,
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }

    /// Writes all of it, down to the socket.
    pub(crate) async fn write(&mut self, output: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(output).await,
            Self::Encrypted(stream) => {
                stream.write_all(output).await?;
                stream.flush().await
            }
        }
    }

    /// Says goodbye to TLS, if there is any.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.shutdown().await,
            Self::Encrypted(stream) => stream.shutdown().await,
        }
    }
}
