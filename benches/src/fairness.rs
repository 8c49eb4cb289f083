//! `newsfeed-bench fairness`: what one caller gets while another does its worst.
//!
//! The victim reads pages, appends, and follows a feed, at fixed rates. The attacker sends what costs the service most: each
//! pattern for a while, with all its connections, as fast as it is answered. The first and the last step are without it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use newsfeed::client::{self, Client, Token, TokenArgs, Trust};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    args::{Common, parse_rate},
    error::Error,
    ledger::Faults,
    plan::Plan,
    recorder::{Latencies, Recorder, ms},
    run::Run,
    stop::Stop,
    summary::Summary,
};

const WAIT_MAX: Duration = Duration::from_secs(30);
/// A cancelled request is given up after this time.
const CANCEL_AFTER: Duration = Duration::from_millis(3);
const FILL_EVENTS: u32 = 500;
/// How long they are sent again if they are refused.
const FILL_WAIT_MAX: Duration = Duration::from_secs(60);
const VICTIM_ENTRIES: u32 = 200;
/// After an attack, what is still under way ends before the next step.
const PAUSE: Duration = Duration::from_secs(1);

/// Measure what one caller gets while another one sends requests that cost as much as possible
///
/// The victim reads pages, appends, and follows a feed. The attacker (give it a token of its own, because callers are told
/// apart by the subject of their token) cancels its requests, reads merged pages that find nothing, opens streams of many
/// feeds, and reads the states of feeds with many unread entries, one after the other. The ratios compare the victim's
/// latencies with those of the steps without an attack.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  \
    newsfeed-bench fairness --token-file victim.token --attacker-token-file attacker.token")]
pub struct FairnessArgs {
    #[command(flatten)]
    common: Common,
    /// File with the access token of the attacker [default: that of the victim, so that both are one caller]
    #[arg(long, value_name = "FILE")]
    attacker_token_file: Option<std::path::PathBuf>,
    /// Duration of each step, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Requests that the attacker has under way
    #[arg(long, value_name = "REQUESTS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    attackers: u32,
    /// Number of feeds that the attacker reads at once
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    feeds: u32,
    /// Unread entries in each of these feeds, which are filled first
    #[arg(long, value_name = "ENTRIES", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    unread: u32,
    /// Pages per second that the victim reads
    #[arg(long, value_name = "PAGES", default_value = "50", value_parser = parse_rate)]
    page_rate: f64,
    /// Events per second that the victim appends
    #[arg(long, value_name = "EVENTS", default_value = "20", value_parser = parse_rate)]
    live_rate: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    Nothing,
    Cancelled,
    Merged,
    Joins,
    Unread,
}

/// A step and the names of its results.
struct Step {
    attack: Attack,
    sent: &'static str,
    latencies: [&'static str; 3],
    ratios: [&'static str; 3],
}

macro_rules! step {
    ($name:literal, $attack:expr) => {
        Step {
            attack: $attack,
            sent: concat!("requests_", $name),
            latencies: [
                concat!("page ", $name),
                concat!("append ", $name),
                concat!("live ", $name),
            ],
            ratios: [
                concat!("page_p99_ratio_", $name),
                concat!("append_p99_ratio_", $name),
                concat!("live_p99_ratio_", $name),
            ],
        }
    };
}

const STEPS: [Step; 6] = [
    step!("idle", Attack::Nothing),
    step!("cancelled", Attack::Cancelled),
    step!("merged", Attack::Merged),
    step!("joins", Attack::Joins),
    step!("unread", Attack::Unread),
    step!("idle_again", Attack::Nothing),
];

/// What the steps share.
struct Setup {
    args: FairnessArgs,
    run: String,
    victim: Party,
    attacker: Party,
    /// Of the attacker.
    feeds: Vec<String>,
    feed: String,
    events: AtomicU64,
}

/// Somebody who sends requests.
#[derive(Clone)]
struct Party {
    http: reqwest::Client,
    base_url: String,
    token: Token,
}

/// The victim's latencies in one step.
struct Measured {
    recorders: [Recorder; 3],
    failed: AtomicU64,
    begun: Instant,
    /// When each event was due, by its number.
    due: Mutex<Vec<(u64, Instant)>>,
}

impl Party {
    async fn new(url: &str, token: Token) -> Result<Self, Error> {
        let client = Client::new(url, token.clone(), &Trust::default())?;
        client.probe().await?;
        let unusable = |error: reqwest::Error| Error::Arguments(error.to_string());
        Ok(Self {
            http: reqwest::Client::builder().build().map_err(unusable)?,
            base_url: client.base_url().trim_end_matches('/').to_owned(),
            token,
        })
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match self.token.header() {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.authorized(self.http.get(format!("{}{path}", self.base_url)))
    }

    /// Sends the request and reads the answer; `None` if it is not 200.
    async fn ask(&self, request: RequestBuilder) -> Option<Vec<u8>> {
        let answer = async {
            let answer = request.send().await.ok()?;
            let is_good = answer.status().is_success();
            let body = answer.bytes().await.ok()?;
            is_good.then(|| body.to_vec())
        };
        timeout(WAIT_MAX, answer).await.ok()?
    }

    async fn append(&self, events: &Value) -> Option<Vec<u8>> {
        let request = self.http.post(format!("{}/v1/events", self.base_url));
        let request = request
            .header("content-type", "application/json")
            .body(events.to_string());
        self.ask(self.authorized(request)).await
    }

    async fn stream(&self, path: &str) -> Option<Response> {
        let answer = timeout(WAIT_MAX, self.get(path).send()).await.ok()?.ok()?;
        answer.status().is_success().then_some(answer)
    }
}

pub async fn run(args: FairnessArgs, stop: Stop) -> Result<(), Error> {
    let run = Run::new(args.common.clone(), stop)?;
    let Some(url) = args.common.url.first() else {
        return Err(Error::Arguments("--url is missing".to_owned()));
    };
    let token = args.common.token.read()?;
    let of_attacker = match &args.attacker_token_file {
        Some(path) => TokenArgs::of_file(path.clone()).read()?,
        None => token.clone(),
    };
    let plan = Plan::spread("message", 0, 1, 1, None);
    let name = plan.run().to_owned();
    let setup = Arc::new(Setup {
        victim: Party::new(url, token).await?,
        attacker: Party::new(url, of_attacker).await?,
        feeds: (0..args.feeds)
            .map(|index| format!("bench:{name}:wide{index}"))
            .collect(),
        feed: format!("bench:{name}:victim"),
        run: name,
        events: AtomicU64::new(0),
        args,
    });
    setup.fill().await?;

    let mut done = Vec::new();
    let work = async {
        let begun = Instant::now();
        for step in &STEPS {
            if run.interrupted() {
                break;
            }
            eprintln!("{}", step.sent.replace('_', " "));
            done.push(setup.step(step).await?);
            run.sleep(PAUSE).await;
        }
        Ok::<_, Error>(begun.elapsed())
    };
    let elapsed = run.measured(work).await?;
    run.conclude(&summary(&setup, &run, elapsed, done))
}

/// What a step returns: how many requests the attacker sent, how many of the victim's failed, and its latencies.
type Done = (u64, u64, [Latencies; 3]);

fn summary(setup: &Setup, run: &Run, elapsed: Duration, done: Vec<Done>) -> Summary {
    let args = &setup.args;
    let p99 = |latencies: &Latencies| ms(latencies.all.value_at_quantile(0.99));
    // The slower one of the steps without an attack: the store has grown meanwhile.
    let idle: [f64; 3] = std::array::from_fn(|kind| {
        let steps = STEPS.iter().zip(&done);
        let idle = steps.filter(|(step, _)| step.attack == Attack::Nothing);
        idle.map(|(_, (.., latencies))| p99(&latencies[kind]))
            .fold(f64::MIN_POSITIVE, f64::max)
    });
    let mut summary = Summary {
        command: "fairness",
        run: setup.run.clone(),
        parameters: json!({
            "seconds": args.seconds, "attackers": args.attackers, "feeds": args.feeds, "unread": args.unread,
            "page_rate": args.page_rate, "live_rate": args.live_rate, "url": setup.victim.base_url,
            "one_caller": args.attacker_token_file.is_none(),
        }),
        closed_loop: false,
        interrupted: run.interrupted(),
        elapsed,
        counts: Vec::new(),
        figures: Vec::new(),
        latencies: Vec::new(),
        faults: Faults::default(),
        used: run.used(),
        per: Vec::new(),
        readers: 0,
    };
    let failed = done.iter().map(|(_, failed, _)| failed).sum();
    summary.counts.push(("victim_failed", failed));
    for (step, (sent, _, latencies)) in STEPS.iter().zip(done) {
        if step.attack != Attack::Nothing {
            summary.counts.push((step.sent, sent));
            for kind in 0..step.ratios.len() {
                let ratio = p99(&latencies[kind]) / idle[kind];
                summary.figures.push((step.ratios[kind], ratio));
            }
        }
        summary
            .latencies
            .extend(step.latencies.into_iter().zip(latencies));
    }
    summary
}

impl Setup {
    /// Fills the feeds of the attacker and that of the victim.
    async fn fill(&self) -> Result<(), Error> {
        eprintln!(
            "filling {} feeds with {} unread entries each",
            self.args.feeds, self.args.unread
        );
        for (who, feeds, count) in [
            (&self.attacker, &self.feeds[..], self.args.unread),
            (
                &self.victim,
                std::slice::from_ref(&self.feed),
                VICTIM_ENTRIES,
            ),
        ] {
            for first in (0..count).step_by(FILL_EVENTS as usize) {
                let numbers = first..count.min(first + FILL_EVENTS);
                let unknown = numbers.len() as u64;
                let events = numbers.map(|_| self.event(feeds)).collect();
                // Refused while the caller has used up what it may write; the ids are taken only once.
                let begun = Instant::now();
                while who.append(&events).await.is_none() {
                    if begun.elapsed() > FILL_WAIT_MAX {
                        return Err(Error::Filling { unknown });
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
        Ok(())
    }

    fn event(&self, feeds: &[String]) -> Value {
        let number = self.events.fetch_add(1, Ordering::Relaxed);
        json!({ "id": format!("bench-{}-{number}.", self.run), "kind": "message", "feeds": feeds })
    }

    async fn step(self: &Arc<Self>, step: &Step) -> Result<Done, Error> {
        let end = CancellationToken::new();
        let measured = Arc::new(Measured {
            recorders: step.latencies.map(Recorder::new),
            failed: AtomicU64::new(0),
            begun: Instant::now(),
            due: Mutex::default(),
        });
        let path = format!("/v1/live?feed={}", self.feed);
        let stream = self.victim.stream(&path).await;
        let stream = stream.ok_or_else(|| client::Error::NotNewsfeed {
            url: self.victim.base_url.clone(),
            cause: "the victim's stream was refused".to_owned(),
        })?;
        let listener = tokio::spawn(listen(stream, Arc::clone(&measured), self.run.clone()));
        let sent = Arc::new(AtomicU64::new(0));
        let mut attackers = JoinSet::new();
        for _ in 0..self.args.attackers {
            let (setup, end, sent) = (Arc::clone(self), end.clone(), Arc::clone(&sent));
            let attack = step.attack;
            attackers.spawn(async move {
                let attack = async {
                    while setup.attack(attack).await {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                };
                end.run_until_cancelled(attack).await;
            });
        }
        tokio::join!(self.read(&measured), self.write(&measured));
        end.cancel();
        while attackers.join_next().await.is_some() {}
        // Deliveries that are still missing have as long as any request.
        let missing = || {
            measured
                .due
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len()
        };
        let since = Instant::now();
        while missing() > 0 && since.elapsed() < WAIT_MAX {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        listener.abort();
        let failed = measured.failed.load(Ordering::Relaxed) + missing() as u64;
        let latencies = measured.recorders.each_ref().map(Recorder::take);
        Ok((sent.load(Ordering::Relaxed), failed, latencies))
    }

    /// One request of the attacker; `false` if there is no attack.
    async fn attack(&self, attack: Attack) -> bool {
        let merged = || self.feeds.iter().map(|feed| format!("feed={feed}&"));
        let of_one = |index: u64| {
            let count = self.feeds.len() as u64;
            let feed = &self.feeds[(index % count) as usize];
            self.attacker.get(&format!("/v1/feeds/{feed}"))
        };
        let number = rand::random::<u64>();
        match attack {
            Attack::Nothing => return false,
            Attack::Cancelled => {
                let request = of_one(number).header("connection", "close");
                let _ = timeout(CANCEL_AFTER, request.send()).await;
                // 1,000 a second, if there are 64 at a time.
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            Attack::Merged => {
                let path = format!(
                    "/v1/entries?{}kind=none&limit=200",
                    merged().collect::<String>()
                );
                let _ = self.attacker.ask(self.attacker.get(&path)).await;
            }
            Attack::Joins => {
                let path = format!("/v1/live?{}", merged().collect::<String>());
                if let Some(stream) = self.attacker.stream(&path).await {
                    let arrived = until(stream, |line| line.starts_with(b"event: version"));
                    let _ = timeout(WAIT_MAX, arrived).await;
                }
            }
            Attack::Unread => {
                let _ = self.attacker.ask(of_one(number)).await;
            }
        }
        true
    }

    /// The victim's pages, each due at its time.
    async fn read(self: &Arc<Self>, measured: &Arc<Measured>) {
        let path = format!("/v1/feeds/{}/entries?limit=50", self.feed);
        self.on_schedule(self.args.page_rate, measured, |setup, measured, due| {
            let request = setup.victim.get(&path);
            async move {
                let answer = setup.victim.ask(request).await;
                measured.note(0, due, answer.is_some());
            }
        })
        .await;
    }

    /// The victim's appends.
    async fn write(self: &Arc<Self>, measured: &Arc<Measured>) {
        self.on_schedule(
            self.args.live_rate,
            measured,
            |setup, measured, due| async move {
                let event = setup.event(std::slice::from_ref(&setup.feed));
                let number = number_of(event["id"].as_str().unwrap_or_default(), &setup.run);
                measured.due(number, due);
                let answer = setup.victim.append(&event).await;
                measured.note(1, due, answer.is_some());
                if answer.is_none() {
                    measured.delivered(number);
                }
            },
        )
        .await;
    }

    async fn on_schedule<F>(
        self: &Arc<Self>,
        rate: f64,
        measured: &Arc<Measured>,
        request: impl Fn(Arc<Self>, Arc<Measured>, Instant) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut under_way = JoinSet::new();
        for _ in 0..(rate * f64::from(self.args.seconds)) as u64 {
            let due = ticks.tick().await.into_std();
            under_way.spawn(request(Arc::clone(self), Arc::clone(measured), due));
        }
        while under_way.join_next().await.is_some() {}
    }
}

impl Measured {
    fn note(&self, kind: usize, due: Instant, is_answered: bool) {
        match is_answered {
            true => {
                let after = due.saturating_duration_since(self.begun);
                self.recorders[kind].record_at(after, due.elapsed());
            }
            false => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn due(&self, number: u64, due: Instant) {
        let mut all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((number, due));
    }

    /// The event is not missing any more. Returns when it was due.
    fn delivered(&self, number: u64) -> Option<Instant> {
        let mut all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let index = all.iter().position(|(other, _)| *other == number)?;
        Some(all.swap_remove(index).1)
    }
}

/// The number in an event's id.
fn number_of(id: &str, run: &str) -> u64 {
    let rest = id.strip_prefix(&format!("bench-{run}-"));
    let number = rest.and_then(|rest| rest.strip_suffix('.')?.parse().ok());
    number.unwrap_or(u64::MAX)
}

/// Notes each event of the victim's stream.
async fn listen(stream: Response, measured: Arc<Measured>, run: String) {
    let start = format!("bench-{run}-");
    let note = |line: &[u8]| {
        let Some(at) = memchr::memmem::find(line, start.as_bytes()) else {
            return false;
        };
        let rest = &line[at..];
        let end = memchr::memchr(b'.', rest).map_or(rest.len(), |end| end + 1);
        let id = String::from_utf8_lossy(&rest[..end]);
        if let Some(due) = measured.delivered(number_of(&id, &run)) {
            measured.note(2, due, true);
        }
        false
    };
    until(stream, note).await;
}

/// Reads lines until one of them is the last.
async fn until(mut stream: Response, is_last: impl Fn(&[u8]) -> bool) {
    let mut rest = Vec::new();
    while let Ok(Some(piece)) = stream.chunk().await {
        rest.extend_from_slice(&piece);
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', &rest) {
            let line = &rest[begin..end];
            if is_last(line) {
                return;
            }
            begin = end + 1;
        }
        rest.drain(..begin);
    }
}
