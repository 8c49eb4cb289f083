//! A reader: a task that follows a live stream or long polls, records what it receives, and reconnects after a failure.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use newsfeed::client;
use rand::RngExt;
use tokio::time::sleep;

use super::error::Error;
use super::{
    connection::Connection,
    fleet::{Fleet, Follower, Habit, ReadMode},
    ledger::{Channel, Received, Version},
    pages::{Item, Page},
    plan::Owner,
    pool::Slot,
    source::READ_BYTES,
    stream::{Frame, Stream},
    writers::{add, unreachable},
};

/// Range of the pause before a reader retries.
const RETRY_PAUSE_MS: std::ops::Range<u64> = 100..1_000;
const POLL_WAIT_S: u32 = 30;
/// Pause of a slow reader after each byte.
const SLOW_PAUSE: Duration = Duration::from_secs(1);
/// Receive buffer of a lagging reader: so small that what it does not read stays in the service. Linux doubles the
/// value for its own bookkeeping.
pub const LAGGING_RECEIVE_BYTES: u32 = 4 * 1024;
/// Receive buffer of a lagging reader once it catches up.
const RESUMED_RECEIVE_BYTES: usize = 256 * 1024;

pub struct Reader {
    fleet: Arc<Fleet>,
    /// The number of its current connection.
    number: usize,
    /// The number of readers.
    readers: usize,
    channel: Arc<Channel>,
    /// The connection that it shares with other readers, with HTTP/2.
    slot: Option<Arc<Slot>>,
    habit: Habit,
    received: Received,
    /// The last `id:` of the stream.
    position: Option<Version>,
}

impl Reader {
    pub fn new(fleet: Arc<Fleet>, number: usize, readers: usize, follower: Follower) -> Self {
        let Follower { channel, habit } = follower;
        let pool = match habit {
            Habit::Prompt => &fleet.pool,
            Habit::Slow | Habit::Stuck => &fleet.lagging,
        };
        Self {
            channel: Arc::clone(&fleet.channels[channel]),
            slot: pool.slot(number),
            fleet,
            number,
            readers,
            habit,
            received: Received::default(),
            position: None,
        }
    }

    pub async fn run(mut self, mode: ReadMode) -> Result<(usize, Received), Error> {
        let stop = self.fleet.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = async {
                match mode {
                    ReadMode::Stream => self.follow().await,
                    ReadMode::LongPoll => self.poll().await,
                }
            } => ended?,
        }
        Ok((self.channel.index, self.received))
    }

    /// Follows the stream, and resumes it with `Last-Event-ID` whenever it ends.
    async fn follow(&mut self) -> Result<(), Error> {
        let mut storms = self.fleet.storm.subscribe();
        let mut first = true;
        let mut dropped = None;
        loop {
            let lagging = self.is_lagging();
            let mut stream = self.stream(first).await?;
            // A closed connection's port stays in use for a while, so the next connection gets a number, and with it a
            // source address, of its own.
            if self.slot.is_none() {
                self.number += self.readers;
            }
            dropped = loop {
                let mut up_to_date = false;
                let more = tokio::select! {
                    biased;
                    _ = storms.changed() => break *storms.borrow_and_update(),
                    more = async {
                        let bytes = if first { READ_BYTES } else { self.next_read_bytes(&stream).await? };
                        stream.next(bytes, |frame| up_to_date |= self.frame(&frame)).await
                    } => more,
                };
                if up_to_date && first {
                    first = false;
                    add(&self.fleet.counts.ready, 1);
                } else if up_to_date && let Some(dropped) = dropped.take() {
                    let fleet = &self.fleet;
                    fleet
                        .recovery
                        .record(&fleet.schedule, dropped, Instant::now());
                }
                if !matches!(more, Ok(true)) {
                    let counts = &self.fleet.counts;
                    add(
                        if lagging {
                            &counts.closed_by_service
                        } else {
                            &counts.broken
                        },
                        1,
                    );
                    pause().await;
                    break dropped;
                }
            };
        }
    }

    /// True for a slow or stuck reader until lagging readers catch up.
    fn is_lagging(&self) -> bool {
        self.habit != Habit::Prompt && self.fleet.resume.borrow().is_none()
    }

    /// Waits until the reader may read again; returns how many bytes.
    async fn next_read_bytes(&self, stream: &Stream) -> io::Result<usize> {
        if !self.is_lagging() {
            return Ok(READ_BYTES);
        }
        let mut resume = self.fleet.resume.subscribe();
        let resumed = resume.wait_for(Option::is_some);
        match self.habit {
            Habit::Slow => tokio::select! {
                _ = resumed => {}
                () = sleep(SLOW_PAUSE) => return Ok(1),
            },
            _ => drop(resumed.await),
        }
        stream.set_receive_buffer(RESUMED_RECEIVE_BYTES)?;
        Ok(READ_BYTES)
    }

    /// Opens a stream. Before the run, any failure is final; later, the reader retries while the service is busy or
    /// unreachable.
    async fn stream(&self, first: bool) -> Result<Stream, Error> {
        let fleet = &self.fleet;
        let permit = if first {
            Some(fleet.opening.acquire().await)
        } else {
            None
        };
        let path = self.channel.path("live");
        let path = path.trim_end_matches(['?', '&']);
        let position = self.position.as_ref().map(Version::as_str);
        loop {
            match self.opened(path, position).await {
                Ok(stream) => {
                    drop(permit);
                    return Ok(stream);
                }
                Err(Error::Client(
                    client::Error::Unreachable { .. }
                    | client::Error::Refused {
                        status: 429 | 503, ..
                    },
                )) if !first => self.pause_before_retry().await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn opened(&self, path: &str, position: Option<&str>) -> Result<Stream, Error> {
        if let Some(slot) = &self.slot {
            return Stream::open_shared(slot, path, position).await;
        }
        let receive_bytes = self.is_lagging().then_some(LAGGING_RECEIVE_BYTES);
        let dialer = &self.fleet.pool.dialer;
        let socket = dialer.connect(self.number, receive_bytes);
        Stream::open(dialer.node(self.number), socket, path, position).await
    }

    async fn pause_before_retry(&self) {
        add(&self.fleet.counts.refused, 1);
        pause().await;
    }

    /// Records a frame. True for a `version` event, which says that everything up to its position was sent.
    fn frame(&mut self, frame: &Frame<'_>) -> bool {
        if let Some(position) = frame.id.and_then(Version::parse) {
            self.position = Some(position);
        }
        match frame.event {
            "entry" | "notify" | "event" => match serde_json::from_str::<Item>(frame.data) {
                Ok(item) if frame.id == Some(&*item.version) => self.entry(&item),
                _ => self.received.unexpected.push(frame.data.to_owned()),
            },
            "reset" => self.received.unexpected.push("a reset event".to_owned()),
            _ => {}
        }
        frame.event == "version"
    }

    fn entry(&mut self, item: &Item<'_>) {
        let fleet = &self.fleet;
        let events = fleet.schedule.count() * u64::from(fleet.batch);
        if let Some(entry) = item.number(&fleet.plan, events) {
            self.channel.take(&mut self.received, entry);
            add(&fleet.counts.delivered, 1);
            if self.habit == Habit::Prompt {
                let request = u64::from(entry.1) / u64::from(fleet.batch);
                let due = fleet.schedule.due(request);
                let delivery = match self.channel.is_log() {
                    true => &fleet.log_delivery,
                    false => &fleet.delivery,
                };
                delivery.record(&fleet.schedule, due, Instant::now());
            } else {
                add(&fleet.counts.delivered_late, 1);
            }
        } else if fleet.plan.owner(&item.id) != Owner::Closing {
            self.received.unexpected.push(item.id.to_string());
        } else if !self.received.closed {
            self.received.closed = true;
            let now = Instant::now();
            if self.habit == Habit::Prompt {
                add(&fleet.counts.closed, 1);
            } else {
                let resumed = fleet.resume.borrow().unwrap_or(now);
                fleet.catch_up.record(&fleet.schedule, resumed, now);
            }
        }
    }

    /// Long polls for new entries.
    async fn poll(&mut self) -> Result<(), Error> {
        let fleet = Arc::clone(&self.fleet);
        let mut connection = Connection::new(&fleet.pool, self.number);
        let base_url = connection.base_url().to_owned();
        // Held until the first response.
        let mut opening = Some(fleet.opening.acquire().await);
        let (mut after, mut wait) = ("0".to_owned(), 0);
        loop {
            let path = self.channel.path("entries");
            let path = format!("{path}after={after}&limit=200&wait={wait}");
            match connection.get(&path).await {
                Err(error) if opening.is_some() => {
                    return Err(unreachable(&base_url, &error).into());
                }
                Err(_) => {
                    add(&fleet.counts.broken, 1);
                    self.pause_before_retry().await;
                }
                Ok(answer) if answer.refused() && opening.is_none() => {
                    self.pause_before_retry().await
                }
                Ok(answer) => {
                    let page: Page = answer.json(&format!("GET {path}"), &base_url)?;
                    for item in &page.entries {
                        self.entry(item);
                    }
                    after = page.next.unwrap_or(page.version).into_owned();
                    wait = POLL_WAIT_S;
                    if opening.take().is_some() {
                        add(&fleet.counts.ready, 1);
                    }
                }
            }
        }
    }
}

async fn pause() {
    let millis = rand::rng().random_range(RETRY_PAUSE_MS);
    sleep(Duration::from_millis(millis)).await;
}
