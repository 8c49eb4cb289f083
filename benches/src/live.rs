//! `bench live`, `bench poll` and `bench storm`: readers of feeds while events are appended.

use std::time::Duration;

use serde_json::json;

use super::error::Error;
use super::{
    args::{Common, Load, parse_rate_or_none},
    fleet::{Follower, Habit, Way},
    plan::Plan,
    run::Run,
    session::Session,
    stop::Stop,
};

/// Who follows what.
#[derive(Debug, Clone, clap::Args)]
struct Audience {
    /// Readers, each with a connection of its own (0: only the --idle ones)
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    subscribers: u32,
    /// Feeds the events are spread over; the readers share them evenly
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    feeds: u32,
    /// Feeds that each reader follows as one (1 to 100)
    #[arg(long, value_name = "FEEDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    merged: u32,
    /// How many of the readers follow one further feed, the hot one
    #[arg(long, value_name = "READERS", default_value_t = 0)]
    hot_subscribers: u32,
    /// How many of the events a second go to the hot feed
    #[arg(long, value_name = "EVENTS", default_value_t = 0.0)]
    hot_rate: f64,
    /// Further readers, of feeds that get nothing
    #[arg(long, value_name = "READERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    idle: u32,
    /// Seconds without a delivery after the last append before what is missing counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    silence: u32,
}

impl Audience {
    /// The channels without the hot one, which comes after them.
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
    /// Events a second (0: time passes, and only what the readers cost is measured)
    #[arg(long, value_name = "EVENTS", default_value = "1000", value_parser = parse_rate_or_none)]
    rate: f64,
    #[command(flatten)]
    audience: Audience,
}

/// Further readers that do not keep up until the load is over; then they read all they missed. They follow the hot feed
/// if there is one, or else share the others evenly.
#[derive(Debug, Clone, clap::Args)]
struct Laggards {
    /// Further readers that get their first frames, then read nothing until the load is over (receive buffer: 4 KiB)
    #[arg(long, value_name = "READERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    stuck: u32,
    /// Further readers that read one byte a second until the load is over (receive buffer: 4 KiB)
    #[arg(long, value_name = "READERS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    slow: u32,
}

#[derive(Debug, Clone, clap::Args)]
pub struct LiveArgs {
    #[command(flatten)]
    readers: ReaderArgs,
    #[command(flatten)]
    laggards: Laggards,
}

pub async fn run(args: LiveArgs, stop: Stop) -> Result<(), Error> {
    let LiveArgs { readers, laggards } = args;
    let Laggards { stuck, slow } = laggards;
    let mut session = session("live", &readers, Way::Stream)?;
    session.parameters["stuck"] = json!(stuck);
    session.parameters["slow"] = json!(slow);
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
    let session = session("poll", &args, Way::LongPoll)?;
    measure(args.common, stop, session).await
}

pub async fn run_storm(args: ReaderArgs, stop: Stop) -> Result<(), Error> {
    let mut session = session("storm", &args, Way::Stream)?;
    session.storm = Some(Duration::from_secs(args.load.seconds.into()) / 2);
    measure(args.common, stop, session).await
}

async fn measure(common: Common, stop: Stop, session: Session) -> Result<(), Error> {
    let run = Run::new(common, stop)?;
    let opened = session.open(&run).await?;
    let summary = opened.measure(&run).await?;
    run.conclude(&summary)
}

fn session(command: &'static str, args: &ReaderArgs, way: Way) -> Result<Session, Error> {
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
    for (wrong, message) in [
        (
            merged > feeds,
            "--merged must not be more than --feeds: a reader follows each feed once",
        ),
        (
            hot_subscribers > subscribers,
            "--hot-subscribers must not be more than --subscribers: they are some of them",
        ),
        (
            !(0.0..=rate).contains(&hot_rate),
            "--hot-rate must not be more than --rate: the hot events are some of them",
        ),
        (
            hot_subscribers > 0 && hot_rate == 0.0,
            "--hot-subscribers need a --hot-rate: how many events a second go to the hot feed",
        ),
    ] {
        if wrong {
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
        laggards: Vec::new(),
        way,
        storm: None,
        silence_max: Duration::from_secs(silence.into()),
    })
}
