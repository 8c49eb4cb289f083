//! The states of a page's entries, for one reader.

use smallvec::SmallVec;

use super::{EntryState, FeedIndices, Feeds, PageEntry, Standing};
use crate::{
    store::{
        self, KeyValue, Snapshot,
        keys::{self, version_of},
        values::{Mark, decode_mark, decode_marked},
    },
    types::{Delivery, Entry, FeedName, ReadState, ReaderName},
    version::Version,
};

/// Marks that are read at a time.
const PIECE_KEYS: usize = 500;

/// Whose states a page shows, and which entries it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct States {
    pub reader: ReaderName,
    /// Only entries in this state. `None`: all entries, also those that have none.
    pub only: Option<ReadState>,
}

/// The states of an entry in each of its feeds; `None` where it has none.
pub type EntryStates = SmallVec<[Option<EntryState>; 1]>;

/// Where a reader stands in each feed of a page.
pub(super) struct Judge<'a> {
    feeds: &'a Feeds,
    names: &'a [FeedName],
    states: &'a States,
    standings: Vec<Standing>,
}

/// Where a feed's unread entries are.
pub(super) struct UnreadPlaces {
    /// Of what lies at or below, only the `marked` ones.
    pub(super) above: Version,
    /// In version order.
    pub(super) marked: Vec<Version>,
}

impl<'a> Judge<'a> {
    pub(super) async fn new(
        feeds: &'a Feeds,
        snapshot: &dyn Snapshot,
        names: &'a [FeedName],
        states: &'a States,
    ) -> store::Result<Self> {
        let reads = names
            .iter()
            .flat_map(|feed| Standing::reads(&feeds.keys, feed, &states.reader));
        let reads: Vec<_> = reads.collect();
        let values = snapshot.get(reads.clone()).await?;
        let each = reads.chunks_exact(Standing::READS);
        let each = each.zip(values.chunks_exact(Standing::READS));
        let standings = each.map(|(keys, values)| Standing::from(keys, values));
        Ok(Self {
            feeds,
            names,
            states,
            standings: standings.collect::<store::Result<_>>()?,
        })
    }

    /// Where the unread entries of each feed are, if the page has only these.
    pub(super) async fn unread_places(
        &self,
        snapshot: &dyn Snapshot,
    ) -> store::Result<Option<Vec<UnreadPlaces>>> {
        if self.states.only != Some(ReadState::Unread) {
            return Ok(None);
        }
        let now = snapshot.version();
        let mut places = Vec::with_capacity(self.names.len());
        for (feed, standing) in self.names.iter().zip(&self.standings) {
            let (prefix, above) = (
                self.feeds.keys.marked(feed, &self.states.reader),
                standing.read(),
            );
            let (mut after, mut marked) = (above, Vec::new());
            loop {
                let range = keys::range(&prefix, Some(after), now, false, PIECE_KEYS, usize::MAX);
                let slice = snapshot
                    .ranges(vec![range])
                    .await?
                    .pop()
                    .unwrap_or_default();
                for item in &slice.items {
                    let mark = decode_marked(item)?;
                    if mark.entry <= above && mark.mark.state == ReadState::Unread {
                        marked.push(mark.entry);
                    }
                }
                match slice.items.last() {
                    Some(last) if slice.more => after = version_of(&last.key)?,
                    _ => break,
                }
            }
            marked.sort_unstable();
            places.push(UnreadPlaces { above, marked });
        }
        Ok(Some(places))
    }

    /// Those of `entries` that the page has, with their states.
    pub(super) async fn judge(
        &self,
        snapshot: &dyn Snapshot,
        entries: Vec<(Entry, FeedIndices)>,
    ) -> store::Result<Vec<PageEntry>> {
        let has_state =
            |entry: &Entry| entry.delivery == Delivery::Notify && entry.changed().is_none();
        let stated = entries.iter().filter(|(entry, _)| has_state(entry));
        let key = |entry: &Entry, feed: usize| {
            self.feeds
                .keys
                .state(&self.names[feed], entry.version, &self.states.reader)
        };
        let reads =
            stated.flat_map(|(entry, feeds)| feeds.iter().map(move |feed| key(entry, *feed)));
        let reads: Vec<_> = reads.collect();
        let values = snapshot.get(reads.clone()).await?;
        let mut marks = reads.into_iter().zip(values);
        let mut judged = Vec::with_capacity(entries.len());
        for (entry, feeds) in entries {
            let mut found = PageEntry {
                states: SmallVec::new(),
                feeds: FeedIndices::new(),
                entry,
            };
            for feed in feeds {
                let state = match has_state(&found.entry) {
                    true => {
                        let mark = marks.next().and_then(|(key, value)| {
                            let key = key.into();
                            value.map(|value| KeyValue { key, value })
                        });
                        let mark = mark.as_ref().map(decode_mark).transpose()?;
                        Some(self.state(&found.entry, feed, mark))
                    }
                    false => None,
                };
                if self.includes(&found.entry, state.as_ref()) {
                    found.feeds.push(feed);
                    found.states.push(state);
                }
            }
            if !found.feeds.is_empty() {
                judged.push(found);
            }
        }
        Ok(judged)
    }

    fn state(&self, entry: &Entry, feed: usize, mark: Option<Mark>) -> EntryState {
        let is_own = entry.is_by(&self.states.reader);
        EntryState {
            state: self.standings[feed].state(entry.version, is_own, mark),
            marked: mark.map(|mark| mark.marked),
        }
    }

    /// News of changes are told whatever state the entry has.
    fn includes(&self, entry: &Entry, state: Option<&EntryState>) -> bool {
        let only = self.states.only;
        entry.changed().is_some()
            || only.is_none_or(|only| state.is_some_and(|state| state.state == only))
    }
}
