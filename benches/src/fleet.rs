//! All readers of a run, thousands of small tasks, and their shared state: counters, latencies, and the signals to drop
//! their connections or to catch up.

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
    ledger::{Acknowledged, Channel, Faults, Received},
    plan::Plan,
    pool::Pool,
    reader::{LAGGING_RECEIVE_BYTES, Reader},
    recorder::Recorder,
    schedule::Schedule,
    target::Dialer,
    writers::get,
};

/// Readers that connect at the same time before the run; fewer than a listener's backlog holds.
const OPENING_MAX: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub enum ReadMode {
    Stream,
    LongPoll,
}

/// How a reader reads its stream while events are appended. Lagging readers, slow or stuck, receive their first frames
/// like all others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Habit {
    Prompt,
    /// Reads one byte per second.
    Slow,
    /// Reads nothing.
    Stuck,
}

#[derive(Debug, Clone, Copy)]
pub struct Follower {
    /// Index of the channel that it follows.
    pub channel: usize,
    pub habit: Habit,
}

pub struct Fleet {
    pub pool: Arc<Pool>,
    /// Connections of lagging readers, separate so that what they leave unread does not block others.
    pub lagging: Arc<Pool>,
    pub plan: Arc<Plan>,
    pub schedule: Arc<Schedule>,
    /// Events per append, which are due together.
    pub batch: u16,
    pub channels: Vec<Arc<Channel>>,
    /// From when an event's append was due until a prompt reader received the event.
    pub delivery: Recorder,
    /// The same, for a prompt reader of the log.
    pub log_delivery: Recorder,
    /// From when a reader's stream was dropped until the service said that the reader has everything.
    pub recovery: Recorder,
    /// From when a lagging reader began to catch up until it had everything.
    pub catch_up: Recorder,
    pub counts: Counts,
    /// Limits the readers that connect at the same time before the run.
    pub opening: Semaphore,
    /// When all readers dropped their connections.
    pub storm: watch::Sender<Option<Instant>>,
    /// When lagging readers began to catch up.
    pub resume: watch::Sender<Option<Instant>>,
    pub stop: CancellationToken,
}

#[derive(Default)]
pub struct Counts {
    /// Readers that are connected and up to date before the run.
    pub ready: AtomicU64,
    /// Prompt readers that have received their channel's closing event.
    pub closed: AtomicU64,
    /// Deliveries to all readers.
    pub delivered: AtomicU64,
    /// Deliveries to lagging readers.
    pub delivered_late: AtomicU64,
    /// Streams of lagging readers that the service closed.
    pub closed_by_service: AtomicU64,
    /// Streams that ended and polls that failed, unless this program dropped them.
    pub broken: AtomicU64,
    /// Attempts to reconnect or poll again that failed.
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
            log_delivery: Recorder::new("log delivery"),
            recovery: Recorder::new("until whole"),
            catch_up: Recorder::new("catch up"),
            counts: Counts::default(),
            opening: Semaphore::new(OPENING_MAX),
            storm: watch::Sender::new(None),
            resume: watch::Sender::new(None),
            stop: CancellationToken::new(),
        })
    }

    /// Starts all readers; returns when all are connected and up to date.
    pub async fn open(
        self: &Arc<Self>,
        followers: &[Follower],
        mode: ReadMode,
    ) -> Result<Readers, Error> {
        let mut tasks = JoinSet::new();
        for (number, follower) in followers.iter().enumerate() {
            let reader = Reader::new(Arc::clone(self), number, followers.len(), *follower);
            tasks.spawn(reader.run(mode));
        }
        let mut readers = Readers { tasks };
        loop {
            if get(&self.counts.ready) == followers.len() as u64 {
                return Ok(readers);
            }
            readers.watched(sleep(LOOK_EVERY)).await?;
        }
    }

    /// Makes all readers drop their connections now.
    pub async fn storm(&self) {
        let signal = || {
            self.storm.send_replace(Some(Instant::now()));
        };
        self.pool.drop_all(signal).await;
    }

    /// Makes lagging readers catch up from now on.
    pub fn resume(&self) {
        self.resume.send_replace(Some(Instant::now()));
    }

    /// Waits until all prompt readers, of which there are `readers`, have received their channel's closing event, or
    /// none has received anything for `silence_max`.
    pub async fn drained(&self, readers: u64, silence_max: Duration) {
        let done = || get(&self.counts.closed) >= readers;
        let progress = || (get(&self.counts.delivered), get(&self.counts.closed));
        until_stalled(done, progress, silence_max).await;
    }

    /// Waits until all lagging readers, of which there are `readers`, have received their channel's closing event, or
    /// none has received anything for `silence_max`.
    pub async fn caught_up(&self, readers: u64, silence_max: Duration) {
        let done = || self.catch_up.latencies().all.len();
        let progress = || (get(&self.counts.delivered), done());
        until_stalled(|| done() >= readers, progress, silence_max).await;
    }

    /// Waits until all `readers` have recovered from the storm, or none has for `silence_max`.
    pub async fn recovered(&self, readers: u64, silence_max: Duration) {
        let recovered = || self.recovery.latencies().all.len();
        until_stalled(|| recovered() >= readers, recovered, silence_max).await;
    }

    /// Stops the readers and compares what they received with what was acknowledged.
    pub async fn audit(
        &self,
        readers: Readers,
        acknowledged: &Acknowledged,
    ) -> Result<Faults, Error> {
        self.stop.cancel();
        let mut tasks = readers.tasks;
        let mut of_channels: Vec<Vec<Received>> =
            self.channels.iter().map(|_| Vec::new()).collect();
        while let Some(done) = tasks.join_next().await {
            let (channel, received) = done.expect("a reader does not panic and is not aborted")?;
            of_channels[channel].push(received);
        }
        let mut faults = Faults::default();
        for (channel, all_received) in self.channels.iter().zip(&of_channels) {
            let all_received: Vec<&Received> = all_received.iter().collect();
            channel.audit(&all_received, acknowledged, &self.plan, &mut faults);
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

/// Waits until `done`, or until `progress` has not changed for `silence_max`.
async fn until_stalled<T: PartialEq>(
    done: impl Fn() -> bool,
    progress: impl Fn() -> T,
    silence_max: Duration,
) {
    let (mut last, mut since) = (progress(), Instant::now());
    while !done() && since.elapsed() < silence_max {
        sleep(LOOK_EVERY).await;
        let now = progress();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// The running readers.
pub struct Readers {
    tasks: JoinSet<Result<(usize, Received), Error>>,
}

impl Readers {
    /// Waits for `work`. Fails with the error of the first reader that ends, since readers end only with an error.
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
