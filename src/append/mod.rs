//! Appending: a bounded queue, batching, and the deduplicating transaction.
//!
//! Requests from all connections go through one [`Appender`]. A caller first reserves room in its queue, and then
//! appends with the permit it got. A single task forms batches and keeps a few of them in flight; while they commit,
//! the next batch grows. Appending is detached from the connection that asked for it: once its `append` has been
//! called, an event is committed whether or not the client waits for the answer.
//!
//! An atomic append ([`AppendPermit::append_atomic`]) goes through the same queue, but has a transaction of its own, so that
//! its events are committed together or not at all, and that nobody else's events wait for its conditions.

mod assumption;
mod batcher;
mod claims;
mod delay;
mod transaction;
mod transient;
pub mod writes;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::task::TaskTracker;

pub use self::transient::TransientPermit;
use self::{assumption::Assumption, claims::Scattered, delay::QueueDelay, transient::Transients};
use crate::{
    clock::AtClock,
    error::{Error, Result},
    lineage::Lineage,
    metrics::{Appends, Metrics},
    store::{self, Store, keys::Keys},
    types::{Event, EventId, Expect},
    version::Version,
};

/// Most events one batch commits.
pub const BATCH_EVENTS_MAX: usize = 1000;
/// Most bytes of keys and values ([`Event::weight`]) one batch commits; FoundationDB accepts 10 MB a transaction.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most batches of conditional events in flight at once.
const CONDITIONAL_IN_FLIGHT_MAX: usize = 16;
/// Most atomic appends in flight at once.
const ATOMIC_IN_FLIGHT_MAX: usize = 16;
/// Most bytes of keys and values ([`Event::weight`]) of an atomic append.
pub const ATOMIC_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Size of the append queue, in KiB of event data; each event counts as at least 1 KiB. It includes the events on their
/// way to the store.
pub const QUEUE_KIB_MAX: usize = 64 * 1024;

/// Settings that trade latency for throughput.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// How long a batch waits for more events once it could begin.
    pub linger: Duration,
    /// Batches in flight at once. The next batch grows while these commit.
    pub batches_in_flight: usize,
    /// Appends are refused while the oldest event in the queue has waited longer than this.
    pub queue_time_max: Duration,
}

/// The outcome of one event.
#[derive(Debug)]
pub enum Outcome {
    Appended(Version),
    /// The id was appended before, with the same content.
    Duplicate(Version),
    /// The id is that of an event that was erased.
    Erased(Version),
    Rejected(Error),
}

/// Why nothing of an atomic append was stored.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// `None` if it is because of none of its parts.
    pub culprit: Option<Culprit>,
    pub error: Error,
}

/// The part of an atomic append that was not possible, by its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    Event(usize),
    /// Among the conditions that do not belong to an event.
    Condition(usize),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            culprit: None,
            error,
        }
    }
}

/// The outcomes of the events of a unit, in their order.
type Answer = std::result::Result<Vec<(EventId, Outcome)>, Refusal>;

/// Counts the outcomes of events.
fn count(metrics: &Appends, outcomes: &[(EventId, Outcome)]) {
    let (mut appended, mut duplicate) = (0, 0);
    for (_, outcome) in outcomes {
        match outcome {
            Outcome::Appended(_) => appended += 1,
            Outcome::Duplicate(_) | Outcome::Erased(_) => duplicate += 1,
            Outcome::Rejected(error) => metrics.note_rejected(error.code(), 1),
        }
    }
    metrics.note_stored(appended, duplicate);
}

/// An event with the wall time at which it was accepted, in microseconds since 1970.
#[derive(Debug)]
struct Accepted {
    event: Event,
    at: i64,
}

/// Events to commit together, in order.
#[derive(Debug)]
struct Unit {
    events: Vec<Accepted>,
    /// All or nothing, and only if these conditions hold, too.
    atomic: Option<Vec<Expect>>,
    /// Sum of [`Event::weight`].
    weight: usize,
    accepted_at: Instant,
    /// When to stop trying. It counts from acceptance, so time spent waiting in the queue is included.
    give_up_at: Instant,
    reply: oneshot::Sender<Answer>,
    /// Room in the queue, given back when the unit is answered.
    _room: OwnedSemaphorePermit,
}

/// How units are committed: those of each class have batches of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    /// With a conditional event. Their transactions can abort.
    Conditional,
    /// One unit a batch.
    Atomic,
}

impl Class {
    const ALL: [Self; 3] = [Self::Plain, Self::Conditional, Self::Atomic];
}

impl Unit {
    fn class(&self) -> Class {
        let mut events = self.events.iter();
        if self.atomic.is_some() {
            Class::Atomic
        } else if events.any(|accepted| accepted.event.expect.is_some()) {
            Class::Conditional
        } else {
            Class::Plain
        }
    }

    /// Rejects the events because they have waited too long.
    fn give_up(self, metrics: &Appends) {
        let late = store::Error::Unavailable("it did not commit earlier appends in time".into());
        if self.atomic.is_some() {
            return self.refuse(Error::Store(late).into(), metrics);
        }
        let rejected = |accepted: Accepted| {
            let error = Error::Store(late.clone());
            (accepted.event.id, Outcome::Rejected(error))
        };
        let outcomes: Vec<_> = self.events.into_iter().map(rejected).collect();
        count(metrics, &outcomes);
        let _ = self.reply.send(Ok(outcomes));
    }

    fn refuse(self, refusal: Refusal, metrics: &Appends) {
        metrics.note_rejected(refusal.error.code(), self.events.len() as u64);
        let _ = self.reply.send(Err(refusal));
    }
}

/// What a batch needs to commit.
struct Context {
    store: Arc<dyn Store>,
    keys: Keys,
    lineage: Lineage,
    clock: Arc<AtClock>,
    new_ids: Assumption,
    scattered: Scattered,
    tuning: Tuning,
    delays: Delays,
    metrics: Arc<Metrics>,
}

/// The delays of the queue. Atomic appends wait only for each other, so they have a delay of their own: when they wait too
/// long, no others are refused.
#[derive(Clone)]
struct Delays {
    atomic: Arc<QueueDelay>,
    others: Arc<QueueDelay>,
}

impl Delays {
    fn of(&self, atomic: bool) -> &QueueDelay {
        match atomic {
            true => &self.atomic,
            false => &self.others,
        }
    }
}

/// The entrance to the append path; cheap to clone.
#[derive(Clone)]
pub struct Appender(Arc<Queue>);

struct Queue {
    /// Bounded by `room`, although the channel is not: every unit holds some of it.
    units: mpsc::UnboundedSender<Unit>,
    /// In KiB.
    room: Arc<Semaphore>,
    delays: Delays,
    /// Held by the one caller that may wait for room; others wait for the lock.
    patient: Mutex<()>,
    clock: Arc<AtClock>,
    metrics: Arc<Metrics>,
    transients: Arc<Transients>,
}

/// Events with room in the append queue. Dropping it gives the room back.
pub struct AppendPermit {
    queue: Arc<Queue>,
    events: Vec<Event>,
    room: OwnedSemaphorePermit,
}

impl Appender {
    /// Starts the batcher on the current runtime. When the last `Appender` is dropped it commits what it has and ends;
    /// await the handle for that. Transients are committed on `tracker`.
    pub fn start(
        store: Arc<dyn Store>,
        keys: Keys,
        clock: Arc<AtClock>,
        tuning: Tuning,
        tracker: TaskTracker,
        metrics: Arc<Metrics>,
    ) -> (Self, JoinHandle<()>) {
        let (units, queue) = mpsc::unbounded_channel();
        let delay = || Arc::new(QueueDelay::new(tuning.queue_time_max));
        let delays = Delays {
            atomic: delay(),
            others: delay(),
        };
        let transients = Transients::new(
            Arc::clone(&store),
            keys.clone(),
            Arc::clone(&clock),
            tracker,
            Arc::clone(&metrics),
        );
        let context = Arc::new(Context {
            store,
            lineage: Lineage::new(keys.clone()),
            keys,
            clock: Arc::clone(&clock),
            new_ids: Assumption::default(),
            scattered: Scattered::default(),
            tuning,
            delays: delays.clone(),
            metrics: Arc::clone(&metrics),
        });
        let batcher = tokio::spawn(batcher::run(context, queue));
        let queue = Queue {
            units,
            room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
            delays,
            patient: Mutex::default(),
            clock,
            metrics,
            transients: Arc::new(transients),
        };
        (Self(Arc::new(queue)), batcher)
    }

    /// Call it before a request's body is read. Fails with [`Error::Late`] if the queue is delayed so much that all
    /// appends of the kind, `atomic` or not, are refused now.
    pub fn check(&self, atomic: bool) -> Result<()> {
        match self.0.delays.of(atomic).refuses(Instant::now()) {
            true => Err(Error::Late),
            false => Ok(()),
        }
    }

    /// Reserves room for `events`, or fails at once with [`Error::Busy`]. It does not [`Self::check`] again: parsing the
    /// events was the expensive part, and refusing them now would waste it.
    pub fn try_reserve(&self, events: Vec<Event>) -> Result<AppendPermit> {
        let kib = queue_kib(&events);
        match Arc::clone(&self.0.room).try_acquire_many_owned(kib) {
            Ok(room) => Ok(self.permit(events, room)),
            Err(_) => {
                let count = events.len() as u64;
                let appends = &self.0.metrics.appends;
                appends.note_rejected(Error::Busy.code(), count);
                Err(Error::Busy)
            }
        }
    }

    /// Reserves room for `events`, waiting for it. Callers of [`Self::try_reserve`] go first.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] if the batcher has ended.
    pub async fn reserve(&self, events: Vec<Event>) -> Result<AppendPermit> {
        let _turn = self.0.patient.lock().await;
        tokio::select! {
            () = self.0.delays.others.short() => {}
            () = self.0.units.closed() => return Err(Error::ShuttingDown),
        }
        let room = Arc::clone(&self.0.room)
            .acquire_many_owned(queue_kib(&events))
            .await
            .map_err(|_| Error::ShuttingDown)?;
        Ok(self.permit(events, room))
    }

    /// Reserves one of the transients that may be in flight, or fails at once with [`Error::Busy`].
    pub fn try_reserve_transient(&self, event: Event) -> Result<TransientPermit> {
        self.0.transients.try_reserve(event)
    }

    fn permit(&self, events: Vec<Event>, room: OwnedSemaphorePermit) -> AppendPermit {
        AppendPermit {
            queue: Arc::clone(&self.0),
            events,
            room,
        }
    }

    /// KiB of events in the queue or on their way to the store.
    pub fn queue_kib(&self) -> usize {
        QUEUE_KIB_MAX - self.0.room.available_permits()
    }

    /// How long the oldest event has waited for its batch to begin.
    pub fn queue_age(&self) -> Duration {
        let Delays { atomic, others } = &self.0.delays;
        atomic.age().max(others.age())
    }

    /// Whether the batcher is running.
    pub fn is_open(&self) -> bool {
        !self.0.units.is_closed()
    }
}

impl AppendPermit {
    /// Commits the events in their order and returns the outcome of each. A repeated id among them is a duplicate of the
    /// first. The work is completed even if the caller drops this future.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] if the batcher has ended; then nothing is known about events without an outcome.
    pub async fn append(self) -> Result<Vec<(EventId, Outcome)>> {
        let Self {
            queue,
            events,
            mut room,
        } = self;
        let at = queue.clock.now();
        let mut chunks = chunks(events);
        if chunks.len() <= 1 {
            // The batcher owns it from here on.
            return match chunks.pop() {
                Some(chunk) => queue.submit_each(chunk, at, room).await,
                None => Ok(Vec::new()),
            };
        }
        let work = async move {
            let mut outcomes = Vec::new();
            for chunk in chunks {
                // Never more than is left: the chunks are the events that `room` was reserved for.
                let room = room
                    .split(queue_kib(&chunk.events) as usize)
                    .ok_or(Error::Busy)?;
                outcomes.extend(queue.submit_each(chunk, at, room).await?);
            }
            Ok(outcomes)
        };
        tokio::spawn(work).await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Commits all events in one transaction, in their order, if all their conditions and `conditions` hold; otherwise
    /// none. All conditions are about the moment before the append. The versions of the events that are new are
    /// consecutive; the others are duplicates, whose conditions do not count. If all are duplicates, no condition counts.
    ///
    /// The events must weigh [`ATOMIC_BYTES_MAX`] at most. The work is completed even if the caller drops this future.
    pub async fn append_atomic(self, conditions: Vec<Expect>) -> Answer {
        let at = self.queue.clock.now();
        let chunk = Chunk {
            weight: self.events.iter().map(Event::weight).sum(),
            events: self.events,
        };
        let atomic = Some(conditions);
        self.queue.submit(chunk, atomic, at, self.room).await
    }
}

impl Queue {
    /// Commits events that each have an outcome of their own.
    async fn submit_each(
        &self,
        chunk: Chunk,
        at: i64,
        room: OwnedSemaphorePermit,
    ) -> Result<Vec<(EventId, Outcome)>> {
        let answer = self.submit(chunk, None, at, room).await;
        answer.map_err(|refusal| refusal.error)
    }

    async fn submit(
        &self,
        Chunk { events, weight }: Chunk,
        atomic: Option<Vec<Expect>>,
        at: i64,
        room: OwnedSemaphorePermit,
    ) -> Answer {
        let events: Vec<_> = events
            .into_iter()
            .map(|event| Accepted { event, at })
            .collect();
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let count = events.len() as i64;
        let unit = Unit {
            events,
            atomic,
            weight,
            accepted_at: now,
            give_up_at: now + store::RETRY_FOR,
            reply,
            _room: room,
        };
        let delay = self.delays.of(unit.atomic.is_some());
        delay.note_joined(now, unit.events.len());
        // Counted before sending, because the batcher may take it out at once.
        self.metrics.appends.waiting.inc_by(count);
        if self.units.send(unit).is_err() {
            self.metrics.appends.waiting.dec_by(count);
            return Err(Error::ShuttingDown.into());
        }
        answer
            .await
            .unwrap_or_else(|_| Err(Error::ShuttingDown.into()))
    }
}

/// The size of `events` in the queue, in KiB.
fn queue_kib(events: &[Event]) -> u32 {
    let kib = events
        .iter()
        .map(|event| (event.data.len() / 1024 + 1) as u32)
        .sum::<u32>();
    kib.min(QUEUE_KIB_MAX as u32)
}

/// Events that fit into a batch, and their weight.
#[derive(Default)]
struct Chunk {
    events: Vec<Event>,
    weight: usize,
}

/// Splits `events` into chunks.
fn chunks(events: Vec<Event>) -> Vec<Chunk> {
    let weight = events.iter().map(Event::weight).sum();
    if (1..=BATCH_EVENTS_MAX).contains(&events.len()) && weight <= BATCH_BYTES_MAX {
        return vec![Chunk { events, weight }];
    }
    let mut chunks: Vec<Chunk> = Vec::new();
    for event in events {
        let weight = event.weight();
        let fits = |chunk: &&mut Chunk| {
            chunk.events.len() < BATCH_EVENTS_MAX && chunk.weight + weight <= BATCH_BYTES_MAX
        };
        let chunk = match chunks.last_mut().filter(fits) {
            Some(chunk) => chunk,
            None => chunks.push_mut(Chunk::default()),
        };
        chunk.weight += weight;
        chunk.events.push(event);
    }
    chunks
}
