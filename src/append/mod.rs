//! Appending: admission, batching, and the deduplicating transaction.
//!
//! Requests from all connections flow into one [`Appender`]. Its task keeps a bounded queue and a small number
//! of batches in flight; while they are, the next batch grows. Work is detached from the connection that brought
//! it: once admitted, an event is committed whether or not its client waits for the answer.

mod batcher;
mod delay;
mod transaction;
mod transient;
pub mod writes;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use self::delay::QueueDelay;
pub use self::transient::put_transient;
use crate::{
    clock::AtClock,
    error::{Error, Result},
    metrics::{Appends, Metrics},
    store::{self, Store, keys::Keys},
    types::{Event, EventId},
    version::Version,
};

/// Most events one batch commits.
pub const BATCH_EVENTS_MAX: usize = 1000;
/// A batch closes at so many bytes of keys and values ([`Event::weight`]); FoundationDB takes 10 MB.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Conditional appends in flight at once, each in a transaction of its own.
const CONDITIONAL_IN_FLIGHT_MAX: usize = 16;
/// The append queue, in KiB of events each counted as at least one.
pub const QUEUE_KIB_MAX: usize = 64 * 1024;

/// What trades latency for throughput.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// How long a batch waits for more events once it could begin.
    pub linger: Duration,
    /// Batches in flight at once: the next one grows while these commit.
    pub batches_in_flight: usize,
    /// An append is refused while the oldest one in the queue has waited for longer.
    pub queue_time_max: Duration,
}

/// What became of one event.
#[derive(Debug)]
pub enum Outcome {
    Appended(Version),
    /// It was there before, with the same content.
    Duplicate(Version),
    Rejected(Error),
}

/// Counts what became of events.
fn count(metrics: &Appends, outcomes: &[(EventId, Outcome)]) {
    let (mut appended, mut duplicate) = (0, 0);
    for (_, outcome) in outcomes {
        match outcome {
            Outcome::Appended(_) => appended += 1,
            Outcome::Duplicate(_) => duplicate += 1,
            Outcome::Rejected(error) => metrics.note_rejected(error.code(), 1),
        }
    }
    metrics.note_stored(appended, duplicate);
}

/// An event that passed admission, with the wall time of its acceptance.
#[derive(Debug)]
struct Accepted {
    event: Event,
    at: i64,
}

/// Events to commit together, in order; more than one only if none is conditional.
#[derive(Debug)]
struct Unit {
    events: Vec<Accepted>,
    accepted_at: Instant,
    /// Until then it is tried; counted from its acceptance, however long it waits behind others.
    give_up_at: Instant,
    reply: oneshot::Sender<Vec<(EventId, Outcome)>>,
    /// Given back when the unit is answered.
    _admission: OwnedSemaphorePermit,
}

impl Unit {
    fn is_conditional(&self) -> bool {
        self.events
            .iter()
            .any(|accepted| accepted.event.expect.is_some())
    }

    /// Answers that it has waited too long.
    fn give_up(self, metrics: &Appends) {
        let late = store::Error::Unavailable("it did not answer those before".into());
        let rejected = |accepted: Accepted| {
            let error = Error::Store(late.clone());
            (accepted.event.id, Outcome::Rejected(error))
        };
        let outcomes: Vec<_> = self.events.into_iter().map(rejected).collect();
        count(metrics, &outcomes);
        let _ = self.reply.send(outcomes);
    }

    fn weight(&self) -> usize {
        self.events
            .iter()
            .map(|accepted| accepted.event.weight())
            .sum()
    }
}

/// What a batch needs to commit.
struct Context {
    store: Arc<dyn Store>,
    keys: Keys,
    clock: Arc<AtClock>,
    tuning: Tuning,
    delay: Arc<QueueDelay>,
    metrics: Arc<Metrics>,
}

/// The door to the append path; cheap to clone.
#[derive(Clone)]
pub struct Appender {
    units: mpsc::UnboundedSender<Unit>,
    admission: Arc<Semaphore>,
    delay: Arc<QueueDelay>,
    /// Those who wait for room do so one by one.
    patient: Arc<Mutex<()>>,
    clock: Arc<AtClock>,
    metrics: Arc<Metrics>,
}

/// Room in the append queue for the events of a request.
pub struct Admission(OwnedSemaphorePermit);

impl Appender {
    /// Starts the batcher on the current runtime. It ends, with all it admitted committed, when the last
    /// `Appender` is dropped; await the handle for that.
    pub fn start(
        store: Arc<dyn Store>,
        keys: Keys,
        clock: Arc<AtClock>,
        tuning: Tuning,
        metrics: Arc<Metrics>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        // Unbounded only in type: every unit holds a permit of the bounded `admission`.
        let (units, queue) = mpsc::unbounded_channel();
        let delay = Arc::new(QueueDelay::new(tuning.queue_time_max));
        let context = Arc::new(Context {
            store,
            keys,
            clock: Arc::clone(&clock),
            tuning,
            delay: Arc::clone(&delay),
            metrics: Arc::clone(&metrics),
        });
        let batcher = tokio::spawn(batcher::run(context, queue));
        (
            Self {
                units,
                admission: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
                delay,
                patient: Arc::default(),
                clock,
                metrics,
            },
            batcher,
        )
    }

    /// [`Error::Late`] if appends are refused now, whatever they are.
    pub fn check(&self) -> Result<()> {
        match self.delay.is_too_long(Instant::now()) {
            true => Err(Error::Late),
            false => Ok(()),
        }
    }

    /// Room for `events`, or [`Error::Busy`] at once. Whoever passed [`Self::check`] is not asked again whether it is
    /// late: the work of reading the events, which is dear, would be lost; those to come are refused the sooner.
    pub fn admit(&self, events: &[Event]) -> Result<Admission> {
        let permits = queue_kib(events);
        match Arc::clone(&self.admission).try_acquire_many_owned(permits) {
            Ok(permit) => Ok(Admission(permit)),
            Err(_) => {
                let count = events.len() as u64;
                self.metrics
                    .appends
                    .note_rejected(Error::Busy.code(), count);
                Err(Error::Busy)
            }
        }
    }

    /// Room for `events`, waiting for it behind those in a hurry.
    pub async fn admit_waiting(&self, events: &[Event]) -> Result<Admission> {
        let _turn = self.patient.lock().await;
        tokio::select! {
            () = self.delay.short() => {}
            () = self.units.closed() => return Err(Error::ShuttingDown),
        }
        let permits = queue_kib(events);
        Arc::clone(&self.admission)
            .acquire_many_owned(permits)
            .await
            .map(Admission)
            .map_err(|_| Error::ShuttingDown)
    }

    /// Commits `events` in their order and says what became of each. A duplicate id within them is a duplicate of
    /// the first. Goes on to the end although the caller stops waiting.
    pub async fn append(
        &self,
        events: Vec<Event>,
        admission: Admission,
    ) -> Result<Vec<(EventId, Outcome)>> {
        let at = self.clock.now();
        let mut chunks = chunks(events);
        if chunks.len() <= 1 {
            // The batcher owns it from here on.
            return match chunks.pop() {
                Some(chunk) => self.submit(chunk, at, admission.0).await,
                None => Ok(Vec::new()),
            };
        }
        let appender = self.clone();
        let work = async move {
            let mut admission = admission.0;
            let mut outcomes = Vec::new();
            for chunk in chunks {
                // Never more than is left: both sides add up the same numbers.
                let permits = queue_kib(&chunk) as usize;
                let admission = admission.split(permits).ok_or(Error::Busy)?;
                outcomes.extend(appender.submit(chunk, at, admission).await?);
            }
            Ok(outcomes)
        };
        tokio::spawn(work).await.unwrap_or(Err(Error::ShuttingDown))
    }

    async fn submit(
        &self,
        events: Vec<Event>,
        at: i64,
        admission: OwnedSemaphorePermit,
    ) -> Result<Vec<(EventId, Outcome)>> {
        let events: Vec<_> = events
            .into_iter()
            .map(|event| Accepted { event, at })
            .collect();
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let count = events.len() as i64;
        let unit = Unit {
            events,
            accepted_at: now,
            give_up_at: now + store::RETRY_FOR,
            reply,
            _admission: admission,
        };
        self.delay.note_joined(now, unit.events.len());
        // Before it can be taken out again.
        self.metrics.appends.waiting.inc_by(count);
        if self.units.send(unit).is_err() {
            self.metrics.appends.waiting.dec_by(count);
            return Err(Error::ShuttingDown);
        }
        answer.await.map_err(|_| Error::ShuttingDown)
    }

    /// KiB of events that hold a place: they wait, or are on their way to the store.
    pub fn queue_kib(&self) -> usize {
        QUEUE_KIB_MAX - self.admission.available_permits()
    }

    /// How long the oldest has waited for a batch to begin.
    pub fn queue_age(&self) -> Duration {
        self.delay.age()
    }

    /// Whether the batcher runs.
    pub fn is_open(&self) -> bool {
        !self.units.is_closed()
    }
}

fn queue_kib<'a>(events: impl IntoIterator<Item = &'a Event>) -> u32 {
    let kib = events
        .into_iter()
        .map(|event| (event.data.len() / 1024 + 1) as u32)
        .sum::<u32>();
    kib.min(QUEUE_KIB_MAX as u32)
}

/// Cuts `events` into runs that fit a batch; a conditional event is a run of its own.
fn chunks(events: Vec<Event>) -> Vec<Vec<Event>> {
    let mut chunks: Vec<Vec<Event>> = Vec::new();
    let mut weight = 0;
    let mut open = false;
    for event in events {
        let alone = event.expect.is_some();
        let event_weight = event.weight();
        match chunks.last_mut() {
            Some(chunk)
                if open
                    && !alone
                    && chunk.len() < BATCH_EVENTS_MAX
                    && weight + event_weight <= BATCH_BYTES_MAX =>
            {
                weight += event_weight;
                chunk.push(event);
            }
            _ => {
                weight = event_weight;
                open = !alone;
                chunks.push(vec![event]);
            }
        }
    }
    chunks
}
