//! `newsfeed event`: one event, found by its id.

use super::{Error, connection::Connection, feeds::Entry, output::Output};

/// Print an event, found by its id
///
/// It has all its feeds that the token may read, and `edited` if it was edited. Erased events are not found. If the output is not a terminal, it is JSON, as in the API.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed event m-1001                        kind, feeds and data\n  \
    newsfeed event m-1001 | jq -r '.feeds[]'     which feeds is it in?")]
pub struct EventArgs {
    /// The id of the event
    id: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: EventArgs) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let mut printer = args.output.open().long(true);
    let event = client.event(&args.id).await?;
    let entry: &Entry = &event.value;
    printer.print(event.json.get(), |painter| painter.entry(entry))?;
    printer.flush()
}
