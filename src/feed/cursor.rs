//! One feed's visible entries, in one direction, read in chunks: the adaptor that hides twins.

use std::collections::VecDeque;

use super::{
    lookback::{LookBack, Passed},
    twins::{is_twin, window},
};
use crate::{
    store::{KeyValue, Range, Result, Slice, Snapshot, keys, values::decode_entry},
    types::Entry,
    version::Version,
};

/// How often a feed's chunks double in size.
const CHUNK_DOUBLINGS_MAX: u32 = 4;

pub(super) struct Cursor {
    /// What is still unread: (after, until].
    after: Option<Version>,
    until: Version,
    reverse: bool,
    /// No unread keys are left.
    exhausted: bool,
    /// How many chunks have been read.
    chunks: u32,
    /// Newest first: read, but not judged until all of its window is.
    raw: VecDeque<Entry>,
    /// Judged and visible.
    ready: VecDeque<Entry>,
    /// Oldest first: what was passed.
    passed: LookBack,
}

fn decode_passed(item: &KeyValue) -> Result<Vec<Passed>> {
    let Entry { version, id, .. } = decode_entry(item)?;
    Ok(vec![Passed {
        version,
        id,
        feeds: Vec::new(),
    }])
}

impl Cursor {
    pub(super) fn newest_first(prefix: Vec<u8>, until: Version) -> Self {
        Self::new(prefix, None, until, true)
    }

    pub(super) fn oldest_first(prefix: Vec<u8>, after: Version, until: Version) -> Self {
        Self::new(prefix, Some(after), until, false)
    }

    fn new(prefix: Vec<u8>, after: Option<Version>, until: Version, reverse: bool) -> Self {
        Self {
            after,
            until,
            reverse,
            exhausted: false,
            chunks: 0,
            raw: VecDeque::new(),
            ready: VecDeque::new(),
            passed: LookBack::new(prefix, after.unwrap_or(Version::ZERO), decode_passed),
        }
    }

    /// The next visible entry, if it has been read.
    pub(super) fn ready(&self) -> Option<&Entry> {
        self.ready.front()
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.ready.pop_front()
    }

    /// What to read so that the next entry becomes ready; `None`: it is, or there is none. Whoever comes back for more
    /// gets twice as much as before, `limit` keys at first.
    pub(super) fn wants(&self, limit: usize, bytes_max: usize) -> Option<Range> {
        let limit = limit << self.chunks.min(CHUNK_DOUBLINGS_MAX);
        if self.exhausted || !self.ready.is_empty() {
            return None;
        }
        Some(keys::range(
            self.passed.prefix(),
            self.after,
            self.until,
            self.reverse,
            limit,
            bytes_max,
        ))
    }

    /// Takes what the read of [`Cursor::wants`] found.
    pub(super) async fn take(&mut self, snapshot: &dyn Snapshot, slice: Slice) -> Result<()> {
        self.exhausted = !slice.more;
        self.chunks += 1;
        let entries: Vec<Entry> = slice
            .items
            .iter()
            .map(decode_entry)
            .collect::<Result<_>>()?;
        if let Some(last) = entries.last() {
            if self.reverse {
                self.until = last.version.before();
            } else {
                self.after = Some(last.version);
            }
        }
        if self.reverse {
            self.raw.extend(entries);
            self.judge_newest_first();
            Ok(())
        } else {
            self.judge_oldest_first(snapshot, entries).await
        }
    }

    /// An entry is judged once all of its window has been read; everything above `until` has.
    fn judge_newest_first(&mut self) {
        while let Some(entry) = self.raw.front() {
            if !self.exhausted && self.until > window(entry.version, entry.read_at) {
                break;
            }
            let older = self
                .raw
                .iter()
                .skip(1)
                .map(|entry| (entry.version, &entry.id));
            let twin = is_twin(&entry.id, entry.version, entry.read_at, older);
            let entry = self.raw.pop_front();
            self.ready.extend(entry.filter(|_| !twin));
        }
    }

    async fn judge_oldest_first(
        &mut self,
        snapshot: &dyn Snapshot,
        entries: Vec<Entry>,
    ) -> Result<()> {
        if let Some(oldest) = entries
            .iter()
            .map(|entry| window(entry.version, entry.read_at))
            .min()
        {
            self.passed.reach(snapshot, oldest).await?;
        }
        for entry in entries {
            let twin = self
                .passed
                .firsts_of(&entry.id, entry.version, entry.read_at)
                .next()
                .is_some();
            self.passed.pass(Passed {
                version: entry.version,
                id: entry.id.clone(),
                feeds: Vec::new(),
            });
            if !twin {
                self.ready.push_back(entry);
            }
        }
        self.passed.forget();
        Ok(())
    }
}
