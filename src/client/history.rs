//! `newsfeed history`: the entries of feeds, page by page.

use super::{
    Error,
    connection::Connection,
    names::{self, Moment, Position},
    output::{Output, status},
    pages::{Order, Range, Walk},
    states::EntryState,
};

/// Print the history of feeds, newest first
///
/// Several feeds are merged into one order; an event that is in several of them is printed once. Entries are printed as they
/// are now: an edited one has `edited`, and erased ones are left out. (`newsfeed tail` tells of the changes themselves.)
/// Entries appended while the command runs are not included. If the output is not a terminal, each line is an entry as JSON, as in the API.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed history user:ben --limit 20                         the newest 20\n  \
    newsfeed history user:ben chat:anna-ben --kind message       messages of two feeds\n  \
    newsfeed history user:ben --long                             with versions and ids\n  \
    newsfeed history chat:7 --reader user:ben --state unread     what Ben has not read\n  \
    newsfeed history user:ben --reverse | jq -r .data.text       all entries, oldest first\n  \
    newsfeed history user:ben --after $(cat cursor) --until $VN  entries between two versions\n  \
    newsfeed history user:ben --after 2026-11-28T00:00:00Z       entries since a time\n  \
    newsfeed history user:ben --after 2026-11-28T00:00:00Z --until 2026-11-29T00:00:00Z    of one day")]
pub struct HistoryArgs {
    /// Feeds, such as user:ben (at most 100)
    #[arg(required = true, value_name = "FEED", num_args = 1..=100, value_parser = names::name)]
    feeds: Vec<String>,
    /// Only entries up to and including this version, or up to what was current at this time
    #[arg(long, value_name = "VERSION|TIME|now", default_value = "now", value_parser = names::moment)]
    until: Moment,
    /// Only entries after this version, or after what was current at this time (RFC 3339) [default: all]
    #[arg(long, value_name = "VERSION|TIME", default_value = "0", hide_default_value = true, value_parser = names::position)]
    after: Position,
    /// Maximum number of entries [default: all]
    #[arg(long, short = 'n', value_name = "ENTRIES")]
    limit: Option<usize>,
    /// Only entries of this kind (repeatable)
    #[arg(long, value_parser = names::name)]
    kind: Vec<String>,
    /// As this reader, such as user:ben: entries show what they are for it [default: the feed's own reader]
    #[arg(long, value_name = "NAME", value_parser = names::name)]
    reader: Option<String>,
    /// Only entries that are in this state for the reader [default: any]
    #[arg(long, value_enum)]
    state: Option<InState>,
    /// Oldest first
    #[arg(long)]
    reverse: bool,
    /// As text, also show the version and the id of each entry (JSON always has them)
    #[arg(long, short)]
    long: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum InState {
    Unread,
    Read,
    Archived,
    /// All entries, with their states
    Any,
}

impl InState {
    fn name(self) -> &'static str {
        match self {
            Self::Unread => EntryState::Unread.name(),
            Self::Read => EntryState::Read.name(),
            Self::Archived => EntryState::Archived.name(),
            Self::Any => "any",
        }
    }
}

pub async fn run(args: HistoryArgs) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let mut printer = args.output.open().long(args.long);
    let range = Range {
        feeds: args.feeds,
        log: false,
        kinds: args.kind,
        reader: args.reader,
        state: args.state.map(InState::name),
        after: args.after.version(&client).await?,
        until: match args.until {
            Moment::Now => None,
            Moment::At(position) => Some(position.version(&client).await?),
        },
    };
    let order = if args.reverse {
        Order::OldestFirst
    } else {
        Order::NewestFirst
    };
    if order == Order::NewestFirst && range.after != "0" {
        // The pages do not name this version, so that the service would not refuse one of another store.
        let one = [("after", &*range.after), ("limit", "1")];
        client.page(&range, &one).await?;
    }
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut printed = false;
    let mut walk = Walk::new(&client, range, order, left);
    while left > 0
        && let Some(mut entries) = walk.next().await?
    {
        entries.retain(|entry| entry.value.change.is_none());
        for entry in entries.iter().take(left) {
            printer.print(entry.json.get(), |painter| painter.entry(&entry.value))?;
            printed = true;
        }
        left = left.saturating_sub(entries.len());
        printer.flush()?;
    }
    if !printed && !printer.is_json() && args.limit != Some(0) {
        status("no entries");
    }
    Ok(())
}
