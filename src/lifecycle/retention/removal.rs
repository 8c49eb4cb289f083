//! The batch of a step: what goes together with the entries and events that are removed.

use std::collections::{BTreeMap, BTreeSet};

use super::super::rewrite::Rewrite;
use crate::{
    append::writes,
    dedup::Commit,
    log::place_of,
    store::{
        Batch, Condition, KeyValue, Result, Snapshot,
        keys::{self, Keys, after_until, version_of, versioned},
        values::{
            Claim, ClaimedEvent, Record, decode_claim, decode_entry, decode_indexed, encode_indexed,
        },
    },
    types::{Change, Delivery, Entry, EventId, FeedName, Kind},
    version::Version,
};

/// An id has as many claims as nodes appended it at the same moment.
const CLAIMS_MAX: usize = 1_000;

/// Limits of one read of a feed.
const READ_KEYS: usize = 200;
const READ_BYTES: usize = 256 * 1024;

/// How much a step has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) entries: u64,
    pub(super) events: u64,
}

/// What is being removed.
pub(super) struct Removal<'a> {
    keys: &'a Keys,
    snapshot: &'a dyn Snapshot,
    batch: Batch,
    counts: Counts,
    events: BTreeMap<EventId, Removed>,
    /// Entries of a feed with none between them that stays.
    runs: Vec<Run>,
    /// By feed and kind, and by prefix of the log by kind or by actor: the first and the last version that goes.
    feed_indexes: BTreeMap<(FeedName, Kind), Ends>,
    log_indexes: BTreeMap<Vec<u8>, Ends>,
    /// The versions of entries and news that go from a feed.
    gone: BTreeMap<FeedName, BTreeSet<Version>>,
    /// Feeds in which some kinds are kept longer than others, and the floor of the pass.
    mixed: BTreeMap<FeedName, Version>,
    /// Everything in the log at or below may have been removed.
    trimmed_log: Version,
    trims_log: bool,
    /// The keys of the log that go, by partition.
    log: BTreeMap<u16, Ends>,
}

/// Of an event, what is removed.
#[derive(Default)]
struct Removed {
    /// Copies of it, or of its twins.
    copies: BTreeSet<(FeedName, Version)>,
    /// From the log, with these feeds.
    logged: Vec<(Version, Vec<FeedName>)>,
    /// The last edit of a copy, and the indexes of the log that have its news.
    edited: Option<(Version, Vec<Vec<u8>>)>,
}

struct Run {
    feed: FeedName,
    ends: Ends,
    notifies: bool,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: Version,
    last: Version,
}

impl Ends {
    fn of(version: Version) -> Self {
        Self {
            first: version,
            last: version,
        }
    }

    fn add(&mut self, version: Version) {
        self.first = self.first.min(version);
        self.last = self.last.max(version);
    }

    /// Begin and end of the keys.
    fn under(self, prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
        after_until(prefix, Some(self.first.before()), self.last)
    }

    fn contains(self, version: Version) -> bool {
        self.first <= version && version <= self.last
    }
}

/// The versions of one transaction.
fn of_transaction(version: Version) -> Ends {
    Ends {
        first: version.at_index(0),
        last: version.at_index(u16::MAX),
    }
}

fn note<K: Ord>(ends: &mut BTreeMap<K, Ends>, key: K, version: Version) {
    ends.entry(key)
        .and_modify(|ends| ends.add(version))
        .or_insert_with(|| Ends::of(version));
}

impl<'a> Removal<'a> {
    /// `trimmed_log` is what the snapshot says.
    pub(super) fn new(keys: &'a Keys, snapshot: &'a dyn Snapshot, trimmed_log: Version) -> Self {
        Self {
            keys,
            snapshot,
            batch: Batch::default(),
            counts: Counts::default(),
            events: BTreeMap::new(),
            runs: Vec::new(),
            feed_indexes: BTreeMap::new(),
            log_indexes: BTreeMap::new(),
            gone: BTreeMap::new(),
            mixed: BTreeMap::new(),
            trimmed_log,
            trims_log: false,
            log: BTreeMap::new(),
        }
    }

    /// How many entries and events go.
    pub(super) fn len(&self) -> usize {
        (self.counts.entries + self.counts.events) as usize
    }

    /// In this feed, some kinds are kept longer than others. Nothing above `floor` goes.
    pub(super) fn mixes(&mut self, feed: &FeedName, floor: Version) {
        self.mixed.insert(feed.clone(), floor);
    }

    /// Removes an entry from a feed. `follows` says that it follows the last one that was removed.
    pub(super) fn entry(&mut self, feed: &FeedName, entry: Entry, follows: bool) {
        let version = entry.version;
        self.counts.entries += 1;
        let notifies = entry.delivery == Delivery::Notify;
        match self.runs.last_mut() {
            Some(run) if follows => {
                run.ends.add(version);
                run.notifies |= notifies;
            }
            _ => self.runs.push(Run {
                feed: feed.clone(),
                ends: Ends::of(version),
                notifies,
            }),
        }
        // Everything of the kind up to here goes.
        let of_kind = (feed.clone(), entry.kind.clone());
        note(&mut self.feed_indexes, of_kind, version);
        self.with(feed, entry);
    }

    /// What goes with an entry besides its key, its notify key and its index key.
    fn with(&mut self, feed: &FeedName, entry: Entry) {
        if let Some(Change::EditedAt(edited)) = entry.change {
            let news = of_transaction(edited).under(&self.keys.change(feed));
            self.batch.clears.push(news);
        }
        let gone = self.gone.entry(feed.clone()).or_default();
        gone.insert(entry.version);
        let edited = match entry.change {
            Some(Change::EditedAt(edited)) => {
                let actor = entry.actor.as_ref();
                let actor = actor.map(|actor| self.keys.log_by_actor(actor));
                let indexes = std::iter::once(self.keys.log_by_kind(&entry.kind)).chain(actor);
                Some((edited, indexes.collect()))
            }
            _ => None,
        };
        let removed = self.events.entry(entry.id).or_default();
        removed.copies.insert((feed.clone(), entry.version));
        removed.edited = edited.or(removed.edited.take());
    }

    /// Removes the news of a change from a feed.
    pub(super) fn news(&mut self, feed: &FeedName, version: Version) {
        self.gone.entry(feed.clone()).or_default().insert(version);
        let key = Ends::of(version).under(&self.keys.change(feed));
        self.batch.clears.push(key);
    }

    /// Everything in the log at or below `until` goes, in this step or a later one.
    pub(super) fn trim_log(&mut self, until: Version) {
        self.trims_log |= until > self.trimmed_log;
        self.trimmed_log = until.max(self.trimmed_log);
    }

    /// Removes a key of the log with these records. The keys of a partition must be given in order, with none left out.
    pub(super) fn records(&mut self, partition: u16, key: Version, records: Vec<Record>) {
        note(&mut self.log, partition, key);
        for record in records {
            if record.exports {
                self.event(record);
            }
        }
    }

    fn event(&mut self, Record { entry, feeds, .. }: Record) {
        let version = entry.version;
        let kind = self.keys.log_by_kind(&entry.kind);
        let actor = match (&entry.change, &entry.actor) {
            (Some(Change::Erasure(_)), _) => Some(self.keys.log_of_erasures()),
            (_, actor) => actor.as_ref().map(|actor| self.keys.log_by_actor(actor)),
        };
        let indexes: Vec<_> = std::iter::once(kind).chain(actor).collect();
        if let Some(Change::EditedAt(edited)) = entry.change {
            let partitions = writes::records(self.keys, &feeds);
            let logs = partitions
                .iter()
                .map(|(partition, ..)| self.keys.log(*partition));
            let news = of_transaction(edited);
            let clears = logs
                .chain(indexes.iter().cloned())
                .map(|it| news.under(&it));
            self.batch.clears.extend(clears);
        }
        for index in indexes {
            note(&mut self.log_indexes, index, version);
        }
        if entry.changed().is_none() {
            self.counts.events += 1;
            let removed = self.events.entry(entry.id).or_default();
            removed.logged.push((version, feeds));
        }
    }

    /// The batch, after what goes with the entries and events has been read.
    pub(super) async fn finish(mut self) -> Result<(Batch, Counts)> {
        let ids: Vec<EventId> = self.events.keys().cloned().collect();
        let range = |id| {
            let prefix = self.keys.claim(id);
            keys::range(&prefix, None, Version::MAX, false, CLAIMS_MAX, usize::MAX)
        };
        let slices = self
            .snapshot
            .ranges(ids.iter().map(range).collect())
            .await?;
        let mut rewrite = Rewrite::new(self.keys, self.snapshot);
        let mut undecided = Vec::new();
        for (id, slice) in ids.into_iter().zip(slices) {
            // Whoever changes the event changes its claim.
            let unchanged = slice.items.iter().map(|item| Condition::KeyEquals {
                key: item.key.to_vec(),
                value: Some(item.value.to_vec()),
            });
            self.batch.conditions.extend(unchanged);
            let claims = slice.items.iter().map(decode_claim);
            let claims = claims.collect::<Result<Vec<Claim>>>()?;
            let are_many = claims.len() > 1;
            let commit = |claim: Claim| Some((claim.version, claim.event?));
            let commits: Vec<_> = claims.into_iter().filter_map(commit).collect();
            match &commits[..] {
                [] => {}
                [(version, claim)] if !are_many => {
                    if *version <= self.trimmed_log {
                        undecided.push(self.candidates(&id, *version, claim));
                    }
                }
                commits => {
                    let in_feeds = self.twins_in_feeds(&id, commits).await?;
                    let in_log = self.twins_in_log(&id, commits, &mut rewrite).await?;
                    if !in_feeds && !in_log {
                        let versions = commits.iter().map(|(version, _)| *version);
                        self.forget(&id, versions);
                    }
                }
            }
        }
        self.decide(undecided).await?;
        rewrite.finish(&mut self.batch);
        self.trim_feeds().await?;
        Ok(self.into_batch())
    }

    /// Raises what says up to where a feed was trimmed: to the last version that goes and lies below everything that stays.
    /// Nobody can be told of what goes from between entries that stay, because whoever reads a feed from its beginning
    /// continues from these.
    async fn trim_feeds(&mut self) -> Result<()> {
        for (feed, gone) in std::mem::take(&mut self.gone) {
            if let Some(last) = gone.last() {
                self.raise(self.keys.trimmed_anywhere(), *last);
            }
            let is_mixed = self.mixed.contains_key(&feed);
            let oldest = self.oldest_left(&feed, &gone, is_mixed).await?;
            let trimmed = match (oldest, self.mixed.get(&feed)) {
                (Some(oldest), None) => gone.range(..oldest).next_back().copied(),
                (None, None) => gone.last().copied(),
                // Earlier steps may have removed more, above what goes now.
                (Some(oldest), Some(_)) => Some(oldest.before()),
                (None, Some(floor)) => gone.last().copied().max(Some(*floor)),
            };
            if let Some(version) = trimmed {
                self.raise(self.keys.trimmed(&feed), version);
                self.raise(self.keys.trimmed_anywhere(), version);
            }
        }
        if self.trims_log {
            self.raise(self.keys.trimmed_log(), self.trimmed_log);
            self.raise(self.keys.trimmed_anywhere(), self.trimmed_log);
        }
        Ok(())
    }

    /// Raises the version at `key`, which is in the batch once.
    fn raise(&mut self, key: Vec<u8>, version: Version) {
        let value = version.to_bytes().to_vec();
        let maxima = &mut self.batch.maxima;
        match maxima.iter_mut().find(|(other, _)| *other == key) {
            Some((_, greatest)) => *greatest = std::mem::take(greatest).max(value),
            None => maxima.push((key, value)),
        }
    }

    /// The version of the oldest entry that stays, if there is one up to the last version that goes, or at all.
    async fn oldest_left(
        &self,
        feed: &FeedName,
        gone: &BTreeSet<Version>,
        is_mixed: bool,
    ) -> Result<Option<Version>> {
        let until = match (gone.last(), is_mixed) {
            (_, true) => self.snapshot.version(),
            (Some(last), false) => *last,
            (None, false) => return Ok(None),
        };
        let prefix = self.keys.feed(feed);
        // Most often, all that is read goes, or the first one stays.
        let (mut after, mut limit) = (Version::ZERO, 1);
        loop {
            let range = keys::range(&prefix, Some(after), until, false, limit, READ_BYTES);
            let slice = self.snapshot.ranges(vec![range]).await?.pop();
            let slice = slice.unwrap_or_default();
            for item in &slice.items {
                after = version_of(&item.key)?;
                // The place of an erased entry is nothing that a reader could continue from.
                if !gone.contains(&after) && !decode_entry(item)?.is_erased() {
                    return Ok(Some(after));
                }
            }
            if !slice.more {
                return Ok(None);
            }
            limit = READ_KEYS;
        }
    }

    /// Removes the claims of an event, and the news of its last edit from the log, which may be younger than the event there:
    /// without a claim, nobody could erase it.
    fn forget(&mut self, id: &EventId, versions: impl Iterator<Item = Version>) {
        let prefix = self.keys.claim(id);
        let claims = versions.map(|version| Ends::of(version).under(&prefix));
        self.batch.clears.extend(claims);
        let edited = self.events.get(id).and_then(|it| it.edited.as_ref());
        if let Some((edited, indexes)) = edited {
            let logs = (0..self.keys.partitions()).map(|partition| self.keys.log(partition));
            let prefixes = logs.chain(indexes.iter().cloned());
            let news = of_transaction(*edited);
            self.batch.clears.extend(prefixes.map(|it| news.under(&it)));
        }
    }

    /// The feeds that may still hold an event which is not in the log.
    fn candidates(&self, id: &EventId, version: Version, claim: &ClaimedEvent) -> Candidates {
        let gone = self.events.get(id);
        let is_gone = |feed: &FeedName| {
            let place = (feed.clone(), version);
            gone.is_some_and(|gone| gone.copies.contains(&place))
        };
        let feeds = claim.feeds.iter().filter(|feed| !is_gone(feed));
        let mut feeds: Vec<FeedName> = feeds.cloned().collect();
        // The walk comes to the last one last, so that it is the most likely to hold the event.
        feeds.sort_unstable();
        let id = id.clone();
        Candidates { id, version, feeds }
    }

    /// Removes the claims of those events that no feed holds.
    async fn decide(&mut self, mut undecided: Vec<Candidates>) -> Result<()> {
        while !undecided.is_empty() {
            let (mut asked, mut reads) = (Vec::new(), Vec::new());
            for mut candidates in undecided {
                match candidates.feeds.pop() {
                    None => self.forget(&candidates.id, std::iter::once(candidates.version)),
                    Some(feed) => {
                        reads.push(versioned(&self.keys.feed(&feed), candidates.version));
                        asked.push(candidates);
                    }
                }
            }
            let values = self.snapshot.get(reads).await?;
            let left = asked.into_iter().zip(values);
            let left = left.filter(|(_, value)| value.is_none());
            undecided = left.map(|(candidates, _)| candidates).collect();
        }
        Ok(())
    }

    /// Removes the twins of copies that go. Whether a feed still holds the event.
    async fn twins_in_feeds(
        &mut self,
        id: &EventId,
        commits: &[(Version, ClaimedEvent)],
    ) -> Result<bool> {
        let gone = self.events.get(id).map(|removed| removed.copies.clone());
        let mut gone = gone.unwrap_or_default();
        let places = commits
            .iter()
            .flat_map(|(version, claim)| claim.feeds.iter().map(|feed| (feed.clone(), *version)));
        let places: Vec<_> = places.filter(|place| !gone.contains(place)).collect();
        let key =
            |(feed, version): &(FeedName, Version)| versioned(&self.keys.feed(feed), *version);
        let reads: Vec<_> = places.iter().map(key).collect();
        let values = self.snapshot.get(reads.clone()).await?;
        let mut is_held = false;
        for (((feed, version), key), value) in places.into_iter().zip(reads).zip(values) {
            let Some(value) = value else {
                continue;
            };
            let key = key.into();
            let entry = decode_entry(&KeyValue { key, value })?;
            if entry.is_erased() {
                continue;
            }
            let is_twin =
                |(other, first): &(FeedName, Version)| *other == feed && is_twin_of(&entry, *first);
            // In the order of versions, so that the twin of a twin goes with it.
            if gone.iter().any(is_twin) {
                gone.insert((feed.clone(), version));
                let only = Ends::of(version);
                // Of its kind, others may stay.
                let index = self.keys.feed_by_kind(&feed, &entry.kind);
                let clears = [self.keys.feed(&feed), self.keys.notify(&feed), index];
                let clears = clears.iter().map(|prefix| only.under(prefix));
                self.batch.clears.extend(clears);
                self.with(&feed, entry);
            } else {
                is_held = true;
            }
        }
        Ok(is_held)
    }

    /// Removes the twins of what goes from the log: from it altogether, or those feeds in which they are twins. Whether the log
    /// still holds the event.
    async fn twins_in_log(
        &mut self,
        id: &EventId,
        commits: &[(Version, ClaimedEvent)],
        rewrite: &mut Rewrite<'_>,
    ) -> Result<bool> {
        let gone = self.events.get(id).map(|removed| removed.logged.clone());
        let mut gone = gone.unwrap_or_default();
        let mut is_held = false;
        for (version, claim) in commits {
            let mut found = Vec::new();
            for (partition, ..) in writes::records(self.keys, &claim.feeds) {
                let place = place_of(self.snapshot, self.keys, partition, *version).await?;
                let Some(place) = place else {
                    continue;
                };
                let key = version_of(&place.item.key)?;
                let goes = self
                    .log
                    .get(&partition)
                    .is_some_and(|ends| ends.contains(key));
                if !goes {
                    found.push((partition, place));
                }
            }
            let records = found.iter().map(|(_, place)| &place.records[place.index]);
            let mut exporting = records.filter(|record| record.exports);
            let Some(record) = exporting.next() else {
                continue;
            };
            let hides = |feed: &FeedName| {
                let mut gone = gone.iter();
                gone.any(|(first, feeds)| feeds.contains(feed) && is_twin_of(&record.entry, *first))
            };
            let left = record.feeds.iter().filter(|feed| !hides(feed));
            let left: Vec<FeedName> = left.cloned().collect();
            if left.len() < record.feeds.len() {
                let hidden = record.feeds.iter().filter(|feed| hides(feed));
                let hidden: Vec<FeedName> = hidden.cloned().collect();
                if let Some(first) = left.first() {
                    self.index_again(&record.entry, Keys::hash(first)).await?;
                }
                let wanted = writes::records(self.keys, &left);
                for (partition, _) in &found {
                    let wanted = wanted.iter().find(|(other, ..)| other == partition);
                    let change = |records: &mut Vec<Record>, index: usize| match wanted {
                        Some((_, feeds, exports)) => {
                            records[index].feeds = feeds.iter().copied().cloned().collect();
                            records[index].exports = *exports;
                        }
                        None => drop(records.remove(index)),
                    };
                    rewrite.change(*partition, *version, change).await?;
                }
                gone.push((*version, hidden));
            }
            is_held |= !left.is_empty() && *version > self.trimmed_log;
        }
        Ok(is_held)
    }

    /// An event has another first feed in the log now: so must the indexes of the log, if they name it.
    async fn index_again(&mut self, entry: &Entry, first_feed_hash: u64) -> Result<()> {
        let actor = entry.actor.as_ref();
        let actor = actor.map(|actor| self.keys.log_by_actor(actor));
        let prefixes = std::iter::once(self.keys.log_by_kind(&entry.kind)).chain(actor);
        let places: Vec<_> = prefixes
            .map(|prefix| versioned(&prefix, entry.version))
            .collect();
        let stored = self.snapshot.get(places.clone()).await?;
        for (key, value) in places.into_iter().zip(stored) {
            let Some(value) = value else {
                continue;
            };
            let item = KeyValue {
                key: key.clone().into(),
                value,
            };
            let indexed = decode_indexed(&item)?;
            let value = encode_indexed(&indexed.feeds, first_feed_hash, false);
            self.batch.puts.push((key, value));
        }
        Ok(())
    }

    fn into_batch(self) -> (Batch, Counts) {
        let Self {
            keys, mut batch, ..
        } = self;
        for Run {
            feed,
            ends,
            notifies,
        } in self.runs
        {
            batch.clears.push(ends.under(&keys.feed(&feed)));
            if notifies {
                batch.clears.push(ends.under(&keys.notify(&feed)));
            }
        }
        let of_feeds = self.feed_indexes.into_iter();
        let of_feeds = of_feeds.map(|((feed, kind), ends)| (keys.feed_by_kind(&feed, &kind), ends));
        let of_log = self.log.into_iter();
        let of_log = of_log.map(|(partition, ends)| (keys.log(partition), ends));
        let indexes = of_feeds.chain(self.log_indexes).chain(of_log);
        let clears = indexes.map(|(prefix, ends)| ends.under(&prefix));
        batch.clears.extend(clears);
        (batch, self.counts)
    }
}

/// An event that is not in the log, and the feeds that may still hold it.
struct Candidates {
    id: EventId,
    version: Version,
    feeds: Vec<FeedName>,
}

/// Whether the entry, whose id is that of `first`, is hidden by it.
fn is_twin_of(entry: &Entry, first: Version) -> bool {
    first < entry.version && Commit::from(entry).reach() < first
}
