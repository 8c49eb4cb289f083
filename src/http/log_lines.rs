//! The log as lines of JSON: up to a moment, or on and on.
//!
//! Each line is an event, or has the member `cursor`: the position that the client may continue from. An answer that is
//! complete ends with such a line that also has `end`, one that the service has to break off with a line that has `error`.
//! A client that finds neither has lost the connection.
//!
//! Each part of an answer is read from a snapshot of its own. While the client takes a part, the next one is read, and no
//! more.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::{sync::mpsc, time::sleep};

use super::{
    App,
    access::Granted,
    caller::Caller,
    limits::{self, Limited, Permit},
    problem::{Problem, Result},
    query::{Params, invalid},
    render,
    updates::Updates,
    versions,
};
use crate::{
    auth::Denied,
    error::Error,
    feed::{Feeds, Order},
    live::{Bye, Follower, News, Reset, Update},
    log::{Filter, LogEvent, LogQuery, LogRead},
    metrics::{Held, StreamEnd},
    store,
    version::{Cursor, Version},
};

/// The media type.
pub const LINES: &str = "application/x-ndjson";

/// A part of an answer ends with the event that brings it to this many bytes.
pub const PART_BYTES_MAX: usize = 256 * 1024;
/// Most events of a part.
const PART_EVENTS_MAX: usize = 10_000;
/// How long to wait when there is no memory for the next part.
const MEMORY_PAUSE: Duration = Duration::from_millis(200);

pub async fn answer(
    app: &Arc<App>,
    granted: Granted,
    parts: &Parts,
    params: &Params<'_>,
) -> Result<Response> {
    let follow = params.switch("follow")?;
    params.without(&["before", "kept", "limit", "wait"], "application/x-ndjson")?;
    let after = versions::position(app, parts, params.start("after", false)?).await?;
    let until = params.cursor("until")?;
    let filter = params.filter(granted.exports())?;
    let permit = limits::stream_permit(parts)?;
    let feeds = app.feeds.of(Caller::stream_reader(&parts.extensions));
    let body = if follow {
        params.without(&["until"], "follow")?;
        let subscription = app.hub.subscribe_to_log(Arc::clone(&filter))?;
        if let Some(after) = after {
            feeds.turn().await?.checked(after).await?;
        }
        let follower = Follower::of_log(feeds, subscription, filter, after);
        Following {
            end: StreamEnd::of(&app.metrics, follower.id()),
            updates: Updates::new(follower, &granted),
            _permit: permit,
        }
        .body()
    } else {
        let Some(after) = after else {
            return Err(invalid(
                "application/x-ndjson needs after (0 is the beginning of the log), or follow=true to begin now",
            ));
        };
        let mut reading = Reading {
            app: Arc::clone(app),
            limited: Limited::of(parts)?.clone(),
            granted,
            feeds,
            filter,
            after,
            kept: after.is_beginning(),
            until,
            position: Version::ZERO,
            is_over: false,
            _permit: permit,
            _open: Held::by(&app.metrics.live.log_exports),
        };
        // An error of the first part is the answer.
        let first = reading.part().await?;
        reading.body(first)
    };
    let headers = [
        (header::CONTENT_TYPE, LINES),
        (header::CACHE_CONTROL, "no-store"),
        // Tells nginx not to buffer the lines.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body).into_response())
}

/// An answer up to a moment.
struct Reading {
    app: Arc<App>,
    limited: Limited,
    granted: Granted,
    feeds: Feeds,
    filter: Arc<Filter>,
    after: Cursor,
    /// Whether all parts have what is kept, as for whoever begins at the beginning.
    kept: bool,
    /// That of the first part, unless the client named one.
    until: Option<Cursor>,
    /// Everything up to here has been read.
    position: Version,
    is_over: bool,
    _permit: Permit<Caller>,
    _open: Held,
}

impl Reading {
    /// A task reads the parts, so that reading one and sending the one before take no longer than the slower of both.
    fn body(mut self, first: Bytes) -> Body {
        let (parts, taken) = mpsc::channel(1);
        tokio::spawn(async move {
            // A part is read when there is room for it.
            while let Ok(room) = parts.reserve().await {
                let part = tokio::select! {
                    part = self.next() => part,
                    () = parts.closed() => None,
                };
                let Some(part) = part else {
                    return;
                };
                room.send(part);
            }
        });
        let rest = stream::unfold(taken, |mut taken| async move {
            let part = taken.recv().await?;
            Some((part, taken))
        });
        let parts = stream::once(async { first }).chain(rest);
        Body::from_stream(parts.map(Ok::<_, Infallible>))
    }

    /// The next part; `None` after the last one.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let (app, granted) = (Arc::clone(&self.app), self.granted.clone());
        let part = tokio::select! {
            // In this order, so that an answer which always has another part also ends.
            biased;
            () = granted.over() => Err(Problem::from(Denied::Expired)),
            () = app.stopping.cancelled() => Err(Problem::from(Error::ShuttingDown)),
            part = self.part() => part,
        };
        Some(part.unwrap_or_else(|problem| {
            self.is_over = true;
            let mut line = Vec::new();
            render::error_line(&mut line, self.position, &problem);
            line.into()
        }))
    }

    /// Reads a part from a snapshot of its own.
    async fn part(&mut self) -> Result<Bytes> {
        let mut reserved = self.limited.answer();
        while let Err(problem) = reserved.grow(2 * PART_BYTES_MAX) {
            // The first part is refused like a page. Later ones wait: the client has been told to expect them.
            if self.position == Version::ZERO {
                return Err(problem);
            }
            sleep(MEMORY_PAUSE).await;
        }
        let turn = self.feeds.turn().await?;
        let query = LogQuery {
            filter: Arc::clone(&self.filter),
            order: Order::OldestFirst {
                after: self.after,
                until: self.until,
                kept: self.kept,
            },
            limit: PART_EVENTS_MAX,
            bytes: PART_BYTES_MAX,
        };
        // Rendering is part of the work: the turn is held until it is done.
        let mut lines = Vec::with_capacity(PART_BYTES_MAX);
        let line = |event: LogEvent| render::event_line(&mut lines, &event);
        let LogRead { version, next } = turn.log_events(&query, line).await?;
        self.position = next.unwrap_or(version);
        self.after = self.position.into();
        self.until.get_or_insert(version.into());
        match next {
            Some(next) => render::cursor_line(&mut lines, next),
            None => {
                self.is_over = true;
                render::end_line(&mut lines, version);
            }
        }
        Ok(reserved.hold(lines))
    }
}

/// An answer without end. It holds no more than a live stream does: a page on the way to live, or what the hub has queued.
struct Following {
    updates: Updates,
    end: StreamEnd,
    _permit: Permit<Caller>,
}

impl Following {
    fn body(self) -> Body {
        let parts = stream::unfold(self, |mut following| async move {
            let part = following.next().await?;
            Some((part, following))
        });
        Body::from_stream(parts.map(Ok::<_, Infallible>))
    }

    async fn next(&mut self) -> Option<Bytes> {
        let update = self.updates.next().await;
        let position = self.updates.follower.position();
        let mut lines = Vec::new();
        match update? {
            Update::Items(items) => {
                for item in items {
                    match &item.news {
                        News::Event(event) => render::event_line(&mut lines, event),
                        News::Moment(cursor) => render::cursor_line(&mut lines, *cursor),
                        // Those of feeds.
                        _ => {}
                    }
                }
            }
            // The position was checked, so this has happened since. The sequence would continue from now.
            Update::Reset { why, current } => {
                let asked = position;
                let problem = Problem::from(match why {
                    Reset::CursorExpired => Error::CursorExpired {
                        asked,
                        oldest: current,
                        current,
                    },
                    Reset::CursorUnknown | Reset::VersionAhead => {
                        Error::CursorUnknown { asked, current }
                    }
                });
                render::error_line(&mut lines, current, &problem);
                self.updates.follower.end(Bye::Unavailable);
            }
            // Only a stream with an outlet has this.
            Update::Unsent(_) => {}
            Update::Bye(bye) => {
                self.end.because(bye.reason());
                render::error_line(&mut lines, position, &problem_of(bye));
            }
        }
        Some(lines.into())
    }
}

fn problem_of(bye: Bye) -> Problem {
    match bye {
        Bye::Shutdown => Error::ShuttingDown.into(),
        Bye::Unavailable => Error::Store(store::Error::Unavailable(String::new())).into(),
        Bye::TokenExpired => Denied::Expired.into(),
    }
}
