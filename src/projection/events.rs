//! Events of some kinds or actors, read from the log by kind or by actor as far as that has got, and from the log above.

use std::collections::VecDeque;

use super::{Derived, Projection, checkpoints};
use crate::{
    log::{self, LogEvent, Scan},
    store::{
        Fetch, KeyValue, Result, Snapshot,
        keys::{Keys, versioned},
        values::{Indexed, decode_change, decode_entry, decode_indexed},
    },
    types::{Actor, Entry, FeedName, Kind},
    version::Version,
};

/// Entries that are fetched together.
const FETCHED_AT_ONCE: usize = 64;

/// Which events of the log are read: those of one of the kinds and of one of the actors. An empty list means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub kinds: Vec<Kind>,
    pub actors: Vec<Actor>,
}

impl Wanted {
    pub fn includes(&self, entry: &Entry) -> bool {
        log::is_of(entry, &self.kinds, &self.actors)
    }

    /// The projection to read, its checkpoint, and the prefixes of its keys; `None` if none can be used.
    async fn index(
        &self,
        snapshot: &dyn Snapshot,
        keys: &Keys,
    ) -> Result<Option<(Version, Vec<Vec<u8>>)>> {
        let erasures = (!self.actors.is_empty()).then(|| keys.log_of_erasures());
        let actors = self.actors.iter().map(|actor| keys.log_by_actor(actor));
        let actors = actors.chain(erasures);
        let kinds = self.kinds.iter().map(|kind| keys.log_by_kind(kind));
        // An actor usually has fewer events than a kind.
        let indexes = [
            (Projection::LogByActor, actors.collect::<Vec<_>>()),
            (Projection::LogByKind, kinds.collect()),
        ];
        let indexes = indexes.into_iter().filter(|(_, of)| !of.is_empty());
        let (projections, prefixes): (Vec<_>, Vec<_>) = indexes.unzip();
        if projections.is_empty() {
            return Ok(None);
        }
        let checkpoints = checkpoints(snapshot, keys, &projections).await?;
        let indexes = checkpoints.into_iter().zip(prefixes);
        // The first one of those that are equally far.
        let further = |best: Option<(Version, _)>, next: (Version, _)| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            _ => Some(next),
        };
        let best = indexes.fold(None, further);
        Ok(best.filter(|(checkpoint, _)| *checkpoint > Version::ZERO))
    }
}

/// The wanted events of the log, in one direction, as a [`Scan`] shows all of them. The caller asks for one after the other,
/// always with the same snapshot, and can continue later, with another snapshot, from [`Self::position`].
pub struct Events {
    keys: Keys,
    wanted: Wanted,
    log: Scan,
    /// The events up to the checkpoint; `None` if no index can be used.
    index: Option<Index>,
    newest_first: bool,
    until: Version,
    limits: log::Limits,
    /// The last event of the index that was examined.
    last: Option<Version>,
}

impl Events {
    /// The wanted events above `after`, at or below `until`, in version order. Reads the checkpoints.
    pub async fn oldest_first(
        snapshot: &dyn Snapshot,
        keys: &Keys,
        wanted: Wanted,
        (after, until): (Version, Version),
        limits: log::Limits,
    ) -> Result<Self> {
        Self::new(snapshot, keys, wanted, (after, until), false, limits).await
    }

    /// The same, from the newest to the oldest.
    pub async fn newest_first(
        snapshot: &dyn Snapshot,
        keys: &Keys,
        wanted: Wanted,
        (after, until): (Version, Version),
        limits: log::Limits,
    ) -> Result<Self> {
        Self::new(snapshot, keys, wanted, (after, until), true, limits).await
    }

    async fn new(
        snapshot: &dyn Snapshot,
        keys: &Keys,
        wanted: Wanted,
        (after, until): (Version, Version),
        newest_first: bool,
        limits: log::Limits,
    ) -> Result<Self> {
        let index = wanted.index(snapshot, keys).await?;
        let checkpoint = index.as_ref().map_or(Version::ZERO, |index| index.0);
        let index = index.map(|(checkpoint, prefixes)| {
            let until = until.min(checkpoint);
            Index::new(Derived::new(prefixes, after, until, newest_first))
        });
        // Above the checkpoint.
        let after = after.max(checkpoint);
        let log = match newest_first {
            true => Scan::newest_first(keys, after, until.max(after), limits),
            false => Scan::oldest_first(keys, after, until.max(after), limits),
        };
        Ok(Self {
            keys: keys.clone(),
            wanted,
            log,
            index,
            newest_first,
            until,
            limits,
            last: None,
        })
    }

    /// How many twins have been left out. An index has none.
    pub fn hidden(&self) -> u64 {
        self.log.hidden()
    }

    /// Whether the end has been reached. If not, [`Self::next`] returned `None` because of the limits.
    pub fn is_done(&self) -> bool {
        self.index.as_ref().is_none_or(Index::is_done) && self.log.is_done()
    }

    /// Where to continue: oldest first after this version, newest first before it, as [`Scan::position`].
    pub fn position(&self) -> Version {
        let index = self.index.as_ref();
        let position = match self.newest_first {
            true => self.last.unwrap_or_else(|| self.log.position()),
            // The log begins where the index ends.
            false if index.is_none_or(Index::is_done) => self.log.position(),
            false => index.map_or(Version::ZERO, |index| self.last.unwrap_or(index.after)),
        };
        // The log begins at the checkpoint, which may be above.
        position.min(self.until)
    }

    /// The next event; `None` at the end or at the limits. Cannot be continued after an error.
    pub async fn next(&mut self, snapshot: &dyn Snapshot) -> Result<Option<LogEvent>> {
        if self.newest_first {
            if !self.log.is_done() {
                let event = self.next_of_log(snapshot).await?;
                if event.is_some() || !self.log.is_done() {
                    return Ok(event);
                }
            }
            return self.next_of_index(snapshot).await;
        }
        let event = self.next_of_index(snapshot).await?;
        if event.is_some() || !self.index.as_ref().is_none_or(Index::is_done) {
            return Ok(event);
        }
        self.next_of_log(snapshot).await
    }

    async fn next_of_log(&mut self, snapshot: &dyn Snapshot) -> Result<Option<LogEvent>> {
        while let Some(event) = self.log.next(snapshot).await? {
            if self.wanted.includes(&event.entry) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    async fn next_of_index(&mut self, snapshot: &dyn Snapshot) -> Result<Option<LogEvent>> {
        let Some(index) = &mut self.index else {
            return Ok(None);
        };
        loop {
            let Some(event) = index.fetched.pop_front() else {
                let has_progressed = self.last.is_some();
                let is_at_limit = index.derived.keys_read() >= self.limits.keys
                    || index.bytes_read >= self.limits.bytes;
                if index.is_done() || (has_progressed && is_at_limit) {
                    return Ok(None);
                }
                index
                    .fetch(snapshot, &self.keys, self.limits.events)
                    .await?;
                continue;
            };
            self.last = Some(event.entry.version);
            let is_shown = !(self.newest_first && event.entry.changed().is_some());
            if is_shown && self.wanted.includes(&event.entry) {
                return Ok(Some(event));
            }
        }
    }
}

/// The events that an index names.
struct Index {
    derived: Derived,
    after: Version,
    /// Their entries have been read.
    fetched: VecDeque<LogEvent>,
    fetching: Fetch,
    bytes_read: usize,
}

impl Index {
    fn new(derived: Derived) -> Self {
        Self {
            after: derived.after(),
            derived,
            fetched: VecDeque::new(),
            fetching: Fetch::default(),
            bytes_read: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.fetched.is_empty() && self.derived.is_done()
    }

    /// Fetches the next events, of which the caller takes about `need`.
    async fn fetch(&mut self, snapshot: &dyn Snapshot, keys: &Keys, need: usize) -> Result<()> {
        let need = need.clamp(1, FETCHED_AT_ONCE);
        let mut named: Vec<Indexed> = Vec::new();
        while named.len() < need {
            match self.derived.pop() {
                Some((_, item)) => named.push(decode_indexed(&item)?),
                // What is known is fetched first.
                None if !named.is_empty() || self.derived.is_done() => break,
                None => {
                    let ranges = self.derived.wants(need);
                    let slices = snapshot.ranges(ranges).await?;
                    self.derived.take(slices)?;
                }
            }
        }
        for indexed in &named {
            fetch(&mut self.fetching, keys, indexed, &indexed.feeds[0]);
        }
        let mut items = self.fetching.read(snapshot).await?.into_iter();
        for indexed in named {
            let entry = match items.next().and_then(|(_, item)| item) {
                Some(item) => Some(decode(&indexed, &item)?),
                None => elsewhere(snapshot, keys, &indexed).await?,
            };
            // News of a change go when the entry does.
            let Some(entry) = entry else {
                continue;
            };
            self.bytes_read += entry.data.len();
            self.fetched.push_back(LogEvent {
                entry,
                feeds: indexed.feeds,
                first_feed_hash: indexed.first_feed_hash,
            });
        }
        Ok(())
    }
}

/// Adds the event, or the news of its change, in `feed` to what is fetched.
fn fetch(fetching: &mut Fetch, keys: &Keys, indexed: &Indexed, feed: &FeedName) {
    match indexed.is_change {
        true => fetching.only(versioned(&keys.change(feed), indexed.version)),
        false => fetching.entry(&keys.feed(feed), indexed.version),
    }
}

fn decode(indexed: &Indexed, item: &KeyValue) -> Result<Entry> {
    match indexed.is_change {
        true => decode_change(item),
        false => decode_entry(item),
    }
}

/// The event that retention has removed from its first feed: in another one, or in the log.
async fn elsewhere(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    indexed: &Indexed,
) -> Result<Option<Entry>> {
    let mut fetching = Fetch::default();
    for feed in &indexed.feeds[1..] {
        fetch(&mut fetching, keys, indexed, feed);
    }
    let found = fetching.read(snapshot).await?;
    match found.into_iter().find_map(|(_, item)| item) {
        Some(item) => decode(indexed, &item).map(Some),
        None => log::entry_at(snapshot, keys, indexed.first_feed_hash, indexed.version).await,
    }
}
