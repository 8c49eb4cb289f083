//! Random histories of appends, edits and erasures, with twins: every reader is told what the model says, from every
//! position, and of what was replaced or erased nothing remains in any key or value.

use proptest::prelude::*;

use super::run::{ACTORS, IDS, KINDS, Op, Run};
use crate::support::{bed::Bed, model::for_random};

mod embedded {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everybody_is_told_of_every_change_and_nothing_remains() {
        let wall = newsfeed::clock::WallTime::manual(1_000_000_000);
        let bed = crate::support::bed::Bed::embedded_at(wall);
        super::everybody_is_told_of_every_change_and_nothing_remains(&bed).await;
    }
}

#[cfg(feature = "fdb")]
mod fdb {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everybody_is_told_of_every_change_and_nothing_remains() {
        let bed = crate::support::bed::Bed::fdb();
        super::everybody_is_told_of_every_change_and_nothing_remains(&bed).await;
    }
}

pub fn any_op() -> impl Strategy<Value = Op> {
    let append = (0..IDS, 0..KINDS.len(), 0..ACTORS.len(), 1..8usize);
    prop_oneof![
        6 => append.prop_map(|(id, kind, actor, feeds)| Op::Append { id, kind, actor, feeds }),
        3 => (1..4usize, 1..8usize).prop_map(|(back, feeds)| Op::Twin { back, feeds }),
        5 => (0..IDS).prop_map(|id| Op::Edit { id }),
        3 => (0..IDS).prop_map(|id| Op::Erase { id }),
        1 => proptest::collection::vec(0..IDS, 1..4).prop_map(Op::EraseEvents),
        1 => (0..3usize, any::<bool>()).prop_map(|(feed, everywhere)| Op::EraseFeed { feed, everywhere }),
        1 => (0..ACTORS.len()).prop_map(Op::EraseActor),
        2 => (1..6usize).prop_map(|events| Op::Project { events }),
        3 => Just(Op::Settle),
    ]
}

/// Runs on a store in which twins can be committed.
async fn everybody_is_told_of_every_change_and_nothing_remains(bed: &Bed) {
    // Elsewhere, time passes by itself.
    let cases = if bed.prefix().is_empty() { 60 } else { 4 };
    let number = std::cell::Cell::new(0);
    for_random(
        cases,
        proptest::collection::vec(any_op(), 1..18),
        async |ops| {
            number.set(number.get() + 1);
            let mut run = Run::new(bed, number.get()).await;
            run.begin().await;
            for op in ops {
                run.take(op).await;
            }
            run.check(false).await;
            run.settle().await;
            run.check(true).await;
        },
    );
}
