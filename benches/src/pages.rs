//! Readers of pages: on schedule, to measure them, and from beginning to end, to check the content of feeds.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use serde::Deserialize;
use tokio::task::JoinSet;

use super::error::Error;
use super::{
    connection::Connection,
    ledger::{Acknowledged, Channel, Faults, Received, Version},
    plan::{Number, Owner, Plan},
    pool::Pool,
    recorder::Recorder,
    schedule::Schedule,
    target::Dialer,
    writers::{add, get, unreachable},
};

/// The highest limit that the API accepts.
const PAGE_ENTRIES_MAX: u8 = 200;
const AUDIT_CONNECTIONS: usize = 8;

#[derive(Deserialize)]
pub struct Item<'a> {
    #[serde(borrow)]
    pub version: Cow<'a, str>,
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

#[derive(Deserialize)]
pub struct Page<'a> {
    #[serde(borrow)]
    pub entries: Vec<Item<'a>>,
    pub version: Cow<'a, str>,
    pub next: Option<Cow<'a, str>>,
}

impl Item<'_> {
    /// Version and number, if this is one of the first `events` events of the plan.
    pub fn number(&self, plan: &Plan, events: u64) -> Option<(Version, Number)> {
        match plan.owner(&self.id) {
            Owner::Event(number) if u64::from(number) < events => {
                Some((Version::parse(&self.version)?, number))
            }
            _ => None,
        }
    }
}

/// Reads every channel from its first entry to its last, and compares it with what was acknowledged.
pub async fn audit(
    dialer: &Arc<Dialer>,
    plan: &Arc<Plan>,
    channels: &[Arc<Channel>],
    acknowledged: &Acknowledged,
    events: u64,
) -> Result<Faults, Error> {
    let next = Arc::new(AtomicUsize::new(0));
    let pool = Pool::new(Arc::clone(dialer));
    let mut readers = JoinSet::new();
    for number in 0..AUDIT_CONNECTIONS {
        let (pool, plan, next) = (Arc::clone(&pool), Arc::clone(plan), Arc::clone(&next));
        let channels = channels.to_vec();
        readers.spawn(async move {
            let mut connection = Connection::new(&pool, number);
            let mut all_received = Vec::new();
            while let Some(channel) = channels.get(next.fetch_add(1, Ordering::Relaxed)) {
                let received = read_all(&mut connection, channel, &plan, events).await?;
                all_received.push((channel.index, received));
            }
            Ok::<_, Error>(all_received)
        });
    }
    let mut faults = Faults::default();
    while let Some(done) = readers.join_next().await {
        for (index, received) in done.expect("a reader does not panic and is not aborted")? {
            channels[index].audit(&[&received], acknowledged, plan, &mut faults);
        }
    }
    Ok(faults)
}

async fn read_all(
    connection: &mut Connection,
    channel: &Channel,
    plan: &Plan,
    events: u64,
) -> Result<Received, Error> {
    let base_url = connection.base_url().to_owned();
    let mut received = Received::default();
    let mut after = "0".to_owned();
    loop {
        let path = format!(
            "{}after={after}&limit={PAGE_ENTRIES_MAX}",
            channel.path("entries")
        );
        let answer = connection.get(&path).await;
        let answer = answer.map_err(|error| unreachable(&base_url, &error))?;
        let page: Page = answer.json(&format!("GET {path}"), &base_url)?;
        for item in &page.entries {
            match item.number(plan, events) {
                Some(entry) => channel.take(&mut received, entry),
                None => received.unexpected.push(item.id.to_string()),
            }
        }
        match page.next {
            Some(next) => after = next.into_owned(),
            None => return Ok(received),
        }
    }
}

/// Clients that read pages on schedule.
pub struct PageReaders {
    pool: Arc<Pool>,
    pub schedule: Arc<Schedule>,
    /// From when a page was due until it was received.
    pub page: Recorder,
    pub read: AtomicU64,
    pub refused: AtomicU64,
    pub unanswered: AtomicU64,
}

impl PageReaders {
    pub fn new(dialer: Arc<Dialer>, schedule: Arc<Schedule>) -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::new(dialer),
            schedule,
            page: Recorder::new("page"),
            read: AtomicU64::default(),
            refused: AtomicU64::default(),
            unanswered: AtomicU64::default(),
        })
    }

    /// Sends all requests of the schedule. `path` returns the path of a request, and `check` is called with its page.
    pub async fn run(
        self: &Arc<Self>,
        connections: u32,
        path: impl Fn(u64) -> String + Send + Sync + 'static,
        check: impl Fn(u64, &Page<'_>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let (path, check) = (Arc::new(path), Arc::new(check));
        let mut workers = JoinSet::new();
        for number in 0..connections as usize {
            let (readers, path, check) = (Arc::clone(self), Arc::clone(&path), Arc::clone(&check));
            workers.spawn(async move { readers.work(number, &*path, &*check).await });
        }
        while let Some(done) = workers.join_next().await {
            done.expect("a reader does not panic and is not aborted")?;
        }
        Ok(())
    }

    async fn work(
        &self,
        number: usize,
        path: &(impl Fn(u64) -> String + Sync),
        check: &(impl Fn(u64, &Page<'_>) + Sync),
    ) -> Result<(), Error> {
        let mut connection = Connection::new(&self.pool, number);
        let base_url = connection.base_url().to_owned();
        while let Some((request, due)) = self.schedule.next().await {
            let path = path(request);
            let Ok(answer) = connection.get(&path).await else {
                add(&self.unanswered, 1);
                continue;
            };
            self.page.record(&self.schedule, due, Instant::now());
            if answer.refused() {
                add(&self.refused, 1);
                continue;
            }
            let page: Page = answer.json("GET entries", &base_url)?;
            add(&self.read, 1);
            check(request, &page);
        }
        Ok(())
    }

    pub fn so_far(&self) -> String {
        format!("{} pages, {}", get(&self.read), self.page.so_far())
    }

    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("pages_due", self.schedule.handed_out()),
            ("pages", get(&self.read)),
            ("pages_refused", get(&self.refused)),
            ("pages_unanswered", get(&self.unanswered)),
        ]
    }
}
