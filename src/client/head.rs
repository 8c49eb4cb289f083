//! `newsfeed head`: where feeds stand.

use super::{Error, connection::Connection, feeds::State, line::Painter, names, output::Output};

/// Print where feeds stand: version, unread count and markers
///
/// The version is this moment's (vN): history up to it and live after it are the whole feed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed head user:ben                    how many are unread?\n  \
    VN=$(newsfeed head user:ben | jq -r .version)\n  \
    newsfeed history user:ben --until $VN; newsfeed tail user:ben --from $VN")]
pub struct HeadArgs {
    /// Feeds, such as user:ben
    #[arg(required = true, value_name = "FEED", value_parser = names::name)]
    feeds: Vec<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: HeadArgs) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let mut printer = args.output.open();
    for feed in &args.feeds {
        let head = client.head(feed).await?;
        printer.print(head.json.get(), |painter| text(painter, &head.value))?;
        printer.flush()?;
    }
    Ok(())
}

fn text(painter: &Painter, state: &State) -> String {
    let latest = match &state.latest {
        Some(latest) => format!("latest {}", painter.dim(latest)),
        None => "empty: nobody has written to it".to_owned(),
    };
    format!(
        "{}  version {}  {latest}",
        painter.state(&state.feed, &state.unread, &state.markers),
        painter.dim(&state.version),
    )
}
