//! All readers of a run, thousands of small tasks, and what they have in common: when they drop, when those that lag
//! read again, what they got.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::{
    ledger::{Acknowledged, Channel, Faults, Place},
    plan::Plan,
    pool::Pool,
    reader::{LAGGING_RECEIVE_BYTES, Reader},
    recorder::Recorder,
    schedule::Schedule,
    target::Dialer,
    writers::get,
};

/// Readers that connect at once before the run, within what a listener's backlog holds.
const OPENING_MAX: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub enum Way {
    Stream,
    LongPoll,
}

/// How a reader of a stream reads while events are appended. Those that lag get their first frames like all others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Habit {
    Prompt,
    /// A byte a second.
    Slow,
    /// Not at all.
    Stuck,
}

#[derive(Debug, Clone, Copy)]
pub struct Follower {
    /// Of the plan.
    pub channel: usize,
    pub habit: Habit,
}

pub struct Fleet {
    pub pool: Arc<Pool>,
    /// Of the readers that lag: what they do not take is no burden to the others.
    pub lagging: Arc<Pool>,
    pub plan: Arc<Plan>,
    pub schedule: Arc<Schedule>,
    /// Events in an append, which are due together.
    pub batch: u16,
    pub channels: Vec<Arc<Channel>>,
    /// From when an event's append was due until a prompt reader had it.
    pub delivery: Recorder,
    /// From when a reader's stream was dropped until it was told that it has everything.
    pub whole: Recorder,
    /// From when a reader that lagged began to read again until it had everything.
    pub catch_up: Recorder,
    pub counts: Counts,
    pub door: Semaphore,
    /// When all drop.
    pub storm: watch::Sender<Option<Instant>>,
    /// When those that lag read again.
    pub resume: watch::Sender<Option<Instant>>,
    pub stop: CancellationToken,
}

#[derive(Default)]
pub struct Counts {
    pub ready: AtomicU64,
    /// Prompt readers that have their channel's last event.
    pub closed: AtomicU64,
    /// To all readers.
    pub delivered: AtomicU64,
    /// To those that lag.
    pub delivered_late: AtomicU64,
    /// Connections of readers that lag which the service closed.
    pub closed_on: AtomicU64,
    /// Streams that ended, and polls without an answer, other than by our doing.
    pub broken: AtomicU64,
    /// Connections and requests that were not taken when a reader came back.
    pub refused: AtomicU64,
}

impl Fleet {
    pub fn new(
        dialer: Arc<Dialer>,
        plan: Arc<Plan>,
        schedule: Arc<Schedule>,
        batch: u16,
        channels: Vec<Arc<Channel>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::new(Arc::clone(&dialer)),
            lagging: Pool::with_window(dialer, LAGGING_RECEIVE_BYTES),
            plan,
            schedule,
            batch,
            channels,
            delivery: Recorder::new("delivery"),
            whole: Recorder::new("until whole"),
            catch_up: Recorder::new("catch up"),
            counts: Counts::default(),
            door: Semaphore::new(OPENING_MAX),
            storm: watch::Sender::new(None),
            resume: watch::Sender::new(None),
            stop: CancellationToken::new(),
        })
    }

    /// Answers when all are there.
    pub async fn open(
        self: &Arc<Self>,
        followers: &[Follower],
        way: Way,
    ) -> Result<Readers, Error> {
        let mut tasks = JoinSet::new();
        for (number, follower) in followers.iter().enumerate() {
            let reader = Reader::new(Arc::clone(self), number, followers.len(), *follower);
            tasks.spawn(reader.run(way));
        }
        let mut readers = Readers { tasks };
        loop {
            if get(&self.counts.ready) == followers.len() as u64 {
                return Ok(readers);
            }
            readers.watched(sleep(LOOK_EVERY)).await?;
        }
    }

    /// All drop their connections now.
    pub async fn storm(&self) {
        let tell = || {
            self.storm.send_replace(Some(Instant::now()));
        };
        self.pool.drop_all(tell).await;
    }

    /// Those that lagged read again now.
    pub fn resume(&self) {
        self.resume.send_replace(Some(Instant::now()));
    }

    /// Waits until `readers`, the prompt ones, have their channel's last event, or none got anything for `silence_max`.
    pub async fn drained(&self, readers: u64, silence_max: Duration) {
        let done = || get(&self.counts.closed) >= readers;
        let moved = || (get(&self.counts.delivered), get(&self.counts.closed));
        until_still(done, moved, silence_max).await;
    }

    /// Waits until the `readers` that lagged have their channel's last event, or none got anything for `silence_max`.
    pub async fn caught_up(&self, readers: u64, silence_max: Duration) {
        let done = || self.catch_up.latencies().all.len();
        let moved = || (get(&self.counts.delivered), done());
        until_still(|| done() >= readers, moved, silence_max).await;
    }

    /// Waits until all `readers` that dropped were told that they have everything, or none was for `silence_max`.
    pub async fn whole_again(&self, readers: u64, silence_max: Duration) {
        let whole = || self.whole.latencies().all.len();
        until_still(|| whole() >= readers, whole, silence_max).await;
    }

    /// Ends the readers and holds what they got against what was acknowledged.
    pub async fn audit(
        &self,
        readers: Readers,
        acknowledged: &Acknowledged,
    ) -> Result<Faults, Error> {
        self.stop.cancel();
        let mut tasks = readers.tasks;
        let mut of_channels: Vec<Vec<Place>> = self.channels.iter().map(|_| Vec::new()).collect();
        while let Some(done) = tasks.join_next().await {
            let (channel, place) = done.expect("a reader does not panic and is not aborted")?;
            of_channels[channel].push(place);
        }
        let mut faults = Faults::default();
        for (channel, places) in self.channels.iter().zip(&of_channels) {
            let places: Vec<&Place> = places.iter().collect();
            channel.audit(&places, acknowledged, &self.plan, &mut faults);
        }
        Ok(faults)
    }

    pub fn so_far(&self) -> String {
        let delivered = get(&self.counts.delivered);
        let mut text = format!("{delivered} delivered, {}", self.delivery.so_far());
        let (broken, refused) = (get(&self.counts.broken), get(&self.counts.refused));
        if broken + refused > 0 {
            text.push_str(&format!(", {broken} broken, {refused} refused"));
        }
        text
    }

    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("delivered", get(&self.counts.delivered)),
            ("broken", get(&self.counts.broken)),
            ("reader_refused", get(&self.counts.refused)),
        ]
    }
}

/// Waits until `done`, or until what `moved` answers has stayed the same for `silence_max`.
async fn until_still<T: PartialEq>(
    done: impl Fn() -> bool,
    moved: impl Fn() -> T,
    silence_max: Duration,
) {
    let (mut last, mut since) = (moved(), Instant::now());
    while !done() && since.elapsed() < silence_max {
        sleep(LOOK_EVERY).await;
        let now = moved();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// The running readers.
pub struct Readers {
    tasks: JoinSet<Result<(usize, Place), Error>>,
}

impl Readers {
    /// Waits for `work` but no longer than all readers live: they end only by an error, which is told.
    pub async fn watched<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                Some(ended) = self.tasks.join_next() => {
                    ended.expect("a reader does not panic and is not aborted")?;
                }
            }
        }
    }
}
