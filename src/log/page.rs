//! Pages of the log.

use std::sync::Arc;

use super::{Filter, Limits, LogEvent};
use crate::{
    error::{Error, Result},
    feed::{Feeds, Order, check_kept},
    projection::{Events, Wanted},
    store::{self, Snapshot},
    types::Entry,
    version::{Cursor, Version},
};

/// Maximum number of log keys that a page examines. A page with a filter may end here before it is full.
pub const LOG_PAGE_KEYS_MAX: usize = 2_000;
/// What a page with a filter may read, even if it may not return as much.
const FILTERED_BYTES: usize = 1024 * 1024;

#[derive(Debug, Clone)]
pub struct LogQuery<V = Version> {
    pub filter: Arc<Filter>,
    pub order: Order<V>,
    pub limit: usize,
    /// The page ends with the event that brings it to this many bytes, see [`LogEvent::bytes`].
    pub bytes: usize,
}

#[derive(Debug)]
pub struct LogPage {
    /// The moment (vN) of the page, as of a page of feeds.
    pub version: Version,
    pub events: Vec<LogEvent>,
    /// Where the next page continues; `None` at the end. A page may end before it is full, and may be empty.
    pub next: Option<Version>,
}

/// What is known of a page besides its events.
#[derive(Debug, Clone, Copy)]
pub struct LogRead {
    /// See [`LogPage::version`].
    pub version: Version,
    /// See [`LogPage::next`].
    pub next: Option<Version>,
}

/// Bytes of an event as JSON, without texts that its producer chose.
const FIXED_BYTES: usize = 160;

impl LogEvent {
    /// The approximate size of the event as JSON.
    pub fn bytes(&self) -> usize {
        let Entry {
            id,
            kind,
            actor,
            time,
            data,
            ..
        } = &self.entry;
        let feeds = self.feeds.iter().map(|feed| feed.as_str().len() + 3);
        let actor = actor.as_ref().map_or(0, |actor| actor.as_str().len());
        let time = time.as_ref().map_or(0, |time| time.as_str().len());
        let texts = id.as_str().len() + kind.as_str().len() + actor + time + data.len();
        FIXED_BYTES + texts + feeds.sum::<usize>()
    }
}

impl Feeds {
    /// Reads one page of the log from one snapshot.
    ///
    /// # Errors
    /// Those of [`Known::check`](crate::lineage::Known::check) for a bound, and those of the store.
    pub async fn log_page<V: Into<Cursor> + Copy>(&self, query: &LogQuery<V>) -> Result<LogPage> {
        let mut events = Vec::new();
        let read = self.log_events(query, |event| events.push(event)).await?;
        Ok(LogPage {
            version: read.version,
            events,
            next: read.next,
        })
    }

    /// The same, but gives the events to `take` one after the other.
    ///
    /// # Errors
    /// Those of [`Self::log_page`].
    pub async fn log_events<V: Into<Cursor> + Copy>(
        &self,
        query: &LogQuery<V>,
        take: impl FnMut(LogEvent),
    ) -> Result<LogRead> {
        self.note(self.read_log_page(query, take).await)
    }

    /// The version that a client means, if the log can be read on from there.
    ///
    /// # Errors
    /// Those of [`Known::check`](crate::lineage::Known::check), [`Error::CursorExpired`], and those of the store.
    pub async fn checked(&self, cursor: Cursor) -> Result<Version> {
        let checked = async {
            let (snapshot, [trimmed]) = self.begin([self.keys.trimmed_log()]).await?;
            let after = self.lineage.at(&*snapshot).await?.check(cursor)?;
            if !cursor.is_beginning() {
                check_kept(after, trimmed, snapshot.version())?;
            }
            Ok(after)
        };
        self.note(checked.await)
    }

    async fn read_log_page<V: Into<Cursor> + Copy>(
        &self,
        query: &LogQuery<V>,
        take: impl FnMut(LogEvent),
    ) -> Result<LogRead> {
        let (snapshot, [trimmed]) = match query.order {
            Order::NewestFirst { .. } => (self.snapshot().await?, [Version::ZERO]),
            Order::OldestFirst { .. } => self.begin([self.keys.trimmed_log()]).await?,
        };
        let now = snapshot.version();
        let known = self.lineage.at(&*snapshot).await?;
        let mut order = query.order.try_map(|bound| known.check(bound.into()))?;
        let version = order.moment().unwrap_or(now);
        let takes_what_is_kept = order.takes_what_is_kept();
        if let Order::OldestFirst { after, .. } = &mut order {
            if !takes_what_is_kept {
                check_kept(*after, trimmed, now)?;
            }
            // What is left below is being removed.
            *after = trimmed.max(*after);
        }
        let mut events = self.events(&*snapshot, query, order).await?;
        let read = read(&mut events, &*snapshot, query, version, take).await;
        self.twins.log.inc_by(events.hidden());
        read
    }

    async fn events<V>(
        &self,
        snapshot: &dyn Snapshot,
        query: &LogQuery<V>,
        order: Order,
    ) -> Result<Events> {
        let now = snapshot.version();
        let limits = Limits {
            keys: LOG_PAGE_KEYS_MAX,
            // With room for the events that other partitions hold, too, and for those that do not pass.
            bytes: match (*query.filter == Filter::default(), self.keys.partitions()) {
                (true, 1) => query.bytes,
                (true, _) => 2 * query.bytes,
                (false, _) => (2 * query.bytes).max(FILTERED_BYTES),
            },
            // One more than the page takes, to know whether there is a next page.
            events: query.limit.saturating_add(1),
        };
        let wanted = Wanted {
            kinds: query.filter.kinds.clone(),
            actors: query.filter.actors.clone(),
        };
        let events = match order {
            Order::OldestFirst { after, until, .. } => {
                let bounds = (after, until.unwrap_or(now));
                Events::oldest_first(snapshot, &self.keys, wanted, bounds, limits).await
            }
            Order::NewestFirst { until, before } => {
                let before = before.map_or(now, Version::before);
                let bounds = (Version::ZERO, until.unwrap_or(now).min(before));
                Events::newest_first(snapshot, &self.keys, wanted, bounds, limits).await
            }
        };
        Ok(events?)
    }
}

async fn read<V>(
    events: &mut Events,
    snapshot: &dyn Snapshot,
    query: &LogQuery<V>,
    version: Version,
    mut take: impl FnMut(LogEvent),
) -> Result<LogRead> {
    let (mut count, mut bytes, mut last) = (0, 0, None);
    let next = loop {
        let event = match events.next(snapshot).await {
            Ok(event) => event,
            // If the snapshot expires, the page ends here, so that reading page by page makes progress.
            Err(store::Error::TooOld) if last.is_some() => {
                break last;
            }
            Err(error) => return Err(Error::Store(error)),
        };
        let Some(mut event) = event else {
            break (!events.is_done()).then(|| events.position());
        };
        if count >= query.limit || bytes >= query.bytes {
            break last;
        }
        last = Some(event.entry.version);
        if query.filter.apply(&mut event) {
            count += 1;
            bytes += event.bytes();
            take(event);
        }
    };
    Ok(LogRead { version, next })
}
