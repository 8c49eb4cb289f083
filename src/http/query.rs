//! Strict parsing of paths, query parameters and headers.

use std::{borrow::Cow, collections::HashSet, str::FromStr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use percent_encoding::percent_decode_str;
use rand::RngExt;

use super::problem::{Code, Problem, Result};
use crate::{
    auth::Patterns,
    feed::{KINDS_MAX, Order, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PageQuery, States},
    log::{Filter, LogQuery, Shard},
    types::{EventId, EventTime, FeedName, Invalid, Kind, Marker, ReadState, ReaderName},
    version::{Cursor, Version},
};

/// Most feeds of a merged page or stream.
pub const MERGED_FEEDS_MAX: usize = 100;
/// Most values of each filter of the log: kinds, actors, feeds.
pub const FILTER_VALUES_MAX: usize = 100;
/// Most shards of the log.
pub const SHARDS_MAX: u32 = 1024;
/// Longest `wait` that can be asked for.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// When a long poll that asks for more than this is answered at the latest, in ms. Proxies give up after 60 s unless they are
/// told otherwise. The time is random, so that polls that began together do not all come back together.
const WAIT_ENDS_MS: std::ops::RangeInclusive<u64> = 50_000..=55_000;
/// The position of a stream in its URL: what a client sends that cannot send the header `Last-Event-ID`.
pub const LAST_EVENT_ID: &str = "lastEventId";
const PAGE_ENTRIES_DEFAULT: usize = 50;

/// The `{feed}` of a path.
pub struct FeedPath(pub FeedName);

impl<S: Send + Sync> FromRequestParts<S> for FeedPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let feed = path_param(parts, state, "feed").await;
        feed.and_then(|feed| feed.parse().map(Self))
            .map_err(|invalid| Problem::invalid_feed(&invalid))
    }
}

/// The `{id}` of a path.
pub struct EventIdPath(pub EventId);

impl<S: Send + Sync> FromRequestParts<S> for EventIdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let id = path_param(parts, state, "id").await;
        id.and_then(|id| id.parse().map(Self))
            .map_err(|invalid| Problem::invalid_id(&invalid))
    }
}

/// The `{id}` of the path of an erasure.
pub struct ErasurePath(pub Version);

impl<S: Send + Sync> FromRequestParts<S> for ErasurePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let id = path_param(parts, state, "id").await;
        let id = id.ok().and_then(|id| id.parse().ok());
        let unknown = || Problem::new(Code::ErasureNotFound, "this is not the id of an erasure");
        id.map(Self).ok_or_else(unknown)
    }
}

/// The `{marker}` of a path.
pub struct MarkerPath(pub Marker);

impl<S: Send + Sync> FromRequestParts<S> for MarkerPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let marker = path_param(parts, state, "marker").await;
        let marker = marker.map_err(|invalid| Problem::invalid_feed(&invalid))?;
        let unknown = || {
            Problem::new(
                Code::NotFound,
                "a feed has three markers, `read`, `seen` and `archived`",
            )
        };
        Marker::named(&marker).map(Self).ok_or_else(unknown)
    }
}

/// The `{version}` of the path of an entry.
pub struct EntryPath(pub Cursor);

impl<S: Send + Sync> FromRequestParts<S> for EntryPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let version = path_param(parts, state, "version").await;
        // What is not UTF-8 is no version either.
        cursor("version", &version.unwrap_or_default()).map(Self)
    }
}

async fn path_param<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> std::result::Result<String, Invalid> {
    // Fails on percent-encoded bytes that are not UTF-8.
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Invalid::NotUtf8)?;
    let value = params
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned());
    Ok(value.unwrap_or_default())
}

/// Query parameters, all with known names.
#[derive(Debug)]
pub struct Params<'a>(Vec<Param<'a>>);

#[derive(Debug)]
struct Param<'a> {
    name: Cow<'a, str>,
    /// With U+FFFD in place of what is not UTF-8.
    value: Cow<'a, str>,
    is_utf8: bool,
}

impl<'a> Param<'a> {
    fn all(query: &'a str) -> impl Iterator<Item = Self> {
        query.split('&').filter_map(|pair| {
            let (name, value) = form_urlencoded::parse(pair.as_bytes()).next()?;
            Some(Self {
                name,
                value,
                is_utf8: percent_decode_str(pair).decode_utf8().is_ok(),
            })
        })
    }

    fn text<T: FromStr<Err = Invalid>>(&self) -> std::result::Result<T, Invalid> {
        match self.is_utf8 {
            true => self.value.parse(),
            false => Err(Invalid::NotUtf8),
        }
    }
}

impl<'a> Params<'a> {
    pub fn parse(parts: &'a Parts, known: &[&str]) -> Result<Self> {
        let params: Vec<_> = Param::all(parts.uri.query().unwrap_or_default()).collect();
        match params.iter().find(|param| !known.contains(&&*param.name)) {
            Some(Param { name, .. }) if known.is_empty() => Err(invalid(format!(
                "unknown query parameter {name:?}; this operation has none"
            ))),
            Some(Param { name, .. }) => Err(invalid(format!(
                "unknown query parameter {name:?}; known ones: {}",
                known.join(", ")
            ))),
            None => Ok(Self(params)),
        }
    }

    fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b Param<'a>> {
        self.0.iter().filter(move |param| param.name == name)
    }

    fn one<'b>(&'b self, name: &'b str) -> Result<Option<&'b Param<'a>>> {
        let mut params = self.all(name);
        match (params.next(), params.next()) {
            (param, None) => Ok(param),
            (_, Some(_)) => Err(invalid(format!("{name} can be given only once"))),
        }
    }

    pub fn cursor(&self, name: &str) -> Result<Option<Cursor>> {
        self.one(name)?
            .map(|param| cursor(name, &param.value))
            .transpose()
    }

    /// Where a page or a stream begins, as a version or as a time. An empty value counts as none, as in the header
    /// `Last-Event-ID`, if `may_be_empty`.
    pub fn start(&self, name: &str, may_be_empty: bool) -> Result<Option<Start>> {
        let param = self.one(name)?;
        let param = param.filter(|param| !(may_be_empty && param.value.is_empty()));
        param.map(|param| start(name, &param.value)).transpose()
    }

    /// A time that must be given.
    pub fn time(&self, name: &str) -> Result<EventTime> {
        let param = self
            .one(name)?
            .ok_or_else(|| invalid(format!("give a time, as in {name}=2026-11-28T00:00:00Z")))?;
        let time = param.text();
        time.map_err(|invalid| Problem::new(Code::InvalidTime, format!("{name} {invalid}")))
    }

    /// The position of a stream that is resumed. An empty value counts as none, as in the header `Last-Event-ID`.
    pub fn position(&self, name: &str) -> Result<Option<Cursor>> {
        let param = self.one(name)?.filter(|param| !param.value.is_empty());
        param.map(|param| cursor(name, &param.value)).transpose()
    }

    /// The kinds of a page or stream, without repetitions. None means all.
    pub fn kinds(&self) -> Result<Vec<Kind>> {
        let mut kinds: Vec<Kind> = Vec::new();
        for param in self.all("kind") {
            let kind = param.text();
            let kind = kind.map_err(|error| invalid(format!("kind {error}")))?;
            if kinds.contains(&kind) {
                continue;
            }
            if kinds.len() == KINDS_MAX {
                return Err(invalid(format!(
                    "kind can be given for up to {KINDS_MAX} kinds"
                )));
            }
            kinds.push(kind);
        }
        Ok(kinds)
    }

    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(param) = self.one(name)? else {
            return Ok(None);
        };
        match param.value.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(invalid(format!(
                "{name} must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// The feed of a request for exactly one.
    pub fn feed(&self) -> Result<FeedName> {
        match self.one("feed")? {
            Some(param) => feed(param),
            None => Err(invalid("name one feed, as in feed=user:42")),
        }
    }

    /// Who reads or marks: the feed's own reader unless another one is named.
    pub fn reader(&self) -> Result<ReaderName> {
        self.reader_named("reader")
    }

    /// The reader that the parameter `name` names; the feed's own one if it is missing.
    pub fn reader_named(&self, name: &str) -> Result<ReaderName> {
        let Some(param) = self.one(name)? else {
            return Ok(ReaderName::OWN);
        };
        let name = param.text().map(ReaderName::named);
        name.map_err(|invalid| Problem::invalid_reader(&invalid))
    }

    /// The id of a request for one event.
    pub fn id(&self) -> Result<EventId> {
        let Some(param) = self.one("id")? else {
            return Err(invalid("name one event, as in id=m-1001"));
        };
        param
            .text()
            .map_err(|invalid| Problem::invalid_id(&invalid))
    }

    /// The feeds of a merged request, in order, without repetitions.
    pub fn feeds(&self) -> Result<Vec<FeedName>> {
        self.feeds_up_to(MERGED_FEEDS_MAX)
    }

    /// 1 to `max` feeds, in order, without repetitions.
    pub fn feeds_up_to(&self, max: usize) -> Result<Vec<FeedName>> {
        let mut seen = HashSet::new();
        let mut feeds = Vec::new();
        for param in self.all("feed") {
            let feed = feed(param)?;
            if seen.insert(feed.clone()) {
                feeds.push(feed);
            }
        }
        if (1..=max).contains(&feeds.len()) {
            Ok(feeds)
        } else {
            Err(invalid(format!(
                "name 1 to {max} feeds, as in feed=a&feed=b; this request names {}",
                feeds.len()
            )))
        }
    }

    /// The query for a page of `feeds`, oldest first from `after` if that is given, and how long to wait for an entry.
    pub fn page(
        &self,
        feeds: Vec<FeedName>,
        after: Option<Cursor>,
    ) -> Result<(PageQuery<Cursor>, Option<Duration>)> {
        let Paging { order, limit, wait } = self.paging(after)?;
        let query = PageQuery {
            feeds,
            order,
            limit,
            bytes: PAGE_BYTES_MAX,
            kinds: self.kinds()?,
            states: self.states()?,
        };
        Ok((query, wait))
    }

    /// Whose states a page tells, if it was asked for them.
    fn states(&self) -> Result<Option<States>> {
        let only = match self.one("state")?.map(|param| &*param.value) {
            None if self.one("reader")?.is_none() => return Ok(None),
            None | Some("any") => None,
            Some("unread") => Some(ReadState::Unread),
            Some("read") => Some(ReadState::Read),
            Some("archived") => Some(ReadState::Archived),
            Some(_) => {
                return Err(invalid("state must be any, unread, read or archived"));
            }
        };
        let reader = self.reader()?;
        Ok(Some(States { reader, only }))
    }

    /// The query for a page of the log, oldest first from `after` if that is given, and how long to wait for an event.
    /// `readable` are the feeds that the caller may know of.
    pub fn log_page(
        &self,
        after: Option<Cursor>,
        readable: Option<Patterns>,
    ) -> Result<(LogQuery<Cursor>, Option<Duration>)> {
        let Paging { order, limit, wait } = self.paging(after)?;
        let query = LogQuery {
            filter: self.filter(readable)?,
            order,
            limit,
            bytes: PAGE_BYTES_MAX,
        };
        Ok((query, wait))
    }

    /// What of the log to read.
    pub fn filter(&self, readable: Option<Patterns>) -> Result<Arc<Filter>> {
        let feeds: Vec<&Param<'_>> = self.some("feed")?;
        let patterns = || {
            if feeds.iter().any(|feed| !feed.is_utf8) {
                return Err(Problem::invalid_feed(&Invalid::NotUtf8));
            }
            let feeds: Vec<&str> = feeds.iter().map(|feed| &*feed.value).collect();
            let parsed = Patterns::of_claim("feed", &feeds);
            parsed
                .map(Some)
                .map_err(|wrong| Problem::new(Code::InvalidFeed, wrong))
        };
        Ok(Arc::new(Filter {
            kinds: self.names("kind")?,
            actors: self.names("actor")?,
            feeds: if feeds.is_empty() { None } else { patterns()? },
            shard: self.shard()?,
            readable,
        }))
    }

    /// The values of a filter, of which there can be several.
    fn some<'b>(&'b self, name: &'b str) -> Result<Vec<&'b Param<'a>>> {
        let values: Vec<_> = self.all(name).collect();
        match values.len() <= FILTER_VALUES_MAX {
            true => Ok(values),
            false => Err(invalid(format!(
                "{name} can be given at most {FILTER_VALUES_MAX} times, not {} times",
                values.len()
            ))),
        }
    }

    /// Sorted, without repetitions, so that equal filters are recognised.
    fn names<T: FromStr<Err = Invalid> + Ord>(&self, name: &str) -> Result<Vec<T>> {
        let values = self.some(name)?.into_iter().map(Param::text);
        let values: std::result::Result<Vec<T>, _> = values.collect();
        let mut values = values.map_err(|error| invalid(format!("{name} {error}")))?;
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// `i/n`, counted from 0.
    fn shard(&self) -> Result<Option<Shard>> {
        let Some(param) = self.one("shard")? else {
            return Ok(None);
        };
        let shard = param.value.split_once('/').and_then(|(index, of)| {
            let (index, of) = (index.parse().ok()?, of.parse().ok()?);
            Some(Shard { index, of })
        });
        match shard {
            Some(shard) if shard.index < shard.of && shard.of <= SHARDS_MAX => Ok(Some(shard)),
            _ => Err(invalid(format!(
                "shard must be i/n, as in shard=0/4: n from 1 to {SHARDS_MAX}, i from 0 to n-1"
            ))),
        }
    }

    /// A switch, which is off unless it is `true`.
    pub fn switch(&self, name: &str) -> Result<bool> {
        match self.one(name)?.map(|param| &*param.value) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid(format!("{name} must be true or false"))),
        }
    }

    /// Refuses parameters that have no meaning together with `what`.
    pub fn without(&self, names: &[&str], what: &str) -> Result<()> {
        match names.iter().find(|name| self.all(name).next().is_some()) {
            None => Ok(()),
            Some(name) => Err(invalid(format!("{name} cannot be combined with {what}"))),
        }
    }

    /// The order of a page, its limit, and how long to wait.
    fn paging(&self, after: Option<Cursor>) -> Result<Paging> {
        let until = self.cursor("until")?;
        let before = self.cursor("before")?;
        let wait = self
            .number("wait", 0..=WAIT_MAX.as_secs())?
            .map(|seconds| held_for(Duration::from_secs(seconds)));
        let kept = self.switch("kept")?;
        if after.is_none() && self.one("kept")?.is_some() {
            return Err(invalid("kept needs after"));
        }
        let order = match (after, before) {
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "after (oldest first) and before (newest first) cannot be combined",
                ));
            }
            (Some(after), None) => Order::OldestFirst { after, until, kept },
            (None, before) => Order::NewestFirst { until, before },
        };
        if wait.is_some() && (after.is_none() || until.is_some()) {
            return Err(invalid(
                "wait needs after and cannot be combined with until",
            ));
        }
        let limit = self
            .number("limit", 1..=PAGE_ENTRIES_MAX as u64)?
            .map_or(PAGE_ENTRIES_DEFAULT, |limit| limit as usize);
        Ok(Paging { order, limit, wait })
    }
}

struct Paging {
    order: Order<Cursor>,
    limit: usize,
    wait: Option<Duration>,
}

fn feed(param: &Param<'_>) -> Result<FeedName> {
    param
        .text()
        .map_err(|invalid| Problem::invalid_feed(&invalid))
}

/// A position that a client has given.
#[derive(Debug)]
pub enum Start {
    Cursor(Cursor),
    Time(EventTime),
}

fn start(name: &str, text: &str) -> Result<Start> {
    match text.parse() {
        Ok(cursor) => Ok(Start::Cursor(cursor)),
        // No version has a colon.
        Err(_) if text.contains(':') => {
            let time = text.parse().map(Start::Time);
            time.map_err(|invalid| Problem::new(Code::InvalidTime, format!("{name} {invalid}")))
        }
        Err(error) => Err(Problem::new(
            Code::InvalidVersion,
            format!("{name} is {error}; a time, such as 2026-11-28T00:00:00Z, is accepted too"),
        )),
    }
}

/// How long a long poll that asks for `asked` is held.
fn held_for(asked: Duration) -> Duration {
    let end = rand::rng().random_range(WAIT_ENDS_MS);
    asked.min(Duration::from_millis(end))
}

pub fn cursor(name: &str, text: &str) -> Result<Cursor> {
    text.parse()
        .map_err(|error| Problem::new(Code::InvalidVersion, format!("{name} is {error}")))
}

pub fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidQuery, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_waits_end_before_proxies_give_up_and_not_all_at_once() {
        for seconds in [0, 1, 50] {
            let asked = Duration::from_secs(seconds);
            assert_eq!(held_for(asked), asked);
        }
        let mut held: Vec<_> = (0..100).map(|_| held_for(WAIT_MAX)).collect();
        held.sort();
        let [first, last] = [held[0], held[99]];
        assert!(first >= Duration::from_secs(50) && last <= Duration::from_secs(55));
        assert!(last - first > Duration::from_secs(2), "{first:?} {last:?}");
        assert!((0..100).all(|_| held_for(Duration::from_secs(52)) <= Duration::from_secs(52)));
    }
}
