//! The batch of a step: what goes together with the entries and events that are removed.

mod trim;
mod twins;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    append::writes,
    lifecycle::{
        rewrite::{Rewrite, index_prefixes},
        unmark::Unmark,
    },
    store::{
        Batch, Condition, KeyValue, Result, Slice, Snapshot, Versioned, entries_at,
        keys::{Keys, after_until, of_transaction, unread_after_until},
        values::{Claim, ClaimedEvent, Record, decode_claim, encode_news_of_removal},
    },
    types::{Change, Delivery, Entry, EventId, FeedName, Kind},
    version::Version,
};

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
    /// Marks of the entries of each feed, as they were read.
    marks: BTreeMap<FeedName, Vec<KeyValue>>,
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
            marks: BTreeMap::new(),
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

    /// What readers have said of the entries of `feed` that go.
    pub(super) fn marks(&mut self, feed: &FeedName, found: Slice) {
        if !found.items.is_empty() {
            let marks = self.marks.entry(feed.clone()).or_default();
            marks.extend(found.items);
        }
    }

    /// What goes with an entry besides its key, its notify key and its index key.
    fn with(&mut self, feed: &FeedName, entry: Entry) {
        if let Some(Change::EditedAt(edited)) = entry.change {
            let news = of_transaction(&self.keys.change(feed), edited);
            self.batch.clears.push(news);
        }
        let gone = self.gone.entry(feed.clone()).or_default();
        gone.insert(entry.version);
        let edited = match entry.change {
            Some(Change::EditedAt(edited)) => {
                Some((edited, index_prefixes(self.keys, &entry).collect()))
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
            let prefixes = logs.chain(indexes.iter().cloned());
            let clears = prefixes.map(|prefix| of_transaction(&prefix, edited));
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
        let claims = ids.iter().map(|id| self.keys.all_claims(id));
        let slices = self.snapshot.ranges(claims.collect()).await?;
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
        self.unmark()?;
        Ok(self.into_batch())
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
            let news = prefixes.map(|prefix| of_transaction(&prefix, *edited));
            self.batch.clears.extend(news);
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
            let (mut asked, mut places) = (Vec::new(), Vec::new());
            for mut candidates in undecided {
                match candidates.feeds.pop() {
                    None => self.forget(&candidates.id, std::iter::once(candidates.version)),
                    Some(feed) => {
                        places.push((self.keys.feed(&feed), candidates.version));
                        asked.push(candidates);
                    }
                }
            }
            let held = entries_at(self.snapshot, places.into_iter()).await?;
            let left = asked.into_iter().zip(held);
            let left = left.filter(|(_, held)| held.is_none());
            undecided = left.map(|(candidates, _)| candidates).collect();
        }
        Ok(())
    }

    /// Removes the marks of the entries whose notify keys go, and tells whoever shows a count.
    fn unmark(&mut self) -> Result<()> {
        let mut unmark = Unmark::default();
        for run in self.runs.iter().filter(|run| run.notifies) {
            let entries = (&run.feed, run.ends.first, run.ends.last);
            let found = self.marks.get(&run.feed).map_or(&[][..], Vec::as_slice);
            unmark.add(self.keys, &mut self.batch, entries, found)?;
        }
        let feeds = unmark.finish(self.keys, &mut self.batch);
        let mut partitions: BTreeMap<u16, Vec<&FeedName>> = BTreeMap::new();
        for feed in &feeds {
            let partition = self.keys.partition(feed);
            partitions.entry(partition).or_default().push(feed);
        }
        let news = partitions.into_iter().zip(0..);
        let news = news.map(|((partition, feeds), index)| Versioned {
            prefix: self.keys.transient(partition),
            index,
            value: encode_news_of_removal(feeds),
        });
        self.batch.versioned.extend(news);
        self.batch.notify |= !self.batch.versioned.is_empty();
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
            let prefix = keys.feed(&feed);
            batch.clears.push(ends.under(&prefix));
            if notifies {
                let unread = unread_after_until(&prefix, Some(ends.first.before()), ends.last);
                batch
                    .clears
                    .extend([unread, ends.under(&keys.notify(&feed))]);
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
