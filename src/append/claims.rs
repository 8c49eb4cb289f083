//! Looking for the claims of a batch's ids.
//!
//! Each range read is a request to the database. So ids that sort near each other, like those from a counter or a clock,
//! are looked for together: in one range, from the claims of the first id to those of the last. The claims of other ids
//! between them are read in vain. If these are too many, the range ends early, the remaining ids are looked for one by one,
//! and so are, for some time, all ids that begin alike.

use std::ops;

use super::assumption::Doubt;
use crate::{
    store::{
        Range, Result, Slice, Snapshot,
        keys::Keys,
        values::{Claim, decode_claim},
    },
    types::EventId,
};

/// Ids are near each other if they begin with this many equal bytes; half of their length is enough for shorter ones.
const BEGINNING_BYTES: usize = 8;
/// Limits of a range, for each id that is looked for in it: the keys, which cost less than a request of their own, and their
/// bytes.
const KEYS_PER_ID: usize = 4;
const BYTES_PER_ID: usize = 1024;
/// How many batches look one by one for ids that begin like those between which there were too many others.
const DOUBT_BATCHES: u8 = 64;

/// Remembers which ids have many others between them.
#[derive(Debug)]
pub(super) struct Scattered {
    /// By hash of the ids' beginning: whether they are looked for one by one.
    doubts: [Doubt; 256],
}

impl Default for Scattered {
    fn default() -> Self {
        Self {
            doubts: std::array::from_fn(|_| Doubt::default()),
        }
    }
}

impl Scattered {
    fn doubt_of(&self, id: &EventId) -> &Doubt {
        let id = id.as_str().as_bytes();
        let hash = twox_hash::XxHash3_64::oneshot(&id[..beginning(id)]);
        &self.doubts[usize::from(hash.to_le_bytes()[0])]
    }
}

/// The length of the part of an id in which it must equal its neighbours.
fn beginning(id: &[u8]) -> usize {
    BEGINNING_BYTES.min(id.len() / 2)
}

fn are_near(one: &EventId, other: &EventId) -> bool {
    let (one, other) = (one.as_str().as_bytes(), other.as_str().as_bytes());
    let length = beginning(one).max(beginning(other));
    one.len() >= length && other.starts_with(&one[..length])
}

/// A search for the claims of distinct ids.
#[derive(Debug)]
pub(super) struct Search<'a> {
    /// The ids in order, with their positions in the batch.
    ids: Vec<(&'a EventId, usize)>,
    /// The ids that are looked for together, as ranges of `ids`.
    groups: Vec<ops::Range<usize>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(ids: &[&'a EventId], scattered: &Scattered) -> Self {
        let positions = 0..ids.len();
        let mut ids: Vec<_> = ids.iter().copied().zip(positions).collect();
        ids.sort_unstable_by_key(|(id, _)| id.as_str());
        let mut groups = Vec::with_capacity(ids.len());
        let mut begin = 0;
        for near in ids.chunk_by(|(one, _), (other, _)| are_near(one, other)) {
            let end = begin + near.len();
            match near {
                [(first, _), _, ..] if !scattered.doubt_of(first).holds() => {
                    groups.push(begin..end)
                }
                _ => groups.extend((begin..end).map(|at| at..at + 1)),
            }
            begin = end;
        }
        Self { ids, groups }
    }

    pub(super) fn ranges(&self, keys: &Keys) -> Vec<Range> {
        let range = |group: &ops::Range<usize>| {
            let first = keys.first_claim(self.ids[group.start].0);
            match group.len() {
                1 => first,
                count => Range {
                    end: keys.first_claim(self.ids[group.end - 1].0).end,
                    limit: KEYS_PER_ID * count,
                    bytes_max: BYTES_PER_ID * count,
                    ..first
                },
            }
        };
        self.groups.iter().map(range).collect()
    }

    /// The first claim of each id, by its position in the batch. `found` is what was read of [`Self::ranges`]; what is still
    /// unknown is read from `snapshot`.
    pub(super) async fn claims(
        &self,
        keys: &Keys,
        snapshot: &dyn Snapshot,
        found: &[Slice],
        scattered: &Scattered,
    ) -> Result<Vec<Option<Claim>>> {
        let mut claims = vec![None; self.ids.len()];
        let mut unknown = Vec::new();
        for (group, slice) in self.groups.iter().zip(found) {
            let (mut items, known) = (slice.items.iter().peekable(), unknown.len());
            for &(id, position) in &self.ids[group.clone()] {
                let prefix = keys.claim(id);
                while items.next_if(|item| item.key[..] < prefix[..]).is_some() {}
                match items.peek() {
                    Some(item) if item.key.starts_with(&prefix) => {
                        claims[position] = Some(decode_claim(item)?);
                    }
                    None if slice.more => unknown.push((id, position)),
                    // The next key is that of a later id, or there is none.
                    _ => {}
                }
            }
            if let Some((first, _)) = unknown.get(known) {
                scattered.doubt_of(first).begin(DOUBT_BATCHES);
            }
        }
        if !unknown.is_empty() {
            let ranges = unknown.iter().map(|(id, _)| keys.first_claim(id));
            let found = snapshot.ranges(ranges.collect()).await?;
            for ((_, position), slice) in unknown.into_iter().zip(found) {
                claims[position] = slice.items.first().map(decode_claim).transpose()?;
            }
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        dedup::testing::{Memory, feed, keys},
        store::{keys::versioned, values::encode_claim},
        version::Version,
    };

    fn id(text: &str) -> EventId {
        text.parse().expect("an id")
    }

    /// A store with claims of these ids: two of each, of which the first counts.
    fn store<'a>(ids: impl IntoIterator<Item = &'a EventId>) -> Memory {
        let mut store = Memory::of(&[]);
        for (digest, id) in (0..).zip(ids) {
            for time in [5, 9] {
                let key = versioned(&keys().claim(id), Version::new(0, time, digest));
                store.put(key, encode_claim(digest.into(), &[feed("a")]));
            }
        }
        store
    }

    fn claims(search: &Search<'_>, store: &Memory, scattered: &Scattered) -> Vec<Option<Claim>> {
        let ranges = search.ranges(&keys());
        let found: Vec<_> = ranges.into_iter().map(|range| store.slice(range)).collect();
        let claims = search
            .claims(&keys(), store, &found, scattered)
            .now_or_never();
        claims.expect("is ready").expect("reads")
    }

    #[test]
    fn ids_that_sort_near_each_other_take_one_read_while_there_are_few_others_between_them() {
        let numbered = |number: usize| id(&format!("message-{number:04}"));
        let looked_for = [
            numbered(10),
            numbered(7),
            numbered(5),
            id("me"),
            id("other"),
        ];
        let looked_for: Vec<_> = looked_for.iter().collect();
        let scattered = Scattered::default();
        let reads = |store: &Memory| {
            let search = Search::new(&looked_for, &scattered);
            claims(&search, store, &scattered);
            search.ranges(&keys()).len()
        };
        let few: Vec<_> = (6..10).map(numbered).collect();
        for _ in 0..3 {
            assert_eq!(reads(&store(&few)), 3);
        }
        let many: Vec<_> = (600..700)
            .map(|part| id(&format!("message-0005-{part}")))
            .collect();
        assert_eq!(reads(&store(&many)), 3);
        for _ in 0..DOUBT_BATCHES {
            assert_eq!(reads(&store(&many)), 5);
        }
        assert_eq!(reads(&store(&few)), 3);
        assert_eq!(reads(&store(&few)), 3);
    }

    proptest! {
        /// However the ids lie, what is found is the first claim of each.
        #[test]
        fn each_id_is_found_as_if_it_were_looked_for_alone(
            stored in proptest::collection::btree_set("(message-|m|)[0-9a-c]{1,3}", 0..150),
            looked_for in proptest::collection::hash_set("(message-|m|)[0-9a-c]{1,3}", 1..30),
            guesses_more: bool,
        ) {
            let stored: BTreeSet<EventId> = stored.iter().map(|text| id(text)).collect();
            let mut store = store(&stored);
            store.guesses_more = guesses_more;
            let looked_for: Vec<EventId> = looked_for.iter().map(|text| id(text)).collect();
            let looked_for: Vec<&EventId> = looked_for.iter().collect();
            let scattered = Scattered::default();
            // The second time, some are doubted.
            for _ in 0..2 {
                let search = Search::new(&looked_for, &scattered);
                let found = claims(&search, &store, &scattered);
                for (id, found) in looked_for.iter().zip(found) {
                    let alone = store.slice(keys().first_claim(id));
                    let alone = alone.items.first().map(decode_claim).transpose();
                    prop_assert_eq!(found, alone.expect("decodes"));
                }
            }
        }
    }
}
