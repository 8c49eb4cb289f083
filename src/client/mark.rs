//! `newsfeed mark`: moves a marker of a feed, or marks one entry.

use super::{
    Error,
    api::Client,
    connection::Connection,
    names::{self, Moment},
    output::{Output, Printer},
    states::{EntryState, Unread},
};

/// Mark a feed as read, seen or archived up to a version, or one entry as read, unread or archived
///
/// The `read` marker clears the unread count, and the `archived` marker archives what is read. Markers only move forward, and
/// every live stream of the feed reports the change. With --entry, only this entry is marked, and the others stay as they are;
/// it can be made unread again. If the output is not a terminal, it is the answer as JSON, as in the API; for a marker, the
/// previous unread count is added as `unread_before`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed mark user:ben                    everything up to now is read\n  \
    newsfeed mark user:ben seen               everything up to now has been on the screen\n  \
    newsfeed mark user:ben archived           everything that is read goes to the archive\n  \
    newsfeed mark user:ben read $VERSION      read up to and including this entry\n  \
    newsfeed mark user:ben read 2026-11-28T00:00:00Z    what came before this time is read\n  \
    newsfeed mark chat:7 --reader user:ben    everything in the chat is read, for Ben\n  \
    newsfeed mark chat:7 --reader user:ben unread --entry $VERSION      this entry is unread again\n  \
    newsfeed mark chat:7 --reader user:ben archived --entry $VERSION    this entry goes to the archive\n  \
    newsfeed mark chat:7 --reader user:ben read --entry $VERSION        it is read, and not in the archive")]
pub struct MarkArgs {
    /// The feed, such as user:ben
    #[arg(value_parser = names::name)]
    feed: String,
    /// The marker to move or, with --entry, what the entry becomes
    #[arg(value_enum, default_value_t = Mark::Read)]
    marker: Mark,
    /// The version to move it to, or a time (RFC 3339) for what was current then
    #[arg(value_name = "VERSION|TIME|now", default_value = "now", value_parser = names::moment)]
    version: Moment,
    /// Only the entry at this version (`newsfeed history --long` shows it)
    #[arg(long, value_name = "VERSION", value_parser = names::version, conflicts_with = "version")]
    entry: Option<String>,
    /// As this reader, such as user:ben [default: the feed's own reader]
    #[arg(long, value_name = "NAME", value_parser = names::name)]
    reader: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Mark {
    Read,
    /// For markers only
    Seen,
    Archived,
    /// With --entry only
    Unread,
}

pub async fn run(args: MarkArgs) -> Result<(), Error> {
    match (&args.entry, args.marker) {
        (Some(_), Mark::Seen) => Err(usage(
            "an entry is marked read, unread or archived; `seen` is for markers: leave --entry out",
        )),
        (None, Mark::Unread) => Err(usage(
            "markers never move back: name the entry that is to be unread with --entry VERSION",
        )),
        (Some(entry), Mark::Read) => mark_entry(&args, entry, EntryState::Read).await,
        (Some(entry), Mark::Archived) => mark_entry(&args, entry, EntryState::Archived).await,
        (Some(entry), Mark::Unread) => mark_entry(&args, entry, EntryState::Unread).await,
        (None, Mark::Read) => move_marker(&args, "read").await,
        (None, Mark::Seen) => move_marker(&args, "seen").await,
        (None, Mark::Archived) => move_marker(&args, "archived").await,
    }
}

fn usage(what: &str) -> Error {
    Error::Usage(what.to_owned(), "mark")
}

async fn mark_entry(args: &MarkArgs, entry: &str, state: EntryState) -> Result<(), Error> {
    let (client, mut printer) = begin(args).await?;
    let feed = (&*args.feed, args.reader.as_deref());
    let marked = client.mark_entry(feed, entry, state).await?;
    printer.print(marked.json.get(), |painter| painter.marked(&marked.value))?;
    printer.flush()
}

async fn move_marker(args: &MarkArgs, marker: &str) -> Result<(), Error> {
    let (client, mut printer) = begin(args).await?;
    let feed = (&*args.feed, args.reader.as_deref());
    let before = client.state(feed.0, feed.1).await?;
    let to = match &args.version {
        Moment::Now => before.value.version.clone(),
        Moment::At(position) => position.version(&client).await?,
    };
    let after = client.move_marker(feed, marker, &to).await?;
    let json = with_unread_before(after.json.get(), &before.value.unread);
    printer.print(&json, |painter| {
        format!(
            "{}  before: {}",
            painter.state(&after.value),
            painter.unread(&before.value.unread)
        )
    })?;
    printer.flush()
}

async fn begin(args: &MarkArgs) -> Result<(Client, Printer), Error> {
    let client = args.connection.reached().await?;
    Ok((client, args.output.open()))
}

/// The JSON object `after` with the previous unread count added.
fn with_unread_before(after: &str, unread: &Unread) -> String {
    let unread = serde_json::to_string(unread).expect("counts and names serialize");
    let fields = after.trim_end().strip_suffix('}').unwrap_or(after);
    format!("{fields},\"unread_before\":{unread}}}")
}
