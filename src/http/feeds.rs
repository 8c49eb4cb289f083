//! Reading feeds: states and pages.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use percent_encoding::{CONTROLS, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    App,
    access::Granted,
    base_path::BasePath,
    body::read_object,
    caller::Caller,
    limits::{self, Limited, Reserved},
    problem::{Code, Problem, Result},
    query::{FeedPath, Params},
    render, versions,
};
use crate::{
    auth::Scope,
    feed::{Order, PAGE_BYTES_MAX},
    live::wait_for_entries,
    metrics::Held,
    types::{DATA_BYTES_MAX, FeedName, ReaderName},
    version::{Cursor, Version},
};

const PAGE_PARAMS: [&str; 9] = [
    "until", "before", "after", "kept", "limit", "kind", "wait", "state", "reader",
];
const MERGED_PARAMS: [&str; 10] = [
    "feed", "until", "before", "after", "kept", "limit", "kind", "wait", "state", "reader",
];

/// What may be kept, but must be asked for again before it is shown: whoever uses the browser next may not
/// be allowed to read it.
const REVALIDATED: &str = "private, no-cache";

/// Longest `Link` header. Proxies limit all headers of a response together, some to 4 KiB.
pub const LINK_BYTES_MAX: usize = 2 * 1024;

pub async fn state(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let reader = Params::parse(&parts, &["reader"])?.reader()?;
    answer_state(&app, &granted, &parts, &feed, &reader).await
}

pub async fn state_by_query(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "reader"])?;
    let (feed, reader) = (params.feed()?, params.reader()?);
    answer_state(&app, &granted, &parts, &feed, &reader).await
}

/// Most feeds whose states are read together.
pub const STATES_FEEDS_MAX: usize = 1_000;
/// Memory that the state of a feed is expected to need, until it is known, in bytes.
const STATE_BYTES: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedsIn {
    feeds: Vec<String>,
}

pub async fn states(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "reader"])?;
    let (feeds, reader) = (params.feeds_up_to(STATES_FEEDS_MAX)?, params.reader()?);
    answer_states(&app, &granted, &parts, &feeds, &reader).await
}

/// For more names than fit into a URL.
pub async fn states_by_body(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let reader = Params::parse(&parts, &["reader"])?.reader()?;
    let feeds = feeds_of_body(&parts, body).await?;
    answer_states(&app, &granted, &parts, &feeds, &reader).await
}

/// The feeds that a body lists.
pub async fn feeds_of_body(parts: &Parts, body: Body) -> Result<Vec<FeedName>> {
    let expected = "the body must be {\"feeds\": [\"…\"]}";
    let FeedsIn { feeds: names } = read_object(parts, body, expected).await?;
    let mut seen = HashSet::new();
    let mut feeds = Vec::new();
    for name in &names {
        let feed: FeedName = name
            .parse()
            .map_err(|invalid| Problem::invalid_feed(&invalid))?;
        if seen.insert(feed.clone()) {
            feeds.push(feed);
        }
    }
    if !(1..=STATES_FEEDS_MAX).contains(&feeds.len()) {
        let detail = format!(
            "feeds must list 1 to {STATES_FEEDS_MAX} feeds, not {}",
            feeds.len()
        );
        return Err(Problem::new(Code::InvalidBody, detail));
    }
    Ok(feeds)
}

async fn answer_states(
    app: &App,
    granted: &Granted,
    parts: &Parts,
    feeds: &[FeedName],
    reader: &ReaderName,
) -> Result<Response> {
    granted.feeds(Scope::Read, feeds)?;
    granted.reader(reader)?;
    let mut reserved = Limited::of(parts)?.answer();
    let turn = app.feeds.of(Caller::reader(&parts.extensions));
    let turn = turn.turn().await?;
    reserved.grow(feeds.len() * STATE_BYTES)?;
    let states = turn.states_of_one_moment(feeds, reader).await?;
    let body = render::feed_states(&states).await;
    reserved.grow(body.len())?;
    Ok(not_kept(reserved.hold(body)))
}

async fn answer_state(
    app: &App,
    granted: &Granted,
    parts: &Parts,
    feed: &FeedName,
    reader: &ReaderName,
) -> Result<Response> {
    granted.feeds(Scope::Read, [feed])?;
    granted.reader(reader)?;
    let feeds = app.feeds.of(Caller::reader(&parts.extensions));
    let state = feeds.turn().await?.state(feed, reader).await?;
    Ok((
        [(header::CACHE_CONTROL, "no-store")],
        Json(render::state(&state, true)),
    )
        .into_response())
}

pub async fn entries(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &PAGE_PARAMS)?;
    page(&app, &granted, &parts, &params, vec![feed], false).await
}

pub async fn merged(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &MERGED_PARAMS)?;
    page(&app, &granted, &parts, &params, params.feeds()?, true).await
}

async fn page(
    app: &App,
    granted: &Granted,
    parts: &Parts,
    params: &Params<'_>,
    feeds: Vec<FeedName>,
    merged: bool,
) -> Result<Response> {
    let after = versions::position(app, parts, params.start("after", false)?).await?;
    let (mut query, wait) = params.page(feeds, after)?;
    granted.feeds(Scope::Read, &query.feeds)?;
    if let Some(states) = &query.states {
        granted.reader(&states.reader)?;
    }
    let deadline = wait.map(|wait| granted.deadline(wait));
    let mut reserved = Limited::of(parts)?.answer();
    let turn = app.feeds.of(Caller::reader(&parts.extensions));
    let turn = turn.turn().await?;
    if let Some((body, next)) = app.pages.get(&turn, &query, merged) {
        return answer_page(app, parts, query.order, next, body, reserved);
    }
    // As much as the page might need; what it does not need is given back. If memory is short, the page ends early.
    let most = PAGE_BYTES_MAX.min(query.limit * DATA_BYTES_MAX);
    reserved.grow_some(most)?;
    if reserved.bytes() < most {
        query.bytes = reserved.bytes();
    }
    let page = turn.page(&query).await?;
    // Usually there is something to return, and the request needs no permit and no subscription.
    if let Some(deadline) = deadline
        && page.entries.is_empty()
        && page.next.is_none()
        && deadline > Instant::now()
    {
        // Nothing is held while waiting.
        reserved.settle(0);
        let _permit = limits::stream_permit(parts)?;
        drop(turn);
        let (feeds, kinds) = (query.feeds.clone(), query.kinds.clone());
        let subscription = app.hub.subscribe_to_entries(feeds, kinds)?;
        let _waiting = Held::by(&app.metrics.live.long_polls);
        // The page is empty, so it need not be read again up to its moment.
        let after = page.version;
        let feeds = app.feeds.of(Caller::stream_reader(&parts.extensions));
        let page = wait_for_entries(&feeds, subscription, &query, after, deadline).await?;
        let rendered = render::page(&page, &query.feeds, merged);
        return answer_page(app, parts, query.order, page.next, rendered.body, reserved);
    }
    // Rendering is part of the work: the turn is held until it is done.
    let rendered = render::page(&page, &query.feeds, merged);
    app.pages.put(&turn, &query, merged, &page, &rendered);
    answer_page(app, parts, query.order, page.next, rendered.body, reserved)
}

/// The answer with a page that has been rendered: with its caching rules and the link to the next one.
pub fn answer_page(
    app: &App,
    parts: &Parts,
    order: Order<Cursor>,
    next: Option<Version>,
    body: Vec<u8>,
    mut reserved: Reserved,
) -> Result<Response> {
    // Already there, except after a long poll, or if names and ids need much.
    reserved.grow(body.len())?;
    // The moment of any other page moves on, so that it would never be found unchanged.
    let mut response = match order.is_fixed() {
        true => revalidated(parts, reserved, body),
        false => not_kept(reserved.hold(body)),
    };
    let link = next_link(&app.base_path, parts, order, next);
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// JSON that must not be kept.
pub fn not_kept(body: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body).into_response()
}

/// JSON that may be kept and is revalidated: 304 if the client has it already.
pub fn revalidated(parts: &Parts, reserved: Reserved, body: Vec<u8>) -> Response {
    let etag = format!("\"{:016x}\"", twox_hash::XxHash3_64::oneshot(&body));
    let known = parts
        .headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let is_known = known
        .flat_map(|value| value.split(','))
        .any(|known| matches_etag(known.trim(), &etag));
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::ETAG, &*etag),
        (header::CACHE_CONTROL, REVALIDATED),
    ];
    match is_known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, reserved.hold(body)).into_response(),
    }
}

pub fn matches_etag(known: &str, etag: &str) -> bool {
    known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag
}

/// The `Link` header with the URL of the next page; `None` at the end, and if it would be longer than [`LINK_BYTES_MAX`].
fn next_link(
    base: &BasePath,
    parts: &Parts,
    order: Order<Cursor>,
    next: Option<Version>,
) -> Option<String> {
    let next = next?;
    let replaced = match order {
        Order::NewestFirst { .. } => "before",
        Order::OldestFirst { .. } => "after",
    };
    let mut params = form_urlencoded::Serializer::new(String::new());
    let given = parts.uri.query().unwrap_or_default();
    params.extend_pairs(
        form_urlencoded::parse(given.as_bytes())
            .filter(|(name, _)| name != replaced && name != "kept" && name != "wait"),
    );
    params.append_pair(replaced, &next.to_string());
    if replaced == "after" && order.takes_what_is_kept() {
        params.append_pair("kept", "true");
    }
    let link = format!(
        "<{}{}?{}>; rel=\"next\"",
        base.as_str(),
        // Some clients send names as they are, without percent-encoding.
        utf8_percent_encode(parts.uri.path(), CONTROLS),
        params.finish()
    );
    (link.len() <= LINK_BYTES_MAX).then_some(link)
}
