//! A request body throttled to its caller's rate of body bytes.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, HttpBody},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Quotas;
use crate::http::{caller::Caller, problem::Problem};

/// Longest time that a piece of a body is held back: half the time a body may stall.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The caller exceeds its rate of body bytes by so much that this body fails.
#[derive(Debug)]
pub struct OverBytes(pub Problem);

impl fmt::Display for OverBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the caller exceeds its rate of body bytes")
    }
}

impl std::error::Error for OverBytes {}

pub struct Metered {
    body: Body,
    quotas: Arc<Quotas>,
    caller: Caller,
    waiting: Option<Waiting>,
}

/// A piece that is held back.
struct Waiting {
    piece: Bytes,
    until: Pin<Box<Sleep>>,
    give_up: Instant,
}

impl Metered {
    pub(super) fn new(body: Body, quotas: Arc<Quotas>, caller: Caller) -> Self {
        Self {
            body,
            quotas,
            caller,
            waiting: None,
        }
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let (piece, give_up) = match this.waiting.take() {
                Some(mut waiting) => {
                    if waiting.until.as_mut().poll(context).is_pending() {
                        this.waiting = Some(waiting);
                        return Poll::Pending;
                    }
                    (waiting.piece, Some(waiting.give_up))
                }
                None => match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(piece) => (piece, None),
                        Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    },
                    other => return Poll::Ready(other.map(|frame| Ok(frame?))),
                },
            };
            let Err(problem) = this.quotas.take_bytes(&this.caller, piece.len()) else {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            };
            let now = Instant::now();
            let give_up = give_up.unwrap_or(now + WAIT_MAX);
            let until = now + problem.wait();
            if until > give_up {
                return Poll::Ready(Some(Err(OverBytes(problem).into())));
            }
            this.waiting = Some(Waiting {
                piece,
                until: Box::pin(tokio::time::sleep_until(until)),
                give_up,
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.waiting {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}
