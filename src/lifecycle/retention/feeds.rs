//! The walk through the feeds.

use super::sweep::{Position, Work};
use crate::{
    dedup::Scan,
    lifecycle::unmark,
    store::{
        Range, Result, Slice,
        keys::{self, next_key, versioned},
        values::decode_entry,
    },
    types::FeedName,
    version::Version,
};

/// Limits of one read of a feed.
const READ_KEYS: usize = 200;
const READ_BYTES: usize = 256 * 1024;

/// The first key of the next feed, read ahead: the answer to the range that begins at the key `from`.
pub(super) struct Ahead {
    from: Vec<u8>,
    first: Slice,
}

/// The range of the first key at or above `from`.
fn seek(work: &Work<'_>, from: Vec<u8>) -> Range {
    Range {
        limit: 1,
        ..Range::all(from, work.keys.feeds().1)
    }
}

/// Goes on to the next feed with a key at or above `from`.
pub(super) async fn next(work: &mut Work<'_>, from: Vec<u8>) -> Result<Position> {
    let keys = work.keys;
    let found = match work.ahead.take() {
        _ if work.retention.rules.is_empty() => None,
        Some(ahead) if ahead.from == from => Some(ahead.first),
        _ => {
            work.note(1, 0);
            work.snapshot.ranges(vec![seek(work, from)]).await?.pop()
        }
    };
    let Some(item) = found.and_then(|mut slice| slice.items.pop()) else {
        return Ok(Position::News(keys.changes().0));
    };
    let feed = keys.feed_of(&item.key)?;
    let rules = work.retention.rules_of(&feed);
    let counts = |rule: &usize| work.retention.rules[*rule].entries.is_some();
    let until = work.pass.until_of(&rules);
    match rules.first() {
        // The oldest entry is young enough.
        Some(_)
            if !rules.iter().any(counts) && is_younger(work, &feed, &item.key, until).await? =>
        {
            Ok(Position::Feeds(behind(work, &feed)))
        }
        Some(first) => begin(work, feed, *first).await,
        None => Ok(Position::Feeds(behind(work, &feed))),
    }
}

/// Whether all entries of `feed`, whose first key is `first`, are younger than `until`.
async fn is_younger(
    work: &mut Work<'_>,
    feed: &FeedName,
    first: &[u8],
    until: Version,
) -> Result<bool> {
    if keys::version_of(first)? <= until {
        return Ok(false);
    }
    if keys::is_unread(first) {
        return Ok(true);
    }
    // Entries that count as unread follow the others.
    let prefix = work.keys.feed(feed);
    let (begin, end) = keys::unread_after_until(&prefix, None, until);
    let unread = Range {
        limit: 1,
        ..Range::all(begin, end)
    };
    let from = behind(work, feed);
    work.note(1, 0);
    let ranges = vec![unread, seek(work, from.clone())];
    let mut slices = work.snapshot.ranges(ranges).await?.into_iter();
    let unread = slices.next().unwrap_or_default();
    work.ahead = slices.next().map(|first| Ahead { from, first });
    Ok(unread.items.is_empty())
}

/// The key from which to look for the next feed.
fn behind(work: &Work<'_>, feed: &FeedName) -> Vec<u8> {
    next_key(versioned(&work.keys.feed(feed), Version::MAX))
}

/// The next rule about the feed.
fn rule_behind(work: &Work<'_>, feed: &FeedName, rule: usize) -> Option<usize> {
    let mut rules = work.retention.rules_of(feed).into_iter();
    rules.find(|next| *next > rule)
}

/// Goes on to what another rule says of the feed.
async fn next_rule(work: &mut Work<'_>, feed: FeedName, rule: usize) -> Result<Position> {
    match rule_behind(work, &feed, rule) {
        Some(next) => begin(work, feed, next).await,
        None => Ok(Position::Feeds(behind(work, &feed))),
    }
}

async fn begin(work: &mut Work<'_>, feed: FeedName, rule: usize) -> Result<Position> {
    if work.retention.rules[rule].entries.is_some() {
        let prefix = work.keys.feed(&feed);
        let newest = keys::entries(&prefix, None, Version::MAX, true, 1, usize::MAX);
        work.note(1, 0);
        let slices = work.snapshot.ranges(vec![newest]).await?;
        let newest = slices.first().and_then(|slice| slice.items.first());
        let newest = newest.map(|item| keys::version_of(&item.key)).transpose()?;
        // If nothing was added since the last pass, nothing more is too much.
        if newest.is_some_and(|newest| newest > work.pass.last_floor) {
            return Ok(Position::Count {
                feed,
                rule,
                counted: 0,
                until: work.snapshot.version(),
            });
        }
    }
    let span = work.pass.ages[rule];
    Ok(Position::Remove {
        feed,
        rule,
        after: span.after,
        until: span.until,
    })
}

/// Counts the entries at or below `until` that the rule decides about, from the newest to the first one that is too much.
pub(super) async fn count(
    work: &mut Work<'_>,
    feed: FeedName,
    rule: usize,
    (mut counted, mut until): (u64, Version),
) -> Result<Position> {
    let span = work.pass.ages[rule];
    let most = work.retention.rules[rule].entries.unwrap_or(u64::MAX);
    let mut scan = Scan::newest_first(work.keys.feed(&feed), until);
    let start = until;
    loop {
        while let Some(entry) = scan.pop() {
            until = entry.version.before();
            if work.retention.rule_of(&feed, &entry.kind) != Some(rule) {
                continue;
            }
            counted += 1;
            if counted > most {
                let until = entry.version.min(work.pass.floor).max(span.until);
                let after = Version::ZERO;
                return Ok(Position::Remove {
                    feed,
                    rule,
                    after,
                    until,
                });
            }
        }
        if scan.is_exhausted() {
            return Ok(Position::Remove {
                feed,
                rule,
                after: span.after,
                until: span.until,
            });
        }
        // Before an entry can be counted, everything of which it may be a twin has to be read.
        if work.is_full() && until < start {
            return Ok(Position::Count {
                feed,
                rule,
                counted,
                until,
            });
        }
        let need = usize::try_from(most - counted).unwrap_or(READ_KEYS) + 1;
        if let Some(range) = scan.wants(need.min(READ_KEYS), READ_BYTES, 1) {
            let slices = work.snapshot.ranges(vec![range]).await?;
            for slice in slices {
                let bytes = slice.items.iter().map(|item| item.value.len());
                work.note(1, bytes.sum());
                scan.take(work.snapshot, slice).await?;
            }
        }
    }
}

/// Removes those entries in `(after, until]` that the rule decides about.
pub(super) async fn remove(
    work: &mut Work<'_>,
    feed: FeedName,
    rule: usize,
    (after, until): (Version, Version),
) -> Result<Position> {
    if after >= until {
        return next_rule(work, feed, rule).await;
    }
    let limit = work.room().min(READ_KEYS);
    let prefix = work.keys.feed(&feed);
    let range = keys::entries(&prefix, Some(after), until, false, limit, READ_BYTES);
    let mut ranges = vec![range, unmark::marks(work.keys, &feed, after, until)];
    // In a cluster, each read takes a round trip.
    let from = match rule_behind(work, &feed, rule) {
        Some(_) => None,
        None => Some(behind(work, &feed)),
    };
    ranges.extend(from.clone().map(|from| seek(work, from)));
    let mut slices = work.snapshot.ranges(ranges).await?.into_iter();
    let slice = slices.next().unwrap_or_default();
    let marks = slices.next().unwrap_or_default();
    let first = from.zip(slices.next());
    work.ahead = first.map(|(from, first)| Ahead { from, first });
    let found = slice.items.iter().chain(&marks.items);
    let bytes = found.map(|item| item.value.len());
    work.note(1, bytes.sum());
    work.begin(&feed);
    work.removal.marks(&feed, marks);
    let mut follows = false;
    for item in &slice.items {
        let entry = decode_entry(item)?;
        // The place of an erased entry goes with the erasure.
        let is_due = !entry.is_erased() && work.retention.rule_of(&feed, &entry.kind) == Some(rule);
        if is_due {
            work.removal.entry(&feed, entry, follows);
        }
        follows = is_due;
    }
    match slice.items.last() {
        Some(last) if slice.more => Ok(Position::Remove {
            after: keys::version_of(&last.key)?,
            feed,
            rule,
            until,
        }),
        _ => next_rule(work, feed, rule).await,
    }
}
