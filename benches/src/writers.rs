//! Clients that append on schedule and record what the service acknowledged.

use std::{
    borrow::Cow,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use newsfeed::client::{self, Patience, Rejection};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{
    connection::Connection,
    error::Error,
    ledger::{Channel, Entry, Version},
    plan::{Number, Owner, Plan},
    pool::Pool,
    recorder::Recorder,
    schedule::Schedule,
    target::Dialer,
};

const PATH: &str = "/v1/events";
const CLOSING_EVENTS: usize = 500;
const CLOSING_MAX: Duration = Duration::from_secs(60);

pub struct Writers {
    pool: Arc<Pool>,
    pub plan: Arc<Plan>,
    pub schedule: Arc<Schedule>,
    /// Events per request.
    pub batch: u16,
    /// From when a request was due until its response.
    pub append: Recorder,
    /// From when a request was due until it was sent: delays in the load generator, and waits for a free connection.
    pub start_lag: Recorder,
    pub counts: Counts,
}

/// Events by outcome.
#[derive(Default)]
pub struct Counts {
    pub appended: AtomicU64,
    /// Rejected with 503 or 429 because the service was overloaded.
    pub refused: AtomicU64,
    /// The connection broke before the response: they may have been appended or not.
    pub unanswered: AtomicU64,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    error: Option<Rejection>,
}

impl Writers {
    pub fn new(
        dialer: Arc<Dialer>,
        plan: Arc<Plan>,
        schedule: Arc<Schedule>,
        batch: u16,
    ) -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::new(dialer),
            plan,
            schedule,
            batch,
            append: Recorder::new("append"),
            start_lag: Recorder::new("start lag"),
            counts: Counts::default(),
        })
    }

    /// Sends all requests of the schedule over `connections`; returns the acknowledged events.
    pub async fn run(self: &Arc<Self>, connections: u32) -> Result<Vec<Entry>, Error> {
        let mut workers = JoinSet::new();
        for number in 0..connections as usize {
            let writers = Arc::clone(self);
            workers.spawn(async move { writers.work(number).await });
        }
        let mut entries = Vec::new();
        while let Some(done) = workers.join_next().await {
            entries.extend(done.expect("a writer does not panic and is not aborted")?);
        }
        Ok(entries)
    }

    async fn work(&self, number: usize) -> Result<Vec<Entry>, Error> {
        let mut connection = Connection::new(&self.pool, number);
        let base_url = connection.base_url().to_owned();
        let mut body = String::new();
        let mut entries = Vec::new();
        while let Some((request, due)) = self.schedule.next().await {
            let batch = u64::from(self.batch);
            let first = (request * batch) as Number;
            self.plan
                .body(first..first + Number::from(self.batch), &mut body);
            let schedule = &self.schedule;
            if !schedule.is_closed_loop() {
                self.start_lag.record(schedule, due, Instant::now());
            }
            let Ok(answer) = connection.post(PATH, body.as_bytes()).await else {
                add(&self.counts.unanswered, batch);
                continue;
            };
            self.append.record(schedule, due, Instant::now());
            if answer.refused() {
                add(&self.counts.refused, batch);
                continue;
            }
            let call = "POST /v1/events";
            let outcomes: Vec<Outcome> = if batch > 1 {
                answer.json(call, &base_url)?
            } else {
                vec![answer.json(call, &base_url)?]
            };
            if outcomes.len() as u64 != batch {
                let cause = format!(
                    "the response has {} outcomes for {batch} events",
                    outcomes.len()
                );
                return Err(client::Error::NotNewsfeed {
                    url: base_url,
                    cause,
                }
                .into());
            }
            let before = entries.len();
            for (event, outcome) in (first..).zip(outcomes) {
                if let Some(version) = self.acknowledged(event, outcome, &base_url)? {
                    entries.push((version, event));
                }
            }
            add(&self.counts.appended, (entries.len() - before) as u64);
        }
        Ok(entries)
    }

    /// The version of an event that was appended; `None` if the service was too busy to accept it.
    fn acknowledged(
        &self,
        event: Number,
        outcome: Outcome<'_>,
        base_url: &str,
    ) -> Result<Option<Version>, Error> {
        match (outcome.error, outcome.version) {
            (Some(error), _)
                if matches!(error.code.as_str(), "store_unavailable" | "shutting_down") =>
            {
                add(&self.counts.refused, 1);
                Ok(None)
            }
            (Some(error), _) => Err(error.of(self.plan.id(event)).into()),
            (None, version) => {
                let version = version.as_deref().and_then(Version::parse);
                match version {
                    Some(version) if self.plan.owner(&outcome.id) == Owner::Event(event) => {
                        Ok(Some(version))
                    }
                    _ => Err(client::Error::NotNewsfeed {
                        url: base_url.to_owned(),
                        cause: format!("the response has no version for {}", self.plan.id(event)),
                    }
                    .into()),
                }
            }
        }
    }

    /// Appends the closing event of each channel. Retries while the service is busy or unreachable.
    pub async fn close(&self, channels: &[Arc<Channel>]) -> Result<(), Error> {
        let mut connection = Connection::new(&self.pool, 0);
        let base_url = connection.base_url().to_owned();
        for some in channels.chunks(CLOSING_EVENTS) {
            let feeds: Vec<(usize, String)> = some
                .iter()
                .map(|channel| (channel.index, channel.feeds[0].clone()))
                .collect();
            let body = self.plan.closing_body(&feeds);
            let mut patience = Patience::new(CLOSING_MAX);
            loop {
                let last = match connection.post(PATH, body.as_bytes()).await {
                    Ok(answer) if answer.status == 200 => {
                        let outcomes: Vec<Outcome> = answer.json("POST /v1/events", &base_url)?;
                        match outcomes.into_iter().find_map(|outcome| outcome.error) {
                            None => break,
                            Some(error) => error.of("a closing event".to_owned()),
                        }
                    }
                    Ok(answer) if answer.refused() => {
                        answer.problem("POST /v1/events".to_owned(), &base_url)
                    }
                    Ok(answer) => {
                        return Err(answer
                            .problem("POST /v1/events".to_owned(), &base_url)
                            .into());
                    }
                    Err(error) => unreachable(&base_url, &error),
                };
                patience.pause(None, last).await?;
            }
        }
        Ok(())
    }

    /// Text of the progress line.
    pub fn so_far(&self) -> String {
        let Counts {
            appended,
            refused,
            unanswered,
        } = &self.counts;
        let [appended, refused, unanswered] = [appended, refused, unanswered].map(get);
        let mut text = format!("{appended} appended, {}", self.append.so_far());
        for (what, count) in [("refused", refused), ("unanswered", unanswered)] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }

    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let Counts {
            appended,
            refused,
            unanswered,
        } = &self.counts;
        vec![
            (
                "events_due",
                self.schedule.handed_out() * u64::from(self.batch),
            ),
            ("appended", get(appended)),
            ("refused", get(refused)),
            ("unanswered", get(unanswered)),
        ]
    }
}

pub fn unreachable(base_url: &str, error: &io::Error) -> client::Error {
    client::Error::Unreachable {
        url: base_url.to_owned(),
        cause: error.to_string(),
    }
}

pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
