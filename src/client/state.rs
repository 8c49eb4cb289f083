//! `newsfeed state`: version, unread count and markers of feeds.

use super::{Error, connection::Connection, line::Painter, names, output::Output, states::State};

/// Print the state of feeds: version, unread count and markers
///
/// The version is the current one (vN), the same for all feeds. History up to it and live entries after it together are the whole feed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed state user:ben                    how many entries are unread?\n  \
    newsfeed state user:ben chat:anna-ben      of two feeds, as of one moment\n  \
    newsfeed state chat:7 --reader user:ben    how many are unread for Ben?\n  \
    VN=$(newsfeed state user:ben | jq -r .version)\n  \
    newsfeed history user:ben --until $VN; newsfeed tail user:ben --from $VN")]
pub struct StateArgs {
    /// Feeds, such as user:ben (at most 1000)
    #[arg(required = true, value_name = "FEED", num_args = 1..=1000, value_parser = names::name)]
    feeds: Vec<String>,
    /// As this reader, such as user:ben [default: the feed's own reader]
    #[arg(long, value_name = "NAME", value_parser = names::name)]
    reader: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: StateArgs) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let mut printer = args.output.open();
    for state in client.states(&args.feeds, args.reader.as_deref()).await? {
        printer.print(state.json.get(), |painter| text(painter, &state.value))?;
    }
    printer.flush()
}

fn text(painter: &Painter, state: &State) -> String {
    let latest = match &state.latest {
        Some(latest) => format!("latest {}", painter.dim(latest)),
        None => "empty: no entries yet".to_owned(),
    };
    format!(
        "{}  version {}  {latest}",
        painter.state(state),
        painter.dim(&state.version),
    )
}
