//! Live streams that take their socket away from hyper. An HTTP/1 connection that serves a live stream does nothing
//! else until it ends, but hyper would keep 16 KiB of buffers for it, and the future of the request. So, as soon as the
//! head of the response is known, the service fails with a [`Hijack`]. That ends hyper's part, and a task of a few
//! hundred bytes writes the response to the socket.

use std::{
    error::Error,
    fmt::{self, Write},
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::HttpBody,
    http::{HeaderMap, Method, Request, Response, Version},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use super::{
    chunks::{Chunk, LAST_CHUNK},
    event_stream::{EventStream, Handover, Next},
};
use crate::metrics::Held;

/// A response that is a live stream. As the error of a service it makes hyper release the socket. Hyper then holds no
/// part of an earlier response, because it reads a request only after it has flushed the responses before it.
pub(super) struct Hijack {
    head: String,
    is_chunked: bool,
    stream: Handover,
}

impl Hijack {
    /// Whether the response to `request` may take the socket: a response to HEAD has no body, and a request with a body may
    /// not have been read completely.
    pub(super) fn suits<B: HttpBody>(request: &Request<B>) -> bool {
        request.method() == Method::GET
            && [Version::HTTP_10, Version::HTTP_11].contains(&request.version())
            && request.body().is_end_stream()
    }

    /// Passes on the response to a request of this version of HTTP, or fails if it is a live stream.
    pub(super) fn attempt<B>(
        mut response: Response<B>,
        version: Version,
    ) -> Result<Response<B>, Self> {
        match response.extensions_mut().remove::<Handover>() {
            None => Ok(response),
            Some(stream) => Err(Self {
                head: head(response.headers(), version),
                is_chunked: is_chunked(version),
                stream,
            }),
        }
    }

    /// The response for which hyper ended with `error`, and its stream.
    pub(super) fn cause(error: &hyper::Error) -> Option<(&Self, EventStream)> {
        let hijack = error.source()?.downcast_ref::<Self>()?;
        Some((hijack, hijack.stream.take()?))
    }
}

impl fmt::Debug for Hijack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hijack").finish_non_exhaustive()
    }
}

impl fmt::Display for Hijack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a live stream took the connection over")
    }
}

impl Error for Hijack {}

/// The socket as hyper sees it.
pub(super) struct Socket<S> {
    socket: S,
    /// What was read from it to detect the protocol; hyper reads it again.
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

/// A connection that serves a live stream and nothing else.
pub struct LiveConnection<S> {
    socket: S,
    /// The head of the response and the first frame.
    opening: Vec<u8>,
    is_chunked: bool,
    stream: EventStream,
    held: Held,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LiveConnection<S> {
    /// `hijack` is the response. Frames may also be written to `direct`, which is the same socket, while the task of the
    /// connection waits. `held` counts the connection.
    pub(super) fn new(
        (socket, direct): (S, Option<Arc<TcpStream>>),
        hijack: &Hijack,
        mut stream: EventStream,
        held: Held,
    ) -> Self {
        if let Some(direct) = direct {
            stream.write_to(direct, hijack.is_chunked);
        }
        let mut opening = Vec::from(&*hijack.head);
        let frame = stream.opening();
        match hijack.is_chunked {
            true => opening.extend_from_slice(&Chunk::new(&frame).into_coded()),
            false => opening.extend_from_slice(&frame),
        }
        Self {
            socket,
            opening,
            is_chunked: hijack.is_chunked,
            stream,
            held,
        }
    }

    /// Writes frames until the stream ends or the client closes its side.
    pub fn run(self) -> impl Future<Output = ()> {
        let Self {
            mut socket,
            opening,
            is_chunked,
            mut stream,
            held,
        } = self;
        // Not an `async fn`, whose future would have room for these twice: as `self`, and as variables.
        async move {
            let _held = held;
            let mut written = socket.write_all(&opening).await;
            drop(opening);
            // Over TLS, what was written is sent only with a flush.
            while written.is_ok() && socket.flush().await.is_ok() {
                let next = tokio::select! {
                    next = stream.next() => next,
                    // Without this, a client that has disconnected would only be noticed at the next heartbeat.
                    () = client_closes(&mut socket) => return,
                };
                let Some(next) = next else {
                    if is_chunked {
                        let _ = socket.write_all(LAST_CHUNK).await;
                    }
                    let _ = socket.shutdown().await;
                    return;
                };
                let buffers = match next {
                    Next::Frames(frames) => frames.into_buffers(is_chunked),
                    Next::Rest(rest) => rest,
                };
                written = buffers.write(&mut socket).await;
            }
        }
    }
}

/// Resolves when the client closes its side; anything it sends is discarded. A client that closes only its sending half
/// cannot be distinguished from one that has disconnected, which is far more common, so its stream ends, too.
async fn client_closes(socket: &mut (impl AsyncRead + Unpin)) {
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

/// HTTP/1.0 has no chunks: the body ends with the connection.
fn is_chunked(version: Version) -> bool {
    version == Version::HTTP_11
}

/// The head of a response as hyper would write it. It announces that the connection closes, because no request can
/// follow.
fn head(headers: &HeaderMap, version: Version) -> String {
    let mut head = format!("{version:?} 200 OK\r\n");
    for (name, value) in headers {
        // All headers of a live stream are text.
        if let Ok(value) = value.to_str() {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    let date = httpdate::HttpDate::from(std::time::SystemTime::now());
    if is_chunked(version) {
        head.push_str("transfer-encoding: chunked\r\n");
    }
    let _ = write!(head, "connection: close\r\ndate: {date}\r\n\r\n");
    head
}
