//! `newsfeed append`: events from flags or from lines of JSON.
//!
//! Every event has an id before it is first sent, so that it can be retried until it is answered. Lines are sent as they
//! arrive, all available lines in one request. Only one request is in flight at a time, so that the order of every feed
//! is the order of the lines.

mod event;
mod input;
mod send;

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::PathBuf,
};

use serde_json::value::RawValue;

use self::{
    event::{Event, Expect, new_id},
    input::{Line, Lines},
    send::Answer,
};
use super::{
    Error,
    connection::Connection,
    names,
    output::{Output, Printer},
    wire::Rejection,
};

/// Maximum size of `--data` in bytes: the service limits a whole event to this size.
const DATA_BYTES_MAX: u64 = 256 * 1024;

/// Append one event from flags, or many events from lines of JSON
///
/// A file or a pipe has one event per line, each with `kind`, `feeds` and any other members that the API accepts. Lines
/// are sent as they arrive, and each gets one line of output (if the output is not a terminal: JSON, as in the API). A
/// rejected line does not stop the others.
///
/// An event without an id gets one, so that it is stored once however often it is sent: the command retries while the
/// service cannot be reached or is busy. An event without an actor gets the actor of the token, if the token allows
/// exactly one (claim `actors`).
///
/// The exit code is 0 if all events are stored (including duplicates), 1 if any was rejected or not sent, and 2 for a
/// usage error.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed append --kind message --feed user:ben --feed chat:anna-ben --actor user:anna --text 'Hi Ben'\n  \
    newsfeed append --kind visit --feed user:ben --data '{\"page\": 7}' --id visit-1   stored once, however often it is run\n  \
    newsfeed append --kind booking --feed slot:6pm --expect slot:6pm@0               only if the feed is empty\n  \
    newsfeed append --kind typing --feed user:ben --actor user:anna --transient      only for current listeners\n  \
    newsfeed history user:ben --reverse | jq -c '{id, kind, feeds: [\"copy:ben\"], data}' | newsfeed append -\n  \
    tail -f events.ndjson | newsfeed append")]
pub struct AppendArgs {
    /// File with one event per line (JSON), or - for standard input
    #[arg(conflicts_with_all = ["kind", "feed", "actor", "id", "text", "data", "expect"])]
    file: Option<PathBuf>,
    /// What happened, such as message
    #[arg(long, requires = "feed", value_parser = names::name)]
    kind: Option<String>,
    /// The feed to append to (repeatable, at most 100)
    #[arg(long, requires = "kind", value_parser = names::name)]
    feed: Vec<String>,
    /// Who did it [default: the token's actor, if the token allows exactly one]
    #[arg(long, requires = "kind", value_parser = names::name)]
    actor: Option<String>,
    /// Idempotency key: an event with the same id is stored once [default: a new id]
    #[arg(long, requires = "kind")]
    id: Option<String>,
    /// Shorthand for --data '{"text": TEXT}'
    #[arg(long, requires = "kind", conflicts_with = "data")]
    text: Option<String>,
    /// Any JSON. @FILE reads it from a file, @- from standard input
    #[arg(long, value_name = "JSON|@FILE", requires = "kind")]
    data: Option<String>,
    /// Append only if the feed has no entry after this version (0: no entry at all)
    #[arg(long, value_name = "FEED@VERSION", requires = "kind", conflicts_with = "transient", value_parser = parse_expect)]
    expect: Option<Expect>,
    /// Send transients, which reach current listeners and are not stored. Their kind must be configured as transient
    /// (such as typing)
    #[arg(long)]
    transient: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Splits at the last @, because feed names may contain one.
fn parse_expect(text: &str) -> Result<Expect, String> {
    let (feed, version) = text
        .rsplit_once('@')
        .ok_or("expected FEED@VERSION, such as slot:6pm@0")?;
    Ok(Expect {
        feed: names::name(feed)?,
        version: names::version(version)?,
    })
}

pub async fn run(args: AppendArgs) -> Result<(), Error> {
    let client = args.connection.client()?;
    let mut lines = lines(&args, client.only_actor())?;
    let mut out = Some(args.output.open());
    let single = args.kind.is_some();
    let (mut events, mut rejected) = (0, 0);
    let mut last = None;
    while let Some(batch) = lines.next().await {
        let batch = batch?;
        let answers = if args.transient {
            client.send_transients(&batch, events).await?
        } else {
            client.append_lines(&batch, events).await?
        };
        for rejection in answers.iter().filter_map(Answer::rejection) {
            rejected += 1;
            last = Some(rejection.clone());
        }
        events += answers.len() as u64;
        if let Some(printer) = &mut out {
            match print(printer, &batch, &answers, single) {
                // Nobody reads the output any more. The remaining lines are appended nevertheless.
                Err(Error::Closed) => out = None,
                printed => printed?,
            }
        }
    }
    match last {
        Some(rejection) if single => Err(with_hint(rejection).of("the event".to_owned())),
        Some(_) => Err(Error::SomeRejected { rejected, events }),
        None => Ok(()),
    }
}

/// `actor` is for events without one.
fn lines(args: &AppendArgs, actor: Option<String>) -> Result<Lines, Error> {
    if let Some(kind) = &args.kind {
        let event = Event {
            id: args.id.clone().unwrap_or_else(new_id),
            kind: kind.clone(),
            feeds: args.feed.clone(),
            actor: args.actor.clone().or(actor),
            data: data(args)?,
            expect: args.expect.clone(),
        };
        return Ok(Lines::one(event.line()));
    }
    match &args.file {
        Some(path) if path.as_os_str() != "-" => match File::open(path) {
            Ok(file) => Ok(Lines::of(file, path.clone(), actor)),
            Err(source) => Err(Error::Read {
                path: path.clone(),
                source,
            }),
        },
        None if io::stdin().is_terminal() => Err(Error::Usage(
            "no event: give --kind and --feed, a file with events, or - for standard input"
                .to_owned(),
            "append",
        )),
        _ => Ok(Lines::of(io::stdin(), "standard input".into(), actor)),
    }
}

fn data(args: &AppendArgs) -> Result<Option<Box<RawValue>>, Error> {
    if let Some(text) = &args.text {
        let json = serde_json::json!({ "text": text }).to_string();
        return Ok(RawValue::from_string(json).ok());
    }
    let Some(data) = &args.data else {
        return Ok(None);
    };
    let json = match data.strip_prefix('@') {
        None => data.clone(),
        Some("-") => read(io::stdin(), "standard input".into())?,
        Some(path) => {
            let path = PathBuf::from(path);
            match File::open(&path) {
                Ok(file) => read(file, path)?,
                Err(source) => return Err(Error::Read { path, source }),
            }
        }
    };
    match serde_json::from_str::<Box<RawValue>>(&json) {
        Ok(data) => Ok(Some(data)),
        Err(error) => Err(Error::Usage(
            format!("--data is not valid JSON ({error}); quote it for the shell, or use --text"),
            "append",
        )),
    }
}

/// Reads a file, up to more than the service accepts.
fn read(file: impl Read, path: PathBuf) -> Result<String, Error> {
    let mut text = String::new();
    match file.take(DATA_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(source) => Err(Error::Read { path, source }),
    }
}

fn print(
    printer: &mut Printer,
    batch: &[Line],
    answers: &[Answer],
    single: bool,
) -> Result<(), Error> {
    for (line, answer) in batch.iter().zip(answers) {
        // The rejection of a single event is reported as the error of the command.
        if printer.is_json() || !single || answer.rejection().is_none() {
            printer.print(&answer.json, |painter| answer.text(line, painter))?;
        }
    }
    printer.flush()
}

/// Adds the flag that corresponds to the API path named in the rejection.
fn with_hint(rejection: Rejection) -> Rejection {
    let hint = match &*rejection.code {
        "kind_transient" => " (use --transient)",
        "kind_not_transient" => " (omit --transient)",
        _ => "",
    };
    Rejection {
        detail: rejection.detail + hint,
        ..rejection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_a_feed_and_a_version() {
        let expect = |text| parse_expect(text).map(|expect| (expect.feed, expect.version));
        assert_eq!(expect("slot:6pm@0"), Ok(("slot:6pm".into(), "0".into())));
        assert_eq!(
            expect("a@b@000000800pgcvgij9uqfvvvvvs"),
            Ok(("a@b".into(), "000000800pgcvgij9uqfvvvvvs".into()))
        );
        for bad in ["slot", "slot@", "@0", "a @0", "slot@later"] {
            assert!(expect(bad).is_err(), "{bad}");
        }
    }
}
