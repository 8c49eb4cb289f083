//! `newsfeed demo`: fills a running service with the activity of an invented social site.
//!
//! [`Site`] generates the activity step by step from a seed, without clock or network, so that the same seed gives the
//! same activity. [`live`] performs `--rate` steps per second.

mod site;
mod words;

use std::{fmt, time::Duration};

use indicatif::HumanCount;
use tokio::time::MissedTickBehavior;

use self::site::{Act, Site};
use super::{
    Error,
    api::Client,
    connection::Connection,
    interrupted,
    progress::Progress,
    wire::{NewEvent, Outcome},
};

/// Events per request of the backlog.
const ARRAY_EVENTS: usize = 500;

/// Fill a running service with the activity of an invented social site
///
/// Users write to each other and in groups (typing first), flirt, visit profiles and read their feeds and chats. A backlog is appended first,
/// followed by live activity. Every run appends new events. The same --seed with the same --users and --rate repeats the
/// same activity.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed demo                            40 users for one minute\n  \
    newsfeed demo --for forever --rate 5     slower, until Ctrl-C\n  \
    newsfeed demo --backlog 100000 --for 0   a long history and nothing live")]
pub struct DemoArgs {
    #[command(flatten)]
    connection: Connection,
    /// Number of users of the site (2 to 1000)
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    users: u16,
    /// Events to append before going live
    #[arg(long, value_name = "EVENTS", default_value_t = 2_000)]
    backlog: usize,
    /// Events per second of live activity, sent one at a time (up to 1000)
    #[arg(long, value_name = "EVENTS", default_value = "20", value_parser = parse_rate)]
    rate: f64,
    /// Duration of live activity in seconds, or `forever`
    #[arg(long = "for", value_name = "SECONDS", default_value = "60", value_parser = parse_live_for)]
    live_for: Duration,
    /// Seed of the random generator [default: a new one in each run]
    #[arg(long)]
    seed: Option<u64>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1_000.0).contains(&rate) => Ok(rate),
        _ => Err("must be a number from 0.001 to 1000".to_owned()),
    }
}

fn parse_live_for(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) if text == "forever" => Ok(Duration::MAX),
        Err(_) => Err("must be whole seconds or `forever`".to_owned()),
    }
}

/// Appends the backlog, prints what to look at, then runs live until the time is over or Ctrl-C.
pub async fn run(args: DemoArgs) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut site = Site::new(usize::from(args.users), seed, rand::random(), args.rate);
    let mut done = Done::default();
    let played = async {
        backlog(&client, args.backlog, &mut site, &mut done).await?;
        println!("{}", site.where_to_look(client.base_url()));
        live(&client, &args, &mut site, &mut done).await
    };
    let result = tokio::select! {
        result = played => result,
        () = interrupted() => Ok(()),
    };
    println!("{done}; repeat the same activity with --seed {seed}");
    result
}

/// Forms the groups and appends history for all users. Every third user has read everything.
async fn backlog(
    client: &Client,
    events: usize,
    site: &mut Site,
    done: &mut Done,
) -> Result<(), Error> {
    append(client, &site.groups(), done).await?;
    let mut progress = Progress::new(Some(events as u64));
    let mut activity =
        std::iter::repeat_with(|| site.step())
            .flatten()
            .filter_map(|act| match act {
                Act::Append(event) => Some(event),
                Act::Typing(_) | Act::Read { .. } => None,
            });
    let mut left = events;
    while left > 0 {
        let array: Vec<NewEvent> = activity.by_ref().take(left.min(ARRAY_EVENTS)).collect();
        append(client, &array, done).await?;
        left -= array.len();
        progress.set(done.appended, || format!("backlog: {done}"));
    }
    drop(activity);
    for user in site.users().step_by(3) {
        for feed in site.feeds_of(user) {
            read(client, &feed, &site.user_feed(user), done).await?;
        }
    }
    Ok(())
}

async fn live(
    client: &Client,
    args: &DemoArgs,
    site: &mut Site,
    done: &mut Done,
) -> Result<(), Error> {
    let mut progress = Progress::new(None);
    let end = tokio::time::sleep(args.live_for);
    tokio::pin!(end);
    let mut steps = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    // If the service is too slow for the rate, the demo slows down instead of sending bursts.
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = &mut end => return Ok(()),
            _ = steps.tick() => {}
        }
        for act in site.step() {
            match act {
                Act::Append(event) => append(client, &[event], done).await?,
                Act::Typing(event) => {
                    client.transient(&event).await?;
                    done.typing += 1;
                }
                Act::Read { feed, reader } => read(client, &feed, &reader, done).await?,
            }
        }
        progress.set(0, || format!("live: {done} (Ctrl-C stops)"));
    }
}

async fn append(client: &Client, events: &[NewEvent], done: &mut Done) -> Result<(), Error> {
    for (event, outcome) in events.iter().zip(client.append(events).await?) {
        match outcome {
            // A duplicate is our own event whose answer was lost: the ids are new in every run.
            // Somebody may have erased it by now, if the answer was lost.
            Outcome::Appended | Outcome::Duplicate | Outcome::Erased => done.appended += 1,
            Outcome::Rejected { error } => return Err(error.of(format!("event {}", event.id))),
        }
    }
    Ok(())
}

/// Marks a feed as read by `reader` up to its current version, if the token may act as that reader.
async fn read(client: &Client, feed: &str, reader: &str, done: &mut Done) -> Result<(), Error> {
    let now = client.state(feed, None).await?.value.version;
    match client.move_marker((feed, Some(reader)), "read", &now).await {
        Ok(_) => done.reads += 1,
        Err(Error::Refused { code, .. }) if code == "reader_forbidden" => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Done {
    appended: u64,
    typing: u64,
    reads: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [appended, typing, reads] = [self.appended, self.typing, self.reads].map(HumanCount);
        write!(
            f,
            "{appended} events appended, {typing} typing signals sent, {reads} feeds marked as read"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        assert_eq!(parse_live_for("forever"), Ok(Duration::MAX));
        assert_eq!(parse_live_for("90"), Ok(Duration::from_secs(90)));
        assert!(parse_live_for("1m").is_err() && parse_live_for("-1").is_err());
        for rate in ["0", "NaN", "1001", "x"] {
            assert!(parse_rate(rate).is_err(), "{rate}");
        }
        assert_eq!(parse_rate("0.5"), Ok(0.5));
    }
}
