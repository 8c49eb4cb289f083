//! `newsfeed-bench bare`: a node on FoundationDB beside the bare client library, which writes the same keys and bytes
//! in one blind transaction: no deduplication, no HTTP. Compare the ratios of one run, not figures of different runs.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use foundationdb::{
    Database, FdbError,
    options::{MutationType, TransactionOption},
};
use newsfeed::{
    append::writes,
    client::{DEFAULT_URL, TokenArgs, list::Message},
    clock::WallTime,
    config::Engine,
    procfs::Usage,
    store::{
        epoch,
        fdb::{self, Fdb, stamped_key, unread_stamped_key},
        keys::Keys,
    },
    types::{Data, Delivery, Draft, Entry, Event},
};
use serde_json::{json, value::to_raw_value};
use tokio::{task::JoinSet, time::sleep};

use super::{
    args::closed_loop,
    error::Error,
    plan::{Number, Plan},
    recorder::{Latencies, Recorder, ms},
    schedule::Schedule,
    target::Dialer,
    writers::{Writers, get},
};

/// Where the bare client writes.
const PREFIX: &[u8] = b"raw/";
const PARTITIONS: u16 = Engine::Fdb.partitions();
const USERS: u64 = 1_000;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Measure a node on FoundationDB beside the bare client library, in turns
///
/// Each client waits for its answer before it sends again (closed loop). The node must be a running service on the same
/// cluster.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  \
    newsfeed-bench bare --cluster-file fdb.cluster --url http://127.0.0.1:8080 --pause 12")]
pub struct BareArgs {
    /// Cluster file of the database
    #[arg(long, value_name = "FILE")]
    cluster_file: PathBuf,
    /// Base URL of the node
    #[arg(long, env = "NEWSFEED_URL", default_value = DEFAULT_URL)]
    url: String,
    #[command(flatten)]
    token: TokenArgs,
    /// Process of the node on this machine, to report its CPU time for each event
    #[arg(long)]
    pid: Option<u32>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Seconds to rest before each measurement: a cluster goes on writing for as long after one
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pause: u64,
    /// What to measure, in order: CLIENTSxEVENTS, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1x1,10x1,50x1,250x1,4x100,4x500"
    )]
    loads: Vec<Load>,
    /// Kind of the events; `message` counts as unread
    #[arg(long, default_value = "message")]
    kind: String,
}

/// Clients, and how many events each sends at once.
#[derive(Debug, Clone, Copy)]
struct Load {
    clients: u32,
    events: u16,
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(clients, events)| {
            Some(Self {
                clients: clients.parse().ok().filter(|clients| *clients > 0)?,
                events: events
                    .parse()
                    .ok()
                    .filter(|events| (1..=1_000).contains(events))?,
            })
        });
        parsed.ok_or_else(|| "write it like 50x1: CLIENTSxEVENTS, at most 1,000 events".to_owned())
    }
}

pub async fn run(args: BareArgs) -> Result<(), Error> {
    // Stops the client library's thread when it is dropped.
    let _network = fdb::boot().map_err(failed)?;
    let bare = Arc::new(Bare::open(&args).await?);
    println!(
        "{:>8} {:>7} {:>5} {:>12} {:>9} {:>9} {:>13}",
        "clients", "events", "", "events/s", "p50 ms", "p99 ms", "CPU µs/event"
    );
    for load in &args.loads {
        sleep(Duration::from_secs(args.pause)).await;
        let node = of_node(&args, *load).await?;
        node.print(*load, "node");
        sleep(Duration::from_secs(args.pause)).await;
        let of_bare = of_bare(&args, *load, &bare).await?;
        of_bare.print(*load, "bare");
        println!(
            "{:>8} {:>7} {:>5} {:>12.2}",
            "",
            "",
            "ratio",
            node.rate / of_bare.rate
        );
    }
    Ok(())
}

/// Messages between pairs of users: each in the feed of its receiver and in the chat of the two.
fn plan(args: &BareArgs) -> Arc<Plan> {
    let pair =
        |number: u64| Message::new(number * 7_919 % USERS, number * 104_729 % USERS + USERS, 0);
    Arc::new(Plan::day(&args.kind, 64, (0..USERS).map(pair).collect()))
}

struct Measured {
    rate: f64,
    latency: Latencies,
    cpu_us: Option<f64>,
}

impl Measured {
    fn new(schedule: &Schedule, events: u64, latency: Latencies, cpu: Option<Duration>) -> Self {
        Self {
            rate: events as f64 / schedule.elapsed().as_secs_f64(),
            latency,
            cpu_us: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / events as f64),
        }
    }

    fn print(&self, load: Load, what: &str) {
        let [p50, p99] =
            [0.5, 0.99].map(|quantile| ms(self.latency.all.value_at_quantile(quantile)));
        let cpu = self
            .cpu_us
            .map_or_else(String::new, |cpu| format!("{cpu:.1}"));
        let Load { clients, events } = load;
        println!(
            "{clients:>8} {events:>7} {what:>5} {:>12.0} {p50:>9.2} {p99:>9.2} {cpu:>13}",
            self.rate
        );
    }
}

async fn of_node(args: &BareArgs, load: Load) -> Result<Measured, Error> {
    let used = || {
        args.pid
            .and_then(|pid| Usage::of(pid).ok())
            .map(|usage| usage.cpu)
    };
    let (urls, clients) = (std::slice::from_ref(&args.url), load.clients as usize);
    let dialer = Dialer::new(urls, args.token.read()?, &[], clients, None).await?;
    let schedule = closed_loop(args.seconds, load.events);
    let writers = Writers::new(
        Arc::new(dialer),
        plan(args),
        Arc::clone(&schedule),
        load.events,
    );
    let before = used();
    schedule.start();
    writers.run(load.clients).await?;
    let cpu = used()
        .zip(before)
        .map(|(now, before)| now.saturating_sub(before));
    let (appended, latency) = (get(&writers.counts.appended), writers.append.take());
    Ok(Measured::new(&schedule, appended, latency, cpu))
}

async fn of_bare(args: &BareArgs, load: Load, bare: &Arc<Bare>) -> Result<Measured, Error> {
    let schedule = closed_loop(args.seconds, load.events);
    let (plan, latency) = (plan(args), Arc::new(Recorder::new("bare")));
    let mut clients = JoinSet::new();
    schedule.start();
    for _ in 0..load.clients {
        let (bare, plan) = (Arc::clone(bare), Arc::clone(&plan));
        let (schedule, latency) = (Arc::clone(&schedule), Arc::clone(&latency));
        let kind = args.kind.clone();
        clients.spawn(async move {
            while let Some((request, due)) = schedule.next().await {
                let first = request as Number * Number::from(load.events);
                let events =
                    (first..first + Number::from(load.events)).map(|n| event(&plan, n, &kind));
                bare.append(&events.collect::<Result<Vec<_>, _>>()?)
                    .await
                    .map_err(failed)?;
                latency.record(&schedule, due, std::time::Instant::now());
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client does not panic and is not aborted")?;
    }
    let events = schedule.handed_out() * u64::from(load.events);
    Ok(Measured::new(&schedule, events, latency.take(), None))
}

fn event(plan: &Plan, number: Number, kind: &str) -> Result<Event, Error> {
    let data = to_raw_value(&json!({ "text": "x".repeat(64) })).map_err(failed)?;
    let feeds = plan.feeds_of(number);
    let draft = Draft {
        id: plan.id(number).parse().map_err(failed)?,
        kind: kind.parse().map_err(failed)?,
        delivery: match kind {
            "message" => Delivery::Notify,
            _ => Delivery::Entry,
        },
        feeds: feeds
            .iter()
            .map(|feed| feed.parse())
            .collect::<Result<_, _>>()
            .map_err(failed)?,
        actor: None,
        time: None,
        data: Data::from_raw(&data).map_err(failed)?,
        expect: None,
    };
    draft.check().map_err(|(_, error)| failed(error))
}

/// The bare client library.
struct Bare {
    db: Database,
    keys: Keys,
    epoch: u32,
}

impl Bare {
    async fn open(args: &BareArgs) -> Result<Self, Error> {
        let file = &args.cluster_file;
        let store = Fdb::open(file, PREFIX, fdb::Tuning { timeout: TIMEOUT }).map_err(failed)?;
        let keys = Keys::open(&store, PREFIX, PARTITIONS, &WallTime::system(0))
            .await
            .map_err(failed)?;
        let epoch = epoch::current(&store).await.map_err(failed)?;
        let db = Database::from_path(&file.to_string_lossy()).map_err(failed)?;
        Ok(Self { db, keys, epoch })
    }

    async fn append(&self, events: &[Event]) -> Result<(), FdbError> {
        let entries: Vec<(&Event, Entry)> = events
            .iter()
            .map(|event| (event, writes::entry(event, 1, 0)))
            .collect();
        let batch = writes::of_events(&self.keys, &entries).await;
        let transaction = self.db.create_trx()?;
        transaction.set_option(TransactionOption::ReadYourWritesDisable)?;
        for (key, value) in &batch.maxima {
            transaction.atomic_op(key, value, MutationType::ByteMax);
        }
        for put in &batch.versioned {
            let key = stamped_key(&put.prefix, self.epoch, put.index);
            transaction.atomic_op(&key, &put.value, MutationType::SetVersionstampedKey);
        }
        for put in &batch.unread {
            let key = unread_stamped_key(&put.prefix, self.epoch, put.index);
            transaction.atomic_op(&key, &put.value, MutationType::SetVersionstampedKey);
        }
        let (key, stamp) = (self.keys.wake(), MutationType::SetVersionstampedValue);
        transaction.atomic_op(&key, &[0; 14], stamp);
        transaction.commit().await.map_err(FdbError::from)?;
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Bare(error.to_string())
}
