//! `newsfeed readers`: how far each reader has read a feed.

use super::{
    Error,
    connection::Connection,
    names,
    output::{Output, status},
};

/// Print how far each reader has read a feed ("seen by")
///
/// Readers are printed in the order of their names, each with its `read` and `seen` markers. The feed's own reader has no
/// name: `newsfeed state` prints its markers. If the output is not a terminal, each line is a reader as JSON, as in the API.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed readers chat:7                    who has read how far?\n  \
    newsfeed readers chat:7 | jq -r --arg v $VERSION 'select(.markers.read >= $v).reader'    who has read this entry?")]
pub struct ReadersArgs {
    /// The feed, such as chat:7
    #[arg(value_parser = names::name)]
    feed: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: ReadersArgs) -> Result<(), Error> {
    let client = args.connection.reached().await?;
    let mut printer = args.output.open();
    let mut printed = false;
    let mut from: Option<String> = None;
    loop {
        let page = client.readers(&args.feed, from.as_deref()).await?;
        for reader in &page.readers {
            printer.print(reader.json.get(), |painter| painter.reader(&reader.value))?;
            printed = true;
        }
        printer.flush()?;
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    if !printed && !printer.is_json() {
        status("no readers");
    }
    Ok(())
}
