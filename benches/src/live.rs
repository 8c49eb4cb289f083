//! `newsfeed-bench live`, `poll` and `storm`: readers follow feeds while events are appended.

use std::time::Duration;

use serde_json::json;

use super::error::Error;
use super::{
    args::{Common, Load, parse_rate_or_none},
    fleet::{Follower, Habit, ReadMode},
    plan::Plan,
    run::Run,
    session::Session,
    stop::Stop,
};

/// The readers, and the feeds that they follow.
#[derive(Debug, Clone, clap::Args)]
struct Audience {
    /// Number of readers, each with its own connection unless --http2 is given (0: only those of --idle, --stuck and
    /// --slow)
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    subscribers: u32,
    /// Number of feeds over which the events are spread, and the readers divided evenly
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    feeds: u32,
    /// Number of feeds that each reader follows as one (1 to 100)
    #[arg(long, value_name = "FEEDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    merged: u32,
    /// How many of the readers follow one additional feed, the hot feed
    #[arg(long, value_name = "READERS", default_value_t = 0)]
    hot_subscribers: u32,
    /// How many events per second, out of --rate, go to the hot feed
    #[arg(long, value_name = "EVENTS", default_value_t = 0.0)]
    hot_rate: f64,
    /// Additional readers, of feeds to which nothing is appended
    #[arg(long, value_name = "READERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    idle: u32,
    /// Seconds without a delivery, after the last append, until missing entries count as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    silence: u32,
}

impl Audience {
    /// The number of channels without the hot feed, which follows them.
    fn ordinary(&self) -> usize {
        self.feeds.div_ceil(self.merged) as usize
    }
}

#[derive(Debug, Clone, clap::Args)]
pub struct ReaderArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    load: Load,
    /// Events per second (0: append nothing, and only measure the cost of connected readers)
    #[arg(long, value_name = "EVENTS", default_value = "1000", value_parser = parse_rate_or_none)]
    rate: f64,
    #[command(flatten)]
    audience: Audience,
}

/// Additional readers that lag until the load is over, and then catch up. They follow the hot feed if there is one;
/// otherwise they are divided evenly between the feeds.
#[derive(Debug, Clone, clap::Args)]
struct Laggards {
    /// Additional readers that read nothing after their first frames until the load is over (receive buffer: 4 KiB)
    #[arg(long, value_name = "READERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    stuck: u32,
    /// Additional readers that read one byte per second until the load is over (receive buffer: 4 KiB)
    #[arg(long, value_name = "READERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    slow: u32,
}

#[derive(Debug, Clone, clap::Args)]
pub struct LiveArgs {
    #[command(flatten)]
    readers: ReaderArgs,
    #[command(flatten)]
    laggards: Laggards,
    /// Additional readers of the log, which receive the events of all feeds; their latencies are shown as `log delivery`,
    /// beside those of the readers of feeds
    #[arg(long, value_name = "READERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    log_subscribers: u32,
}

pub async fn run(args: LiveArgs, stop: Stop) -> Result<(), Error> {
    let LiveArgs {
        readers,
        laggards,
        log_subscribers,
    } = args;
    let Laggards { stuck, slow } = laggards;
    let mut session = session("live", &readers, ReadMode::Stream)?;
    session.parameters["stuck"] = json!(stuck);
    session.parameters["slow"] = json!(slow);
    session.parameters["log_subscribers"] = json!(log_subscribers);
    session.log_readers = log_subscribers;
    let ordinary = readers.audience.ordinary();
    let habits = std::iter::repeat_n(Habit::Stuck, stuck as usize)
        .chain(std::iter::repeat_n(Habit::Slow, slow as usize));
    let follower = |(number, habit)| Follower {
        channel: if readers.audience.hot_rate > 0.0 {
            ordinary
        } else {
            number % ordinary
        },
        habit,
    };
    session.laggards = habits.enumerate().map(follower).collect();
    measure(readers.common, stop, session).await
}

pub async fn run_poll(args: ReaderArgs, stop: Stop) -> Result<(), Error> {
    let session = session("poll", &args, ReadMode::LongPoll)?;
    measure(args.common, stop, session).await
}

pub async fn run_storm(args: ReaderArgs, stop: Stop) -> Result<(), Error> {
    let mut session = session("storm", &args, ReadMode::Stream)?;
    session.storm = Some(Duration::from_secs(args.load.seconds.into()) / 2);
    measure(args.common, stop, session).await
}

async fn measure(common: Common, stop: Stop, session: Session) -> Result<(), Error> {
    let run = Run::new(common, stop)?;
    let opened = session.open(&run).await?;
    let summary = opened.measure(&run).await?;
    run.conclude(&summary)
}

fn session(command: &'static str, args: &ReaderArgs, mode: ReadMode) -> Result<Session, Error> {
    let ReaderArgs {
        load,
        rate,
        audience,
        ..
    } = args;
    let Audience {
        subscribers,
        feeds,
        merged,
        hot_subscribers,
        hot_rate,
        idle,
        silence,
    } = *audience;
    let rate = *rate;
    for (invalid, message) in [
        (
            merged > feeds,
            "--merged must not exceed --feeds, because a reader follows each feed once",
        ),
        (
            hot_subscribers > subscribers,
            "--hot-subscribers must not exceed --subscribers, which includes them",
        ),
        (
            !(0.0..=rate).contains(&hot_rate),
            "--hot-rate must not exceed --rate, which includes it",
        ),
        (
            hot_subscribers > 0 && hot_rate == 0.0,
            "--hot-subscribers requires --hot-rate, the number of events per second for the hot feed",
        ),
    ] {
        if invalid {
            return Err(Error::Arguments(message.to_owned()));
        }
    }
    let hot_share = (hot_rate > 0.0).then_some(hot_rate / rate);
    let events = &load.events;
    let plan = Plan::spread(&events.kind, events.text as usize, feeds, merged, hot_share);
    let ordinary = audience.ordinary();
    let hot = std::iter::repeat_n(ordinary, hot_subscribers as usize);
    let others = (0..(subscribers - hot_subscribers) as usize).map(|reader| reader % ordinary);
    let mut parameters = load.json();
    for (name, value) in [
        ("subscribers", subscribers),
        ("feeds", feeds),
        ("merged", merged),
        ("hot_subscribers", hot_subscribers),
        ("idle", idle),
    ] {
        parameters[name] = json!(value);
    }
    parameters["rate"] = json!(rate);
    parameters["hot_rate"] = json!(hot_rate);
    Ok(Session {
        command,
        parameters,
        plan,
        schedule: load.schedule(rate)?,
        batch: load.batch,
        connections: events.connections,
        other_connections: 0,
        follows: hot.chain(others).collect(),
        idle,
        log_readers: 0,
        laggards: Vec::new(),
        mode,
        storm: None,
        silence_max: Duration::from_secs(silence.into()),
    })
}
