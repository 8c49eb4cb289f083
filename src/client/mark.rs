//! `newsfeed mark`: moves the `read` or `seen` marker of a feed.

use super::{
    Error,
    connection::Connection,
    feeds::Unread,
    names::{self, Moment},
    output::Output,
};

/// Mark a feed as read or seen, up to a version
///
/// The `read` marker clears the unread count. Markers only move forward, and every live stream of the feed reports the
/// change. If the output is not a terminal, it is the new state as JSON, as in the API, with the previous unread count
/// added as `unread_before`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed mark user:ben                    everything up to now is read\n  \
    newsfeed mark user:ben seen               everything up to now has been on the screen\n  \
    newsfeed mark user:ben read $VERSION      read up to and including this entry\n  \
    newsfeed mark user:ben read 2026-11-28T00:00:00Z    what came before this time is read")]
pub struct MarkArgs {
    /// The feed, such as user:ben
    #[arg(value_parser = names::name)]
    feed: String,
    /// The marker to move
    #[arg(value_enum, default_value_t = Marker::Read)]
    marker: Marker,
    /// The version to move it to, or a time (RFC 3339) for what was current then
    #[arg(value_name = "VERSION|TIME|now", default_value = "now", value_parser = names::moment)]
    version: Moment,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Marker {
    Read,
    Seen,
}

impl Marker {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Seen => "seen",
        }
    }
}

pub async fn run(args: MarkArgs) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let mut printer = args.output.open();
    let before = client.state(&args.feed).await?;
    let to = match &args.version {
        Moment::Now => before.value.version.clone(),
        Moment::At(position) => position.version(&client).await?,
    };
    let after = client
        .move_marker(&args.feed, args.marker.name(), &to)
        .await?;
    let json = with_unread_before(after.json.get(), &before.value.unread);
    printer.print(&json, |painter| {
        let state = &after.value;
        format!(
            "{}  before: {}",
            painter.state(&state.feed, &state.unread, &state.markers),
            painter.unread(&before.value.unread)
        )
    })?;
    printer.flush()
}

/// The JSON object `after` with the previous unread count added.
fn with_unread_before(after: &str, unread: &Unread) -> String {
    let unread = serde_json::to_string(unread).expect("counts and names serialize");
    let fields = after.trim_end().strip_suffix('}').unwrap_or(after);
    format!("{fields},\"unread_before\":{unread}}}")
}
