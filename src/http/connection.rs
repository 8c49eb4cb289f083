//! Serves one connection: HTTP/1.1 or HTTP/2, detected by its first bytes. A live stream over HTTP/1 takes the socket away
//! from hyper (see [`super::hijack`]).

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::Router;
use bytes::{BufMut, BytesMut};
use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    caller::Peer,
    hijack::{Hijack, LiveConnection, Socket},
    hosts::ThroughUnixSocket,
    http2_answers::{Outgoing, StreamTasks},
    limits::Quotas,
    proxies::Proxies,
    shared_socket::Shareable,
};
use crate::metrics::{Held, Metrics};

/// Longest time to receive the head of a request, and to keep an idle connection open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Concurrent requests on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;
/// Bytes of one HTTP/2 stream that are buffered until its client reads them.
const HTTP2_SEND_BYTES_MAX: usize = 64 * 1024;
/// Streams that a client may reset before they are processed; one more ends its connection (CVE-2023-44487).
const HTTP2_RESETS_MAX: usize = 20;
/// Streams that may be reset because of protocol errors of the client; one more ends its connection.
const HTTP2_ERRORS_MAX: usize = 1024;
/// How often an HTTP/2 client is pinged, and how long it may take to respond.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(60);
const HTTP2_PONG_MAX: Duration = Duration::from_secs(60);
/// New connections whose first requests are handled at the same time. When thousands connect at once, the others wait,
/// so that established connections are served in between.
const STARTS_AT_ONCE: usize = 8;
/// The first bytes of an HTTP/2 client (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How connections are served. Cheap to clone.
#[derive(Clone)]
pub struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<StreamTasks>,
    router: Router,
    proxies: Arc<Proxies>,
    quotas: Arc<Quotas>,
    /// Whether connections are encrypted, except through unix sockets.
    tls: bool,
    starts: Arc<Semaphore>,
    /// Tells connections to end once the requests in progress are answered.
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Protocols {
    pub fn new(
        router: Router,
        proxies: Arc<Proxies>,
        quotas: Arc<Quotas>,
        tls: bool,
        stop: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            // A client that closes its sending half after a request still gets the response.
            .half_close(true)
            .max_buf_size(HEAD_BYTES_MAX as usize);
        let mut http2 = http2::Builder::new(StreamTasks {
            cut: metrics.http.answers_cut.clone(),
        });
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .max_pending_accept_reset_streams(HTTP2_RESETS_MAX)
            .max_local_error_reset_streams(HTTP2_ERRORS_MAX)
            .keep_alive_interval(HTTP2_PING_EVERY)
            .keep_alive_timeout(HTTP2_PONG_MAX)
            .max_send_buf_size(HTTP2_SEND_BYTES_MAX);
        Self {
            http1,
            http2,
            router,
            proxies,
            quotas,
            tls,
            starts: Arc::new(Semaphore::new(STARTS_AT_ONCE)),
            stop,
            metrics,
        }
    }

    /// Serves one connection until it ends, stays silent for too long, or is taken over by a live stream. Returns that
    /// live stream.
    pub async fn serve<S>(self, mut socket: S, peer: Peer) -> Option<LiveConnection<S::Live>>
    where
        S: AsyncRead + AsyncWrite + Shareable + Unpin + Send + 'static,
    {
        let first = tokio::select! {
            // Requests that have arrived are still answered.
            biased;
            first = timeout(HEAD_TIMEOUT, first_bytes(&mut socket)) => match first {
                Ok(Ok(first)) => first.freeze(),
                Ok(Err(_)) | Err(_) => return None,
            },
            () = self.stop.cancelled() => return None,
        };
        let turn = Arc::clone(&self.starts).acquire_owned().await.ok();
        tokio::task::yield_now().await;
        let http2 = first == HTTP2_PREFACE;
        let socket = Socket::new(socket, first);
        if http2 {
            drop(turn);
            let _held = Held::by(&self.metrics.live.http2);
            self.serve_http2(socket, peer).await;
            None
        } else {
            let held = Held::by(&self.metrics.live.http1);
            self.serve_http1(socket, peer, turn, held).await
        }
    }

    /// `turn` is released when the bytes that have arrived are processed, without waiting for more: a client cannot hold it.
    async fn serve_http1<S>(
        self,
        socket: Socket<S>,
        peer: Peer,
        mut turn: Option<OwnedSemaphorePermit>,
        held: Held,
    ) -> Option<LiveConnection<S::Live>>
    where
        S: AsyncRead + AsyncWrite + Shareable + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router);
        let (proxies, tls) = (self.proxies, self.tls);
        let service = service_fn(move |mut request: Request<Incoming>| {
            identify(&mut request, peer, tls, &proxies);
            let (suits, version) = (Hijack::suits(&request), request.version());
            let response = router.call(request);
            async move {
                let Ok(response) = response.await;
                match suits {
                    true => Hijack::attempt(response, version),
                    false => Ok(response),
                }
            }
        });
        let mut connection = self.http1.serve_connection(TokioIo::new(socket), service);
        let mut stop = pin!(self.stop.cancelled());
        let mut stopping = false;
        let ended = poll_fn(|context| {
            let mut ended = Pin::new(&mut connection).poll(context);
            // Only after the poll above, because a connection whose request has arrived is not idle.
            if ended.is_pending() && !stopping && stop.as_mut().poll(context).is_ready() {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
                ended = Pin::new(&mut connection).poll(context);
            }
            turn = None;
            ended
        });
        let error = ended.await.err()?;
        let Some((hijack, stream)) = Hijack::cause(&error) else {
            log_end(&error);
            return None;
        };
        let socket = connection.into_parts().io.into_inner().into_inner();
        Some(LiveConnection::new(socket.share(), hijack, stream, held))
    }

    async fn serve_http2<S>(self, socket: Socket<S>, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router);
        let (proxies, quotas, tls) = (self.proxies, self.quotas, self.tls);
        let asked = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let asked = Arc::clone(&asked);
            move |mut request: Request<Incoming>| {
                let client = identify(&mut request, peer, tls, &proxies);
                asked.store(true, Ordering::Relaxed);
                let permit = quotas.http2_request(client);
                let response = permit.map(|permit| (router.call(request), permit));
                async move {
                    // Resets the stream with a reason that tells the client that nothing was done. An answer would have to
                    // wait for the client like any other.
                    let refused = || h2::Error::from(h2::Reason::REFUSED_STREAM);
                    let (response, permit) = response.ok_or_else(refused)?;
                    let Ok(response) = response.await;
                    Ok::<_, h2::Error>(response.map(|body| Outgoing::new(body, permit)))
                }
            }
        });
        let mut connection = self.http2.serve_connection(TokioIo::new(socket), service);
        // Hyper limits the time for a head, but not the time until the first request begins.
        let mut silence = pin!(tokio::time::sleep(HEAD_TIMEOUT));
        let mut stop = pin!(self.stop.cancelled());
        let (mut waited, mut stopping) = (false, false);
        let ended = poll_fn(|context| {
            if !stopping && stop.as_mut().poll(context).is_ready() {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if !waited && silence.as_mut().poll(context).is_ready() {
                waited = true;
                if !asked.load(Ordering::Relaxed) {
                    tracing::debug!("connection closed: no request in time");
                    return Poll::Ready(Ok(()));
                }
            }
            Pin::new(&mut connection).poll(context)
        });
        if let Err(error) = ended.await {
            log_end(&error);
        }
    }
}

/// Tells the layers of the router who is asking. Returns that.
fn identify(request: &mut Request<Incoming>, peer: Peer, tls: bool, proxies: &Proxies) -> Peer {
    if peer == Peer::Unix {
        request.extensions_mut().insert(ThroughUnixSocket);
    }
    let tls = tls && peer != Peer::Unix;
    if let Some(https) = proxies.https(peer, tls, request.headers()) {
        request.extensions_mut().insert(https);
    }
    let peer = proxies.peer(peer, request.headers());
    request.extensions_mut().insert(peer);
    peer
}

fn log_end(error: &hyper::Error) {
    tracing::debug!(%error, "connection ended with an error");
}

/// Reads as many bytes as are needed to tell HTTP/2 from HTTP/1.1.
async fn first_bytes(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<BytesMut> {
    let mut first = BytesMut::with_capacity(HTTP2_PREFACE.len());
    loop {
        let left = HTTP2_PREFACE.len() - first.len();
        let read = socket.read_buf(&mut (&mut first).limit(left)).await?;
        if read == 0 || !HTTP2_PREFACE.starts_with(&first) || first.len() == HTTP2_PREFACE.len() {
            return Ok(first);
        }
    }
}
