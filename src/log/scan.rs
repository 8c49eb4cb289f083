//! A scan: the visible events of the log, in one direction, merged from all partitions.

use std::collections::VecDeque;

use crate::{
    dedup::{Commit, Window},
    fairness::WorkBudget,
    store::{
        KeyValue, Range, Result, Slice, Snapshot,
        keys::{self, Keys, version_of},
        values::{Record, Records},
    },
    types::{Entry, FeedName},
    version::Version,
};

/// How often the reads of a scan become four times as large as the first ones, if those were made small by
/// [`Limits::events`].
const GROWTHS_MAX: usize = 8;
/// Keys of each partition that are read beyond the events that the caller takes.
const KEYS_BEYOND: usize = 4;
/// If there are several partitions, each read takes this part of what is left of the limits: partitions end at different
/// versions, and what was read beyond the end of the first one is read again by the next scan.
const PART_OF_REST: usize = 2;
/// A scan ends when less than this part of its limits is left, so that it does not end with many small reads.
const LEAST_REST: usize = 8;
/// Records of a partition that are decoded at once, oldest first, because a scan usually ends in the middle of a key.
const DECODED_AT_ONCE: usize = 32;

/// An event as the log shows it, as it is now; or the news of its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    pub entry: Entry,
    /// Its feeds in the order in which the producer named them, without those in which it is a twin. Not empty.
    pub feeds: Vec<FeedName>,
    /// The hash of the first feed that the producer named, see [`Keys::hash`].
    pub first_feed_hash: u64,
}

impl From<Record> for LogEvent {
    fn from(Record { entry, feeds, .. }: Record) -> Self {
        Self {
            first_feed_hash: feeds.first().map_or(0, Keys::hash),
            entry,
            feeds,
        }
    }
}

/// How much a scan reads at most. It goes beyond these limits only if it would not make progress otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Keys of all partitions together; a key holds up to a batch of events.
    pub keys: usize,
    /// Bytes of their values, which is also the memory that the scan and its events hold.
    pub bytes: usize,
    /// About how many events the caller is going to take, so that not much more is read.
    pub events: usize,
}

/// Merges the partitions lazily: it holds what one read of each has found, and reads on in a partition when nothing of that
/// is left. The caller asks for one event after the other, always with the same snapshot, and can continue later, with another
/// snapshot, by a new scan from [`Scan::position`].
pub struct Scan {
    sources: Vec<Source>,
    window: Window,
    newest_first: bool,
    after: Version,
    until: Version,
    limits: Limits,
    keys_read: usize,
    bytes_read: usize,
    reads: usize,
    /// Oldest first: `after` may be in the middle of a key, which has to be found first.
    seeks: bool,
    /// Newest first: merged, but not judged yet, because the window does not cover them.
    pending: VecDeque<Record>,
    /// The last event that was judged.
    last: Option<Version>,
    is_done: bool,
    hidden: u64,
}

/// A partition.
struct Source {
    prefix: Vec<u8>,
    /// What has not been read yet: `(after, until]`.
    after: Version,
    until: Version,
    exhausted: bool,
    /// Everything on this side of it has been read: at or below it if the scan is oldest first, else at or above it.
    frontier: Version,
    /// Records that export an event, decoded and not merged yet, in the order of the scan. Not empty while something that
    /// was read has not been decoded: [`Source::decode`].
    records: VecDeque<Record>,
    /// Read and not decoded yet, in the order of the scan.
    items: VecDeque<KeyValue>,
    /// The key that is being decoded.
    current: Option<Records>,
}

impl Scan {
    /// The events and the news of changes above `after`, at or below `until`, in version order. Both may be any versions.
    pub fn oldest_first(keys: &Keys, after: Version, until: Version, limits: Limits) -> Self {
        Self::new(keys, after, until, limits, false)
    }

    /// The events above `after`, at or below `until`, from the newest to the oldest.
    pub fn newest_first(keys: &Keys, after: Version, until: Version, limits: Limits) -> Self {
        Self::new(keys, after, until, limits, true)
    }

    fn new(
        keys: &Keys,
        after: Version,
        until: Version,
        limits: Limits,
        newest_first: bool,
    ) -> Self {
        let prefixes = || (0..keys.partitions()).map(|partition| keys.log(partition));
        let source = |prefix| Source {
            prefix,
            // Going backward, judging the last events may need what is below `after`.
            after: if newest_first { Version::ZERO } else { after },
            until,
            exhausted: false,
            frontier: if newest_first { Version::MAX } else { after },
            records: VecDeque::new(),
            items: VecDeque::new(),
            current: None,
        };
        let start = if newest_first { until } else { after };
        Self {
            sources: prefixes().map(source).collect(),
            window: Window::of_whole_log(prefixes(), start),
            newest_first,
            after,
            until,
            limits,
            keys_read: 0,
            bytes_read: 0,
            reads: 0,
            // The last version of a transaction: nothing of it lies above.
            seeks: !newest_first && after != after.at_index(u16::MAX),
            pending: VecDeque::new(),
            last: None,
            is_done: false,
            hidden: 0,
        }
    }

    /// How many twins have been left out.
    pub fn hidden(&self) -> u64 {
        self.hidden
    }

    /// Whether the end has been reached. If not, [`Scan::next`] returned `None` because of the limits.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Where the next scan continues: oldest first after this version, newest first before it, that is, at or below the
    /// version before it.
    pub fn position(&self) -> Version {
        if self.newest_first {
            // Above `until` there was nothing to return.
            return self.last.unwrap_or(self.until);
        }
        if self.is_done {
            return self.until;
        }
        let complete = self
            .sources
            .iter()
            .map(|source| match source.records.front() {
                Some(record) => record.entry.version.before(),
                None if source.exhausted => self.until,
                None => source.frontier.min(self.until),
            });
        let complete = complete.min().unwrap_or(self.until);
        complete
            .max(self.last.unwrap_or(self.after))
            .max(self.after)
    }

    /// The next event; `None` at the end or at the limits. Cannot be continued after an error.
    pub async fn next(&mut self, snapshot: &dyn Snapshot) -> Result<Option<LogEvent>> {
        let mut budget = WorkBudget::default();
        loop {
            if let Some(event) = self.judge_pending() {
                return Ok(event);
            }
            let Some(record) = self.merged()? else {
                if self.sources.iter().all(|source| source.exhausted) && self.pending.is_empty() {
                    self.is_done = true;
                    return Ok(None);
                }
                if !self.read(snapshot).await? {
                    return Ok(None);
                }
                continue;
            };
            budget.spend(1).await;
            if record.entry.changed().is_some() {
                // News are no commits: they neither are twins nor have any.
                if !self.newest_first {
                    self.last = Some(record.entry.version);
                    return Ok(Some(LogEvent::from(record)));
                }
                if self.pending.is_empty() {
                    if record.entry.version <= self.after {
                        self.is_done = true;
                        return Ok(None);
                    }
                    self.last = Some(record.entry.version);
                }
                continue;
            }
            if self.newest_first {
                self.window
                    .push_older([Commit::from(&record)], Version::MAX);
                self.pending.push_back(record);
                continue;
            }
            self.last = Some(record.entry.version);
            let shows = !record.entry.is_erased();
            if self.window.skips(&record.entry) {
                match shows {
                    true => return Ok(Some(LogEvent::from(record))),
                    false => continue,
                }
            }
            let commit = Commit::from(&record);
            let commits = std::slice::from_ref(&commit);
            self.window.look_back(snapshot, commits).await?;
            let event = self.visible(record, &commit);
            self.window.push_newer(commit);
            self.hidden += u64::from(event.is_none());
            if let Some(event) = event.filter(|_| shows) {
                return Ok(Some(event));
            }
        }
    }

    /// Newest first: judges the newest pending event, if the window covers it. `Some(None)` at the end.
    fn judge_pending(&mut self) -> Option<Option<LogEvent>> {
        while let Some(record) = self.pending.front() {
            let commit = Commit::from(record);
            if commit.version <= self.after {
                self.is_done = true;
                return Some(None);
            }
            let complete_from = self.complete_from();
            self.window.push_older([], complete_from);
            if !self.window.covers(&commit) {
                return None;
            }
            let record = self.pending.pop_front()?;
            let event = self.visible(record, &commit);
            self.window.drop_above(commit.version.before());
            self.last = Some(commit.version);
            match event {
                Some(event) if !event.entry.is_erased() => return Some(Some(event)),
                Some(_) => {}
                None => self.hidden += 1,
            }
        }
        None
    }

    /// Newest first: everything above this version has been merged.
    fn complete_from(&self) -> Version {
        let complete = self
            .sources
            .iter()
            .map(|source| match source.records.front() {
                Some(record) => record.entry.version,
                None if source.exhausted => Version::ZERO,
                None => source.frontier.before(),
            });
        complete.max().unwrap_or(Version::ZERO)
    }

    /// The event of a record that the window covers; `None` if it is a twin in all its feeds.
    fn visible(&self, record: Record, commit: &Commit) -> Option<LogEvent> {
        let mut event = LogEvent::from(record);
        self.window.retain_visible(commit, &mut event.feeds);
        (!event.feeds.is_empty()).then_some(event)
    }

    /// Takes the next record, in the order of the scan; `None` if that needs reading, or if there is none.
    fn merged(&mut self) -> Result<Option<Record>> {
        let newest_first = self.newest_first;
        let comes_first = |a: Version, b: Version| if newest_first { a > b } else { a < b };
        let mut first: Option<(Version, usize)> = None;
        // What has not been read begins behind this version.
        let mut frontier: Option<Version> = None;
        for (index, source) in self.sources.iter().enumerate() {
            match source.records.front() {
                Some(record) => {
                    let version = record.entry.version;
                    if first.is_none_or(|(other, _)| comes_first(version, other)) {
                        first = Some((version, index));
                    }
                }
                None if source.exhausted => {}
                None => {
                    if frontier.is_none_or(|other| comes_first(source.frontier, other)) {
                        frontier = Some(source.frontier);
                    }
                }
            }
        }
        let Some((version, index)) = first else {
            return Ok(None);
        };
        if frontier.is_some_and(|frontier| comes_first(frontier, version)) {
            return Ok(None);
        }
        let source = &mut self.sources[index];
        let record = source.records.pop_front();
        source.decode(newest_first, self.after, self.until)?;
        Ok(record)
    }

    /// Reads on in each partition of which nothing is left. `false` if that would exceed the limits.
    async fn read(&mut self, snapshot: &dyn Snapshot) -> Result<bool> {
        if std::mem::take(&mut self.seeks) {
            self.seek(snapshot).await?;
            return Ok(true);
        }
        let (keys_left, bytes_left) = (
            self.limits.keys.saturating_sub(self.keys_read),
            self.limits.bytes.saturating_sub(self.bytes_read),
        );
        let has_progressed = match self.newest_first {
            true => self.last.is_some(),
            false => self.position() > self.after,
        };
        let is_spent = keys_left <= self.limits.keys / LEAST_REST
            || bytes_left <= self.limits.bytes / LEAST_REST;
        if has_progressed && is_spent {
            return Ok(false);
        }
        let count = self.sources.len();
        let parts = if count > 1 { count * PART_OF_REST } else { 1 };
        let growth = 4_usize.saturating_pow(self.reads.min(GROWTHS_MAX) as u32);
        let need = (self.limits.events / count + KEYS_BEYOND).saturating_mul(growth);
        let keys_max = need.min(keys_left / parts).max(1);
        let bytes_max = (bytes_left / parts).max(1);
        let newest_first = self.newest_first;
        let waiting = |source: &&mut Source| source.records.is_empty() && !source.exhausted;
        let waiting: Vec<_> = self.sources.iter_mut().filter(waiting).collect();
        let range = |source: &&mut Source| source.range(newest_first, keys_max, bytes_max);
        let ranges = waiting.iter().map(range).collect();
        self.reads += 1;
        let slices = snapshot.ranges(ranges).await?;
        let mut budget = WorkBudget::default();
        for (source, slice) in waiting.into_iter().zip(slices) {
            let bytes = slice.items.iter().map(|item| item.value.len());
            self.bytes_read += bytes.sum::<usize>();
            self.keys_read += slice.items.len();
            source.advance(&slice, newest_first)?;
            source.items.extend(slice.items);
            source.decode(newest_first, self.after, self.until)?;
            budget.spend(DECODED_AT_ONCE).await;
        }
        Ok(true)
    }

    /// Reads the key of each partition in which `after` lies: a key is the version of its first event, and holds others.
    async fn seek(&mut self, snapshot: &dyn Snapshot) -> Result<()> {
        let (start, after) = (self.after.at_index(0).before(), self.after);
        let range =
            |source: &Source| keys::range(&source.prefix, Some(start), after, true, 1, usize::MAX);
        let slices = snapshot
            .ranges(self.sources.iter().map(range).collect())
            .await?;
        for (source, slice) in self.sources.iter_mut().zip(slices) {
            for item in slice.items {
                self.keys_read += 1;
                self.bytes_read += item.value.len();
                source.items.push_back(item);
            }
            source.decode(false, after, self.until)?;
        }
        Ok(())
    }
}

impl Source {
    fn range(&self, newest_first: bool, keys_max: usize, bytes_max: usize) -> Range {
        let (prefix, after, until) = (&self.prefix, Some(self.after), self.until);
        keys::range(prefix, after, until, newest_first, keys_max, bytes_max)
    }

    /// Decodes what has been read, until there is a record in `(after, until]`.
    fn decode(&mut self, newest_first: bool, after: Version, until: Version) -> Result<()> {
        // Newest first, what is below `after` may be needed to judge what is above.
        let is_inside = |version| version <= until && (newest_first || version > after);
        let is_wanted = |version, exports| exports && is_inside(version);
        while self.records.is_empty() {
            let Some(current) = &mut self.current else {
                let Some(item) = self.items.pop_front() else {
                    break;
                };
                if newest_first {
                    self.frontier = version_of(&item.key)?;
                }
                self.current = Some(Records::new(item)?);
                continue;
            };
            let mut left = if newest_first {
                usize::MAX
            } else {
                DECODED_AT_ONCE
            };
            while left > 0 {
                let Some((version, record)) = current.next_if(is_wanted)? else {
                    self.current = None;
                    break;
                };
                left -= 1;
                match newest_first {
                    true => record
                        .into_iter()
                        .for_each(|it| self.records.push_front(it)),
                    false => {
                        self.frontier = self.frontier.max(version);
                        self.records.extend(record);
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on behind what reading [`Source::range`] found.
    fn advance(&mut self, slice: &Slice, newest_first: bool) -> Result<()> {
        match slice.items.last() {
            Some(last) if slice.more => {
                let version = version_of(&last.key)?;
                match newest_first {
                    true => self.until = version.before(),
                    false => self.after = version,
                }
            }
            _ => self.exhausted = true,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::dedup::testing::{Memory, any_history, feed, long_history, plain_log};

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    /// A history whose events have up to three of several feeds, in any order.
    fn any_log() -> impl Strategy<Value = Vec<Record>> {
        let feeds = proptest::collection::vec(0..NAMES.len(), 1..4);
        (any_history(), proptest::collection::vec(feeds, 24)).prop_map(|(mut history, feeds)| {
            for (record, mut names) in history.iter_mut().zip(feeds) {
                let mut seen = std::collections::HashSet::new();
                names.retain(|&name| seen.insert(name));
                record.feeds = names.into_iter().map(|name| feed(NAMES[name])).collect();
            }
            history
        })
    }

    fn any_limits() -> impl Strategy<Value = Vec<Limits>> {
        let limits = (
            1..20usize,
            prop_oneof![1..600usize, Just(usize::MAX)],
            0..9usize,
        );
        let limits = limits.prop_map(|(keys, bytes, events)| Limits {
            keys,
            bytes,
            events,
        });
        proptest::collection::vec(limits, 1..5)
    }

    /// All events in `(after, until]`, read in steps with these limits, one after the other.
    fn read_all(
        (keys, memory): (&Keys, &Memory),
        (mut after, mut until): (Version, Version),
        newest_first: bool,
        limits: &[Limits],
    ) -> (Vec<LogEvent>, u64) {
        let (mut events, mut hidden) = (Vec::new(), 0);
        for &limits in limits.iter().cycle() {
            let begin = match newest_first {
                true => Scan::newest_first,
                false => Scan::oldest_first,
            };
            let mut scan = begin(keys, after, until, limits);
            while let Some(event) = {
                let next = scan.next(memory).now_or_never();
                next.expect("ready").expect("read")
            } {
                let last = event.entry.version;
                assert!(newest_first || scan.position() >= last);
                events.push(event);
            }
            hidden += scan.hidden();
            if scan.is_done() {
                break;
            }
            match newest_first {
                true => {
                    assert!(scan.position() <= until && scan.position() > after);
                    until = scan.position().before();
                }
                false => {
                    assert!(scan.position() > after && scan.position() <= until);
                    after = scan.position();
                }
            }
        }
        (events, hidden)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// From every position to any other, in both directions and steps of any size, whatever the number of partitions.
        #[test]
        fn a_scan_shows_every_event_once_in_order_and_with_its_feeds(
            history in any_log(),
            partitions in 1..6u16,
            until in (0..26usize, any::<bool>()),
            limits in any_limits(),
            guesses_more in any::<bool>(),
        ) {
            let keys = Keys::with_partitions(partitions);
            let mut memory = Memory::with_keys(&keys, &history);
            memory.guesses_more = guesses_more;
            let all = plain_log(&history);
            let cut = |(index, before): (usize, bool)| match history.get(index) {
                Some(record) if before => record.entry.version.before(),
                Some(record) => record.entry.version,
                None => Version::MAX,
            };
            let until = cut(until);
            let cuts = (0..history.len()).flat_map(|index| [(index, true), (index, false)]);
            for after in cuts.map(cut).chain([Version::ZERO]).filter(|after| *after <= until) {
                let inside = |version: Version| version > after && version <= until;
                let shown: Vec<_> = all.iter().filter(|event| inside(event.entry.version)).cloned().collect();
                let records = history.iter().filter(|record| inside(record.entry.version)).count();
                let twins = (records - shown.len()) as u64;
                let found = read_all((&keys, &memory), (after, until), false, &limits);
                prop_assert_eq!(&found, &(shown.clone(), twins), "above {:?}", after);
                let newest_first: Vec<_> = shown.into_iter().rev().collect();
                let found = read_all((&keys, &memory), (after, until), true, &limits);
                prop_assert_eq!(&found, &(newest_first, twins), "down to {:?}", after);
            }
        }
    }

    /// Whatever is in the log, a scan reads little beyond its limits, and does not read for events that nobody takes.
    #[tokio::test]
    async fn a_scan_reads_as_much_as_its_limits_allow_and_no_more_than_is_needed() {
        let keys = Keys::with_partitions(4);
        let names: Vec<FeedName> = (0..50).map(|index| feed(&format!("f{index}"))).collect();
        let mut history = long_history(4_000, &[]);
        for (index, record) in history.iter_mut().enumerate() {
            record.feeds = vec![names[index % names.len()].clone()];
            // Otherwise, going backward, the last event could not be judged before all others have been read.
            record.entry.read_at = crate::types::NO_TWIN;
        }
        let memory = Memory::with_keys(&keys, &history);
        for newest_first in [false, true] {
            let scan = async |keys_max, bytes, events| {
                let (from, until) = (Version::ZERO, memory.version);
                let limits = Limits {
                    keys: keys_max,
                    bytes,
                    events,
                };
                let mut scan = match newest_first {
                    true => Scan::newest_first(&keys, from, until, limits),
                    false => Scan::oldest_first(&keys, from, until, limits),
                };
                let mut count = 0;
                while count < events && scan.next(&memory).await.expect("read").is_some() {
                    count += 1;
                }
                (scan, count)
            };
            let (few, count) = scan(1_000, usize::MAX, 10).await;
            assert_eq!(count, 10);
            assert!(few.keys_read < 60, "{newest_first}: {}", few.keys_read);
            let (all, count) = scan(1_000, usize::MAX, usize::MAX).await;
            assert!((600..=1_000).contains(&count), "{newest_first}: {count}");
            assert!(all.keys_read <= 1_004, "{newest_first}: {}", all.keys_read);
            assert!(!all.is_done());
            let (all, count) = scan(usize::MAX, 100_000, usize::MAX).await;
            let (keys_read, bytes_read) = (all.keys_read, all.bytes_read);
            assert!(bytes_read < 101_000, "{newest_first}: {bytes_read}");
            assert!(count > keys_read * 6 / 10, "{count} of {keys_read}");
        }
    }
}
