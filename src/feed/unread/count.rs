//! Counts what is unread as of a snapshot, from what is known of an earlier one or from the read marker.

use std::{collections::BTreeMap, sync::Arc};

use super::{UnreadCache, list::List};
use crate::{
    dedup::{Commit, Window},
    fairness::WorkBudget,
    feed::{UNREAD_MAX, Unread},
    store::{
        self, Range, Slice, Snapshot,
        keys::{self, Keys},
        values::{self, Marked},
    },
    types::{FeedName, ReadState, ReaderName},
    version::Version,
};

/// Keys that are read at a time, so that other readers have their turns in between.
const PIECE_KEYS: usize = 500;
/// Entries are longer than notify keys; many feeds are read at once.
const PIECE_BYTES: usize = 128 * 1024;
/// What took fewer reads than this is not worth remembering. (In unit tests, everything is.)
const REMEMBERED_KEYS_MIN: usize = if cfg!(test) { 1 } else { 64 };

/// What is unread, as of one moment.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    at: Version,
    /// The read marker.
    read: Version,
    /// When notify keys were removed last.
    removed: Version,
    /// The last mark of an entry that was taken into account.
    marked: Version,
    /// Up to here, all entries have been looked at: up to `at`, unless there is more than is counted.
    scanned: Version,
    more: bool,
    list: Arc<List>,
    /// The marks of entries above `scanned`.
    ahead: Arc<BTreeMap<Version, Marked>>,
}

impl Counted {
    pub(super) fn bytes(&self) -> usize {
        let ahead = self.ahead.values().map(|marked| marked.kind.len() + 128);
        self.list.bytes() + ahead.sum::<usize>()
    }

    /// Moves the read marker.
    fn read_until(&mut self, read: Version) {
        let list = Arc::make_mut(&mut self.list);
        list.read_until(read);
        self.read = read;
        if self.scanned >= read {
            return;
        }
        let reached = self.ahead.range(..=read).map(|(_, marked)| marked);
        for marked in reached.filter(|marked| is_unread(marked, read)) {
            list.mark(marked.entry, &marked.kind, marked.mark.marked);
        }
        self.more = false;
        self.scan_until(read);
    }

    /// All entries up to here have been looked at.
    fn scan_until(&mut self, scanned: Version) {
        self.scanned = scanned;
        if self
            .ahead
            .first_key_value()
            .is_some_and(|(first, _)| *first <= scanned)
        {
            Arc::make_mut(&mut self.ahead).retain(|entry, _| *entry > scanned);
        }
    }

    /// What holds at `now` is also what held at `at`, apart from entries above `now`.
    fn held_at(&self, now: Version, read: Version, removed: Version) -> bool {
        self.read == read && self.removed == removed && self.marked <= now && !self.more
    }
}

/// What a count has taken.
pub(in crate::feed) struct Cost {
    pub(in crate::feed) keys_read: usize,
    /// Twins that were left out.
    pub(in crate::feed) hidden: u64,
}

/// What a count begins with.
pub(in crate::feed) struct Start {
    known: Option<Arc<Counted>>,
}

impl Start {
    /// What is known of the reader's count.
    pub(in crate::feed) fn of(cache: &UnreadCache, feed: &FeedName, reader: &ReaderName) -> Self {
        let known = cache.get(feed, reader);
        Self { known }
    }

    /// What to read to go on from what is known, up to `now`; nothing if nothing is known of an earlier moment.
    pub(in crate::feed) fn ranges(
        &self,
        keys: &Keys,
        feed: &FeedName,
        reader: &ReaderName,
        now: Version,
    ) -> Option<[Range; 2]> {
        let known = self.known.as_ref().filter(|known| known.at <= now)?;
        let [marks, mut notify] = ranges((keys, feed, reader), [known.at, known.scanned], now);
        if known.more {
            // It is read only if the marker has moved.
            notify.limit = 1;
        }
        Some([marks, notify])
    }
}

/// The next marks and the next notify keys above `after`, up to `until`.
fn ranges(
    (keys, feed, reader): (&Keys, &FeedName, &ReaderName),
    [marks, notify]: [Version; 2],
    until: Version,
) -> [Range; 2] {
    [
        piece(&keys.marked(feed, reader), marks, until),
        unread_piece(keys, feed, notify, until),
    ]
}

/// The next notify keys above `after`, with the entries that count as unread and have none.
fn unread_piece(keys: &Keys, feed: &FeedName, after: Version, until: Version) -> Range {
    let entries = keys::unread_after_until(&keys.feed(feed), Some(after), until);
    Range {
        beside: Some(entries),
        ..piece(&keys.notify(feed), after, until)
    }
}

/// Whether the entry is unread because it was marked so. If the read marker has passed the mark, it does not count any more.
fn is_unread(marked: &Marked, read: Version) -> bool {
    marked.mark.state == ReadState::Unread && marked.mark.marked > read
}

fn piece(prefix: &[u8], after: Version, until: Version) -> Range {
    keys::range(prefix, Some(after), until, false, PIECE_KEYS, PIECE_BYTES)
}

/// A count under way.
///
/// The first commit of an id may lie below what is counted, and may have no notify key (with another delivery), while a twin of
/// it lies above. There, the window therefore consists of the feed's own entries.
pub(in crate::feed) struct Count<'a> {
    keys: &'a Keys,
    feed: &'a FeedName,
    reader: &'a ReaderName,
    now: Version,
    counted: Counted,
    /// It goes on from what was known before.
    is_known: bool,
    /// That is not what is known now.
    has_changed: bool,
    /// Not all marks have been applied.
    is_partial: bool,
    /// Marks and notify keys are read above this version.
    from: Version,
    window: Window,
    /// Counting stops here.
    max: usize,
    keys_read: usize,
    /// The number of twins left out.
    hidden: u64,
    budget: WorkBudget,
}

impl<'a> Count<'a> {
    /// A count as of `now`. `read` and `removed` are what the snapshot says.
    pub(in crate::feed) fn new(
        (keys, feed, reader): (&'a Keys, &'a FeedName, &'a ReaderName),
        start: &Start,
        now: Version,
        (read, removed): (Version, Version),
        max: usize,
    ) -> Self {
        let fresh = || Counted {
            at: Version::ZERO,
            read,
            removed,
            marked: Version::ZERO,
            scanned: read,
            more: false,
            list: Arc::default(),
            ahead: Arc::default(),
        };
        let known = start.known.as_deref();
        // Another epoch may be another life of the store.
        let known = known.filter(|known| known.at.epoch() == now.epoch());
        let known = known.filter(|known| match known.at <= now {
            true => known.removed == removed && known.read <= read,
            false => known.held_at(now, read, removed),
        });
        let is_known = known.is_some();
        let mut counted = known.cloned().unwrap_or_else(fresh);
        // What is known may be more than this reader asks for.
        let max = max.max(counted.list.len()).min(UNREAD_MAX);
        let mut has_changed = !is_known;
        if counted.at > now {
            Arc::make_mut(&mut counted.list).drop_above(now);
            counted.scanned = now;
        } else if counted.read < read {
            has_changed = true;
            counted.read_until(read);
        }
        let from = counted.scanned;
        Self {
            keys,
            feed,
            reader,
            now,
            counted,
            is_known,
            has_changed,
            is_partial: false,
            from,
            window: Window::of_feed(keys.feed(feed), from),
            max,
            keys_read: 0,
            hidden: 0,
            budget: WorkBudget::default(),
        }
    }

    /// What to read first, unless [`Start::ranges`] has been read.
    pub(in crate::feed) fn first(&self) -> Option<[Range; 2]> {
        let of = (self.keys, self.feed, self.reader);
        (!self.is_known).then(|| ranges(of, [self.from; 2], self.now))
    }

    /// Counts on, from the first marks and notify keys.
    pub(in crate::feed) async fn finish(
        mut self,
        snapshot: &dyn Snapshot,
        [marks, notify]: [Slice; 2],
        cache: &UnreadCache,
    ) -> store::Result<(Unread, Cost)> {
        let had_ahead = Arc::clone(&self.counted.ahead);
        if self.take_marks(snapshot, marks).await? {
            let has_ahead = !Arc::ptr_eq(&had_ahead, &self.counted.ahead);
            drop(had_ahead);
            self.take_notify(snapshot, notify, has_ahead).await?;
        }
        let counter = match self.is_known {
            true => &cache.metrics.cached,
            false => &cache.metrics.counted,
        };
        counter.inc();
        let unread = self.unread();
        let cost = Cost {
            keys_read: self.keys_read,
            hidden: self.hidden,
        };
        self.remember(cache);
        Ok((unread, cost))
    }

    /// Reads all new marks, applies those of entries that have been looked at, and keeps the others. `false` if more entries were
    /// marked unread than are counted.
    async fn take_marks(
        &mut self,
        snapshot: &dyn Snapshot,
        mut slice: Slice,
    ) -> store::Result<bool> {
        loop {
            let mut below = Vec::new();
            for item in &slice.items {
                let marked = values::decode_marked(item)?;
                self.keys_read += 1;
                self.has_changed = true;
                self.counted.marked = self.counted.marked.max(marked.mark.marked);
                self.budget.spend(1).await;
                match marked.entry > self.from {
                    true => {
                        let ahead = Arc::make_mut(&mut self.counted.ahead);
                        ahead.insert(marked.entry, marked);
                    }
                    false => below.push(marked),
                }
            }
            if !self.apply(snapshot, below).await? {
                return Ok(false);
            }
            match slice.items.last() {
                Some(last) if slice.more => {
                    let after = keys::version_of(&last.key)?;
                    let prefix = self.keys.marked(self.feed, self.reader);
                    slice = read(snapshot, piece(&prefix, after, self.now)).await?;
                }
                _ => return Ok(true),
            }
        }
    }

    /// Applies marks of entries that have been looked at. `false` if there are more unread ones than are counted.
    async fn apply(&mut self, snapshot: &dyn Snapshot, marks: Vec<Marked>) -> store::Result<bool> {
        let read = self.counted.read;
        let (notify, feed) = (self.keys.notify(self.feed), self.keys.feed(self.feed));
        let unread = marks.iter().filter(|marked| is_unread(marked, read));
        let reads = unread.flat_map(|marked| {
            let at = marked.entry;
            [
                keys::versioned(&notify, at),
                keys::unread_versioned(&feed, at),
            ]
        });
        // The mark of an entry that has gone may have been left behind.
        let reads: Vec<_> = reads.collect();
        let kept = match reads.is_empty() {
            true => Vec::new(),
            false => snapshot.get(reads.clone()).await?,
        };
        let places = reads.chunks_exact(2).zip(kept.chunks_exact(2));
        let mut kept = places.map(|(keys, values)| {
            let item = keys::entry_at(keys, values);
            let notify = item.as_ref().map(values::decode_notify).transpose()?;
            store::Result::Ok(notify.is_some_and(|notify| !notify.is_erased()))
        });
        for marked in marks {
            let list = Arc::make_mut(&mut self.counted.list);
            let is_kept = is_unread(&marked, read) && kept.next().transpose()?.unwrap_or(false);
            if !is_kept {
                list.remove(marked.entry);
            } else if list.marked() >= UNREAD_MAX {
                self.counted.more = true;
                self.is_partial = true;
                return Ok(false);
            } else {
                list.mark(marked.entry, &marked.kind, marked.mark.marked);
            }
        }
        Ok(true)
    }

    async fn take_notify(
        &mut self,
        snapshot: &dyn Snapshot,
        mut slice: Slice,
        has_ahead: bool,
    ) -> store::Result<()> {
        // One of those that were marked may have been the last one that was unread.
        if self.counted.list.len() >= self.max && self.counted.more && !has_ahead {
            return Ok(());
        }
        self.counted.more = false;
        loop {
            let last = slice.items.last().filter(|_| slice.more);
            let last = last.map(|last| keys::version_of(&last.key)).transpose()?;
            if !self.add(snapshot, slice).await? {
                return Ok(());
            }
            let Some(last) = last else {
                break;
            };
            // What was read first may lie below the marker.
            let after = last.max(self.from);
            let next = unread_piece(self.keys, self.feed, after, self.now);
            slice = read(snapshot, next).await?;
        }
        self.counted.scan_until(self.now);
        Ok(())
    }

    /// Counts the next notify keys. `false` if there are more unread entries than are counted.
    async fn add(&mut self, snapshot: &dyn Snapshot, slice: Slice) -> store::Result<bool> {
        let mut found = Vec::with_capacity(slice.items.len());
        let mut commits = Vec::with_capacity(slice.items.len());
        for item in &slice.items {
            if keys::version_of(&item.key)? <= self.from {
                continue;
            }
            let notify = values::decode_notify(item)?;
            commits.push(Commit::from(&notify));
            found.push(notify);
            self.budget.spend(1).await;
        }
        self.keys_read += found.len();
        self.has_changed |= !found.is_empty();
        self.window.look_back(snapshot, &commits).await?;
        for (notify, commit) in found.into_iter().zip(commits) {
            let version = notify.version;
            let is_twin = self.window.is_twin(&commit);
            self.window.push_newer(commit);
            self.budget.spend(1).await;
            let mark = self.counted.ahead.get(&version).map(|marked| marked.mark);
            let is_read = match mark {
                _ if notify.is_erased() || self.reader.is(notify.actor.as_deref()) => true,
                Some(mark) => mark.state != ReadState::Unread,
                None => false,
            };
            if is_twin {
                self.hidden += u64::from(!notify.is_erased());
            } else if !is_read {
                if self.counted.list.len() >= self.max {
                    self.counted.more = true;
                    self.counted.scan_until(version.before());
                    return Ok(false);
                }
                let list = Arc::make_mut(&mut self.counted.list);
                match mark {
                    Some(mark) => list.mark(version, &notify.kind, mark.marked),
                    None => list.push(version, &notify.kind),
                }
            }
        }
        Ok(true)
    }

    fn unread(&self) -> Unread {
        let list = &self.counted.list;
        let named = |(kind, count): (&str, usize)| (kind.to_owned(), count);
        match list.len() > UNREAD_MAX {
            // Marks have added some that lie below.
            true => Unread {
                total: UNREAD_MAX,
                kinds: list
                    .kinds_of_oldest(UNREAD_MAX)
                    .into_iter()
                    .map(named)
                    .collect(),
                more: true,
            },
            false => Unread {
                total: list.len(),
                kinds: list.kinds().map(named).collect(),
                more: self.counted.more,
            },
        }
    }

    fn remember(self, cache: &UnreadCache) {
        let Self {
            mut counted, now, ..
        } = self;
        let is_newer = counted.at <= now;
        counted.at = now;
        let entries = counted.list.len();
        let is_long = self.is_known || self.keys_read.max(entries) >= REMEMBERED_KEYS_MIN;
        if self.has_changed && is_newer && is_long && !self.is_partial {
            cache.put(self.feed, self.reader, counted);
        }
    }
}

async fn read(snapshot: &dyn Snapshot, range: Range) -> store::Result<Slice> {
    let slices = snapshot.ranges(vec![range]).await?;
    Ok(slices.into_iter().next().unwrap_or_default())
}
