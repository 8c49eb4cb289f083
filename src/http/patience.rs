//! How long an answer waits for its client. Whoever takes no byte of it for [`WRITE_STALL_MAX`] loses the answer: over
//! HTTP/1.1 the connection, over HTTP/2 the stream. Progress is what counts, so a slow client keeps its answers.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Longest time in which a client takes no byte of an answer.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// Whether something has made no progress for [`WRITE_STALL_MAX`]. Costs nothing while it does.
#[derive(Default)]
pub struct Stall {
    since: Option<Instant>,
    /// Not reset at each progress: it is compared with `since` when it fires.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub fn progressed(&mut self) {
        self.since = None;
    }

    /// To be called while there is no progress. Ready if that has lasted too long; otherwise the task will be woken then.
    pub fn poll_too_long(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let deadline = *self.since.get_or_insert(now) + WRITE_STALL_MAX;
        if now >= deadline {
            return Poll::Ready(());
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        while timer.as_mut().poll(context).is_ready() {
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// A socket whose writes fail once its client has taken nothing for [`WRITE_STALL_MAX`].
pub struct Patient<S> {
    socket: S,
    stall: Stall,
    cut: Counter,
}

impl<S: Unpin> Patient<S> {
    /// `cut` counts the connections that fail.
    pub fn new(socket: S, cut: Counter) -> Self {
        Self {
            socket,
            stall: Stall::default(),
            cut,
        }
    }

    /// The same patience with another form of the socket.
    pub fn map<T>(self, form: impl FnOnce(S) -> T) -> Patient<T> {
        Patient {
            socket: form(self.socket),
            stall: self.stall,
            cut: self.cut,
        }
    }

    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall.progressed();
            return written;
        }
        self.stall.poll_too_long(context).map(|()| {
            self.cut.inc();
            tracing::debug!("connection cut: its client takes no bytes");
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watched(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.watched(context, written)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_when_no_byte_is_taken_for_too_long() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let cut = Counter::default();
        let mut socket = Patient::new(ours, cut.clone());
        let almost = WRITE_STALL_MAX - Duration::from_secs(1);
        let writing = tokio::spawn(async move {
            let slow = socket.write_all(&[0; 640]).await;
            let stuck = socket.write_all(&[0; 640]).await;
            (slow, stuck, Instant::now())
        });
        // A byte at a time is enough.
        for _ in 0..640 {
            tokio::time::sleep(almost).await;
            theirs.read_u8().await.expect("a byte");
        }
        let last = Instant::now();
        let (slow, stuck, at) = writing.await.expect("no panic");
        assert!(slow.is_ok());
        assert_eq!(
            stuck.expect_err("nobody reads").kind(),
            io::ErrorKind::TimedOut
        );
        assert_eq!(at - last, WRITE_STALL_MAX);
        assert_eq!(cut.get(), 1);
    }
}
