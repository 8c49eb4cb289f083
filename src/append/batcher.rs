//! The batcher: one task that forms batches, and never has two batches with the same id in flight.

use std::{collections::VecDeque, mem, sync::Arc};

use foldhash::{HashSet, HashSetExt};
use tokio::{
    sync::mpsc,
    task::{JoinSet, yield_now},
    time::{Instant, sleep_until},
};

use super::{
    ATOMIC_IN_FLIGHT_MAX, BATCH_BYTES_MAX, BATCH_EVENTS_MAX, CONDITIONAL_IN_FLIGHT_MAX, Class,
    Context, Unit, transaction::commit_batch,
};
use crate::{fairness::WorkBudget, metrics::Metrics, types::EventId};

/// Units that one search for a batch looks at: it bounds the search while the queue is long and little can start.
const UNITS_EXAMINED_MAX: usize = 2 * BATCH_EVENTS_MAX;

struct Batcher {
    metrics: Arc<Metrics>,
    /// By [`Class`].
    queues: [Queue; Class::ALL.len()],
    events_waiting: usize,
    /// Events that have left the queues but are not yet counted as such: atomic ones or others.
    events_left: [usize; 2],
    /// Ids of the batches in flight. A unit with one of these ids waits; afterwards its claim shows that it is a duplicate.
    /// So two batches of one node never write the same id.
    busy: HashSet<EventId>,
}

/// The units that wait, in order of arrival, and the batches in flight.
struct Queue {
    waiting: VecDeque<Unit>,
    in_flight: usize,
    in_flight_max: usize,
}

impl Queue {
    fn new(in_flight_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: 0,
            in_flight_max,
        }
    }
}

/// What a finished batch releases.
struct Finished {
    ids: Vec<EventId>,
    class: Class,
}

pub(super) async fn run(context: Arc<Context>, mut queue: mpsc::UnboundedReceiver<Unit>) {
    let mut batcher = Batcher::new(&context);
    let mut in_flight = JoinSet::new();
    let mut open = true;
    let mut lingering: Option<Instant> = None;
    while open || batcher.oldest().is_some() || !in_flight.is_empty() {
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
        batcher.give_up_late().await;
        lingering = match batcher.oldest() {
            Some(oldest) if open && batcher.events_waiting < BATCH_EVENTS_MAX => {
                Some(oldest + context.tuning.linger).filter(|&until| until > Instant::now())
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
                yield_now().await;
            }
        }
        for atomic in [false, true] {
            let delay = context.delays.of(atomic);
            delay.note_left(mem::take(&mut batcher.events_left[usize::from(atomic)]));
            delay.note_oldest(batcher.oldest_of(atomic), Instant::now());
        }
    }
}

impl Batcher {
    fn new(context: &Context) -> Self {
        Self {
            metrics: Arc::clone(&context.metrics),
            queues: Class::ALL.map(|class| {
                Queue::new(match class {
                    Class::Plain => context.tuning.batches_in_flight,
                    Class::Conditional => CONDITIONAL_IN_FLIGHT_MAX,
                    Class::Atomic => ATOMIC_IN_FLIGHT_MAX,
                })
            }),
            events_waiting: 0,
            events_left: [0; 2],
            busy: HashSet::new(),
        }
    }

    fn queue(&mut self, class: Class) -> &mut Queue {
        &mut self.queues[class as usize]
    }

    fn add(&mut self, unit: Unit) {
        self.events_waiting += unit.events.len();
        let queue = self.queue(unit.class());
        queue.waiting.push_back(unit);
    }

    /// When the oldest unit was accepted.
    fn oldest(&self) -> Option<Instant> {
        let both = [false, true].into_iter();
        both.filter_map(|atomic| self.oldest_of(atomic)).min()
    }

    /// When the oldest atomic unit was accepted, or the oldest other one.
    fn oldest_of(&self, atomic: bool) -> Option<Instant> {
        let queues = self.queues.iter().zip(Class::ALL);
        let queues = queues.filter(|(_, class)| (*class == Class::Atomic) == atomic);
        let oldest = queues.filter_map(|(queue, _)| queue.waiting.front());
        oldest.map(|unit| unit.accepted_at).min()
    }

    /// Notes that `unit` has left its queue.
    fn note_left(&mut self, unit: &Unit) {
        self.events_waiting -= unit.events.len();
        self.events_left[usize::from(unit.atomic.is_some())] += unit.events.len();
        let count = unit.events.len() as i64;
        self.metrics.appends.waiting.dec_by(count);
    }

    fn finish(&mut self, finished: Finished) {
        for id in &finished.ids {
            self.busy.remove(id);
        }
        self.queue(finished.class).in_flight -= 1;
    }

    /// Rejects the units that have waited too long. They are the first ones of each queue, because all may wait equally long.
    async fn give_up_late(&mut self) {
        let now = Instant::now();
        let mut budget = WorkBudget::default();
        for class in Class::ALL {
            let is_late = |unit: &mut Unit| unit.give_up_at <= now;
            while let Some(unit) = self.queue(class).waiting.pop_front_if(is_late) {
                self.note_left(&unit);
                budget.spend(unit.events.len()).await;
                unit.give_up(&self.metrics.appends);
            }
        }
    }

    /// The next batch that can start now.
    fn next_batch(&mut self) -> Option<(Vec<Unit>, Finished)> {
        let mut classes = Class::ALL.into_iter();
        classes.find_map(|class| self.next_batch_of(class))
    }

    /// The oldest unit that can start, and those after it that fit into its batch.
    fn next_batch_of(&mut self, class: Class) -> Option<(Vec<Unit>, Finished)> {
        let queue = self.queue(class);
        if queue.in_flight >= queue.in_flight_max {
            return None;
        }
        let mut waiting = mem::take(&mut queue.waiting);
        let mut batch: Vec<Unit> = Vec::new();
        let (mut events, mut weight) = (0, 0);
        let mut left = Vec::new();
        let mut ids: Vec<EventId> = Vec::new();
        for _ in 0..UNITS_EXAMINED_MAX {
            let Some(unit) = waiting.pop_front() else {
                break;
            };
            let fits = batch.is_empty()
                || (events + unit.events.len() <= BATCH_EVENTS_MAX
                    && weight + unit.weight <= BATCH_BYTES_MAX);
            let mut accepted = unit.events.iter();
            if !fits || accepted.any(|accepted| self.busy.contains(&accepted.event.id)) {
                left.push(unit);
                continue;
            }
            self.note_left(&unit);
            events += unit.events.len();
            weight += unit.weight;
            let taken = unit.events.iter().map(|accepted| &accepted.event.id);
            ids.extend(taken.cloned());
            batch.push(unit);
            let is_full = events >= BATCH_EVENTS_MAX || weight >= BATCH_BYTES_MAX;
            if is_full || class == Class::Atomic {
                break;
            }
        }
        // Units that were skipped keep their place in the queue.
        while let Some(unit) = left.pop() {
            waiting.push_front(unit);
        }
        let queue = self.queue(class);
        queue.waiting = waiting;
        if batch.is_empty() {
            return None;
        }
        queue.in_flight += 1;
        self.busy.extend(ids.iter().cloned());
        Some((batch, Finished { ids, class }))
    }
}
