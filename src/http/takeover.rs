//! Live streams that leave hyper. An HTTP/1.1 connection that serves one does nothing else until it ends, but hyper
//! would keep 16 KiB of buffers for it, and the request's future. So once the answer's head is known the socket is
//! taken back from hyper, and a task of a few hundred bytes writes the frames.

use std::{
    fmt::Write,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    body::HttpBody,
    http::{Method, Request, Response, Version, response::Parts},
};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    chunks::{Chunks, LAST_CHUNK},
    sse::{Frames, Live},
};
use crate::metrics::Held;

/// A connection's place for the stream that takes it over, known to its service and its task.
#[derive(Clone, Default)]
pub(super) struct Seat(Arc<Mutex<Option<(Parts, Frames)>>>);

impl Seat {
    /// A request whose answer could take the connection over. (HTTP/1.0 knows no chunks, HEAD no body.)
    pub(super) fn offer<B: HttpBody>(&self, request: &Request<B>) -> Option<Offer> {
        let fits = request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && request.body().is_end_stream();
        fits.then(|| Offer(self.clone()))
    }

    /// The stream that takes over. Nothing of an earlier answer is left in hyper, which reads a request only when it
    /// has flushed the answers before it.
    pub(super) fn take(&self) -> Option<(Parts, Frames)> {
        self.taken().take()
    }

    fn taken(&self) -> MutexGuard<'_, Option<(Parts, Frames)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Offer(Seat);

impl Offer {
    /// The answer if it is not a live stream; else it takes the connection over, and hyper hears no more of it.
    pub(super) async fn accept<B>(self, mut answer: Response<B>) -> Response<B> {
        let live = answer.extensions_mut().remove::<Live>();
        let Some(frames) = live.and_then(|live| live.take()) else {
            return answer;
        };
        *self.0.taken() = Some((answer.into_parts().0, frames));
        std::future::pending().await
    }
}

/// What hyper reads from and writes to.
pub(super) struct Socket<S> {
    socket: S,
    /// Read already, to tell the protocol.
    first: Bytes,
}

impl<S: Unpin> Socket<S> {
    pub(super) fn new(socket: S, first: Bytes) -> Self {
        Self { socket, first }
    }

    pub(super) fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, into);
        }
        let length = self.first.len().min(into.remaining());
        into.put_slice(&self.first.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// A connection that is a live stream from here on.
pub struct LiveConnection<S> {
    socket: S,
    head: Bytes,
    frames: Frames,
    held: Held,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LiveConnection<S> {
    pub(super) fn new(socket: S, (parts, frames): (Parts, Frames), held: Held) -> Self {
        Self {
            socket,
            head: head(&parts),
            frames,
            held,
        }
    }

    /// Writes frames until the stream ends or the client leaves.
    pub async fn run(self) {
        let Self {
            mut socket,
            head,
            mut frames,
            held: _held,
        } = self;
        let mut chunks = [head, frames.hello()].into_iter().collect::<Chunks>();
        loop {
            // Over TLS, what is written is on its way only once it is flushed.
            if socket.write_all_buf(&mut chunks).await.is_err() || socket.flush().await.is_err() {
                return;
            }
            let next = tokio::select! {
                next = frames.next() => next,
                // A client that is gone costs no place until the next heartbeat.
                () = left(&mut socket) => return,
            };
            match next {
                Some(next) => chunks = next,
                None => break,
            }
        }
        let _ = socket.write_all(LAST_CHUNK).await;
        let _ = socket.shutdown().await;
    }
}

/// Resolves when the client closes its side; what it sends is of no interest. A client that only half closes its
/// connection looks the same as one that is gone, and of those there are many more: it gets no stream.
async fn left(socket: &mut (impl AsyncRead + Unpin)) {
    std::future::poll_fn(|context| {
        loop {
            let mut bytes = [0; 512];
            let mut bytes = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *socket).poll_read(context, &mut bytes));
            if read.is_err() || bytes.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    })
    .await
}

/// The answer's head, as hyper would write it. The connection serves nothing after this.
fn head(parts: &Parts) -> Bytes {
    let mut head = String::from("HTTP/1.1 200 OK\r\n");
    for (name, value) in &parts.headers {
        // Ours are all text.
        if let Ok(value) = value.to_str() {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    let date = httpdate::HttpDate::from(std::time::SystemTime::now());
    let _ = write!(
        head,
        "transfer-encoding: chunked\r\nconnection: close\r\ndate: {date}\r\n\r\n"
    );
    head.into()
}
