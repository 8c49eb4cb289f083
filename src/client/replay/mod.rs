//! `newsfeed replay`: appends a list of messages to a running service.
//!
//! One request is in flight at a time, so that the order of every feed is the order of the file. An event's id consists of
//! the file name and the line number, so that a second run appends nothing.

pub mod list;
mod summary;
mod timing;

use std::path::PathBuf;

use tokio::time::Instant;

use self::{list::Message, summary::Summary, timing::Timing};
use super::{
    Error,
    api::Client,
    connection::Connection,
    interrupted,
    progress::Progress,
    wire::{NewEvent, Outcome},
};

/// Append a list of messages from a file
///
/// Each line `SENDER RECEIVER UNIX_SECONDS` (whole numbers) becomes one `message` in the feeds `user:RECEIVER` and
/// `chat:LOW-HIGH`, with UNIX_SECONDS as its `time`. Its id consists of the file name and the line number, so running the command again appends nothing
/// twice. Nothing is sent if any line is malformed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed replay CollegeMsg.txt.gz                  as fast as the service accepts it\n  \
    newsfeed replay CollegeMsg.txt.gz --pace 3600      one hour of the original per second\n  \
    head -100 list.txt | newsfeed replay /dev/stdin    from standard input")]
pub struct ReplayArgs {
    /// The list, plain text or gzip
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
    /// Speed relative to the original times: 1 is real time, 60 is one minute per second [default: as fast as possible]
    #[arg(long, value_name = "TIMES", value_parser = timing::parse)]
    pace: Option<f64>,
    /// Maximum number of events in a request (1 to 1000)
    #[arg(long, value_name = "EVENTS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// Stop after this many lines [default: all]
    #[arg(long, value_name = "LINES")]
    limit: Option<usize>,
}

/// Replays the list and prints the summary, also after a failure or Ctrl-C.
pub async fn run(args: ReplayArgs) -> Result<(), Error> {
    let client = args.connection.client()?;
    let stem = list::event_stem(&args.file)?;
    let messages = list::read(&args.file, args.limit)?;
    client.probe().await?;
    let mut summary = Summary::start();
    let result = tokio::select! {
        result = replay(&client, &args, &stem, &messages, &mut summary) => result,
        () = interrupted() => {
            println!("stopped by Ctrl-C; run it again to continue, nothing is appended twice");
            Ok(())
        }
    };
    println!("{summary}");
    result
}

/// Sends all `messages`. `summary` is updated with every response, so it is right when this is cancelled.
async fn replay(
    client: &Client,
    args: &ReplayArgs,
    stem: &str,
    messages: &[Message],
    summary: &mut Summary,
) -> Result<(), Error> {
    let mut progress = Progress::new(Some(messages.len() as u64));
    let timing = match (args.pace, messages) {
        (Some(times), [first, ..]) => Some(Timing::start(times, first.sent)),
        _ => None,
    };
    let mut done = 0;
    while done < messages.len() {
        let rest = &messages[done..];
        let full = &rest[..rest.len().min(usize::from(args.batch))];
        let batch = match &timing {
            None => full,
            Some(timing) => timing.due_of(full).await,
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
            // Latency counts from when the event was due, including the wait for the request before it.
            let due = timing
                .as_ref()
                .map_or(sent, |timing| timing.due(message.sent));
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
