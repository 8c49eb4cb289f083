//! The rule that carries "nothing twice".
//!
//! Two nodes may commit the same id at once. The first commit of an id is the entry; a later one, its twin, is
//! invisible. A twin did not see the first when it read the claims, so the first lies after the snapshot the twin
//! was planned on; and the database lets no commit through whose snapshot is older than
//! [`SNAPSHOT_AGE_TICKS_MAX`]. So an entry is a twin exactly if the same id stands in the same sequence within its
//! [`window`]; how far back that reaches is written in the entry itself.

mod cursor;
mod lookback;

pub use self::{
    cursor::Cursor,
    lookback::{LookBack, Passed},
};
use crate::{
    store::{Result, SNAPSHOT_AGE_TICKS_MAX, Snapshot, keys},
    types::EventId,
    version::Version,
};

/// Where to look for the first of which an entry would be the twin: after this version, before the entry's own.
pub fn window(version: Version, read_at: u64) -> Version {
    let oldest = version.time().saturating_sub(SNAPSHOT_AGE_TICKS_MAX);
    Version::moment(version.epoch(), oldest.max(read_at))
}

/// Whether an entry with this id, version and snapshot is a twin, given all of its sequence in its window.
pub fn is_twin<'a>(
    id: &EventId,
    version: Version,
    read_at: u64,
    sequence: impl IntoIterator<Item = (Version, &'a EventId)>,
) -> bool {
    let window = window(version, read_at);
    sequence
        .into_iter()
        .any(|(other, other_id)| other > window && other < version && other_id == id)
}

/// The version of the latest visible entry of the feed at `prefix`, and of the latest key, be it a twin's.
pub async fn latest(
    snapshot: &dyn Snapshot,
    prefix: &[u8],
) -> Result<(Option<Version>, Option<Version>)> {
    let mut cursor = Cursor::newest_first(prefix.to_vec(), snapshot.version());
    let mut last = None;
    loop {
        if let Some(entry) = cursor.ready() {
            return Ok((Some(entry.version), last));
        }
        let Some(range) = cursor.wants(1, usize::MAX) else {
            return Ok((None, last));
        };
        let slice = snapshot
            .ranges(vec![range])
            .await?
            .pop()
            .unwrap_or_default();
        if last.is_none() {
            last = slice
                .items
                .first()
                .map(|item| keys::version_of(&item.key))
                .transpose()?;
        }
        cursor.take(snapshot, slice).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_open_at_both_ends_and_never_longer_than_a_snapshot_lives() {
        let id: EventId = "a".parse().expect("id");
        let version = Version::new(1, 10_000_000, 5);
        let twin_of = |other: Version, read_at| is_twin(&id, version, read_at, [(other, &id)]);
        assert!(twin_of(Version::new(1, 5_000_001, 0), 0));
        assert!(!twin_of(Version::new(1, 5_000_000, 9), 0));
        assert!(twin_of(Version::new(1, 10_000_000, 4), 0));
        assert!(!twin_of(version, 0));
        assert!(!twin_of(Version::new(1, 10_000_000, 6), 0));
        // Seen by the twin's own snapshot: then it would have been a duplicate, not a twin.
        assert!(!twin_of(Version::new(1, 9_000_000, 3), 9_000_000));
        assert!(twin_of(Version::new(1, 9_000_001, 0), 9_000_000));
        assert!(!twin_of(Version::new(0, 9_999_999, 0), 0));
        let other: EventId = "b".parse().expect("id");
        assert!(!is_twin(
            &id,
            version,
            0,
            [(Version::new(1, 9_999_999, 0), &other)]
        ));
    }
}
