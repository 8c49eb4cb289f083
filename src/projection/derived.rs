//! The derived keys of one or several prefixes, merged by version, in one direction.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    store::{KeyValue, Range, Result, Slice, keys, keys::version_of},
    version::Version,
};

/// How often the reads of a prefix double in size.
const DOUBLINGS_MAX: u32 = 6;
/// Most keys of one read.
const RANGE_KEYS_MAX: usize = 500;
/// Byte limit of one read.
const RANGE_BYTES_MAX: usize = 256 * 1024;

/// The caller asks for what to read ([`Self::wants`]), reads it, perhaps together with other things, and hands the result
/// back ([`Self::take`]), until the next key can be taken ([`Self::pop`]).
pub struct Derived {
    sources: Vec<Source>,
    after: Version,
    newest_first: bool,
    keys_read: usize,
}

/// A prefix.
struct Source {
    prefix: Vec<u8>,
    /// What has not been read yet: `(after, until]`.
    after: Version,
    until: Version,
    exhausted: bool,
    reads: u32,
    /// Read and not taken yet, in order.
    found: VecDeque<(Version, KeyValue)>,
}

impl Source {
    fn waits(&self) -> bool {
        self.found.is_empty() && !self.exhausted
    }
}

impl Derived {
    /// The keys under `prefixes` with versions in `(after, until]`.
    pub fn new(
        prefixes: impl IntoIterator<Item = Vec<u8>>,
        after: Version,
        until: Version,
        newest_first: bool,
    ) -> Self {
        let source = |prefix| Source {
            prefix,
            after,
            until,
            exhausted: until <= after,
            reads: 0,
            found: VecDeque::new(),
        };
        Self {
            sources: prefixes.into_iter().map(source).collect(),
            after,
            newest_first,
            keys_read: 0,
        }
    }

    /// Exactly these versions, which are in order; nothing is read.
    pub fn given(versions: impl IntoIterator<Item = Version>, newest_first: bool) -> Self {
        let none = KeyValue {
            key: Bytes::new(),
            value: Bytes::new(),
        };
        let found = versions.into_iter().map(|version| (version, none.clone()));
        let mut found: VecDeque<_> = found.collect();
        if newest_first {
            found.make_contiguous().reverse();
        }
        let mut derived = Self::new([Vec::new()], Version::ZERO, Version::ZERO, newest_first);
        derived.sources[0].found = found;
        derived
    }

    /// Where it began: all keys are above this version.
    pub fn after(&self) -> Version {
        self.after
    }

    /// The number of keys that have been read.
    pub fn keys_read(&self) -> usize {
        self.keys_read
    }

    /// The ranges to read until the next key can be taken; none if it can be, or if there is none. `need` is how many keys the
    /// caller is going to take.
    pub fn wants(&mut self, need: usize) -> Vec<Range> {
        let least = need / self.sources.len().max(1) + 1;
        let newest_first = self.newest_first;
        let range = |source: &Source| {
            let limit = least << source.reads.min(DOUBLINGS_MAX);
            let limit = limit.min(RANGE_KEYS_MAX).min(need.max(1));
            let (after, until) = (Some(source.after), source.until);
            keys::range(
                &source.prefix,
                after,
                until,
                newest_first,
                limit,
                RANGE_BYTES_MAX,
            )
        };
        self.sources
            .iter()
            .filter(|it| it.waits())
            .map(range)
            .collect()
    }

    /// Takes what reading the ranges of [`Self::wants`] found.
    pub fn take(&mut self, slices: Vec<Slice>) -> Result<()> {
        let waiting = self.sources.iter_mut().filter(|source| source.waits());
        for (source, slice) in waiting.zip(slices) {
            source.reads += 1;
            self.keys_read += slice.items.len();
            for item in slice.items {
                source.found.push_back((version_of(&item.key)?, item));
            }
            match source.found.back() {
                Some((last, _)) if slice.more && self.newest_first => source.until = last.before(),
                Some((last, _)) if slice.more => source.after = *last,
                _ => source.exhausted = true,
            }
        }
        Ok(())
    }

    /// Whether all keys have been taken.
    pub fn is_done(&self) -> bool {
        let mut sources = self.sources.iter();
        sources.all(|source| source.exhausted && source.found.is_empty())
    }

    /// The next key and its version, if enough has been read to know it.
    pub fn pop(&mut self) -> Option<(Version, KeyValue)> {
        if self.sources.iter().any(Source::waits) {
            return None;
        }
        let heads = self.sources.iter_mut();
        let heads = heads.filter(|source| !source.found.is_empty());
        let version = |source: &&mut Source| source.found.front().map(|(version, _)| *version);
        let next = match self.newest_first {
            true => heads.max_by_key(version),
            false => heads.min_by_key(version),
        };
        next?.found.pop_front()
    }
}
