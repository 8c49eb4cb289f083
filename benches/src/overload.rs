//! `newsfeed-bench overload`: finds the peak append rate, then offers multiples of it while other clients read pages
//! and follow feeds.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::json;

use super::error::Error;
use super::{
    append::channels,
    args::{Common, Events, check_event_count, closed_loop, parse_rate},
    fleet::ReadMode,
    ledger::{Acknowledged, Faults},
    page::KnownFeeds,
    pages::{self, PageReaders},
    plan::Plan,
    recorder::Latencies,
    run::Run,
    schedule::{Pace, Schedule},
    session::Session,
    stop::Stop,
    summary::Summary,
    target::Dialer,
    writers::{Writers, get},
};

const PAGE_FEEDS: u32 = 20;
const PAGE_ENTRIES: u32 = 500;
const PAGE_LIMIT: u8 = 50;
const OLDER_PERCENT: u8 = 50;
const PAGE_CONNECTIONS: u32 = 100;
/// Connections for the appends that live streams follow. Each waits for its responses, however late they are, so there
/// are enough for slow ones.
const LIVE_CONNECTIONS: u32 = 200;
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Offer 1, 2 and 3 times the highest possible append rate, while other clients read pages and follow feeds
///
/// The first step finds the peak: `--connections` clients append arrays, each as soon as it has the response to the
/// last. The other steps append the same arrays at 1, 2 and 3 times that rate, over many more connections, so that the
/// service must refuse the excess. The goodput ratio is the rate appended at 3 times the peak, divided by the highest
/// rate of all steps. In each step, other clients read pages, and append single events that live streams follow.
/// Everything that was acknowledged is read back and checked.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  \
    newsfeed-bench overload --seconds 10 --rounds 3")]
pub struct OverloadArgs {
    #[command(flatten)]
    common: Common,
    /// Duration of each step, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// How often to repeat all steps; every second round reverses their order, because a growing store gets slower
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Events per append (1 to 1000)
    #[arg(long, value_name = "EVENTS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// Number of connections that append at a multiple of the peak
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    flood_connections: u32,
    /// Number of feeds over which the events are spread
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    feeds: u32,
    /// Pages per second that other clients read
    #[arg(long, value_name = "PAGES", default_value = "200", value_parser = parse_rate)]
    page_rate: f64,
    /// Number of live streams, each of its own feed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subscribers: u32,
    /// Events per second that are appended for the live streams
    #[arg(long, value_name = "EVENTS", default_value = "100", value_parser = parse_rate)]
    live_rate: f64,
    #[command(flatten)]
    events: Events,
}

/// A step and the names of its results.
struct Step {
    /// The rate as a multiple of the peak; `None` finds the peak.
    multiple: Option<f64>,
    offered: &'static str,
    appended: &'static str,
    refused: &'static str,
    append: &'static str,
    page: &'static str,
    delivery: &'static str,
}

macro_rules! step {
    ($name:literal, $multiple:expr) => {
        Step {
            multiple: $multiple,
            offered: concat!("offered_per_second_", $name),
            appended: concat!("appended_per_second_", $name),
            refused: concat!("refused_", $name),
            append: concat!("append ", $name),
            page: concat!("page ", $name),
            delivery: concat!("live ", $name),
        }
    };
}

const STEPS: [Step; 4] = [
    step!("peak", None),
    step!("1x", Some(1.0)),
    step!("2x", Some(2.0)),
    step!("3x", Some(3.0)),
];

/// The results of a step, summed over all rounds.
#[derive(Default)]
struct Total {
    offered: u64,
    appended: u64,
    refused: u64,
    unanswered: u64,
    elapsed: Duration,
    append: Option<Latencies>,
    page: Option<Latencies>,
    delivery: Option<Latencies>,
}

impl Total {
    fn add(&mut self, other: Self) {
        self.offered += other.offered;
        self.appended += other.appended;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.elapsed += other.elapsed;
        for (all, more) in [
            (&mut self.append, other.append),
            (&mut self.page, other.page),
            (&mut self.delivery, other.delivery),
        ] {
            match (all.as_mut(), more) {
                (Some(all), Some(more)) => all.add(&more),
                (None, more) => *all = more,
                (Some(_), None) => {}
            }
        }
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// What the steps share.
struct Setup {
    args: OverloadArgs,
    stop: Stop,
    dialer: Arc<Dialer>,
    known: KnownFeeds,
}

pub async fn run(args: OverloadArgs, stop: Stop) -> Result<(), Error> {
    let run = Run::new(args.common.clone(), stop.clone())?;
    let clients = args.flood_connections.max(args.events.connections) + PAGE_CONNECTIONS;
    let dialer = run.dialer(clients as usize).await?;
    let Events { kind, text, .. } = &args.events;
    let text = *text as usize;
    let plan = Arc::new(Plan::spread(kind, text, PAGE_FEEDS, 1, None));
    let known = KnownFeeds::fill(
        &dialer,
        &plan,
        (PAGE_FEEDS, PAGE_ENTRIES),
        (PAGE_LIMIT, OLDER_PERCENT),
    )
    .await?;
    let setup = Setup {
        args,
        stop,
        dialer,
        known,
    };
    let mut totals: [Total; STEPS.len()] = Default::default();
    let mut faults = Faults::default();
    let work = setup.rounds(&mut totals, &mut faults);
    run.measured(work).await?;
    faults.merge(setup.known.faults());

    let args = &setup.args;
    let mut summary = Summary {
        command: "overload",
        run: plan.run().to_owned(),
        parameters: json!({
            "seconds": args.seconds, "rounds": args.rounds, "batch": args.batch, "connections": args.events.connections,
            "flood_connections": args.flood_connections, "feeds": args.feeds, "page_rate": args.page_rate,
            "subscribers": args.subscribers, "live_rate": args.live_rate, "kind": args.events.kind,
            "text": args.events.text, "urls": args.common.url,
        }),
        closed_loop: false,
        interrupted: run.interrupted(),
        elapsed: totals.iter().map(|total| total.elapsed).sum(),
        counts: vec![(
            "unanswered",
            totals.iter().map(|total| total.unanswered).sum(),
        )],
        figures: Vec::new(),
        latencies: Vec::new(),
        faults,
        used: run.used(),
        per: vec![("append", totals.iter().map(|total| total.appended).sum())],
        readers: args.subscribers.into(),
    };
    let goodput = totals
        .each_ref()
        .map(|total| total.per_second(total.appended));
    let peak = goodput.iter().copied().fold(0.0, f64::max);
    for (step, total) in STEPS.iter().zip(totals) {
        summary.counts.push((step.refused, total.refused));
        let figures = [
            (step.offered, total.per_second(total.offered)),
            (step.appended, total.per_second(total.appended)),
        ];
        summary.figures.extend(figures);
        for (name, latencies) in [
            (step.append, total.append),
            (step.page, total.page),
            (step.delivery, total.delivery),
        ] {
            summary
                .latencies
                .extend(latencies.map(|latencies| (name, latencies)));
        }
    }
    let last = goodput.last().copied().unwrap_or_default();
    summary.figures.push(("goodput_ratio_3x", last / peak));
    run.conclude(&summary)
}

impl Setup {
    async fn rounds(&self, totals: &mut [Total], faults: &mut Faults) -> Result<(), Error> {
        let mut peak = 0.0;
        for round in 0..self.args.rounds {
            let mut steps: Vec<_> = STEPS.iter().zip(&mut *totals).collect();
            if round % 2 == 1 {
                steps.reverse();
            }
            for (step, total) in steps {
                if self.stop.is_requested() {
                    return Ok(());
                }
                eprintln!("{}", step.append);
                let done = self
                    .step(step.multiple.map(|times| times * peak), faults)
                    .await?;
                if step.multiple.is_none() {
                    peak = done.per_second(done.appended);
                }
                total.add(done);
            }
        }
        Ok(())
    }

    /// Appends at `rate`, or as fast as possible, and checks everything that was acknowledged.
    async fn step(&self, rate: Option<f64>, faults: &mut Faults) -> Result<Total, Error> {
        let args = &self.args;
        let Events {
            kind,
            text,
            connections,
        } = &args.events;
        let text = *text as usize;
        let (schedule, connections) = match rate {
            None => (closed_loop(args.seconds, args.batch), *connections),
            Some(rate) => {
                let pace = Pace::of_events(rate, args.batch, args.seconds);
                check_event_count(pace.count().saturating_mul(args.batch.into()))?;
                (Schedule::new(pace), args.flood_connections)
            }
        };
        let plan = Arc::new(Plan::spread(kind, text, args.feeds, 1, None));
        let writers = Writers::new(
            Arc::clone(&self.dialer),
            Arc::clone(&plan),
            Arc::clone(&schedule),
            args.batch,
        );
        let run = Run::new(args.common.clone(), self.stop.clone())?;
        let live = self.session().open(&run).await?;
        let pages = Schedule::new(Pace::of_events(args.page_rate, 1, args.seconds));
        let readers = PageReaders::new(Arc::clone(&self.dialer), Arc::clone(&pages));

        schedule.start();
        pages.start();
        let flood = async {
            let sent = run.ends_early(&schedule, writers.run(connections)).await?;
            Ok::<_, Error>((sent, schedule.elapsed()))
        };
        let reading = self.known.read(&readers, PAGE_CONNECTIONS);
        let reading = run.ends_early(&pages, reading);
        let ((sent, elapsed), (), mut live) = tokio::try_join!(flood, reading, live.measure(&run))?;

        let channels = channels(&plan);
        let appended = sent.len() as u64;
        let acknowledged = Acknowledged::new(&plan, channels.len(), sent);
        let all = schedule.count() * u64::from(args.batch);
        let audited = pages::audit(&self.dialer, &plan, &channels, &acknowledged, all).await?;
        faults.merge(audited);
        faults.merge(std::mem::take(&mut live.faults));
        let delivery = live
            .latencies
            .into_iter()
            .find(|(name, _)| *name == "delivery");
        Ok(Total {
            offered: schedule.handed_out() * u64::from(args.batch),
            appended,
            refused: get(&writers.counts.refused),
            unanswered: get(&writers.counts.unanswered)
                + readers.unanswered.load(Ordering::Relaxed),
            elapsed,
            append: Some(writers.append.take()),
            page: Some(readers.page.take()),
            delivery: delivery.map(|(_, latencies)| latencies),
        })
    }

    /// The live streams, and the appends to their feeds.
    fn session(&self) -> Session {
        let args = &self.args;
        let Events { kind, text, .. } = &args.events;
        let pace = Pace::of_events(args.live_rate, 1, args.seconds);
        Session {
            command: "overload",
            parameters: json!({}),
            plan: Plan::spread(kind, *text as usize, args.subscribers, 1, None),
            schedule: Schedule::new(pace),
            batch: 1,
            connections: LIVE_CONNECTIONS,
            other_connections: 0,
            follows: (0..args.subscribers as usize).collect(),
            idle: 0,
            log_readers: 0,
            laggards: Vec::new(),
            mode: ReadMode::Stream,
            storm: None,
            silence_max: SILENCE_MAX,
        }
    }
}
