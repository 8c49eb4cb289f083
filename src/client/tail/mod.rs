//! `newsfeed tail`: the last entries of feeds, then what comes.
//!
//! The join is one stream: it begins behind a version ([`start`]), and the service sends what came after it and then
//! what comes. [`follow`] keeps it going over whatever breaks, [`cursor`] remembers where it was.

mod cursor;
mod follow;
mod start;

use std::path::PathBuf;

use self::{cursor::Cursor, follow::Follower};
use super::{
    Error,
    connection::Connection,
    interrupted, names,
    output::{Output, closed, status},
    pages::{Order, Range, Walk},
};

/// Print the last entries of feeds, then follow them live
///
/// Nothing is missed and nothing comes twice, whatever happens to the connection or the service: tail connects again by
/// itself, for as long as it takes once it was connected. Several feeds are merged, and an event that is in several of
/// them shows once. In a pipe each line is an entry as the API has it (JSON).
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed tail user:ben                                       the last 10, then live (Ctrl-C ends it)\n  \
    newsfeed tail user:ben chat:anna-ben -n 50 --kind message    messages of two feeds\n  \
    newsfeed tail user:ben --from now | jq -r .data.text         what comes from now on\n  \
    newsfeed tail user:ben --from beginning --no-follow          all there is, oldest first\n  \
    newsfeed tail user:ben --cursor ben.cursor | ./import        go on where it was stopped")]
pub struct TailArgs {
    /// Feeds, such as user:ben (at most 100)
    #[arg(required = true, value_name = "FEED", num_args = 1..=100, value_parser = names::name)]
    feeds: Vec<String>,
    /// Entries to begin with, the last ones there are
    #[arg(
        long,
        short = 'n',
        value_name = "ENTRIES",
        default_value_t = 10,
        conflicts_with = "from"
    )]
    lines: usize,
    /// Begin with what comes after this version, with the first entry, or with what comes from now on
    #[arg(long, value_name = "VERSION|beginning|now", value_parser = start::parse)]
    from: Option<start::From>,
    /// Only entries and signals of this kind; repeat it for several
    #[arg(long, value_parser = names::name)]
    kind: Vec<String>,
    /// Stop at what there is by now
    #[arg(long)]
    no_follow: bool,
    /// What to print: also signals that are not stored (typing) and unread counts, or only entries [default: all as
    /// text, entries as json]
    #[arg(long, value_enum, conflicts_with = "no_follow")]
    events: Option<Events>,
    /// Go on from the version in this file, if it is there, and keep in it how far all is printed
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Do not say on stderr when it is connected and where it stopped
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Events {
    All,
    Entries,
}

pub async fn run(args: TailArgs) -> Result<(), Error> {
    let client = args.connection.client()?;
    let cursor = args.cursor.clone().map(Cursor::new);
    let resumed = match &cursor {
        Some(cursor) => cursor.read()?,
        None => None,
    };
    let range = Range {
        feeds: args.feeds.clone(),
        kinds: args.kind.clone(),
        after: "0".to_owned(),
        until: None,
    };
    let mut printer = args.output.open();
    let start = match (resumed, &args.from) {
        (Some(version), _) => start::Start::after(version),
        (None, Some(from)) => start::from(&client, &range, from).await?,
        (None, None) => start::last(&client, &range, args.lines).await?,
    };
    if args.no_follow {
        let range = Range {
            after: start.after,
            until: start.until,
            ..range
        };
        let mut walk = Walk::new(&client, range, Order::OldestFirst, usize::MAX);
        while let Some(entries) = walk.next().await? {
            for entry in &entries {
                printer.print(entry.json.get(), |painter| painter.entry(&entry.value))?;
            }
            printer.flush()?;
        }
        return match (&cursor, walk.until()) {
            (Some(cursor), Some(until)) => cursor.write(until),
            _ => Ok(()),
        };
    }
    let all = args
        .events
        .map_or(!printer.is_json(), |events| events == Events::All);
    let mut follower = Follower::new(
        &client,
        range,
        start.after,
        printer,
        cursor,
        all,
        args.quiet,
    );
    let followed = tokio::select! {
        result = follower.run() => result,
        () = interrupted() => Ok(()),
        () = closed() => Err(Error::Closed),
    };
    if !matches!(followed, Err(Error::Closed)) && !args.quiet {
        let position = follower.position();
        status(&match &args.cursor {
            None => format!("stopped at {position}; --from {position} goes on from there"),
            Some(path) => format!("stopped at {position}; kept in {}", path.display()),
        });
    }
    followed
}
