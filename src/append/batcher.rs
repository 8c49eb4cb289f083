//! The batcher: one task that forms batches, and never has two batches with the same id in flight.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::Arc,
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, CONDITIONAL_IN_FLIGHT_MAX, Context, Unit,
    transaction::commit_batch,
};
use crate::{metrics::Metrics, types::EventId};

struct Batcher {
    metrics: Arc<Metrics>,
    waiting: VecDeque<Unit>,
    conditional_waiting: usize,
    events_waiting: usize,
    /// Events that have left the queue but are not yet counted as such.
    events_left: usize,
    /// Ids of the batches in flight. A unit with one of these ids waits; afterwards its claim shows that it is a duplicate.
    /// So two batches of one node never write the same id.
    busy: HashSet<EventId>,
    plain_in_flight: usize,
    plain_in_flight_max: usize,
    conditional_in_flight: usize,
}

/// What a finished batch releases.
struct Finished {
    ids: Vec<EventId>,
    conditional: bool,
}

pub(super) async fn run(context: Arc<Context>, mut queue: mpsc::UnboundedReceiver<Unit>) {
    let mut batcher = Batcher::new(&context);
    let mut in_flight = JoinSet::new();
    let mut open = true;
    let mut lingering: Option<Instant> = None;
    while open || !batcher.waiting.is_empty() || !in_flight.is_empty() {
        tokio::select! {
            unit = queue.recv(), if open => match unit {
                Some(unit) => {
                    batcher.add(unit);
                    // All units that are waiting join the same batch.
                    while let Ok(unit) = queue.try_recv() {
                        batcher.add(unit);
                    }
                }
                None => open = false,
            },
            Some(finished) = in_flight.join_next() => match finished {
                Ok(finished) => batcher.finish(finished),
                Err(error) => {
                    // After a panic, the ids of the batch would remain busy and its clients unanswered. End the batcher, so
                    // that the node becomes unhealthy.
                    tracing::error!(%error, "a batch panicked; no further appends are accepted");
                    return;
                }
            },
            () = sleep_until(lingering.unwrap_or_else(Instant::now)), if lingering.is_some() => {}
        }
        lingering = match batcher.waiting.front() {
            Some(oldest) if open && batcher.events_waiting < BATCH_EVENTS_MAX => {
                Some(oldest.accepted_at + context.tuning.linger)
                    .filter(|&until| until > Instant::now())
            }
            _ => None,
        };
        if lingering.is_none() {
            while let Some((units, finished)) = batcher.next_batch() {
                let context = Arc::clone(&context);
                in_flight.spawn(async move {
                    commit_batch(&context, units).await;
                    finished
                });
            }
        }
        context.delay.note_left(mem::take(&mut batcher.events_left));
        let oldest = batcher.waiting.front().map(|unit| unit.accepted_at);
        context.delay.note_oldest(oldest, Instant::now());
    }
}

impl Batcher {
    fn new(context: &Context) -> Self {
        Self {
            metrics: Arc::clone(&context.metrics),
            waiting: VecDeque::new(),
            conditional_waiting: 0,
            events_waiting: 0,
            events_left: 0,
            busy: HashSet::new(),
            plain_in_flight: 0,
            plain_in_flight_max: context.tuning.batches_in_flight,
            conditional_in_flight: 0,
        }
    }

    fn add(&mut self, unit: Unit) {
        self.conditional_waiting += usize::from(unit.is_conditional());
        self.events_waiting += unit.events.len();
        self.waiting.push_back(unit);
    }

    /// Notes that `unit` has left the queue.
    fn note_left(&mut self, unit: &Unit) {
        self.conditional_waiting -= usize::from(unit.is_conditional());
        self.events_waiting -= unit.events.len();
        self.events_left += unit.events.len();
        let count = unit.events.len() as i64;
        self.metrics.appends.waiting.dec_by(count);
    }

    fn finish(&mut self, finished: Finished) {
        for id in &finished.ids {
            self.busy.remove(id);
        }
        if finished.conditional {
            self.conditional_in_flight -= 1;
        } else {
            self.plain_in_flight -= 1;
        }
    }

    /// The next batch that can start now: the oldest unit that can start, and all units that fit into its batch.
    fn next_batch(&mut self) -> Option<(Vec<Unit>, Finished)> {
        let plain_free = self.plain_in_flight < self.plain_in_flight_max;
        let conditional_free =
            self.conditional_waiting > 0 && self.conditional_in_flight < CONDITIONAL_IN_FLIGHT_MAX;
        if !plain_free && !conditional_free {
            return None;
        }
        let mut batch: Vec<Unit> = Vec::new();
        let (mut events, mut weight) = (0, 0);
        let mut conditional = false;
        let mut left = Vec::new();
        let mut ids: Vec<EventId> = Vec::new();
        let now = Instant::now();
        while let Some(unit) = self.waiting.pop_front() {
            if unit.give_up_at <= now {
                self.note_left(&unit);
                unit.give_up(&self.metrics.appends);
                continue;
            }
            let fits = if batch.is_empty() {
                if unit.is_conditional() {
                    conditional_free
                } else {
                    plain_free
                }
            } else {
                !unit.is_conditional()
                    && events + unit.events.len() <= BATCH_EVENTS_MAX
                    && weight + unit.weight() <= BATCH_BYTES_MAX
            };
            if !fits
                || unit
                    .events
                    .iter()
                    .any(|accepted| self.busy.contains(&accepted.event.id))
            {
                left.push(unit);
                continue;
            }
            self.note_left(&unit);
            events += unit.events.len();
            weight += unit.weight();
            conditional = unit.is_conditional();
            let taken = unit.events.iter().map(|accepted| &accepted.event.id);
            ids.extend(taken.cloned());
            batch.push(unit);
            if conditional || events >= BATCH_EVENTS_MAX || weight >= BATCH_BYTES_MAX {
                break;
            }
        }
        // Units that were skipped keep their place in the queue.
        while let Some(unit) = left.pop() {
            self.waiting.push_front(unit);
        }
        if batch.is_empty() {
            return None;
        }

        self.busy.extend(ids.iter().cloned());
        if conditional {
            self.conditional_in_flight += 1;
        } else {
            self.plain_in_flight += 1;
        }
        Some((batch, Finished { ids, conditional }))
    }
}
