//! The socket of a live stream: its task writes to it, and, while that waits, whoever has something for the stream.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{listeners::Connection, patience::Patient};

/// A socket that a live stream can take over.
pub trait Shareable {
    /// The socket from then on.
    type Live: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The socket, once more if others may write to it: not if what they write would have to be encrypted.
    fn share(self) -> (Self::Live, Option<Arc<TcpStream>>);
}

impl Shareable for Patient<Connection> {
    type Live = Patient<Either<Shared, UnixStream>>;

    fn share(self) -> (Self::Live, Option<Arc<TcpStream>>) {
        let mut direct = None;
        let live = self.map(|socket| match socket {
            Either::Left(tcp) => {
                let tcp = Arc::new(tcp);
                direct = Some(Arc::clone(&tcp));
                Either::Left(Shared(tcp))
            }
            Either::Right(unix) => Either::Right(unix),
        });
        (live, direct)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Shareable for TlsStream<S> {
    type Live = Self;

    fn share(self) -> (Self, Option<Arc<TcpStream>>) {
        (self, None)
    }
}

/// A TCP socket of which there is another handle.
pub struct Shared(Arc<TcpStream>);

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(into.initialize_unfilled()) {
                Ok(count) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Shared {
    fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
