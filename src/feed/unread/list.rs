//! The unread entries of a reader.

use std::collections::BTreeMap;

use crate::version::Version;

/// Unread entries with their kinds: as many as are counted, from the oldest on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List {
    /// Those above the read marker, in version order.
    versions: Vec<Version>,
    /// The kind of each, as an index of `kinds`.
    kind_of: Vec<u32>,
    /// Those that were marked unread, by version: the version of the mark, and the kind.
    marked: BTreeMap<Version, (Version, u32)>,
    /// Every kind, and how many entries have it.
    kinds: Vec<(String, usize)>,
}

impl List {
    pub(super) fn len(&self) -> usize {
        self.versions.len() + self.marked.len()
    }

    /// How many were marked unread.
    pub(super) fn marked(&self) -> usize {
        self.marked.len()
    }

    /// The kinds that unread entries have, and how many.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&str, usize)> {
        let kinds = self.kinds.iter().filter(|(_, count)| *count > 0);
        kinds.map(|(kind, count)| (&**kind, *count))
    }

    /// The same, of the oldest `count` entries.
    pub(super) fn kinds_of_oldest(&self, count: usize) -> BTreeMap<&str, usize> {
        let unmarked = self.versions.iter().zip(&self.kind_of);
        let marked = self.marked.iter().map(|(entry, (_, kind))| (entry, kind));
        let mut all: Vec<(&Version, &u32)> = unmarked.chain(marked).collect();
        all.sort_unstable();
        let mut kinds = BTreeMap::new();
        for (_, kind) in all.into_iter().take(count) {
            let (name, _) = &self.kinds[*kind as usize];
            *kinds.entry(&**name).or_default() += 1;
        }
        kinds
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let kinds = self.kinds.iter().map(|(kind, _)| kind.len() + 32);
        20 * self.versions.len() + 64 * self.marked.len() + kinds.sum::<usize>()
    }

    fn kind(&mut self, kind: &str) -> u32 {
        let known = self.kinds.iter().position(|(known, _)| known == kind);
        let index = known.unwrap_or_else(|| {
            self.kinds.push((kind.to_owned(), 0));
            self.kinds.len() - 1
        });
        self.kinds[index].1 += 1;
        index as u32
    }

    fn forget(&mut self, kind: u32) {
        self.kinds[kind as usize].1 -= 1;
    }

    /// Adds an entry above all others that were not marked.
    pub(super) fn push(&mut self, version: Version, kind: &str) {
        debug_assert!(self.versions.last().is_none_or(|last| *last < version));
        let kind = self.kind(kind);
        self.versions.push(version);
        self.kind_of.push(kind);
    }

    /// Adds an entry that was marked unread at `marked`.
    pub(super) fn mark(&mut self, entry: Version, kind: &str, marked: Version) {
        self.remove(entry);
        let kind = self.kind(kind);
        self.marked.insert(entry, (marked, kind));
    }

    /// Removes the entry, if it is there.
    pub(super) fn remove(&mut self, entry: Version) {
        if let Some((_, kind)) = self.marked.remove(&entry) {
            self.forget(kind);
        } else if let Ok(place) = self.versions.binary_search(&entry) {
            self.versions.remove(place);
            let kind = self.kind_of.remove(place);
            self.forget(kind);
        }
    }

    /// Removes what a read marker at `read` says is read.
    pub(super) fn read_until(&mut self, read: Version) {
        let count = self.versions.partition_point(|version| *version <= read);
        self.versions.drain(..count);
        let kinds: Vec<u32> = self.kind_of.drain(..count).collect();
        kinds.into_iter().for_each(|kind| self.forget(kind));
        let marked: Vec<Version> = self
            .marked
            .iter()
            .filter(|(_, (at, _))| *at <= read)
            .map(|(entry, _)| *entry)
            .collect();
        marked.into_iter().for_each(|entry| self.remove(entry));
    }

    /// Removes what lies above `until`.
    pub(super) fn drop_above(&mut self, until: Version) {
        while self.versions.pop_if(|last| *last > until).is_some() {
            if let Some(kind) = self.kind_of.pop() {
                self.forget(kind);
            }
        }
        let above = self.marked.split_off(&until);
        for (entry, (at, kind)) in above {
            match entry == until {
                true => drop(self.marked.insert(entry, (at, kind))),
                false => self.forget(kind),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_counted_whether_they_were_marked_or_not() {
        let version = |time| Version::new(0, time, 0);
        let mut list = List::default();
        for time in 2..6 {
            list.push(version(time), "message");
        }
        list.mark(version(1), "visit", version(9));
        list.mark(version(4), "message", version(10));
        assert_eq!(list.len(), 5);
        let kinds = |count| list.kinds_of_oldest(count).into_iter().collect::<Vec<_>>();
        assert_eq!(kinds(3), [("message", 2), ("visit", 1)]);
        assert_eq!(
            kinds(5),
            list.kinds()
                .collect::<Vec<_>>()
                .into_iter()
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }
}
