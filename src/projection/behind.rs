//! By how many events projections are behind.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    log::{Limits, Scan},
    store::{Error, Result, Snapshot, keys::Keys},
    version::Version,
};

/// Counting takes about this long at most.
const COUNT_TIME_MAX: Duration = Duration::from_millis(500);

/// What is read at once.
const LIMITS: Limits = Limits {
    keys: 1_000,
    bytes: 1024 * 1024,
    events: 1_000,
};

/// The number of events in the log above each of `checkpoints`, as of `snapshot`. Counts up to `most`, from the newest event
/// on, and for half a second: of a checkpoint that is not reached by then, there are at least as many events.
pub async fn events_above(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    checkpoints: &[Version],
    most: u64,
) -> Result<Vec<u64>> {
    count(snapshot, keys, checkpoints, most, (LIMITS, COUNT_TIME_MAX)).await
}

/// The same, reading `limits` at once, for the time `time_max`.
pub(super) async fn count(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    checkpoints: &[Version],
    most: u64,
    (limits, time_max): (Limits, Duration),
) -> Result<Vec<u64>> {
    let begun = Instant::now();
    let lowest = checkpoints.iter().min().copied().unwrap_or(Version::MAX);
    let mut counts: Vec<Option<u64>> = vec![None; checkpoints.len()];
    let mut counted = 0;
    let mut until = snapshot.version();
    'reading: while lowest < until {
        let mut scan = Scan::newest_first(keys, lowest, until, limits);
        loop {
            let event = match scan.next(snapshot).await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(Error::TooOld) => break 'reading,
                Err(error) => return Err(error),
            };
            for (count, checkpoint) in counts.iter_mut().zip(checkpoints) {
                if count.is_none() && event.entry.version <= *checkpoint {
                    *count = Some(counted);
                }
            }
            counted += 1;
            if counted >= most {
                break 'reading;
            }
        }
        if scan.is_done() || begun.elapsed() >= time_max {
            break;
        }
        until = scan.position().before();
    }
    let counts = counts.into_iter();
    Ok(counts.map(|count| count.unwrap_or(counted)).collect())
}
