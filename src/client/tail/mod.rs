//! `newsfeed tail`: the last entries of feeds, then new ones as they are appended.
//!
//! A stream begins after a version ([`start`]): the service first sends the entries after it, then live ones. [`follow`]
//! reconnects after failures, [`cursor`] keeps the position in a file.

mod cursor;
mod follow;
mod start;

use std::path::PathBuf;

use self::{
    cursor::Cursor,
    follow::{Follower, Printing},
    start::{Position, Start},
};
use super::{
    Error,
    api::Client,
    connection::Connection,
    interrupted, names,
    output::{Output, Printer, closed, status},
    pages::{Order, Range, Walk},
};

/// Print the last entries of feeds, then follow them live
///
/// Every entry is printed once, in order, also when the connection breaks or the service restarts: tail reconnects by
/// itself, without a time limit once it was connected. Several feeds are merged into one order; an event that is in
/// several of them is printed once. If an entry is edited or erased, a line of its own tells of it: in JSON it has `change`,
/// which is `edited` (with the whole entry as it is now) or `erased`. If the output is not a terminal, each line is an entry as JSON, as in the API.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed tail user:ben                                       the last 10 entries, then live (Ctrl-C stops)\n  \
    newsfeed tail user:ben chat:anna-ben -n 50 --kind message    messages of two feeds\n  \
    newsfeed tail chat:7 --reader user:ben                       with Ben's unread count, and who else reads\n  \
    newsfeed tail user:ben --from now | jq -r .data.text         only new entries\n  \
    newsfeed tail user:ben --from beginning --no-follow          the whole feed, oldest first\n  \
    newsfeed tail user:ben --from 2026-11-28T00:00:00Z           entries since a time, then live\n  \
    newsfeed tail user:ben --cursor ben.cursor | ./import        continue where it stopped\n  \
    newsfeed tail --all --kind message                           messages of all feeds\n  \
    newsfeed tail --feed 'chat:*' --from now                     what happens in chats")]
pub struct TailArgs {
    /// Feeds, such as user:ben (at most 100)
    #[arg(
        required_unless_present_any = ["all", "feed"],
        conflicts_with_all = ["all", "feed"],
        value_name = "FEED",
        num_args = 1..=100,
        value_parser = names::name
    )]
    feeds: Vec<String>,
    /// Follow all events, each once with all its feeds (needs the scope export)
    #[arg(long)]
    all: bool,
    /// As --all, but only events with this feed, or with one that begins so, such as 'chat:*' (repeatable)
    #[arg(long, value_name = "PATTERN", value_parser = names::pattern)]
    feed: Vec<String>,
    /// Number of existing entries to print first
    #[arg(
        long,
        short = 'n',
        value_name = "ENTRIES",
        default_value_t = 10,
        conflicts_with = "from"
    )]
    lines: usize,
    /// Start after this version, after what was current at this time (RFC 3339), at the first entry, or with new entries only
    #[arg(long, value_name = "VERSION|TIME|beginning|now", value_parser = start::parse)]
    from: Option<start::From>,
    /// Only entries and transients of this kind (repeatable)
    #[arg(long, value_parser = names::name)]
    kind: Vec<String>,
    /// As this reader, such as user:ben: with its unread counts, markers and marks [default: the feed's own reader]
    #[arg(long, value_name = "NAME", value_parser = names::name, conflicts_with_all = ["all", "feed"])]
    reader: Option<String>,
    /// As text, also show the version and the id of each entry (JSON always has them)
    #[arg(long, short)]
    long: bool,
    /// Exit after the existing entries
    #[arg(long)]
    no_follow: bool,
    /// Print also transients (such as typing), unread counts, marks and how far others read, or only entries [default: all as text, entries as json]
    #[arg(long, value_enum, conflicts_with = "no_follow")]
    events: Option<Events>,
    /// Continue from the version in this file, if it exists, and keep the position in it
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Do not report connections and the final position on stderr
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
        feeds: [&args.feeds[..], &args.feed].concat(),
        log: args.all || !args.feed.is_empty(),
        kinds: args.kind.clone(),
        reader: args.reader.clone(),
        state: None,
        after: "0".to_owned(),
        until: None,
    };
    let mut printer = args.output.open().long(args.long);
    let start = match args.from {
        Some(from) => Start::From(from),
        None => Start::Last(args.lines),
    };
    if args.no_follow {
        let printed = match resumed {
            Some(version) => {
                let position = Position::after(version);
                match print(&client, &range, position, &mut printer).await {
                    Err(error) => match error.gone_cursor() {
                        Some(gone) => {
                            tracing::warn!("the position in the cursor file {gone}; starting over");
                            None
                        }
                        None => return Err(error),
                    },
                    Ok(printed) => Some(printed),
                }
            }
            None => None,
        };
        let until = match printed {
            Some(until) => until,
            None => {
                let position = start.find(&client, &range).await?;
                print(&client, &range, position, &mut printer).await?
            }
        };
        return match (&cursor, until) {
            (Some(cursor), Some(until)) => cursor.write(&until),
            _ => Ok(()),
        };
    }
    let position = match resumed {
        Some(version) => version,
        None => start.find(&client, &range).await?.after,
    };
    let all = args
        .events
        .map_or(!printer.is_json(), |events| events == Events::All);
    let printing = Printing {
        printer,
        all,
        quiet: args.quiet,
    };
    let mut follower = Follower::new(&client, range, position, start, cursor, printing);
    let followed = tokio::select! {
        result = follower.run() => result,
        () = interrupted() => Ok(()),
        () = closed() => Err(Error::Closed),
    };
    if !matches!(followed, Err(Error::Closed)) && !args.quiet {
        let position = follower.position();
        status(&match &args.cursor {
            None => format!("stopped at {position}; continue with --from {position}"),
            Some(path) => format!("stopped at {position}; saved in {}", path.display()),
        });
    }
    followed
}

/// Prints the existing entries after `position`. Returns the version up to which they were read, if the service was asked.
async fn print(
    client: &Client,
    range: &Range,
    position: Position,
    printer: &mut Printer,
) -> Result<Option<String>, Error> {
    let range = Range {
        after: position.after,
        until: position.until,
        ..range.clone()
    };
    let mut walk = Walk::new(client, range, Order::OldestFirst, usize::MAX);
    while let Some(entries) = walk.next().await? {
        for entry in &entries {
            printer.print(entry.json.get(), |painter| painter.entry(&entry.value))?;
        }
        printer.flush()?;
    }
    Ok(walk.until().map(str::to_owned))
}
