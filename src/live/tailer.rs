//! The tailer: one task per node, which reads the log in rounds and gives what it finds to the hub.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Hub, Item, News,
    hub::{JoinTicket, LogAudience},
    partition::{Found, Partition},
    throttle::Throttle,
};
use crate::{
    fairness::WorkBudget,
    feed::{Feeds, UNREAD_MAX},
    lifecycle::retention::AGE_MIN,
    log::LogEvent,
    store::{
        Error, Result, Snapshot, Store,
        keys::{self, Keys},
        values::{Mark, Record, TransientRecord, decode_transient, decode_version_or_zero},
    },
    types::{Entry, FeedName, ReaderName},
    version::Version,
};

/// How often an idle subscriber is sent its position.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// If a round finds more than this, it is not kept in memory: all subscribers go back to reading pages.
const ROUND_RECORDS_MAX: usize = 50_000;
const ROUND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Limits of one read of a partition.
const READ_KEYS: usize = 1_000;
const READ_BYTES: usize = 1024 * 1024;

/// A round reads no further states once this many keys were read for them. The states that are left are read in the next
/// rounds, so that feeds with many unread entries do not delay the delivery of entries.
const ROUND_STATE_KEYS_MAX: usize = 2_000;
/// States that are read together.
const STATES_TOGETHER: usize = 64;
/// How often the markers of a reader are told to others, at most.
const OTHERS_EVERY: Duration = Duration::from_millis(250);
/// Readers whose markers are told to others in one round. Those that are left are told in the next one.
const ROUND_OTHERS_MAX: usize = 1_000;

const STORE_BACKOFF: Duration = Duration::from_millis(200);

/// Nothing younger, in ticks, is removed from the log.
const TRIMMED_TICKS_MIN: u64 = AGE_MIN.as_micros() as u64;

/// What a round finds at one version.
enum RoundItem {
    /// With all feeds of the event, see [`Found::all_feeds`].
    Entry(Entry, Vec<FeedName>, Option<Vec<FeedName>>),
    Transient(Entry, Vec<FeedName>),
    /// Of readers: what happened to their states.
    Readers(TransientRecord),
}

/// A feed, and whose state in it.
type Place = (FeedName, ReaderName);

/// News of readers, with the places that they are about.
type OfReaders = Vec<(Place, Arc<Item>)>;

struct Tailer {
    store: Arc<dyn Store>,
    keys: Keys,
    feeds: Feeds,
    hub: Arc<Hub>,
    /// T: everything up to here has been given to the hub.
    at: Version,
    partitions: HashMap<u16, Partition>,
    joining: Vec<JoinTicket>,
    /// States that have changed, of which somebody is told, and which are still to be read. None is there twice.
    changed: VecDeque<Place>,
    /// Markers that have moved, of which others are to be told.
    moved: BTreeSet<Place>,
    /// When others are told next, at the earliest.
    tell_others: Instant,
}

/// Runs rounds, at least `gap` apart, until `stop` is cancelled.
pub async fn run(
    store: Arc<dyn Store>,
    keys: Keys,
    feeds: Feeds,
    hub: Arc<Hub>,
    gap: Duration,
    stop: CancellationToken,
) {
    let metrics = Arc::clone(&hub.metrics);
    let progress = &metrics.tail;
    progress.wakes();
    let mut throttle = Throttle::new(gap);
    let mut tailer = Tailer {
        store,
        keys,
        feeds,
        hub,
        at: Version::ZERO,
        partitions: HashMap::new(),
        joining: Vec::new(),
        changed: VecDeque::new(),
        moved: BTreeSet::new(),
        tell_others: Instant::now(),
    };
    let mut beat = tokio::time::interval_at(
        Instant::now() + HEARTBEAT / Hub::heartbeat_groups(),
        HEARTBEAT / Hub::heartbeat_groups(),
    );
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follow = async {
        loop {
            throttle.next().await;
            match tailer.round().await {
                Ok(()) => {}
                Err(Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "live delivery failed to read the store; retrying");
                    tokio::time::sleep(STORE_BACKOFF).await;
                    continue;
                }
            }
            if !tailer.changed.is_empty() {
                continue;
            }
            let idle = tailer.partitions.is_empty();
            progress.waits();
            tokio::select! {
                // Without subscribers there is nothing to wake up for.
                committed = tailer.store.wait_for_commit(tailer.at), if !idle => {
                    progress.wakes();
                    if committed.is_err() {
                        tokio::time::sleep(STORE_BACKOFF).await;
                    }
                }
                () = tailer.hub.registered() => progress.wakes(),
                () = tokio::time::sleep_until(tailer.tell_others), if !tailer.moved.is_empty() => {
                    progress.wakes();
                }
                _ = beat.tick(), if !idle => {
                    progress.wakes();
                    // Read the current moment first, so that the cursor of an idle client advances, too.
                    if tailer.round().await.is_ok() {
                        tailer.hub.heartbeat(tailer.at, &mut WorkBudget::default()).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = follow => {}
        () = stop.cancelled() => {}
    }
}

impl Tailer {
    /// Delivers everything in (T, R] and sets T to R. After an error, T is unchanged and nothing has been delivered.
    async fn round(&mut self) -> Result<()> {
        let done = self
            .read_round()
            .instrument(tracing::debug_span!("tail_round"));
        let done = done.await;
        if let Err(error) = &done {
            self.store.errors().note_read(error);
        }
        done
    }

    async fn read_round(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut budget = WorkBudget::default();
        let (active, joining) = self.hub.begin_round(&mut budget).await;
        self.joining.extend(joining);
        let logs = self.hub.log_audiences();
        let snapshot = self.store.snapshot().await?;
        let moment = snapshot.version();
        self.partitions
            .retain(|partition, _| active.contains(partition));

        // The previous round may have failed after reading some records.
        self.partitions
            .values_mut()
            .for_each(|partition| partition.rewind(self.at));

        let mut found = BTreeMap::new();
        let complete = self.is_kept(&*snapshot).await?
            && self
                .read(
                    &*snapshot,
                    moment,
                    !logs.is_empty(),
                    &mut found,
                    &mut budget,
                )
                .await?;
        let (states, others) = if complete {
            self.note_readers(&found);
            let states = self.states(&*snapshot).await?;
            (states, self.others(&*snapshot).await?)
        } else {
            (Vec::new(), Vec::new())
        };
        drop(snapshot);
        let oldest = found.first_key_value().map(|(&version, _)| version);
        let records = found.len();
        let hidden = self.partitions.values_mut().map(Partition::take_hidden);
        self.hub.metrics.twins.live.inc_by(hidden.sum());

        // A partition that had no subscribers begins here: subscribers who join read pages up to this moment.
        for partition in active {
            let log = || Partition::new(&self.keys, partition, moment);
            self.partitions.entry(partition).or_insert_with(log);
        }
        if complete {
            self.changed.drain(..states.len());
            if !others.is_empty() {
                self.tell_others = Instant::now() + OTHERS_EVERY;
            }
            for (place, _) in &others {
                self.moved.remove(place);
            }
            self.deliver(found, &logs, [&states, &others], &mut budget)
                .await;
        } else {
            tracing::warn!(
                "live delivery is too far behind; all subscribers continue by reading pages"
            );
            self.partitions.iter_mut().for_each(|(&id, partition)| {
                *partition = Partition::new(&self.keys, id, moment);
            });
            // Pages come with states.
            self.changed.clear();
            self.moved.clear();
            self.hub.lag_all(&mut budget).await;
        }
        self.at = moment;
        let tail = &self.hub.metrics.tail;
        tail.delivered(begun, moment, oldest, records);
        let joining = std::mem::take(&mut self.joining);
        self.hub.end_round(joining, moment, &mut budget).await;
        Ok(())
    }

    /// Whether everything above T is still in the log: this node may have been cut off for longer than the log is kept.
    async fn is_kept(&self, snapshot: &dyn Snapshot) -> Result<bool> {
        let moment = snapshot.version();
        let until = self.at.time().saturating_add(TRIMMED_TICKS_MIN);
        let is_recent = self.at.epoch() == moment.epoch() && moment.time() < until;
        if is_recent || self.partitions.is_empty() {
            return Ok(true);
        }
        let key = self.keys.trimmed_log();
        let trimmed = snapshot.get(vec![key.clone()]).await?.pop().flatten();
        Ok(decode_version_or_zero(&key, trimmed.as_ref())? <= self.at)
    }

    /// Reads (T, `moment`] of every followed partition. `false` if there was too much to read.
    async fn read(
        &mut self,
        snapshot: &dyn Snapshot,
        moment: Version,
        all_feeds: bool,
        found: &mut BTreeMap<Version, RoundItem>,
        budget: &mut WorkBudget,
    ) -> Result<bool> {
        // (partition, whether of its transients, read after this version)
        let mut unread: Vec<(u16, bool, Version)> = self
            .partitions
            .keys()
            .flat_map(|&id| [(id, false, self.at), (id, true, self.at)])
            .collect();
        let (mut records, mut bytes) = (0, 0);
        while !unread.is_empty() {
            let ranges =
                unread
                    .iter()
                    .map(|&(id, transient, after)| match self.partitions.get(&id) {
                        Some(partition) if !transient => {
                            partition.range(after, moment, READ_KEYS, READ_BYTES)
                        }
                        _ => keys::range(
                            &self.keys.transient(id),
                            Some(after),
                            moment,
                            false,
                            READ_KEYS,
                            READ_BYTES,
                        ),
                    });
            let slices = snapshot.ranges(ranges.collect()).await?;
            let mut left = Vec::new();
            for ((id, transient, _), slice) in unread.into_iter().zip(slices) {
                bytes += slice
                    .items
                    .iter()
                    .map(|item| item.value.len())
                    .sum::<usize>();
                if transient {
                    for item in &slice.items {
                        add_transient(found, decode_transient(item)?);
                    }
                } else if let Some(partition) = self.partitions.get_mut(&id) {
                    for record in partition.visible(snapshot, &slice, all_feeds).await? {
                        records += 1;
                        budget.spend(1 + record.feeds.len() / 8).await;
                        add(found, record);
                    }
                }
                if let (true, Some(last)) = (slice.more, slice.items.last()) {
                    left.push((id, transient, keys::version_of(&last.key)?));
                }
            }
            if records > ROUND_RECORDS_MAX || bytes > ROUND_BYTES_MAX {
                return Ok(false);
            }
            unread = left;
        }
        Ok(true)
    }

    /// Notes the states that have changed and the markers that have moved. They stay noted until a round has succeeded in
    /// reading them.
    fn note_readers(&mut self, found: &BTreeMap<Version, RoundItem>) {
        let mut changed: HashSet<Place> = self.changed.iter().cloned().collect();
        let mut of_all: BTreeSet<&FeedName> = BTreeSet::new();
        for found in found.values() {
            let place = match found {
                // It may have been unread.
                RoundItem::Entry(entry, feeds, _) if entry.is_erasure() => {
                    of_all.extend(feeds);
                    continue;
                }
                RoundItem::Readers(TransientRecord::Removed { feeds, .. }) => {
                    of_all.extend(feeds);
                    continue;
                }
                RoundItem::Readers(TransientRecord::MarkerMoved { feed, reader, .. }) => {
                    let place = (feed.clone(), reader.clone());
                    if self.hub.has_listeners(feed) {
                        self.moved.insert(place.clone());
                    }
                    place
                }
                RoundItem::Readers(TransientRecord::Marked { feed, reader, .. }) => {
                    (feed.clone(), reader.clone())
                }
                _ => continue,
            };
            if changed.insert(place.clone()) {
                self.changed.push_back(place);
            }
        }
        let mut readers: HashMap<FeedName, BTreeSet<ReaderName>> = HashMap::new();
        for feed in of_all {
            let told = self.hub.readers(feed);
            let places = told.iter().map(|reader| (feed.clone(), reader.clone()));
            self.changed
                .extend(places.filter(|place| changed.insert(place.clone())));
            readers.insert(feed.clone(), told);
        }
        self.changed.retain(|(feed, reader)| {
            let known = readers.entry(feed.clone());
            let told = known.or_insert_with(|| self.hub.readers(feed));
            told.contains(reader)
        });
    }

    /// The first of the states that have changed, as of the round's moment.
    async fn states(&mut self, snapshot: &dyn Snapshot) -> Result<OfReaders> {
        let mut states = Vec::new();
        let mut keys_read = 0;
        let of_one_reader = |a: &Place, b: &Place| a.1 == b.1;
        for places in self.changed.make_contiguous().chunk_by(of_one_reader) {
            for places in places.chunks(STATES_TOGETHER) {
                let Some((_, reader)) = places.first().filter(|_| keys_read < ROUND_STATE_KEYS_MAX)
                else {
                    return Ok(states);
                };
                let feeds: Vec<FeedName> = places.iter().map(|(feed, _)| feed.clone()).collect();
                let read = self.feeds.states_at(snapshot, &feeds, reader, UNREAD_MAX);
                let (read, keys) = read.await?;
                keys_read += keys;
                let items = read.into_iter().map(|state| Item::new(News::State(state)));
                states.extend(places.iter().cloned().zip(items));
            }
        }
        Ok(states)
    }

    /// The markers that others are told of now, as of the round's moment.
    async fn others(&self, snapshot: &dyn Snapshot) -> Result<OfReaders> {
        if self.moved.is_empty() || Instant::now() < self.tell_others {
            return Ok(Vec::new());
        }
        let places: Vec<Place> = self.moved.iter().take(ROUND_OTHERS_MAX).cloned().collect();
        let markers = self.feeds.markers_of(snapshot, &places).await?;
        let told = places.into_iter().zip(markers);
        let told = told.map(|(place, markers)| {
            let item = Item::new(News::Moved {
                feed: place.0.clone(),
                markers,
                version: snapshot.version(),
            });
            (place, item)
        });
        Ok(told.collect())
    }

    /// Marks and states come first, so that the unread counts of the entries that follow are not below what the reader has
    /// done. After an erasure, the state comes again.
    async fn deliver(
        &self,
        found: BTreeMap<Version, RoundItem>,
        logs: &[LogAudience],
        [states, others]: [&OfReaders; 2],
        budget: &mut WorkBudget,
    ) {
        for found in found.values() {
            if let RoundItem::Readers(TransientRecord::Marked {
                feed,
                reader,
                entry,
                mark,
            }) = found
            {
                let item = Item::new(News::Marked {
                    feed: feed.clone(),
                    reader: reader.clone(),
                    mark: Some((*entry, *mark)),
                    version: mark.marked,
                });
                self.hub
                    .dispatch_of_reader(feed, (reader, true), &item, budget)
                    .await;
            }
        }
        self.tell(states, true, budget).await;
        let mut erased: BTreeSet<FeedName> = BTreeSet::new();
        for found in found.into_values() {
            match found {
                RoundItem::Entry(entry, feeds, all_feeds) => {
                    self.hub.dispatch(&entry, &feeds, News::Entry, budget).await;
                    if entry.is_erasure() {
                        erased.extend(feeds.iter().cloned());
                    }
                    if let (false, Some(event)) =
                        (logs.is_empty(), log_event(entry, feeds, all_feeds))
                    {
                        self.hub.dispatch_to_logs(logs, &event, budget).await;
                    }
                }
                RoundItem::Transient(entry, feeds) => {
                    let news = News::Transient;
                    self.hub.dispatch(&entry, &feeds, news, budget).await;
                }
                RoundItem::Readers(_) => {}
            }
        }
        if !erased.is_empty() {
            let again = states.iter().filter(|((feed, _), _)| erased.contains(feed));
            let again: Vec<_> = again.cloned().collect();
            self.tell(&again, true, budget).await;
        }
        self.tell(others, false, budget).await;
        self.hub.flush().await;
    }

    /// Tells whoever is told the states of the reader, or everybody else.
    async fn tell(&self, news: &OfReaders, is_own: bool, budget: &mut WorkBudget) {
        for ((feed, reader), item) in news {
            self.hub
                .dispatch_of_reader(feed, (reader, is_own), item, budget)
                .await;
        }
    }
}

/// Adds an entry. An event with feeds in several partitions is found in each of them, at the same version.
fn add(found: &mut BTreeMap<Version, RoundItem>, mut record: Found) {
    match found.get_mut(&record.entry.version) {
        Some(RoundItem::Entry(_, feeds, all_feeds)) => {
            feeds.append(&mut record.feeds);
            *all_feeds = all_feeds.take().or(record.all_feeds);
        }
        _ => {
            let Found {
                entry,
                feeds,
                all_feeds,
            } = record;
            found.insert(entry.version, RoundItem::Entry(entry, feeds, all_feeds));
        }
    }
}

/// The event as the log shows it, from what was found in all partitions; `None` if it is a twin in all its feeds.
fn log_event(
    entry: Entry,
    feeds: Vec<FeedName>,
    all_feeds: Option<Vec<FeedName>>,
) -> Option<LogEvent> {
    let first_feed_hash = match &all_feeds {
        Some(all) => Keys::hash(all.first()?),
        None => Keys::hash(feeds.first()?),
    };
    let feeds = match all_feeds {
        Some(all) if all.len() == feeds.len() => all,
        Some(all) => all
            .into_iter()
            .filter(|feed| feeds.contains(feed))
            .collect(),
        None => feeds,
    };
    (!feeds.is_empty()).then_some(LogEvent {
        entry,
        feeds,
        first_feed_hash,
    })
}

fn add_transient(found: &mut BTreeMap<Version, RoundItem>, record: TransientRecord) {
    match record {
        TransientRecord::Event(Record {
            entry, mut feeds, ..
        }) => match found.get_mut(&entry.version) {
            Some(RoundItem::Transient(_, all)) => all.append(&mut feeds),
            _ => {
                found.insert(entry.version, RoundItem::Transient(entry, feeds));
            }
        },
        TransientRecord::MarkerMoved { version, .. }
        | TransientRecord::Removed { version, .. }
        | TransientRecord::Marked {
            mark: Mark {
                marked: version, ..
            },
            ..
        } => {
            found.insert(version, RoundItem::Readers(record));
        }
    }
}
