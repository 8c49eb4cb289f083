//! The walk through the log.

use super::sweep::{Position, Work};
use crate::{
    store::{
        Result,
        keys::{self, version_of},
        values::decode_records,
    },
    version::Version,
};

/// Limits of one read of a partition. A key holds up to a batch of events.
const READ_KEYS: usize = 50;
const READ_BYTES: usize = 256 * 1024;

/// Removes what comes after `after` in a partition; `None` at the end of the log.
pub(super) async fn next(
    work: &mut Work<'_>,
    partition: u16,
    after: Version,
) -> Result<Option<Position>> {
    let span = work.pass.log;
    let after = after.max(span.after);
    if partition >= work.keys.partitions() || span.until <= span.after {
        return Ok(None);
    }
    let next = Position::Log {
        partition: partition + 1,
        after: Version::ZERO,
    };
    let prefix = work.keys.log(partition);
    let range = keys::range(
        &prefix,
        Some(after),
        span.until,
        false,
        READ_KEYS,
        READ_BYTES,
    );
    let slice = work.snapshot.ranges(vec![range]).await?.pop();
    let slice = slice.unwrap_or_default();
    let mut last = None;
    for item in &slice.items {
        work.note(0, item.value.len());
        let version = version_of(&item.key)?;
        work.removal.trim_log(span.until);
        work.removal
            .records(partition, version, decode_records(item)?);
        last = Some(version);
        if work.is_full() {
            break;
        }
    }
    work.note(1, 0);
    let is_all = last
        == slice
            .items
            .last()
            .map(|item| version_of(&item.key))
            .transpose()?;
    Ok(Some(match last {
        Some(after) if slice.more || !is_all => Position::Log { partition, after },
        _ => next,
    }))
}
