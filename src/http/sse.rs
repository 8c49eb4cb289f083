//! Live streams as server-sent events.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::{Sleep, sleep_until};

use super::{
    App,
    access::Granted,
    caller::Caller,
    chunks::{Chunks, body, chunk},
    credentials::TICKET,
    limits::{self, Place},
    problem::Result,
    query::{FeedPath, Params, version},
    render,
};
use crate::{
    auth::Scope,
    live::{Bye, Follower, Update},
    metrics::StreamEnd,
    types::FeedName,
    version::Version,
};

/// What a client waits before it comes back, in ms.
const RETRY_MS: u32 = 2_000;

pub async fn live(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["after", TICKET])?;
    let after = position(&parts, &params)?;
    follow(&app, &granted, &parts, vec![feed], after)
}

pub async fn merged(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "after", TICKET])?;
    let after = position(&parts, &params)?;
    follow(&app, &granted, &parts, params.feeds()?, after)
}

/// `Last-Event-ID` wins over `after`: a browser that reconnects repeats its first URL.
fn position(parts: &Parts, params: &Params<'_>) -> Result<Option<Version>> {
    let after = params.version("after")?;
    match parts
        .headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap_or("?"))
    {
        None | Some("") => Ok(after),
        Some(id) => version("Last-Event-ID", id).map(Some),
    }
}

fn follow(
    app: &App,
    granted: &Granted,
    request: &Parts,
    feeds: Vec<FeedName>,
    after: Option<Version>,
) -> Result<Response> {
    granted.feeds(Scope::Read, &feeds)?;
    let place = limits::stream(request)?;
    let subscription = app.hub.subscribe(feeds)?;
    // With the position asked for: some clients forget it when they connect, and a stream may break off before it has
    // told another.
    let position = after.map_or_else(String::new, |after| format!("id: {after}\n"));
    let follower = Follower::new(app.feeds.clone(), subscription, after);
    tracing::debug!(stream = follower.id(), "a stream begins");
    let frames = Frames {
        end: StreamEnd::of(&app.metrics, follower.id()),
        hello: chunk(format!("retry: {RETRY_MS}\n{position}\n").as_bytes()),
        follower,
        token_ends: granted.ends().map(|ends| Box::pin(sleep_until(ends))),
        _place: place,
    };
    let live = Live(Arc::new(Mutex::new(Some(frames))));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // nginx: pass frames on as they come.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let body = live.clone().body();
    let mut answer = (headers, body).into_response();
    answer.extensions_mut().insert(live);
    Ok(answer)
}

/// The chunks of a live stream, in order.
pub struct Frames {
    hello: Bytes,
    follower: Follower,
    /// When the token of who listens is over. Boxed, for most streams of a service without keys have none.
    token_ends: Option<Pin<Box<Sleep>>>,
    /// Its caller's.
    _place: Place<Caller>,
    end: StreamEnd,
}

impl Frames {
    /// What the stream begins with; empty from the second time on.
    pub fn hello(&mut self) -> Bytes {
        std::mem::take(&mut self.hello)
    }

    /// Waits for what comes next; `None` at the end.
    pub async fn next(&mut self) -> Option<Chunks> {
        let one = |frame| [frame].into_iter().collect();
        let update = match &mut self.token_ends {
            None => self.follower.next().await,
            Some(ends) => tokio::select! {
                // Also while there is always something to send.
                biased;
                () = ends => {
                    self.token_ends = None;
                    Some(self.follower.end(Bye::TokenExpired))
                }
                update = self.follower.next() => update,
            },
        };
        Some(match update? {
            Update::Items(items) => items
                .iter()
                .map(|item| item.rendered(render::frame))
                .collect(),
            Update::Reset { current, .. } => one(render::reset_frame(current)),
            Update::Bye(bye) => {
                self.end.because(bye.reason());
                one(render::bye_frame(bye))
            }
        })
    }
}

/// A live stream that has not begun. Goes with its answer, so that a connection can take it out of the body.
#[derive(Clone)]
pub struct Live(Arc<Mutex<Option<Frames>>>);

impl Live {
    /// The stream, the first time.
    pub fn take(&self) -> Option<Frames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn body(self) -> Body {
        let frames = stream::once(async move { self.take() }).flat_map(|frames| {
            stream::unfold(frames, |frames| async move {
                let mut frames = frames?;
                let hello = frames.hello();
                let next = if hello.is_empty() {
                    frames.next().await?.into_body()
                } else {
                    body(&hello)
                };
                Some((next, Some(frames)))
            })
        });
        Body::from_stream(frames.map(Ok::<_, Infallible>))
    }
}
