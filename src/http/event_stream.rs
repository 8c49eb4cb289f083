//! A live stream as SSE frames, and how the handler hands it over to its sender: the body of a response, or the
//! socket that the stream hijacks (see [`super::hijack`]).

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::net::TcpStream;

use super::{
    caller::Caller,
    chunks::Chunk,
    frames::{Buffers, Frames},
    limits::Permit,
    render,
    updates::Updates,
};
use crate::{
    live::{Item, News, Outlet, Update},
    metrics::StreamEnd,
};

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

    /// Lets frames be written to `socket` while [`Self::next`] waits, so that it does not return them.
    pub fn write_to(&mut self, socket: Arc<TcpStream>, is_chunked: bool) {
        let outlet = Box::new(Direct { socket, is_chunked });
        self.updates.follower.send_through(outlet);
    }

    /// Waits for what is to be sent next. `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Next> {
        Some(Next::Frames(match self.updates.next().await? {
            Update::Items(items) => frames(&items),
            Update::Unsent(bytes) => return Some(Next::Rest(bytes.into())),
            Update::Reset { why, current } => Chunk::new(&render::reset_frame(why, current)).into(),
            Update::Bye(bye) => {
                self.end.because(bye.reason());
                Chunk::new(&render::bye_frame(bye)).into()
            }
        }))
    }
}

/// What a stream sends next.
pub enum Next {
    Frames(Frames),
    /// What did not fit into the socket of [`EventStream::write_to`], in the form in which it is sent.
    Rest(Buffers),
}

/// The socket of a stream, to which frames are written without the stream's task.
struct Direct {
    socket: Arc<TcpStream>,
    is_chunked: bool,
}

impl Outlet for Direct {
    fn send(&mut self, items: Vec<Arc<Item>>) -> Vec<Bytes> {
        let buffers = frames(&items).into_buffers(self.is_chunked);
        buffers.try_write(&self.socket)
    }
}

fn frames(items: &[Arc<Item>]) -> Frames {
    let coded = items.iter().map(|item| item.rendered(coded));
    coded.map(Chunk::from_coded).collect()
}

/// What all streams share of a piece of news. Most of them are chunked.
fn coded(news: &News) -> Bytes {
    Chunk::new(&render::frame(news)).into_coded()
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
                    frames = match stream.next().await? {
                        Next::Frames(frames) => frames.into_data(),
                        // There is no socket.
                        Next::Rest(_) => return None,
                    };
                }
                Some((frames, Some(stream)))
            })
        });
        Body::from_stream(frames.map(Ok::<_, Infallible>))
    }
}
