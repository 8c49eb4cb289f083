//! One feed's visible entries, in one direction, read in chunks: the adaptor that hides twins.

use std::collections::VecDeque;

use super::{LookBack, Passed, is_twin, window};
use crate::{
    store::{KeyValue, Range, Result, Slice, Snapshot, keys, values::decode_entry},
    types::Entry,
    version::Version,
};

/// How often a feed's chunks double in size.
const CHUNK_DOUBLINGS_MAX: u32 = 4;
/// Keys read beyond the entries needed: newest first, most windows reach no further than these.
const KEYS_BEYOND: usize = 4;

pub struct Cursor {
    /// What is still unread: (after, until].
    after: Option<Version>,
    until: Version,
    reverse: bool,
    /// No unread keys are left.
    exhausted: bool,
    /// How many chunks have been read.
    chunks: u32,
    /// Newest first: what is being read ends here, and not with the feed.
    reading_to: Option<Version>,
    /// Newest first: read, but not judged until all of its window is.
    raw: VecDeque<Entry>,
    /// Judged and visible.
    ready: VecDeque<Entry>,
    /// Oldest first: what was passed.
    passed: LookBack,
    hidden: u64,
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
    pub fn newest_first(prefix: Vec<u8>, until: Version) -> Self {
        Self::new(prefix, None, until, true)
    }

    pub fn oldest_first(prefix: Vec<u8>, after: Version, until: Version) -> Self {
        Self::new(prefix, Some(after), until, false)
    }

    fn new(prefix: Vec<u8>, after: Option<Version>, until: Version, reverse: bool) -> Self {
        Self {
            after,
            until,
            reverse,
            exhausted: false,
            chunks: 0,
            reading_to: None,
            raw: VecDeque::new(),
            ready: VecDeque::new(),
            passed: LookBack::new(prefix, after.unwrap_or(Version::ZERO), decode_passed),
            hidden: 0,
        }
    }

    /// How many twins were left out.
    pub fn hidden(&self) -> u64 {
        self.hidden
    }

    /// The next visible entry, if it has been read.
    pub fn ready(&self) -> Option<&Entry> {
        self.ready.front()
    }

    pub fn pop(&mut self) -> Option<Entry> {
        self.ready.pop_front()
    }

    /// What to read so that the next entry becomes ready; `None`: it is, or there is none. `need` says how many entries
    /// will be asked for; whoever comes back for more gets up to twice as many keys as before.
    pub fn wants(&mut self, need: usize, bytes_max: usize) -> Option<Range> {
        if self.exhausted || !self.ready.is_empty() {
            return None;
        }
        // If those that wait to be judged are enough, their windows are all that is left to read.
        self.reading_to = self.windows().filter(|_| self.raw.len() >= need);
        let after = self.after.or(self.reading_to);
        let limit = (need + KEYS_BEYOND) << self.chunks.min(CHUNK_DOUBLINGS_MAX);
        Some(keys::range(
            self.passed.prefix(),
            after,
            self.until,
            self.reverse,
            limit,
            bytes_max,
        ))
    }

    /// Newest first: how far back the windows reach of what waits to be judged.
    fn windows(&self) -> Option<Version> {
        self.raw
            .iter()
            .map(|entry| window(entry.version, entry.read_at))
            .min()
    }

    /// Takes what the read of [`Cursor::wants`] found.
    pub async fn take(&mut self, snapshot: &dyn Snapshot, slice: Slice) -> Result<()> {
        self.chunks += 1;
        let entries = slice.items.iter().map(decode_entry);
        let entries = entries.collect::<Result<Vec<Entry>>>()?;
        match (slice.more, self.reading_to.take()) {
            (false, Some(end)) => self.until = end,
            (false, None) => self.exhausted = true,
            (true, _) => {
                if let Some(last) = entries.last() {
                    if self.reverse {
                        self.until = last.version.before();
                    } else {
                        self.after = Some(last.version);
                    }
                }
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
            let window = window(entry.version, entry.read_at);
            if !self.exhausted && self.until > window {
                break;
            }
            let older = self
                .raw
                .iter()
                .skip(1)
                .map(|entry| (entry.version, &entry.id))
                .take_while(|(version, _)| *version > window);
            let twin = is_twin(&entry.id, entry.version, entry.read_at, older);
            self.hidden += u64::from(twin);
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
            match twin {
                true => self.hidden += 1,
                false => self.ready.push_back(entry),
            }
        }
        self.passed.forget();
        Ok(())
    }
}
