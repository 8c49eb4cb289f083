//! Counts as of any moment, compared with the rule applied to every entry.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::FutureExt;
use proptest::prelude::*;

use crate::{
    dedup::testing::{Memory, entry_puts, feed, keys},
    feed::{Feeds, Standing, Unread},
    store::{
        keys::{Keys, entry_keys, versioned},
        values::{self, Archived, Mark, STAMP_AT, encode_archived},
    },
    types::{Delivery, Entry, FeedName, Marker, NO_TWIN, ReadState, ReaderName},
    version::{BYTES_LEN, Version},
};

#[derive(Debug, Clone)]
enum Op {
    Append {
        kind: usize,
        is_own: bool,
    },
    /// Moves the read marker to this many commits back.
    Read {
        back: usize,
    },
    /// Of the entry that is this many entries back.
    Mark {
        back: usize,
        state: ReadState,
    },
    Archive {
        back: usize,
    },
    Remove {
        back: usize,
        leaves_mark: bool,
    },
    /// Counts up to `max`, as of this many operations ago.
    Count {
        max: usize,
        ago: usize,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    let state = prop_oneof![
        Just(ReadState::Unread),
        Just(ReadState::Read),
        Just(ReadState::Archived)
    ];
    let count = (
        prop_oneof![1 => Just(1_000usize), 1 => 1..4usize],
        prop_oneof![3 => Just(0usize), 1 => 0..5usize],
    );
    prop_oneof![
        6 => (0..2usize, prop::bool::weighted(0.2)).prop_map(|(kind, is_own)| Op::Append { kind, is_own }),
        2 => (0..8usize).prop_map(|back| Op::Read { back }),
        4 => (1..8usize, state).prop_map(|(back, state)| Op::Mark { back, state }),
        1 => (0..8usize).prop_map(|back| Op::Archive { back }),
        1 => (1..8usize, any::<bool>()).prop_map(|(back, leaves_mark)| Op::Remove { back, leaves_mark }),
        6 => count.prop_map(|(max, ago)| Op::Count { max, ago }),
    ]
}

const KINDS: [&str; 2] = ["message", "visit"];

/// What the store has, and what the rule needs of it.
#[derive(Clone)]
struct History {
    memory: Memory,
    entries: Vec<Entry>,
    marks: BTreeMap<Version, Mark>,
    read: Version,
    archived: Archived,
}

struct Run {
    keys: Keys,
    feed: FeedName,
    reader: ReaderName,
    feeds: Feeds,
    now: History,
    /// As it was after each operation.
    past: Vec<History>,
}

impl Run {
    fn new() -> Self {
        let memory = Memory::of(&[]);
        let history = History {
            memory: memory.clone(),
            entries: Vec::new(),
            marks: BTreeMap::new(),
            read: Version::ZERO,
            archived: Archived::NOTHING,
        };
        Self {
            keys: keys(),
            feed: feed("a"),
            reader: ReaderName::named("anna".parse().expect("a name")),
            feeds: Feeds::new(Arc::new(memory), keys()),
            past: vec![history.clone()],
            now: history,
        }
    }

    /// The version of the next commit.
    fn tick(&mut self) -> Version {
        let version = Version::new(0, self.past.len() as u64 * 10, 0);
        self.now.memory.version = Version::moment(0, version.time());
        version
    }

    /// The moment `back` operations ago.
    fn moment(&self, back: usize) -> Version {
        let index = (self.past.len() - 1).saturating_sub(back);
        self.past[index].memory.version
    }

    fn entry(&self, back: usize) -> Option<Version> {
        let index = self.now.entries.len().checked_sub(back)?;
        Some(self.now.entries[index].version)
    }

    fn append(&mut self, kind: usize, is_own: bool) {
        let actor = if is_own { "anna" } else { "ben" };
        let version = self.tick();
        let entry = Entry {
            version,
            delivery: Delivery::Notify,
            actor: Some(actor.parse().expect("a name")),
            data: "null".into(),
            ..Entry::without_content(
                version.to_string().parse().expect("an id"),
                KINDS[kind].parse().expect("a kind"),
                NO_TWIN,
            )
        };
        let memory = &mut self.now.memory;
        for (key, value) in entry_puts(&self.keys, &self.feed, &entry) {
            memory.put(key, value);
        }
        self.now.entries.push(entry);
    }

    fn mark(&mut self, entry: Version, state: ReadState) {
        let marked = self.tick();
        let (feed, reader) = (&self.feed, &self.reader);
        let prefix = self.keys.marked(feed, reader);
        let found = self.now.entries.iter().find(|it| it.version == entry);
        let kind = found.expect("an entry").kind.clone();
        if let Some(before) = self.now.marks.insert(entry, Mark { state, marked }) {
            self.now.memory.remove(&versioned(&prefix, before.marked));
        }
        let news = values::encode_marked(entry, kind.as_str(), state);
        self.now.memory.put(versioned(&prefix, marked), news);
        let mut value = values::encode_mark(state);
        value[STAMP_AT..][..BYTES_LEN].copy_from_slice(&marked.to_bytes());
        let key = self.keys.state(feed, entry, reader);
        self.now.memory.put(key, value);
    }

    fn remove(&mut self, entry: Version, leaves_mark: bool) {
        let version = self.tick();
        self.now.entries.retain(|it| it.version != entry);
        let mark = self.now.marks.remove(&entry);
        let memory = &mut self.now.memory;
        for key in entry_keys(&self.keys.feed(&self.feed), entry) {
            memory.remove(&key);
        }
        memory.remove(&versioned(&self.keys.notify(&self.feed), entry));
        memory.remove(&self.keys.state(&self.feed, entry, &self.reader));
        if let (Some(mark), false) = (mark, leaves_mark) {
            let marked = self.keys.marked(&self.feed, &self.reader);
            memory.remove(&versioned(&marked, mark.marked));
        }
        memory.put(self.keys.removed(&self.feed), version.to_bytes().to_vec());
    }

    fn put_marker(&mut self, marker: Marker, value: Vec<u8>) {
        let key = self.keys.marker(&self.feed, &self.reader, marker);
        self.now.memory.put(key, value);
    }

    fn take(&mut self, op: &Op) {
        match *op {
            Op::Append { kind, is_own } => self.append(kind, is_own),
            Op::Read { back } => {
                let to = self.moment(back);
                self.tick();
                self.now.read = self.now.read.max(to);
                let read = self.now.read.to_bytes().to_vec();
                self.put_marker(Marker::Read, read);
            }
            Op::Archive { back } => {
                let to = self.moment(back);
                self.tick();
                let archived = self.now.archived;
                self.now.archived = Archived {
                    until: archived.until.max(to),
                    read: archived.read.max(to.min(self.now.read)),
                };
                self.put_marker(Marker::Archived, encode_archived(self.now.archived));
            }
            Op::Mark { back, state } => {
                let Some(version) = self.entry(back) else {
                    return;
                };
                let found = self.now.entries.iter().find(|it| it.version == version);
                let is_own = found
                    .and_then(|it| it.actor.as_ref())
                    .is_some_and(|it| it.as_str() == "anna");
                if !(is_own && state == ReadState::Unread) {
                    self.mark(version, state);
                }
            }
            Op::Remove { back, leaves_mark } => {
                if let Some(version) = self.entry(back) {
                    self.remove(version, leaves_mark);
                }
            }
            Op::Count { .. } => {}
        }
        self.past.push(self.now.clone());
    }

    fn count(&self, history: &History, max: usize) -> Unread {
        let feeds = std::slice::from_ref(&self.feed);
        let states = self
            .feeds
            .states_at(&history.memory, feeds, &self.reader, max);
        let states = states.now_or_never().expect("ready").expect("read");
        states.0[0].unread.clone()
    }
}

impl History {
    /// Kinds of the unread entries.
    fn unread(&self, reader: &ReaderName) -> Vec<&str> {
        let standing = Standing::of(self.read, self.archived);
        let unread = self.entries.iter().filter(|entry| {
            let is_own = entry.is_by(reader);
            let mark = self.marks.get(&entry.version).copied();
            standing.state(entry.version, is_own, mark) == ReadState::Unread
        });
        unread.map(|entry| entry.kind.as_str()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// With counts of other moments, older and newer ones, remembered or not, and with limits.
    #[test]
    fn counts_are_those_of_the_rule_at_every_moment(ops in proptest::collection::vec(any_op(), 1..40)) {
        let mut run = Run::new();
        for op in &ops {
            run.take(op);
            let Op::Count { max, ago } = *op else {
                continue;
            };
            let index = (run.past.len() - 1).saturating_sub(ago);
            let history = run.past[index].clone();
            let unread = history.unread(&run.reader);
            let counted = run.count(&history, max);
            let again = run.count(&history, max);
            prop_assert_eq!(&counted, &again);
            if counted.more {
                prop_assert!(counted.total >= max && unread.len() > counted.total, "{:?} of {}", counted, unread.len());
            } else {
                prop_assert_eq!(counted.total, unread.len());
                for kind in KINDS {
                    let of_kind = unread.iter().filter(|other| **other == kind).count();
                    prop_assert_eq!(counted.kinds.get(kind).copied().unwrap_or(0), of_kind);
                }
            }
            prop_assert_eq!(counted.kinds.values().sum::<usize>(), counted.total);
        }
    }
}
