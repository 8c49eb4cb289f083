//! The window and the scans against the plain rule over whole histories.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::{
    Commit, Scan, Window, latest,
    testing::{Memory, any_history, feed, is_twin, keys},
};
use crate::{store::values::Record, types::Entry, version::Version};

/// The entries of feed `a`, and of these the visible ones.
fn entries(history: &[Record]) -> (Vec<&Entry>, Vec<&Entry>) {
    let a = feed("a");
    let all = history.iter().filter(|record| record.feeds.contains(&a));
    let all: Vec<&Entry> = all.map(|record| &record.entry).collect();
    let visible = all.iter().copied();
    let visible = visible.filter(|entry| !is_twin(history, entry, &a));
    (all.clone(), visible.collect())
}

/// A position in the history: at a commit, right before it, or beyond all.
fn cut(history: &[Record], (index, before): (usize, bool)) -> Version {
    match history.get(index) {
        Some(record) if before => record.entry.version.before(),
        Some(record) => record.entry.version,
        None => Version::MAX,
    }
}

/// All entries of the scan, read in `chunks`: for each read, the number of entries needed and the maximum number of
/// bytes.
fn read_all(mut scan: Scan, memory: &Memory, chunks: &[(usize, usize)]) -> (Vec<Entry>, u64) {
    let mut entries = Vec::new();
    let mut chunks = chunks.iter().cycle();
    loop {
        entries.extend(std::iter::from_fn(|| scan.pop()));
        let &(need, bytes_max) = chunks.next().expect("it cycles");
        let Some(range) = scan.wants(need, bytes_max, 1) else {
            return (entries, scan.hidden());
        };
        let slice = memory.slice(range);
        let taken = scan.take(memory, slice).now_or_never();
        taken.expect("ready").expect("read");
    }
}

fn any_chunks() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let bytes_max = prop_oneof![1..300usize, Just(usize::MAX)];
    proptest::collection::vec((1..6usize, bytes_max), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_scan_in_either_direction_shows_what_the_plain_rule_says(
        history in any_history(),
        after in (0..26usize, any::<bool>()),
        until in (0..26usize, any::<bool>()),
        chunks in any_chunks(),
        guesses_more in any::<bool>(),
    ) {
        let prefix = keys().feed(&feed("a"));
        let (after, until) = (cut(&history, after), cut(&history, until));
        let mut memory = Memory::of(&history);
        memory.guesses_more = guesses_more;
        let (all, visible) = entries(&history);

        let scan = Scan::oldest_first(prefix.clone(), after, until);
        let (shown, hidden) = read_all(scan, &memory, &chunks);
        let inside = |entry: &&Entry| entry.version > after && entry.version <= until;
        let expected: Vec<Entry> = visible.iter().copied().filter(inside).cloned().collect();
        let twins = all.iter().copied().filter(inside).count() - expected.len();
        prop_assert_eq!((shown, hidden), (expected, twins as u64));

        let scan = Scan::newest_first(prefix, until);
        let (shown, hidden) = read_all(scan, &memory, &chunks);
        let inside = |entry: &&Entry| entry.version <= until;
        let expected: Vec<Entry> = visible.iter().copied().filter(inside).rev().cloned().collect();
        let twins = all.iter().copied().filter(inside).count() - expected.len();
        prop_assert_eq!((shown, hidden), (expected, twins as u64));
    }

    #[test]
    fn the_latest_entry_is_that_of_the_plain_rule_at_every_moment(history in any_history()) {
        let prefix = keys().feed(&feed("a"));
        let (all, visible) = entries(&history);
        let mut memory = Memory::of(&history);
        for index in 0..=history.len() {
            for before in [false, true] {
                memory.version = cut(&history, (index, before));
                let found = latest(&memory, prefix.clone()).now_or_never();
                let found = found.expect("ready").expect("read");
                let last = |entries: &[&Entry]| {
                    let versions = entries.iter().map(|entry| entry.version);
                    versions.filter(|&version| version <= memory.version).max()
                };
                prop_assert_eq!((found.entry, found.key), (last(&visible), last(&all)));
            }
        }
    }

    /// A window that goes forward from anywhere, looking back in chunks of any size and judging batches of any size.
    #[test]
    fn a_window_that_goes_forward_agrees_with_the_plain_rule(
        history in any_history(),
        start in (0..26usize, any::<bool>()),
        batches in proptest::collection::vec(1..6usize, 1..6),
        look_back in 1..5usize,
    ) {
        let memory = Memory::of(&history);
        let start = cut(&history, start);
        let a = feed("a");
        let mut window = Window::of_feed(keys().feed(&a), start).looking_back_by(look_back);
        let (all, _) = entries(&history);
        let mut rest: &[&Entry] = &all[all.partition_point(|entry| entry.version <= start)..];
        let mut batches = batches.iter().cycle();
        while !rest.is_empty() {
            let size = *batches.next().expect("it cycles");
            let (batch, more) = rest.split_at(size.min(rest.len()));
            rest = more;
            let commits: Vec<Commit> = batch.iter().map(|&entry| Commit::from(entry)).collect();
            let read = window.look_back(&memory, &commits).now_or_never();
            read.expect("ready").expect("read");
            for (entry, commit) in batch.iter().zip(commits) {
                prop_assert!(window.covers(&commit));
                prop_assert_eq!(window.is_twin(&commit), is_twin(&history, entry, &a), "{:?}", commit);
                window.push_newer(commit);
            }
        }
    }
}

#[test]
fn the_reach_excludes_its_ends_and_is_at_most_the_maximum_age_of_a_snapshot() {
    let commit = |version, read_at, id: &str| Commit {
        version,
        id: id.parse().expect("an id"),
        read_at,
        feeds: Vec::new(),
    };
    let version = Version::new(1, 10_000_000, 5);
    let twin_of = |other: Version, read_at| {
        let mut window = Window::of_feed(Vec::new(), Version::ZERO);
        window.push_newer(commit(other, 0, "a"));
        let twin = commit(version, read_at, "a");
        assert!(!window.is_twin(&commit(version, read_at, "b")));
        window.is_twin(&twin)
    };
    assert!(twin_of(Version::new(1, 5_000_001, 0), 0));
    assert!(!twin_of(Version::new(1, 5_000_000, 9), 0));
    assert!(twin_of(Version::new(1, 10_000_000, 4), 0));
    assert!(!twin_of(version, 0));
    assert!(!twin_of(Version::new(1, 10_000_000, 6), 0));
    // The snapshot showed it: the second append would have been a duplicate, not a twin.
    assert!(!twin_of(Version::new(1, 9_000_000, 3), 9_000_000));
    assert!(twin_of(Version::new(1, 9_000_001, 0), 9_000_000));
    assert!(!twin_of(Version::new(0, 9_999_999, 0), 0));
}
