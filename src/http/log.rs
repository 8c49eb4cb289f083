//! `GET /v1/log`: pages of the log, or lines.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::Response,
};
use tokio::time::Instant;

use super::{
    App,
    access::Granted,
    caller::Caller,
    feeds::answer_page,
    limits::{self, Limited},
    log_lines::{self, LINES},
    problem::Result,
    query::Params,
    render, versions,
};
use crate::{
    feed::PAGE_BYTES_MAX, live::wait_for_entries, log::LogQuery, metrics::Held,
    types::DATA_BYTES_MAX, version::Cursor,
};

const PARAMS: [&str; 11] = [
    "after", "kept", "until", "before", "limit", "kind", "actor", "feed", "shard", "wait", "follow",
];

/// Reserved for the names of an event's feeds, which may be longer than its data.
const NAMES_BYTES: usize = 32 * 1024;

pub async fn log(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &PARAMS)?;
    let mut response = match wants_lines(&parts.headers) {
        true => log_lines::answer(&app, granted, &parts, &params).await?,
        false => page(&app, &granted, &parts, &params).await?,
    };
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().append(header::VARY, vary);
    Ok(response)
}

/// Whether the client names the media type of lines among those that it accepts.
fn wants_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let mut ranges = accepted.flat_map(|value| value.split(','));
    ranges.any(|range| {
        let name = range.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case(LINES)
    })
}

async fn page(
    app: &App,
    granted: &Granted,
    parts: &Parts,
    params: &Params<'_>,
) -> Result<Response> {
    if params.switch("follow")? {
        params.without(
            &["follow"],
            "pages: ask for application/x-ndjson with Accept",
        )?;
    }
    let after = versions::position(app, parts, params.start("after", false)?).await?;
    let (mut query, wait) = params.log_page(after, granted.exports())?;
    let deadline = wait.map(|wait| granted.deadline(wait));
    let mut reserved = Limited::of(parts)?.answer();
    let turn = app.feeds.of(Caller::reader(&parts.extensions));
    let turn = turn.turn().await?;
    // As much as the page might need; what it does not need is given back. If memory is short, the page ends early.
    let most = PAGE_BYTES_MAX.min(query.limit * (DATA_BYTES_MAX + NAMES_BYTES));
    reserved.grow_some(most)?;
    query.bytes = most.min(reserved.bytes());
    let mut page = turn.log_page(&query).await?;
    // Usually there is something to return, and the request needs no permit and no subscription.
    if let Some(deadline) = deadline
        && page.events.is_empty()
        && page.next.is_none()
        && deadline > Instant::now()
    {
        // Nothing is held while waiting.
        reserved.settle(0);
        let _permit = limits::stream_permit(parts)?;
        drop(turn);
        let query: &LogQuery<Cursor> = &query;
        let subscription = app.hub.subscribe_to_events(Arc::clone(&query.filter))?;
        let _waiting = Held::by(&app.metrics.live.long_polls);
        let feeds = app.feeds.of(Caller::stream_reader(&parts.extensions));
        page = wait_for_entries(&feeds, subscription, query, page.version, deadline).await?;
        let body = render::log_page(&page);
        return answer_page(app, parts, query.order, page.next, body, reserved);
    }
    // Rendering is part of the work: the turn is held until it is done.
    let body = render::log_page(&page);
    answer_page(app, parts, query.order, page.next, body, reserved)
}
