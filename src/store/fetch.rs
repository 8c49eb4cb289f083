//! Entries at known versions. Each has one of two keys, which depends on whether it counts as unread.

use bytes::Bytes;

use super::{
    KeyValue, Result, Snapshot,
    keys::{entry_at, entry_keys},
};
use crate::version::Version;

/// The entries at these versions of feeds, whose prefixes are given, if they are there. Reads both keys of each at once.
pub async fn entries_at(
    snapshot: &dyn Snapshot,
    places: impl Iterator<Item = (Vec<u8>, Version)>,
) -> Result<Vec<Option<KeyValue>>> {
    let keys = places.flat_map(|(prefix, version)| entry_keys(&prefix, version));
    let keys: Vec<_> = keys.collect();
    let values = snapshot.get(keys.clone()).await?;
    let places = keys.chunks_exact(2).zip(values.chunks_exact(2));
    Ok(places
        .map(|(keys, values)| entry_at(keys, values))
        .collect())
}

/// Fetches entries that an index names, which are usually there and alike: reads of each the key of the kind that was found
/// last, and the other one only if there is nothing. The caller reads what [`Self::wants`] until [`Self::take`] has all.
#[derive(Debug, Default)]
pub struct Fetch {
    /// The keys that an item may have.
    places: Vec<Vec<Vec<u8>>>,
    found: Vec<Option<KeyValue>>,
    /// Which of its keys is read first.
    likely: usize,
    /// How many keys of each have been read.
    tries: usize,
}

impl Fetch {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether something has been read, and more is to be read. Nothing may be added meanwhile.
    pub fn has_begun(&self) -> bool {
        self.tries > 0
    }

    /// Adds the entry at `version` of the feed with this prefix.
    pub fn entry(&mut self, prefix: &[u8], version: Version) {
        self.places.push(entry_keys(prefix, version).to_vec());
        self.found.push(None);
    }

    /// Adds something that has only one key.
    pub fn only(&mut self, key: Vec<u8>) {
        self.places.push(vec![key]);
        self.found.push(None);
    }

    /// The places of what is missing, and its key that is to be read now.
    fn missing(&self) -> impl Iterator<Item = (usize, &Vec<u8>)> {
        let places = self.places.iter().zip(&self.found).enumerate();
        places.filter_map(|(place, (keys, found))| {
            let next = match keys.len() {
                1 => self.tries,
                _ => self.likely ^ self.tries,
            };
            Some((place, keys.get(next).filter(|_| found.is_none())?))
        })
    }

    /// The keys to read.
    pub fn wants(&self) -> Vec<Vec<u8>> {
        self.missing().map(|(_, key)| key.clone()).collect()
    }

    /// Takes what was read. Once there is nothing more to read: for each item, its first key, and the item if it is there.
    pub fn take(&mut self, values: Vec<Option<Bytes>>) -> Option<Vec<(Vec<u8>, Option<KeyValue>)>> {
        let read = self.missing().zip(values);
        let found = read.filter_map(|((place, key), value)| {
            let key = Bytes::copy_from_slice(key);
            value.map(|value| (place, KeyValue { key, value }))
        });
        for (place, item) in found.collect::<Vec<_>>() {
            self.found[place] = Some(item);
        }
        self.tries += 1;
        if self.missing().next().is_some() {
            return None;
        }
        let last = self.places.iter().zip(&self.found).rev();
        let of_two = last.filter(|(keys, _)| keys.len() == 2);
        let last = of_two.filter_map(|(keys, found)| {
            let found = found.as_ref()?;
            keys.iter().position(|key| found.key == key[..])
        });
        if let Some(last) = last.into_iter().next() {
            self.likely = last;
        }
        self.tries = 0;
        let places = std::mem::take(&mut self.places).into_iter();
        let places = places.filter_map(|keys| keys.into_iter().next());
        Some(places.zip(std::mem::take(&mut self.found)).collect())
    }

    /// Reads all of it.
    pub async fn read(
        &mut self,
        snapshot: &dyn Snapshot,
    ) -> Result<Vec<(Vec<u8>, Option<KeyValue>)>> {
        loop {
            let values = snapshot.get(self.wants()).await?;
            if let Some(found) = self.take(values) {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Entries of either kind, and missing ones, are found in one round after those of the same kind, and in two otherwise.
        #[test]
        fn each_entry_is_found_whichever_key_it_has(
            rounds in proptest::collection::vec(proptest::collection::vec(0..4usize, 0..6), 1..5),
        ) {
            let mut fetch = Fetch::default();
            let mut last = 0;
            for kinds in rounds {
                let mut stored = BTreeMap::new();
                let version = |place: usize| Version::new(1, place as u64, 0);
                for (place, kind) in kinds.iter().enumerate() {
                    let keys = entry_keys(b"p", version(place));
                    match kind {
                        0 | 1 => {
                            stored.insert(keys[*kind].clone(), Bytes::from(vec![place as u8]));
                            fetch.entry(b"p", version(place));
                        }
                        2 => fetch.entry(b"p", version(place)),
                        _ => {
                            stored.insert(keys[0].clone(), Bytes::from(vec![place as u8]));
                            fetch.only(keys[0].clone());
                        }
                    }
                }
                prop_assert_eq!(fetch.len(), kinds.len());
                let mut reads = 0;
                let found = loop {
                    let wanted = fetch.wants();
                    reads += 1;
                    let values = wanted.iter().map(|key| stored.get(key).cloned()).collect();
                    if let Some(found) = fetch.take(values) {
                        break found;
                    }
                };
                let is_alike = kinds.iter().all(|kind| *kind == last || *kind == 3);
                prop_assert_eq!(reads, if is_alike { 1 } else { 2 });
                let values: Vec<_> = found.iter().map(|(_, item)| item.as_ref().map(|item| item.value[0])).collect();
                let expected: Vec<_> = kinds.iter().enumerate()
                    .map(|(place, kind)| (*kind != 2).then_some(place as u8)).collect();
                prop_assert_eq!(values, expected);
                last = kinds.iter().rev().find(|kind| **kind < 2).copied().unwrap_or(last);
                prop_assert!(fetch.is_empty());
            }
        }
    }
}
