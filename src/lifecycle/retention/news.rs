//! The walk through the news of changes. That of an edit goes with its entry; what is left for this walk is mostly that of
//! erasures.

use super::sweep::{Position, Work};
use crate::{
    store::{
        Range, Result,
        keys::{self, after_until},
        values::{decode_change, decode_version_or_zero},
    },
    version::Version,
};

/// Limits of one read of the news of a feed.
const READ_KEYS: usize = 200;
const READ_BYTES: usize = 256 * 1024;

/// Removes from the next feed with a key at or above `from` what nobody has to be told any more.
pub(super) async fn next(work: &mut Work<'_>, from: Vec<u8>) -> Result<Position> {
    let keys = work.keys;
    let (_, end) = keys.changes();
    let first = Range {
        limit: 1,
        ..Range::all(from.clone(), end)
    };
    work.note(2, 0);
    let slices = work.snapshot.ranges(vec![first]).await?;
    let found = slices.into_iter().next();
    let Some(item) = found.and_then(|mut slice| slice.items.pop()) else {
        return Ok(Position::Log {
            partition: 0,
            after: Version::ZERO,
        });
    };
    let feed = keys.feed_of(&item.key)?;
    let prefix = keys.change(&feed);
    // Whoever continues from below is not told anything.
    let key = keys.trimmed(&feed);
    let trimmed = work.snapshot.get(vec![key.clone()]).await?.pop().flatten();
    let trimmed = decode_version_or_zero(&key, trimmed.as_ref())?;
    let rules = work.retention.rules_of(&feed);
    let until = trimmed.max(work.pass.until_of(&rules));
    let (_, end) = after_until(&prefix, None, until);
    let range = Range {
        limit: work.room().min(READ_KEYS),
        bytes_max: READ_BYTES,
        ..Range::all(from.clone(), end)
    };
    let slice = match range.begin < range.end {
        true => work.snapshot.ranges(vec![range]).await?.pop(),
        false => None,
    };
    let slice = slice.unwrap_or_default();
    work.begin(&feed);
    for item in &slice.items {
        let version = keys::version_of(&item.key)?;
        let news = decode_change(item)?;
        work.note(0, item.value.len());
        let rule = work.retention.rule_of(&feed, &news.kind);
        let is_due = rule.is_some_and(|rule| version <= work.pass.ages[rule].until);
        if is_due || version <= trimmed {
            work.removal.news(&feed, version);
        }
    }
    let mut next = match slice.items.last() {
        Some(last) if slice.more => last.key.to_vec(),
        _ => keys::versioned(&prefix, Version::MAX),
    };
    next.push(0);
    Ok(Position::News(next))
}
