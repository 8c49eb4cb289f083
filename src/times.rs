//! Which version was current at a time of the wall clock.
//!
//! Every 10 s, one of the nodes writes a row with the version that was current then. The version of any other moment lies
//! between two rows; versions count microseconds on both engines, so it is known better than that while clocks are right.

use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::WallTime,
    lineage::Known,
    store::{
        self, Batch, Condition, Error, Found, KeyValue, Plan, Reads, Snapshot, Store, Transaction,
        keys::{Keys, TIME_STEP},
        transact,
        values::{decode_time, encode_time},
    },
    version::Version,
};

const STEP_MICROS: u64 = TIME_STEP.as_micros() as u64;

/// Writes the rows until `stop` is cancelled. Any number of nodes may do this concurrently: the first one writes.
pub async fn record(store: &dyn Store, keys: &Keys, wall: &WallTime, stop: CancellationToken) {
    loop {
        let left = STEP_MICROS - wall.micros() % STEP_MICROS;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_micros(left)) => {}
            () = stop.cancelled() => return,
        }
        let mut row = Record {
            keys,
            wall,
            number: wall.micros() / STEP_MICROS,
        };
        if let Err(error) = transact(store, &mut row).await {
            tracing::warn!(%error, "the version of this time was not recorded; looking it up later is less accurate");
        }
    }
}

/// Writes a row, unless it is there.
struct Record<'a> {
    keys: &'a Keys,
    wall: &'a WallTime,
    number: u64,
}

#[async_trait]
impl Transaction for Record<'_> {
    const NAME: &'static str = "time";

    type Output = ();
    type Error = Error;

    fn first_reads(&self) -> Reads {
        Reads {
            keys: vec![self.keys.time(self.number)],
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> store::Result<Plan<()>> {
        if first.values.iter().any(Option::is_some) {
            return Ok(Plan::Answer(()));
        }
        let late = self.wall.micros().saturating_sub(self.number * STEP_MICROS);
        let then = snapshot.taken_at().saturating_sub(late);
        let version = Version::moment(snapshot.version().epoch(), then);
        let key = self.keys.time(self.number);
        Ok(Plan::Commit(Batch {
            conditions: vec![Condition::KeyEquals {
                key: key.clone(),
                value: None,
            }],
            puts: vec![(key, encode_time(version))],
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) {}
}

/// The version that was current at `micros` since 1970; [`Version::ZERO`] before the first row.
pub async fn version_at(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    known: &Known,
    micros: u64,
) -> store::Result<Version> {
    let number = micros / STEP_MICROS;
    let rows = snapshot.ranges(keys.times_around(number).into()).await?;
    let row = |index: usize| {
        let item = rows.get(index).and_then(|slice| slice.items.first());
        let read =
            |item: &KeyValue| store::Result::Ok((keys.time_of(&item.key)?, decode_time(item)?));
        item.map(read).transpose()
    };
    let Some((before, version)) = row(0)? else {
        return Ok(Version::ZERO);
    };
    let elapsed = micros - before * STEP_MICROS;
    let then = Version::moment(version.epoch(), version.time().saturating_add(elapsed));
    let then = known.nearest(then);
    Ok(match row(1)? {
        Some((_, next)) => then.min(known.nearest(next)),
        None => then,
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{
        dedup::testing::{Memory, keys as test_keys},
        lineage::Lineage,
        store::epoch::Row,
    };

    /// Rows of seconds 1000 to 1020 and of 1050, where the service has started again; epochs 1 and 2.
    fn memory() -> Memory {
        let keys = test_keys();
        let mut memory = Memory::of(&[]);
        memory.version = Version::moment(2, 1_055_000_000);
        for (epoch, began, end) in [
            (1, 900, Version::ZERO),
            (2, 1_045, Version::moment(1, 1_027_500_000)),
        ] {
            let row = Row {
                epoch,
                began: Version::new(epoch, began * 1_000_000, 0),
                previous_end: end,
            };
            for (key, value) in row.puts(&keys) {
                memory.put(key, value);
            }
        }
        for (second, epoch) in [(1_000, 1), (1_010, 1), (1_020, 1), (1_050, 2)] {
            let version = Version::moment(epoch, second * 1_000_000);
            memory.put(keys.time(second / 10), encode_time(version));
        }
        memory
    }

    #[test]
    fn a_time_lies_between_the_rows_around_it_and_in_a_life_of_the_store() {
        let (memory, keys) = (memory(), test_keys());
        let known = Lineage::new(keys.clone()).at(&memory).now_or_never();
        let known = known.expect("ready").expect("read");
        let at = |tenths: u64| {
            let version = version_at(&memory, &keys, &known, tenths * 100_000).now_or_never();
            let version = version.expect("ready").expect("read");
            known.check(version.into()).expect("it is known");
            version
        };
        let moment = |epoch, tenths: u64| Version::moment(epoch, tenths * 100_000);
        for (tenths, expected) in [
            (0, Version::ZERO),
            (9_999, Version::ZERO),
            (10_000, moment(1, 10_000)),
            (10_004, moment(1, 10_004)),
            (10_199, moment(1, 10_199)),
            (10_270, moment(1, 10_270)),
            // The first life has ended, and nothing was stored in between.
            (10_290, moment(1, 10_275)),
            (10_499, moment(1, 10_275)),
            (10_500, moment(2, 10_500)),
            (10_549, moment(2, 10_549)),
            (10_560, moment(2, 10_550)),
        ] {
            assert_eq!(at(tenths), expected, "{tenths}");
        }
    }
}
