//! `bench pages`: pages of feeds whose content is known, newest first.

use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;
use serde_json::json;

use super::{
    args::{Common, Events, countable, parse_rate},
    ledger::{Acknowledged, Entry, Fault, Faults, Wrong},
    pages::{Page, PageReaders},
    plan::Plan,
    run::{Run, with_progress},
    schedule::{Pace, Schedule},
    summary::Summary,
    target::Dialer,
    writers::{Writers, get},
};
use crate::client::Error;

/// Feeds are filled with arrays of this many.
const FILL_BATCH: u16 = 500;
const FILL_CONNECTIONS: u32 = 4;

/// Read pages at a rate: some the newest of a feed, some from further back
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  \
    newsfeed bench pages --feeds 100 --entries 1000 --rate 5000 --limit 50")]
pub struct PagesArgs {
    #[command(flatten)]
    common: Common,
    /// Pages a second
    #[arg(long, value_name = "PAGES", default_value = "1000", value_parser = parse_rate)]
    rate: f64,
    /// How long to read
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Entries on a page (1 to 200)
    #[arg(long, value_name = "ENTRIES", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=200))]
    limit: u8,
    /// Percentage of pages from anywhere in the feed rather than its newest end
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    older: u8,
    /// Feeds to fill before
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    feeds: u32,
    /// Entries in each feed, on average
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    entries: u32,
    #[command(flatten)]
    events: Events,
}

pub async fn run(args: PagesArgs) -> Result<(), Error> {
    let run = Run::new(args.common.clone())?;
    let events = &args.events;
    countable(u64::from(args.feeds) * u64::from(args.entries))?;
    let dialer = run.dialer(events.connections as usize).await?;
    let text = events.text as usize;
    let plan = Arc::new(Plan::spread(&events.kind, text, args.feeds, 1, None));
    let acknowledged = Arc::new(fill(&dialer, &plan, args.feeds, args.entries).await?);

    let schedule = Schedule::new(Pace::of_events(args.rate, 1, args.seconds));
    let readers = PageReaders::new(Arc::clone(&dialer), Arc::clone(&schedule));
    // What each page asks for: its feed, and how many entries of the feed lie below it.
    let asked: Arc<Vec<(usize, usize)>> = Arc::new({
        let mut rng = rand::rng();
        let mut ask = || {
            let feed = rng.random_range(0..args.feeds as usize);
            let length = acknowledged.of(feed).len();
            let older = rng.random_range(0..100) < args.older;
            let end = if older {
                rng.random_range(0..=length)
            } else {
                length
            };
            (feed, end)
        };
        (0..schedule.count()).map(|_| ask()).collect()
    });
    let path = {
        let (asked, plan) = (Arc::clone(&asked), Arc::clone(&plan));
        let (acknowledged, limit) = (Arc::clone(&acknowledged), args.limit);
        move |request: u64| {
            let (feed, end) = asked[request as usize];
            let name = plan.feed(feed);
            let path = format!("/v1/feeds/{name}/entries?limit={limit}");
            match acknowledged.of(feed).get(end) {
                Some((before, _)) => format!("{path}&before={}", before.as_str()),
                None => path,
            }
        }
    };
    let faults = Arc::new(Mutex::new(Faults::default()));
    let check = {
        let (asked, plan) = (Arc::clone(&asked), Arc::clone(&plan));
        let (acknowledged, limit) = (Arc::clone(&acknowledged), usize::from(args.limit));
        let faults = Arc::clone(&faults);
        move |request: u64, page: &Page<'_>| {
            let (feed, end) = asked[request as usize];
            let wanted = &acknowledged.of(feed)[end.saturating_sub(limit)..end];
            if let Some((wrong, id)) = difference(page, wanted, &plan) {
                let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                faults.add(Fault {
                    wrong,
                    feed: plan.feed(feed),
                    id,
                    readers: 1,
                });
            }
        }
    };

    let work = readers.run(events.connections, path, check);
    run.load(&schedule, || readers.so_far(), work).await?;
    let elapsed = schedule.elapsed();

    let faults = std::mem::take(&mut *faults.lock().unwrap_or_else(PoisonError::into_inner));
    let mut summary = Summary {
        command: "pages",
        run: plan.run().to_owned(),
        parameters: json!({
            "rate": args.rate, "seconds": args.seconds, "limit": args.limit, "older": args.older,
            "feeds": args.feeds, "entries": args.entries, "connections": events.connections,
            "kind": events.kind, "text": events.text, "urls": run.common.url,
        }),
        elapsed,
        counts: readers.counts(),
        figures: vec![(
            "pages_per_second",
            get(&readers.read) as f64 / elapsed.as_secs_f64(),
        )],
        latencies: Vec::new(),
        faults,
        used: run.used(),
        per: vec![("page", get(&readers.read))],
        readers: 0,
    };
    summary.measured(&readers.page);
    run.conclude(&summary)
}

/// Appends as fast as the service takes it; every event must be acknowledged, for the pages to be known.
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

/// The first difference between a page, newest first, and the entries it must have, oldest first.
fn difference(page: &Page<'_>, wanted: &[Entry], plan: &Plan) -> Option<(Wrong, String)> {
    let mut wanted = wanted.iter().rev();
    for item in &page.entries {
        match wanted.next() {
            None => return Some((Wrong::Unexpected, item.id.to_string())),
            Some((version, number)) => {
                let id = plan.id(*number);
                if item.id != id {
                    return Some((Wrong::Lost, id));
                }
                if item.version != version.as_str() {
                    return Some((Wrong::OtherVersion, id));
                }
            }
        }
    }
    wanted
        .next()
        .map(|(_, number)| (Wrong::Lost, plan.id(*number)))
}
