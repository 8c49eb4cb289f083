//! One feed's visible entries, in one direction, read in chunks: the adaptor that hides twins.

use std::collections::VecDeque;

use super::twins::{is_twin, window};
use crate::{
    store::{KeyValue, Range, Result, Slice, Snapshot, keys},
    types::{Entry, EventId},
    version::Version,
};

/// How much a look back for twins reads at once.
const LOOK_BACK_KEYS: usize = 500;

pub(super) struct Cursor {
    prefix: Vec<u8>,
    /// What is still unread: (after, until].
    after: Option<Version>,
    until: Version,
    reverse: bool,
    /// No unread keys are left.
    exhausted: bool,
    /// Read, not yet judged (newest first only: its window may not have been read to the end).
    raw: VecDeque<Entry>,
    /// Judged and visible.
    ready: VecDeque<Entry>,
    /// Oldest first: what was passed, in version order, back to `context_from`.
    context: VecDeque<(Version, EventId)>,
    context_from: Version,
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
            prefix,
            after,
            until,
            reverse,
            exhausted: false,
            raw: VecDeque::new(),
            ready: VecDeque::new(),
            context: VecDeque::new(),
            context_from: after.unwrap_or(Version::ZERO),
        }
    }

    /// The next visible entry, if it has been read.
    pub(super) fn ready(&self) -> Option<&Entry> {
        self.ready.front()
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.ready.pop_front()
    }

    /// What to read so that the next entry becomes ready; `None`: it is, or there is none.
    pub(super) fn wants(&self, limit: usize, bytes_max: usize) -> Option<Range> {
        if self.exhausted || !self.ready.is_empty() {
            return None;
        }
        Some(keys::range(
            &self.prefix,
            self.after,
            self.until,
            self.reverse,
            limit,
            bytes_max,
        ))
    }

    /// Takes what the read of [`Cursor::wants`] found.
    pub(super) async fn take(
        &mut self,
        snapshot: &dyn Snapshot,
        slice: Slice,
        decode: fn(&KeyValue) -> Result<Entry>,
    ) -> Result<()> {
        self.exhausted = !slice.more;
        let entries: Vec<Entry> = slice.items.iter().map(decode).collect::<Result<_>>()?;
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
            self.look_back(snapshot, oldest).await?;
        }
        for entry in entries {
            let twin = is_twin(
                &entry.id,
                entry.version,
                entry.read_at,
                // Newest first: the first that is too old ends the search.
                self.context
                    .iter()
                    .rev()
                    .map(|(version, id)| (*version, id))
                    .take_while(|(version, _)| *version > window(entry.version, entry.read_at)),
            );
            self.context.push_back((entry.version, entry.id.clone()));
            if !twin {
                self.ready.push_back(entry);
            }
        }
        self.forget();
        Ok(())
    }

    /// Extends the context back to `oldest` (exclusive).
    async fn look_back(&mut self, snapshot: &dyn Snapshot, oldest: Version) -> Result<()> {
        while oldest < self.context_from {
            let until = self.context_from;
            let range = keys::range(
                &self.prefix,
                Some(oldest),
                until,
                true,
                LOOK_BACK_KEYS,
                usize::MAX,
            );
            let slice = snapshot
                .ranges(vec![range])
                .await?
                .pop()
                .unwrap_or_default();
            for item in &slice.items {
                let entry = crate::store::values::decode_entry(item)?;
                self.context.push_front((entry.version, entry.id));
            }
            self.context_from = match slice.items.last() {
                Some(last) if slice.more => keys::version_of(&last.key)?.before(),
                _ => oldest,
            };
        }
        Ok(())
    }

    /// Drops context that no later entry's window reaches.
    fn forget(&mut self) {
        let Some(&(newest, _)) = self.context.back() else {
            return;
        };
        let horizon = window(newest, 0);
        while self
            .context
            .front()
            .is_some_and(|&(version, _)| version <= horizon)
        {
            if let Some((version, _)) = self.context.pop_front() {
                self.context_from = self.context_from.max(version);
            }
        }
    }
}
