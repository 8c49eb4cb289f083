//! Answers over HTTP/2. Each stream has a window of its own that only its client opens, so the socket does not tell whether
//! the client takes an answer. Here every answer is watched by itself, and handed to h2 in small pieces, so that nearly all
//! of it stays where it can be dropped.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes};
use hyper::{
    body::{Frame, SizeHint},
    rt::Executor,
};
use prometheus_client::metrics::counter::Counter;

use super::{limits::Http2Permit, patience::Stall};

/// The largest piece of an answer that is handed to h2, in bytes.
const PIECE_BYTES_MAX: usize = 16 * 1024;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// How far an answer has got.
#[derive(Default)]
struct Progress {
    /// Grows with each byte that leaves for the socket.
    taken: AtomicUsize,
    /// The body has given a piece that waits for the client's window.
    is_blocked: AtomicBool,
}

/// Runs the streams of HTTP/2 connections. One whose client takes no byte of its answer for too long is dropped, which
/// resets it.
#[derive(Clone)]
pub struct StreamTasks {
    /// Counts the streams that are dropped.
    pub cut: Counter,
}

impl<F> Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let progress = Arc::<Progress>::default();
        let watched = Watched {
            stream: Box::pin(stream),
            progress: Arc::clone(&progress),
            taken: 0,
            stall: Stall::default(),
            cut: self.cut.clone(),
        };
        tokio::spawn(PROGRESS.scope(progress, watched));
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    progress: Arc<Progress>,
    /// [`Progress::taken`] when it was last looked at.
    taken: usize,
    stall: Stall,
    cut: Counter,
}

impl<F: Future> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let taken = self.progress.taken.load(Ordering::Relaxed);
        let blocked = self.progress.is_blocked.load(Ordering::Relaxed);
        if taken != self.taken || !blocked {
            self.taken = taken;
            self.stall.progressed();
        }
        if !blocked {
            return Poll::Pending;
        }
        self.stall.poll_too_long(context).map(|()| {
            self.cut.inc();
            tracing::debug!("HTTP/2 stream reset: its client takes no bytes of the answer");
        })
    }
}

/// The body of an answer over HTTP/2.
pub struct Outgoing {
    body: Body,
    rest: Bytes,
    progress: Arc<Progress>,
    _permit: Http2Permit,
}

impl Outgoing {
    /// To be called in the task of the stream. Gives `permit` back once the client has taken the whole answer.
    pub fn new(body: Body, permit: Http2Permit) -> Self {
        Self {
            _permit: permit,
            body,
            rest: Bytes::new(),
            progress: PROGRESS.try_with(Arc::clone).unwrap_or_default(),
        }
    }

    /// hyper passes on a piece only when the window has room for a byte of it. If the last piece is a single byte, then
    /// nothing waits in h2 for the window once hyper has passed on the whole body, and is not watched any more.
    fn next_piece(&mut self) -> Piece {
        let mut length = self.rest.len().min(PIECE_BYTES_MAX);
        if length == self.rest.len() && length > 1 && self.body.is_end_stream() {
            length -= 1;
        }
        Piece {
            bytes: self.rest.split_to(length),
            progress: Arc::clone(&self.progress),
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            this.progress.is_blocked.store(false, Ordering::Relaxed);
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        // Being asked for more is progress, too: the window has room.
        this.progress.taken.fetch_add(1, Ordering::Relaxed);
        this.progress.is_blocked.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(this.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut both = SizeHint::new();
        both.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            both.set_upper(upper + rest);
        }
        both
    }
}

/// A piece of an answer. Tells the stream's task when its bytes leave for the socket.
pub struct Piece {
    bytes: Bytes,
    progress: Arc<Progress>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.progress.taken.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use axum::http::{Request, Response};
    use futures_util::{StreamExt, stream};
    use h2::{Reason, RecvStream};
    use hyper::{server::conn::http2, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::http::{
        caller::Peer,
        limits::{Limits, Quotas},
        patience::WRITE_STALL_MAX,
    };

    /// The answer with this body, for a client with this window; and how many streams have been cut.
    async fn answer(
        window: u32,
        body: impl Fn() -> Body + Send + Sync + 'static,
    ) -> (RecvStream, Counter) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let cut = Counter::default();
        let quotas = Quotas::new(Limits::default(), &Arc::default());
        let service = service_fn(move |_| {
            let (body, permit) = (body(), quotas.http2_request(Peer::Unix));
            let permit = permit.expect("no limit");
            async move { Ok::<_, Infallible>(Response::new(Outgoing::new(body, permit))) }
        });
        let tasks = StreamTasks { cut: cut.clone() };
        let server = http2::Builder::new(tasks).serve_connection(TokioIo::new(ours), service);
        tokio::spawn(server);
        let mut client = h2::client::Builder::new();
        client.initial_window_size(window);
        let (mut client, connection) = client.handshake::<_, Bytes>(theirs).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::get("http://test/").body(()).expect("a request");
        let (answer, _) = client.send_request(request, true).expect("sent");
        (answer.await.expect("a head").into_body(), cut)
    }

    fn bytes(length: usize) -> impl Fn() -> Body {
        move || Body::from(vec![b'x'; length])
    }

    /// Reads to the end, with a pause before each opening of the window.
    async fn read(mut body: RecvStream, pause: Duration) -> Result<usize, Option<Reason>> {
        let mut length = 0;
        while let Some(data) = body.data().await {
            let taken = data.map_err(|error| error.reason())?.len();
            length += taken;
            sleep(pause).await;
            let _ = body.flow_control().release_capacity(taken);
        }
        Ok(length)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_which_no_byte_is_taken_is_reset() {
        for (window, length) in [
            (0, 1),
            (0, 100_000),
            (10, 100),
            (99, 100),
            (20_000, 100_000),
        ] {
            let (body, cut) = answer(window, bytes(length)).await;
            let began = Instant::now();
            assert_eq!(cut.get(), 0);
            sleep(WRITE_STALL_MAX - Duration::from_secs(1)).await;
            assert_eq!(cut.get(), 0, "{window} {length}");
            let read = read(body, Duration::ZERO);
            sleep(WRITE_STALL_MAX).await;
            assert_eq!(cut.get(), 1, "{window} {length}");
            assert_eq!(read.await, Err(Some(Reason::CANCEL)), "{window} {length}");
            assert!(began.elapsed() < 2 * WRITE_STALL_MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_its_whole_answer() {
        for (window, length) in [(100, 3_000), (1_000, 40_000), (70_000, 70_000), (1, 1)] {
            let (body, cut) = answer(window, bytes(length)).await;
            let read = read(body, WRITE_STALL_MAX - Duration::from_secs(1)).await;
            assert_eq!((read, cut.get()), (Ok(length), 0), "{window}");
        }
    }

    /// A stream that has nothing to send waits for as long as it likes.
    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_not_cut() {
        let body = || {
            let chunks = stream::iter(["a", "b", "c"]).then(|chunk| async move {
                sleep(10 * WRITE_STALL_MAX).await;
                Ok::<_, Infallible>(Bytes::from_static(chunk.as_bytes()))
            });
            Body::from_stream(chunks.boxed())
        };
        let (body, cut) = answer(100, body).await;
        assert_eq!((read(body, Duration::ZERO).await, cut.get()), (Ok(3), 0));
    }
}
