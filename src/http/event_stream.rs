//! A live stream as SSE frames, and how the handler hands it over to its sender: the body of a response, or the
//! socket that the stream hijacks (see [`super::hijack`]).

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{caller::Caller, frames::SharedFrames, limits::Permit, render, updates::Updates};
use crate::{live::Update, metrics::StreamEnd};

/// A live stream: its SSE frames, in order.
pub struct EventStream {
    /// The first frame; empty once it has been taken.
    pub(super) opening: Bytes,
    pub(super) updates: Updates,
    /// Counts the stream against its caller's limit.
    pub(super) _permit: Permit<Caller>,
    pub(super) end: StreamEnd,
}

impl EventStream {
    /// The first frame, which does not depend on any event. Empty from the second call on.
    pub fn opening(&mut self) -> Bytes {
        std::mem::take(&mut self.opening)
    }

    /// Waits for the next frames. `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<SharedFrames> {
        Some(match self.updates.next().await? {
            Update::Items(items) => items
                .iter()
                .map(|item| item.rendered(render::frame))
                .collect(),
            Update::Reset { why, current } => render::reset_frame(why, current).into(),
            Update::Bye(bye) => {
                self.end.because(bye.reason());
                render::bye_frame(bye).into()
            }
        })
    }
}

/// Hands a live stream over to its sender: to the response's body when that is first polled, or before that to the
/// connection, which finds the handover among the response's extensions. Only the first of them gets the stream.
#[derive(Clone)]
pub struct Handover(Arc<Mutex<Option<EventStream>>>);

impl Handover {
    pub fn new(stream: EventStream) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }

    /// The stream, unless it was taken before.
    pub fn take(&self) -> Option<EventStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The stream as the body of a response over any version of HTTP.
    pub fn body(self) -> Body {
        let frames = stream::once(async move { self.take() }).flat_map(|stream| {
            stream::unfold(stream, |stream| async move {
                let mut stream = stream?;
                let mut frames = stream.opening();
                if frames.is_empty() {
                    frames = stream.next().await?.into_bytes();
                }
                Some((frames, Some(stream)))
            })
        });
        Body::from_stream(frames.map(Ok::<_, Infallible>))
    }
}
