//! `newsfeed append`: events from flags or as JSON from a file or a pipe.
//!
//! Every event has an id before it is first sent, so that it can be retried until it is answered. Events are sent as they
//! arrive, all available ones in one request. Only one request is in flight at a time, so that the order of every feed is
//! the order of the input.

pub(super) mod event;
pub(super) mod input;
mod scan;
pub(super) mod send;
mod split;

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::PathBuf,
};

use serde_json::value::RawValue;

use self::{
    event::{Event, Expect},
    input::{Line, Lines},
    send::Answer,
    split::foreign,
};
use super::{
    Client, Error,
    connection::Connection,
    names,
    output::{Output, Printer, status},
    token::Author,
    wire::Rejection,
};

/// Maximum number of events of an atomic append.
const ATOMIC_EVENTS_MAX: usize = 100;
/// Maximum size of `--data` in bytes: the service limits a whole event to this size.
const DATA_BYTES_MAX: u64 = 256 * 1024;

/// Append one event from flags, or many events as JSON
///
/// A file or a pipe has events as JSON in UTF-8, each an object with `kind`, `feeds` and any other members that the API
/// accepts: one per line, or over several lines, or in arrays of any length. Events are sent as they arrive, and each gets
/// one line of output (if the output is not a terminal: JSON, as in the API). A rejected event does not stop the others;
/// a mistake in an array or in an object over several lines does, and the message names its line.
///
/// An event without an id gets one, so that it is stored once however often it is sent: the command retries while the
/// service cannot be reached or is busy. An event without an actor gets the actor of the token, if the token allows
/// exactly one (claim `actors`).
///
/// With --atomic, all events are appended or none, in one request of at most 100 events: none if an id was used for other
/// content, or if a condition does not hold (--expect, or `expect` of an event). All conditions are about the moment before.
///
/// The id of an erased event cannot be used again: such an event is answered `erased` and not stored.
///
/// The exit code is 0 if all events are stored (including duplicates) or were erased before, 1 if any was rejected or not sent, and 2 for a
/// usage error.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed append --kind message --feed user:ben --feed chat:anna-ben --actor user:anna --text 'Hi Ben'\n  \
    newsfeed append --kind visit --feed user:ben --data '{\"page\": 7}' --id visit-1   stored once, however often it is run\n  \
    newsfeed append --kind booking --feed slot:6pm --expect slot:6pm@0               only if the feed is empty\n  \
    newsfeed append --atomic --expect slot:6pm@0 --expect slot:7pm@0 both.ndjson     both slots or none\n  \
    newsfeed append --kind typing --feed user:ben --actor user:anna --transient      only for current listeners\n  \
    newsfeed history user:ben --reverse | jq '{id, kind, feeds: [\"copy:ben\"], time, data}' | newsfeed append -\n  \
    tail -f events.ndjson | newsfeed append")]
pub struct AppendArgs {
    /// File with events (JSON), or - for standard input
    #[arg(conflicts_with_all = ["kind", "feed", "actor", "id", "time", "text", "data"])]
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
    /// When it happened, such as 2026-11-29T10:53:13Z (RFC 3339) [default: not told]
    #[arg(long, requires = "kind")]
    time: Option<String>,
    /// Shorthand for --data '{"text": TEXT}'
    #[arg(long, requires = "kind", conflicts_with = "data")]
    text: Option<String>,
    /// Any JSON. @FILE reads it from a file, @- from standard input
    #[arg(long, value_name = "JSON|@FILE", requires = "kind")]
    data: Option<String>,
    /// Append only if the feed has no entry after this version (0: no entry at all). With --atomic, repeatable, and also for
    /// events from a file
    #[arg(long, value_name = "FEED@VERSION", conflicts_with = "transient", value_parser = parse_expect)]
    expect: Vec<Expect>,
    /// Append all events or none
    #[arg(long, conflicts_with = "transient")]
    atomic: bool,
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
    check(&args)?;
    let client = args.connection.client()?;
    let mut lines = lines(&args, client.author())?;
    if args.atomic {
        return append_atomic(&client, &args, lines).await;
    }
    let mut out = Some(args.output.open());
    let single = args.kind.is_some();
    let (mut events, mut rejected, mut erased) = (0, 0, 0);
    let mut last = None;
    while let Some(batch) = lines.next().await {
        let batch = batch?;
        let answers = if args.transient {
            client.send_transients(&batch, events).await?
        } else {
            client.append_lines(&batch, events).await?
        };
        erased += count_erased(&answers);
        for rejection in answers.iter().filter_map(Answer::rejection) {
            rejected += 1;
            last = Some(rejection.clone());
        }
        let before = events;
        events += answers.len() as u64;
        if let Some(printer) = &mut out {
            match print(printer, &batch, &answers, before, single) {
                // Nobody reads the output any more. The remaining lines are appended nevertheless.
                Err(Error::Closed) => out = None,
                printed => printed?,
            }
        }
    }
    report_erased(erased, events);
    match last {
        Some(rejection) if single => Err(with_hint(rejection).of("the event".to_owned())),
        Some(_) => Err(Error::SomeRejected { rejected, events }),
        None => Ok(()),
    }
}

fn count_erased(answers: &[Answer]) -> u64 {
    answers.iter().filter(|answer| answer.is_erased()).count() as u64
}

/// Nothing of these is stored, although nothing was rejected.
fn report_erased(erased: u64, events: u64) {
    if erased > 0 {
        status(&format!(
            "{erased} of {events} events had been erased and were not stored again"
        ));
    }
}

/// What the parser of arguments cannot check.
fn check(args: &AppendArgs) -> Result<(), Error> {
    let usage = |what: &str| Err(Error::Usage(what.to_owned(), "append"));
    match (&*args.expect, &args.kind) {
        ([], _) => Ok(()),
        _ if args.atomic => Ok(()),
        ([_], Some(_)) => Ok(()),
        ([_, ..], None) => usage("--expect is for an event from flags (--kind), or needs --atomic"),
        ([_, ..], Some(_)) => usage("several --expect need --atomic"),
    }
}

/// Appends all events in one request.
async fn append_atomic(client: &Client, args: &AppendArgs, mut lines: Lines) -> Result<(), Error> {
    let mut events = Vec::new();
    while let Some(batch) = lines.next().await {
        events.extend(batch?);
        if events.len() > ATOMIC_EVENTS_MAX {
            let what =
                format!("--atomic takes at most {ATOMIC_EVENTS_MAX} events; none was appended");
            return Err(Error::Arguments(what));
        }
    }
    if events.is_empty() {
        return Ok(());
    }
    let answers = client.append_atomic(&events, &args.expect).await?;
    report_erased(count_erased(&answers), answers.len() as u64);
    match print(&mut args.output.open(), &events, &answers, 0, false) {
        Err(Error::Closed) => Ok(()),
        printed => printed,
    }
}

/// `author` is for events without an id or an actor.
fn lines(args: &AppendArgs, author: &Author) -> Result<Lines, Error> {
    if let Some(kind) = &args.kind {
        let actor = args.actor.clone().or_else(|| author.only_actor());
        let new_id = || author.new_id(actor.as_deref());
        let event = Event {
            id: args.id.clone().unwrap_or_else(new_id),
            kind: kind.clone(),
            feeds: args.feed.clone(),
            actor,
            time: args.time.clone(),
            data: data(args)?,
            // That of an atomic append is sent beside the events.
            expect: args.expect.first().filter(|_| !args.atomic).cloned(),
        };
        return Ok(Lines::one(event.line()));
    }
    match &args.file {
        Some(path) if path.as_os_str() != "-" => match File::open(path) {
            Ok(file) => Ok(Lines::of(file, path.clone(), author.clone())),
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
        _ => Ok(Lines::of(
            io::stdin(),
            "standard input".into(),
            author.clone(),
        )),
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
    json_or_file(data, "--data", "append").map(Some)
}

/// JSON that was given to `command` as `what`, or `@FILE`, or `@-` for standard input.
pub(super) fn json_or_file(
    given: &str,
    what: &str,
    command: &'static str,
) -> Result<Box<RawValue>, Error> {
    let json = match given.strip_prefix('@') {
        None => given.to_owned(),
        Some("-") => read(io::stdin(), "standard input".into())?,
        Some(path) => {
            let path = PathBuf::from(path);
            match File::open(&path) {
                Ok(file) => read(file, path)?,
                Err(source) => return Err(Error::Read { path, source }),
            }
        }
    };
    serde_json::from_str::<Box<RawValue>>(&json).map_err(|error| {
        let said =
            format!("{what} is not valid JSON ({error}); quote it for the shell, or use --text");
        Error::Usage(said, command)
    })
}

/// Reads a file, up to more than the service accepts. A byte order mark at the beginning is left out.
fn read(file: impl Read, path: PathBuf) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let read = file.take(DATA_BYTES_MAX).read_to_end(&mut bytes);
    let read = read.and_then(|_| match foreign(&bytes) {
        Some(found) => Err(io::Error::other(format!(
            "it is {found}; data is JSON in UTF-8"
        ))),
        None => String::from_utf8(bytes).map_err(io::Error::other),
    });
    let text = read.map_err(|source| Error::Read { path, source })?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// `before` is the number of events before this batch.
fn print(
    printer: &mut Printer,
    batch: &[Line],
    answers: &[Answer],
    before: u64,
    single: bool,
) -> Result<(), Error> {
    for ((line, answer), event) in batch.iter().zip(answers).zip(before + 1..) {
        // The rejection of a single event is reported as the error of the command.
        if printer.is_json() || !single || answer.rejection().is_none() {
            printer.print(&answer.json, |painter| answer.text(line, event, painter))?;
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
