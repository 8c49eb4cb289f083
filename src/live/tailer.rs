//! The tailer: one task per node, which reads the log in rounds and gives what it finds to the hub.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
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
    feed::Feeds,
    lifecycle::retention::AGE_MIN,
    log::LogEvent,
    store::{
        Error, Result, Snapshot, Store,
        keys::{self, Keys, OWN_READER},
        values::{Record, TransientRecord, decode_transient, decode_version_or_zero},
    },
    types::{Entry, FeedName},
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

/// A round reads no further states once it has counted this many unread entries. The states that are left are read in the
/// next rounds, so that feeds with many unread entries do not delay the delivery of entries.
const ROUND_UNREAD_MAX: usize = 2_000;

const STORE_BACKOFF: Duration = Duration::from_millis(200);

/// Nothing younger, in ticks, is removed from the log.
const TRIMMED_TICKS_MIN: u64 = AGE_MIN.as_micros() as u64;

/// What a round finds at one version.
enum RoundItem {
    /// With all feeds of the event, see [`Found::all_feeds`].
    Entry(Entry, Vec<FeedName>, Option<Vec<FeedName>>),
    Transient(Entry, Vec<FeedName>),
    MarkerMoved(FeedName),
}

struct Tailer {
    store: Arc<dyn Store>,
    keys: Keys,
    feeds: Feeds,
    hub: Arc<Hub>,
    /// T: everything up to here has been given to the hub.
    at: Version,
    partitions: HashMap<u16, Partition>,
    joining: Vec<JoinTicket>,
    /// Feeds with listeners whose marker has moved or of which an entry was erased, and whose state is still to be read. No feed is there twice.
    moved: VecDeque<FeedName>,
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
        moved: VecDeque::new(),
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
            if !tailer.moved.is_empty() {
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
        let states = if complete {
            self.note_moved(&found);
            self.states(&*snapshot).await?
        } else {
            Vec::new()
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
            self.moved.drain(..states.len());
            self.deliver(found, &logs, &states, &mut budget).await;
        } else {
            tracing::warn!(
                "live delivery is too far behind; all subscribers continue by reading pages"
            );
            self.partitions.iter_mut().for_each(|(&id, partition)| {
                *partition = Partition::new(&self.keys, id, moment);
            });
            // Pages come with states.
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

    /// Notes the feeds whose marker moved, or of which an entry was erased. They stay noted until a round has succeeded in reading their states.
    fn note_moved(&mut self, found: &BTreeMap<Version, RoundItem>) {
        let mut noted: HashSet<&FeedName> = self.moved.iter().collect();
        let feeds = found.values().flat_map(|found| match found {
            RoundItem::MarkerMoved(feed) => std::slice::from_ref(feed),
            // It may have been unread.
            RoundItem::Entry(entry, feeds, _) if entry.is_erasure() => feeds,
            RoundItem::Entry(..) | RoundItem::Transient(..) => &[],
        });
        let new = feeds.filter(|feed| noted.insert(feed));
        let new: Vec<FeedName> = new.cloned().collect();
        self.moved.extend(new);
        self.moved.retain(|feed| self.hub.has_listeners(feed));
    }

    /// The states of the first of the feeds whose marker moved, as of the round's moment.
    async fn states(&self, snapshot: &dyn Snapshot) -> Result<Vec<(FeedName, Arc<Item>)>> {
        let mut states = Vec::new();
        let mut unread = 0;
        for feed in &self.moved {
            if unread >= ROUND_UNREAD_MAX {
                break;
            }
            let state = self.feeds.state_at(snapshot, feed).await?;
            unread += state.unread.total;
            states.push((feed.clone(), Item::new(News::State(state))));
        }
        Ok(states)
    }

    async fn deliver(
        &self,
        found: BTreeMap<Version, RoundItem>,
        logs: &[LogAudience],
        states: &[(FeedName, Arc<Item>)],
        budget: &mut WorkBudget,
    ) {
        for found in found.into_values() {
            match found {
                RoundItem::Entry(entry, feeds, all_feeds) => {
                    self.hub.dispatch(&entry, &feeds, News::Entry, budget).await;
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
                RoundItem::MarkerMoved(_) => {}
            }
        }
        // States come last, because they are as of the end of the round.
        for (feed, item) in states {
            self.hub.dispatch_state(feed, item, budget).await;
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
        // Only the feed's own markers are part of its state.
        TransientRecord::MarkerMoved {
            feed,
            reader,
            version,
        } => {
            if reader == OWN_READER {
                found.insert(version, RoundItem::MarkerMoved(feed));
            }
        }
    }
}
