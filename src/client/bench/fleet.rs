//! The readers: thousands of streams or long polls, each a small task, that take what comes and come back after a break.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::RngExt;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    http::Connection,
    ledger::{Acknowledged, Channel, Faults, Place, Version},
    pages::{Item, Page},
    plan::{Owner, Plan},
    recorder::Recorder,
    schedule::Schedule,
    stream::{Frame, Stream},
    target::Dialer,
    writers::{add, get, unreachable},
};
use crate::client::Error;

/// Readers that connect at once before the run, within what a listener's backlog holds.
const OPENING_MAX: usize = 200;
/// Bounds of the pause before a reader comes back that was refused.
const BACK_MS: std::ops::Range<u64> = 100..1_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const POLL_WAIT_S: u32 = 30;

#[derive(Debug, Clone, Copy)]
pub enum Way {
    Stream,
    LongPoll,
}

pub struct Fleet {
    pub dialer: Arc<Dialer>,
    pub plan: Arc<Plan>,
    pub schedule: Arc<Schedule>,
    /// Events in an append, which are due together.
    pub batch: u16,
    pub channels: Vec<Arc<Channel>>,
    /// From when an event's append was due until a reader had it.
    pub delivery: Recorder,
    /// From when a reader's stream was dropped until it was told that it has everything.
    pub whole: Recorder,
    pub counts: Counts,
    door: Semaphore,
    /// When all drop.
    storm: watch::Sender<Option<Instant>>,
    stop: CancellationToken,
}

#[derive(Default)]
pub struct Counts {
    pub ready: AtomicU64,
    pub closed: AtomicU64,
    pub delivered: AtomicU64,
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
            dialer,
            plan,
            schedule,
            batch,
            channels,
            delivery: Recorder::new("delivery"),
            whole: Recorder::new("until whole"),
            counts: Counts::default(),
            door: Semaphore::new(OPENING_MAX),
            storm: watch::Sender::new(None),
            stop: CancellationToken::new(),
        })
    }

    /// Reader `n` follows channel `follows[n]`; answers when all are there.
    pub async fn open(self: &Arc<Self>, follows: &[usize], way: Way) -> Result<Readers, Error> {
        let mut tasks = JoinSet::new();
        for (number, channel) in follows.iter().enumerate() {
            let reader = Reader {
                fleet: Arc::clone(self),
                number,
                readers: follows.len(),
                channel: Arc::clone(&self.channels[*channel]),
                place: Place::default(),
                position: None,
            };
            tasks.spawn(reader.run(way));
        }
        let mut readers = Readers { tasks };
        loop {
            if get(&self.counts.ready) == follows.len() as u64 {
                return Ok(readers);
            }
            readers.watched(sleep(LOOK_EVERY)).await?;
        }
    }

    /// All drop their connections now.
    pub fn storm(&self) {
        self.storm.send_replace(Some(Instant::now()));
    }

    /// Waits until `readers` have their channel's last event, or none got anything for `silence_max`.
    pub async fn drained(&self, readers: u64, silence_max: Duration) {
        let done = || get(&self.counts.closed) >= readers;
        let moved = || (get(&self.counts.delivered), get(&self.counts.closed));
        until_still(done, moved, silence_max).await;
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

struct Reader {
    fleet: Arc<Fleet>,
    /// Of its connection.
    number: usize,
    /// How many there are.
    readers: usize,
    channel: Arc<Channel>,
    place: Place,
    /// The last `id:` of the stream.
    position: Option<Version>,
}

impl Reader {
    async fn run(mut self, way: Way) -> Result<(usize, Place), Error> {
        let stop = self.fleet.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = async {
                match way {
                    Way::Stream => self.follow().await,
                    Way::LongPoll => self.poll().await,
                }
            } => ended?,
        }
        Ok((self.channel.index, self.place))
    }

    /// Follows the stream, and comes back with `Last-Event-ID` whenever it ends.
    async fn follow(&mut self) -> Result<(), Error> {
        let mut storms = self.fleet.storm.subscribe();
        let mut first = true;
        let mut dropped = None;
        loop {
            let mut stream = self.stream(first).await?;
            // The port it leaves cannot be had again at once: the next connection is one that nobody had.
            self.number += self.readers;
            dropped = loop {
                let mut whole = false;
                let more = tokio::select! {
                    biased;
                    _ = storms.changed() => break *storms.borrow_and_update(),
                    more = stream.next(|frame| whole |= self.frame(&frame)) => more,
                };
                if whole && first {
                    first = false;
                    add(&self.fleet.counts.ready, 1);
                } else if whole && let Some(dropped) = dropped.take() {
                    let fleet = &self.fleet;
                    fleet.whole.record(&fleet.schedule, dropped, Instant::now());
                }
                if !matches!(more, Ok(true)) {
                    add(&self.fleet.counts.broken, 1);
                    pause().await;
                    break dropped;
                }
            };
        }
    }

    /// Only the first time a failure is final.
    async fn stream(&self, first: bool) -> Result<Stream, Error> {
        let fleet = &self.fleet;
        let place = if first {
            Some(fleet.door.acquire().await)
        } else {
            None
        };
        let path = self.channel.path("live");
        let path = path.trim_end_matches(['?', '&']);
        let position = self.position.as_ref().map(Version::as_str);
        loop {
            match Stream::open(&fleet.dialer, self.number, path, position).await {
                Ok(stream) => {
                    drop(place);
                    return Ok(stream);
                }
                Err(
                    Error::Unreachable { .. }
                    | Error::Refused {
                        status: 429 | 503, ..
                    },
                ) if !first => self.come_back_later().await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn come_back_later(&self) {
        add(&self.fleet.counts.refused, 1);
        pause().await;
    }

    /// True if the service says that everything up to here was sent.
    fn frame(&mut self, frame: &Frame<'_>) -> bool {
        if let Some(position) = frame.id.and_then(Version::parse) {
            self.position = Some(position);
        }
        match frame.event {
            "entry" | "notify" => match serde_json::from_str::<Item>(frame.data) {
                Ok(item) if frame.id == Some(&*item.version) => self.entry(&item),
                _ => self.place.strangers.push(frame.data.to_owned()),
            },
            "reset" => self.place.strangers.push("a reset".to_owned()),
            _ => {}
        }
        frame.event == "version"
    }

    fn entry(&mut self, item: &Item<'_>) {
        let fleet = &self.fleet;
        let events = fleet.schedule.count() * u64::from(fleet.batch);
        if let Some(entry) = item.number(&fleet.plan, events) {
            self.channel.take(&mut self.place, entry);
            let due = fleet
                .schedule
                .due(u64::from(entry.1) / u64::from(fleet.batch));
            fleet.delivery.record(&fleet.schedule, due, Instant::now());
            add(&fleet.counts.delivered, 1);
        } else if fleet.plan.owner(&item.id) != Owner::Closing {
            self.place.strangers.push(item.id.to_string());
        } else if !self.place.closed {
            self.place.closed = true;
            fleet.counts.closed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks again and again for what is new.
    async fn poll(&mut self) -> Result<(), Error> {
        let fleet = Arc::clone(&self.fleet);
        let mut connection = Connection::new(Arc::clone(&fleet.dialer), self.number);
        let base_url = connection.base_url().to_owned();
        let mut door = Some(fleet.door.acquire().await);
        let (mut after, mut wait) = ("0".to_owned(), 0);
        loop {
            let path = self.channel.path("entries");
            let path = format!("{path}after={after}&limit=200&wait={wait}");
            match connection.get(&path).await {
                Err(error) if door.is_some() => return Err(unreachable(&base_url, &error)),
                Err(_) => {
                    add(&fleet.counts.broken, 1);
                    self.come_back_later().await;
                }
                Ok(answer) if answer.refused() && door.is_none() => self.come_back_later().await,
                Ok(answer) => {
                    let page: Page = answer.json(&format!("GET {path}"), &base_url)?;
                    for item in &page.entries {
                        self.entry(item);
                    }
                    after = page.next.unwrap_or(page.version).into_owned();
                    wait = POLL_WAIT_S;
                    if door.take().is_some() {
                        add(&fleet.counts.ready, 1);
                    }
                }
            }
        }
    }
}

async fn pause() {
    let millis = rand::rng().random_range(BACK_MS);
    sleep(Duration::from_millis(millis)).await;
}
