//! `newsfeed replay`: a message list, line by line, into a running service.
//!
//! One array is in flight at a time, so the order of every feed is the order of the file. A line's event
//! id comes from the file's name and the line's number, so a second run appends nothing.

pub mod list;
mod pace;
mod summary;

use std::path::PathBuf;

use tokio::time::Instant;

use self::{list::Message, pace::Pace, summary::Summary};
use super::{
    Error,
    api::Client,
    connection::Connection,
    interrupted,
    progress::Progress,
    wire::{NewEvent, Outcome},
};

/// Append a list of messages, a line each, to a running service
///
/// Each line `SENDER RECEIVER UNIX_SECONDS` (whole numbers) becomes one `message` in the feeds
/// `user:RECEIVER` and `chat:LOW-HIGH`. Its id is the file's name and the line's number, so running the
/// command again appends nothing twice. A list with a malformed line is not sent at all.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed replay CollegeMsg.txt.gz                  as fast as the service takes it\n  \
    newsfeed replay CollegeMsg.txt.gz --pace 3600      an hour of the original every second\n  \
    head -100 list.txt | newsfeed replay /dev/stdin    from standard input")]
pub struct ReplayArgs {
    /// The list, plain or gzip
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
    /// Times the original pace: 1 is as it happened, 60 a minute every second [default: as fast as possible]
    #[arg(long, value_name = "TIMES", value_parser = pace::parse)]
    pace: Option<f64>,
    /// Events in one request, at most (1 to 1000)
    #[arg(long, value_name = "EVENTS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// Stop after this many lines [default: all]
    #[arg(long, value_name = "LINES")]
    limit: Option<usize>,
}

/// The command: replays, and prints the summary whatever the end, Ctrl-C included.
pub async fn run(args: ReplayArgs) -> Result<(), Error> {
    let client = args.connection.client()?;
    let stem = list::event_stem(&args.file)?;
    let messages = list::read(&args.file, args.limit)?;
    client.probe().await?;
    let mut summary = Summary::start();
    let result = tokio::select! {
        result = replay(&client, &args, &stem, &messages, &mut summary) => result,
        () = interrupted() => {
            println!("stopped by Ctrl-C; run it again to go on, nothing is appended twice");
            Ok(())
        }
    };
    println!("{summary}");
    result
}

/// Sends all `messages`; `summary` is up to date at every answer, so it holds when this is dropped midway.
async fn replay(
    client: &Client,
    args: &ReplayArgs,
    stem: &str,
    messages: &[Message],
    summary: &mut Summary,
) -> Result<(), Error> {
    let mut progress = Progress::new(Some(messages.len() as u64));
    let pace = match (args.pace, messages) {
        (Some(times), [first, ..]) => Some(Pace::start(times, first.sent)),
        _ => None,
    };
    let mut done = 0;
    while done < messages.len() {
        let rest = &messages[done..];
        let full = &rest[..rest.len().min(usize::from(args.batch))];
        let batch = match &pace {
            None => full,
            Some(pace) => pace.due_of(full).await,
        };
        let numbered = (done + 1..).zip(batch);
        let events: Vec<NewEvent> = numbered
            .clone()
            .map(|(line, message)| message.event(stem, line))
            .collect();
        let sent = Instant::now();
        let outcomes = client.append(&events).await?;
        let answered = Instant::now();
        let mut rejected = None;
        for ((line, message), outcome) in numbered.zip(outcomes) {
            // An event that had to wait for the one before is late from the moment it was due.
            let due = pace.as_ref().map_or(sent, |pace| pace.due(message.sent));
            summary.record(&outcome, answered - due);
            if let Outcome::Rejected { error } = outcome {
                rejected.get_or_insert((line, error));
            }
        }
        done += batch.len();
        progress.set(done as u64, || summary.so_far());
        if let Some((line, error)) = rejected {
            return Err(error.of(format!("line {line} of {}", args.file.display())));
        }
    }
    Ok(())
}
