//! `newsfeed-bench pages`: reads pages, newest entries first, of feeds whose content is known.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::error::Error;
use super::{
    args::{Common, Events, check_event_count, closed_loop, parse_rate},
    ledger::{Acknowledged, Entry, Fault, FaultKind, Faults},
    pages::{Page, PageReaders},
    plan::{Owner, Plan, mix},
    run::{Run, with_progress},
    schedule::{Pace, Schedule},
    stop::Stop,
    summary::Summary,
    target::Dialer,
    writers::{Writers, get},
};

/// Events per append when feeds are filled.
const FILL_BATCH: u16 = 500;
const FILL_CONNECTIONS: u32 = 4;

/// Read pages of feeds: some at the newest end, some further back
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  \
    newsfeed-bench pages --feeds 100 --entries 1000 --rate 5000 --limit 50")]
pub struct PagesArgs {
    #[command(flatten)]
    common: Common,
    /// Pages per second
    #[arg(long, value_name = "PAGES", default_value = "1000", value_parser = parse_rate)]
    rate: f64,
    /// Measure the highest throughput: each connection sends its next request as soon as it has a response. Latencies
    /// count from sending, so they are not comparable with those at a fixed rate
    #[arg(long, conflicts_with = "rate")]
    closed_loop: bool,
    /// How long to read, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Entries per page (1 to 200)
    #[arg(long, value_name = "ENTRIES", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=200))]
    limit: u8,
    /// Percentage of pages that start anywhere in the feed rather than at its newest end
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    older: u8,
    /// Number of feeds, which are filled first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    feeds: u32,
    /// Average number of entries in a feed
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    entries: u32,
    #[command(flatten)]
    events: Events,
}

pub async fn run(args: PagesArgs, stop: Stop) -> Result<(), Error> {
    let run = Run::new(args.common.clone(), stop)?;
    let events = &args.events;
    check_event_count(u64::from(args.feeds) * u64::from(args.entries))?;
    let dialer = run.dialer(events.connections as usize).await?;
    let text = events.text as usize;
    let plan = Arc::new(Plan::spread(&events.kind, text, args.feeds, 1, None));
    let known = KnownFeeds::fill(
        &dialer,
        &plan,
        (args.feeds, args.entries),
        (args.limit, args.older),
    )
    .await?;

    let schedule = if args.closed_loop {
        closed_loop(args.seconds, 1)
    } else {
        Schedule::new(Pace::of_events(args.rate, 1, args.seconds))
    };
    let readers = PageReaders::new(Arc::clone(&dialer), Arc::clone(&schedule));

    let work = known.read(&readers, events.connections);
    run.load(&schedule, || readers.so_far(), work).await?;
    let elapsed = schedule.elapsed();

    let mut summary = Summary {
        command: "pages",
        run: plan.run().to_owned(),
        parameters: json!({
            "rate": (!args.closed_loop).then_some(args.rate), "seconds": args.seconds, "limit": args.limit, "older": args.older,
            "feeds": args.feeds, "entries": args.entries, "connections": events.connections,
            "kind": events.kind, "text": events.text, "urls": run.common.url,
        }),
        closed_loop: args.closed_loop,
        interrupted: run.interrupted(),
        elapsed,
        counts: readers.counts(),
        figures: vec![(
            "pages_per_second",
            get(&readers.read) as f64 / elapsed.as_secs_f64(),
        )],
        latencies: Vec::new(),
        faults: known.faults(),
        used: run.used(),
        per: vec![("page", get(&readers.read))],
        readers: 0,
    };
    summary.measured(&readers.page);
    run.conclude(&summary)
}

/// Feeds whose content is known, and the faults found on their pages.
pub struct KnownFeeds {
    requests: Arc<PageRequests>,
    faults: Arc<Mutex<Faults>>,
}

impl KnownFeeds {
    /// Fills `feeds` with `entries` each, on average. Pages will have `limit` entries, and `older` percent of them
    /// start anywhere in the feed.
    pub async fn fill(
        dialer: &Arc<Dialer>,
        plan: &Arc<Plan>,
        (feeds, entries): (u32, u32),
        (limit, older): (u8, u8),
    ) -> Result<Self, Error> {
        let requests = PageRequests {
            plan: Arc::clone(plan),
            acknowledged: fill(dialer, plan, feeds, entries).await?,
            feeds: feeds.into(),
            limit: limit.into(),
            older: older.into(),
        };
        Ok(Self {
            requests: Arc::new(requests),
            faults: Arc::default(),
        })
    }

    /// Reads and checks pages on the schedule of `readers`.
    pub async fn read(&self, readers: &Arc<PageReaders>, connections: u32) -> Result<(), Error> {
        let requests = Arc::clone(&self.requests);
        let path = move |request| requests.path(request);
        let (requests, faults) = (Arc::clone(&self.requests), Arc::clone(&self.faults));
        let check = move |request, page: &Page<'_>| {
            if let Some(fault) = requests.fault(request, page) {
                let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                faults.add(fault);
            }
        };
        readers.run(connections, path, check).await
    }

    /// The faults found since the last call.
    pub fn faults(&self) -> Faults {
        std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which pages are requested. Request `n` requests for the same page in every run.
struct PageRequests {
    plan: Arc<Plan>,
    acknowledged: Acknowledged,
    feeds: u64,
    limit: usize,
    /// Percent.
    older: u64,
}

impl PageRequests {
    /// The page's feed, and the number of entries in the feed up to and including the newest on the page.
    fn asked(&self, request: u64) -> (usize, usize) {
        let random = mix(request);
        let feed = (random % self.feeds) as usize;
        let length = self.acknowledged.of(feed).len();
        let random = mix(random);
        let end = if random % 100 < self.older {
            (mix(random) % (length as u64 + 1)) as usize
        } else {
            length
        };
        (feed, end)
    }

    fn path(&self, request: u64) -> String {
        let (feed, end) = self.asked(request);
        let name = self.plan.feed(feed);
        let path = format!("/v1/feeds/{name}/entries?limit={}", self.limit);
        match self.acknowledged.of(feed).get(end) {
            Some((before, _)) => format!("{path}&before={}", before.as_str()),
            None => path,
        }
    }

    fn fault(&self, request: u64, page: &Page<'_>) -> Option<Fault> {
        let (feed, end) = self.asked(request);
        let wanted = &self.acknowledged.of(feed)[end.saturating_sub(self.limit)..end];
        let (kind, id) = difference(page, wanted, &self.plan)?;
        Some(Fault {
            kind,
            feed: self.plan.feed(feed),
            id,
            readers: 1,
        })
    }
}

/// Fills the feeds as fast as the service accepts events. Fails unless every event is acknowledged, because otherwise
/// the content of the feeds would not be known.
async fn fill(
    dialer: &Arc<Dialer>,
    plan: &Arc<Plan>,
    feeds: u32,
    entries: u32,
) -> Result<Acknowledged, Error> {
    let events = u64::from(feeds) * u64::from(entries);
    let batch = FILL_BATCH.min(u16::try_from(events).unwrap_or(FILL_BATCH));
    let at_once = Pace::At(vec![
        std::time::Duration::ZERO;
        events.div_ceil(batch.into()) as usize
    ]);
    let schedule = Schedule::new(at_once);
    let writers = Writers::new(
        Arc::clone(dialer),
        Arc::clone(plan),
        Arc::clone(&schedule),
        batch,
    );
    schedule.start();
    let so_far = || {
        let text = format!("filling: {}", writers.so_far());
        (schedule.handed_out(), text)
    };
    let sent = with_progress(schedule.count(), so_far, writers.run(FILL_CONNECTIONS)).await?;
    let unknown = schedule.count() * u64::from(batch) - sent.len() as u64;
    if unknown > 0 {
        return Err(Error::Filling { unknown });
    }
    Ok(Acknowledged::new(plan, plan.channels().len(), sent))
}

/// The first difference between `page`, newest entry first, and the entries it must have, oldest first.
fn difference(page: &Page<'_>, wanted: &[Entry], plan: &Plan) -> Option<(FaultKind, String)> {
    let mut wanted = wanted.iter().rev();
    for item in &page.entries {
        match wanted.next() {
            None => return Some((FaultKind::Unexpected, item.id.to_string())),
            Some((version, number)) => {
                let kind = if plan.owner(&item.id) != Owner::Event(*number) {
                    FaultKind::Lost
                } else if item.version != version.as_str() {
                    FaultKind::OtherVersion
                } else {
                    continue;
                };
                return Some((kind, plan.id(*number)));
            }
        }
    }
    wanted
        .next()
        .map(|(_, number)| (FaultKind::Lost, plan.id(*number)))
}
