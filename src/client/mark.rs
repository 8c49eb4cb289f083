//! `newsfeed mark`: how far a feed has been read or seen.

use super::{
    Error,
    connection::Connection,
    feeds::Unread,
    names::{self, Moment},
    output::Output,
};

/// Mark a feed read or seen, up to a version
///
/// Reading clears the unread count; both only move forward, and every live reader hears of it. In a pipe the line is the
/// state that the API answers, with the unread count before as `unread_before`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed mark user:ben                    all there is by now is read\n  \
    newsfeed mark user:ben seen               all has been on the screen\n  \
    newsfeed mark user:ben read $VERSION      read up to and including this entry")]
pub struct MarkArgs {
    /// The feed, such as user:ben
    #[arg(value_parser = names::name)]
    feed: String,
    /// What to move
    #[arg(value_enum, default_value_t = Marker::Read)]
    marker: Marker,
    /// How far
    #[arg(value_name = "VERSION|now", default_value = "now", value_parser = names::moment)]
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
    let before = client.head(&args.feed).await?;
    let to = match &args.version {
        Moment::Now => &before.value.version,
        Moment::Version(version) => version,
    };
    let after = client
        .move_marker(&args.feed, args.marker.name(), to)
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

/// What the service answered, an object, and what it was before.
fn with_unread_before(after: &str, unread: &Unread) -> String {
    let unread = serde_json::to_string(unread).expect("counts and names serialize");
    let fields = after.trim_end().strip_suffix('}').unwrap_or(after);
    format!("{fields},\"unread_before\":{unread}}}")
}
