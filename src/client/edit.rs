//! `newsfeed edit`: new data for an event.

use std::io::{self, IsTerminal};

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Error,
    append::json_or_file,
    connection::Connection,
    feeds::{Changed, Edit},
    names,
    output::Output,
};

/// Replace the data of an event
///
/// The new data takes the place of the old in every feed of the event, and everybody who follows one of them is told. The
/// event keeps its id, its version and its place. The edit happens once, also if its answer is lost and the command repeats
/// it. The token needs the scope change. If the output is not a terminal, it is JSON, as in the API.
///
/// The exit code is 0 if the event has the new data, 1 if it was not edited, and 2 for a usage error.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed edit m-1001 --text 'Hi Ben!'                     a message with another text\n  \
    newsfeed edit m-1001 '{\"text\": \"Hi\", \"mood\": 7}'          any JSON\n  \
    newsfeed event m-1001 | jq '.data.text |= ascii_upcase | .data' | newsfeed edit m-1001 -\n  \
    newsfeed edit m-1001 --text Hi --revision $VERSION        only if nobody else has edited it since")]
pub struct EditArgs {
    /// The id of the event
    id: String,
    /// The new data as JSON. @FILE reads it from a file, - from standard input
    #[arg(value_name = "DATA|@FILE|-")]
    data: Option<String>,
    /// Shorthand for the data '{"text": TEXT}'
    #[arg(long, conflicts_with = "data")]
    text: Option<String>,
    /// Edit only if this is the event's revision: the version of its last edit or, if it was never edited, its own
    #[arg(long, value_name = "VERSION", value_parser = names::version)]
    revision: Option<String>,
    /// Identifies the edit: it happens once, however often it is sent [default: a new id]
    #[arg(long, value_name = "ID")]
    change: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: EditArgs) -> Result<(), Error> {
    let data = data(&args)?;
    let client = args.connection.client()?;
    let change = args.change;
    let change = change.unwrap_or_else(|| Uuid::now_v7().to_string());
    let edit = Edit {
        data: &data,
        change: &change,
        revision: args.revision.as_deref(),
    };
    let edited = client.edit(&args.id, &edit).await?;
    let Changed {
        id,
        status,
        edited: at,
        ..
    } = &edited.value;
    let mut printer = args.output.open();
    printer.print(edited.json.get(), |painter| {
        let at = painter.dim(at.as_deref().unwrap_or_default());
        format!("{:9}  {at}  {}", painter.plain(status), painter.plain(id))
    })?;
    printer.flush()
}

fn data(args: &EditArgs) -> Result<Box<RawValue>, Error> {
    let usage = |what: &str| Error::Usage(what.to_owned(), "edit");
    if let Some(text) = &args.text {
        let json = serde_json::json!({ "text": text }).to_string();
        return RawValue::from_string(json).map_err(|error| usage(&error.to_string()));
    }
    let given = match args.data.as_deref() {
        None if io::stdin().is_terminal() => {
            return Err(usage(
                "no data: give it as JSON, or --text, or - for standard input",
            ));
        }
        None | Some("-") => "@-",
        Some(given) => given,
    };
    json_or_file(given, "the data", "edit")
}
