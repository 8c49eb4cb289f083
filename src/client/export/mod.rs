//! `newsfeed export`: the log as lines of JSON, in a file or a pipe.
//!
//! [`lines`] reads the answers of the service, [`output`] writes the events and keeps the position.

mod lines;
mod output;

use std::{path::PathBuf, time::Duration};

use self::{
    lines::{Line, Lines},
    output::Output,
};
use super::{
    Error,
    api::{Client, Failure},
    connection::Connection,
    interrupted,
    names::{self, Position},
    output::{closed, status},
    patience::Patience,
    progress::Progress,
};

/// While lines arrive, the position is saved this often; and when none arrive.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Write all events to a file or a pipe
///
/// Each line is an event as JSON with its version and all its feeds, as in the API, in version order. The command needs the
/// scope export. It ends at the version that is current when it begins, unless it is told to follow. With --cursor it
/// continues where it stopped, also after a crash: a file then has every event exactly once; a pipe may get the last
/// events again.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed export > events.ndjson                                   everything so far\n  \
    newsfeed export --output events.ndjson --cursor events.cursor     the same; again, to add what is new\n  \
    newsfeed export --kind message --feed 'chat:*' | jq -r .data.text messages in chats\n  \
    newsfeed export --after 2026-11-28T00:00:00Z                      everything since a time\n  \
    newsfeed export --follow --cursor indexer.cursor | ./indexer      on and on")]
pub struct ExportArgs {
    /// File to write to, which must be new or belong to the --cursor [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Continue from the position in this file, if it exists, and keep the position in it
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Only events after this version, or after what was current at this time (RFC 3339) [default: all]
    #[arg(long, value_name = "VERSION|TIME", default_value = "0", hide_default_value = true, value_parser = names::position)]
    after: Position,
    /// Only events up to and including this version, or up to what was current at this time [default: the current version]
    #[arg(long, value_name = "VERSION|TIME", conflicts_with = "follow", value_parser = names::position)]
    until: Option<Position>,
    /// Only events of this kind (repeatable)
    #[arg(long, value_parser = names::name)]
    kind: Vec<String>,
    /// Only events of this actor (repeatable)
    #[arg(long, value_parser = names::name)]
    actor: Vec<String>,
    /// Only events with this feed, or with one that begins so, such as 'chat:*' (repeatable)
    #[arg(long, value_name = "PATTERN", value_parser = names::pattern)]
    feed: Vec<String>,
    /// Only one of n parts of the events, such as 0/4
    #[arg(long, value_name = "I/N", value_parser = names::shard)]
    shard: Option<String>,
    /// Go on with new events as they are appended
    #[arg(long)]
    follow: bool,
    /// Do not report progress on stderr
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: ExportArgs) -> Result<(), Error> {
    let client = args.connection.client()?;
    let after = args.after.version(&client).await?;
    let until = match &args.until {
        Some(until) => Some(until.version(&client).await?),
        None => None,
    };
    let output = Output::open(args.output.clone(), args.cursor.clone(), &after)?;
    let mut export = Export {
        client: &client,
        args: &args,
        until,
        output,
        progress: (!args.quiet).then(|| Progress::new(None)),
    };
    let exported = tokio::select! {
        result = export.run() => result,
        () = interrupted() => Ok(()),
        () = closed(), if args.output.is_none() => Err(Error::Closed),
    };
    let Export {
        mut output,
        progress,
        ..
    } = export;
    drop(progress);
    if matches!(exported, Err(Error::Closed)) {
        return exported;
    }
    // What is there is kept, whatever stopped the export.
    let saved = output.save();
    if !args.quiet {
        let (count, position) = (output.events(), output.position());
        status(&match &args.cursor {
            None => format!("{count} events up to {position}; continue with --after {position}"),
            Some(path) => format!(
                "{count} events up to {position}; saved in {}",
                path.display()
            ),
        });
    }
    exported.and(saved)
}

struct Export<'a> {
    client: &'a Client,
    args: &'a ExportArgs,
    until: Option<String>,
    output: Output,
    progress: Option<Progress>,
}

impl Export<'_> {
    /// Returns at the end, or with an error. Cancel-safe.
    async fn run(&mut self) -> Result<(), Error> {
        let mut patience = self.client.patience();
        loop {
            let (after, last) = match Lines::open(self.client, &self.query()).await {
                Ok(lines) => match self.take(lines, &mut patience).await? {
                    None => return Ok(()),
                    Some(last) => (None, last),
                },
                Err(Failure::NotNow { after, last }) => (after, last),
                Err(Failure::Final(error)) if error.is_unknown_cursor() => {
                    return Err(self.unknown_position());
                }
                Err(Failure::Final(error)) if error.is_expired_cursor() => {
                    return Err(self.expired_position());
                }
                Err(Failure::Final(error)) => return Err(error),
            };
            patience.pause(after, last).await?;
        }
    }

    /// Nothing starts over by itself: what has been exported may have events that are gone, and whoever has it must know.
    fn unknown_position(&self) -> Error {
        let position = self.output.position();
        let what = format!(
            "the position {position} is not of this store, which was restored or replaced since"
        );
        Error::Arguments(match (&self.args.cursor, &self.args.output) {
            (Some(cursor), Some(output)) => format!(
                "{what}. {} may have events that are gone: move it and {} away, and run the same command again, which \
                 exports everything",
                output.display(),
                cursor.display()
            ),
            (Some(cursor), None) => format!(
                "{what}. What reads the output may have events that are gone: let it start over, remove {}, and run the \
                 same command again, which exports everything",
                cursor.display()
            ),
            (None, _) => format!("{what}; without --after, everything is exported"),
        })
    }

    /// What is missing cannot be exported any more.
    fn expired_position(&self) -> Error {
        let position = self.output.position();
        let what = format!(
            "what follows the position {position} has been removed in part, because the service keeps events for a limited time"
        );
        Error::Arguments(match &self.args.cursor {
            Some(cursor) => format!(
                "{what}. To export what is kept, remove {}, and run the same command again; some events are lost",
                cursor.display()
            ),
            None => format!("{what}; without --after, everything that is kept is exported"),
        })
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        let args = self.args;
        let mut query = vec![("after", self.output.position().to_owned())];
        let several = [
            ("kind", &args.kind),
            ("actor", &args.actor),
            ("feed", &args.feed),
        ];
        for (name, values) in several {
            query.extend(values.iter().map(|value| (name, value.clone())));
        }
        let one = [("until", &self.until), ("shard", &args.shard)];
        query.extend(
            one.into_iter()
                .filter_map(|(name, value)| Some((name, value.clone()?))),
        );
        if args.follow {
            query.push(("follow", "true".to_owned()));
        }
        query
    }

    /// Writes what arrives. Returns why the connection was lost; `None` at the end of the export.
    async fn take(
        &mut self,
        mut lines: Lines,
        patience: &mut Patience,
    ) -> Result<Option<Error>, Error> {
        loop {
            let received = match tokio::time::timeout(SAVE_EVERY, lines.receive()).await {
                Ok(received) => received,
                // Nothing arrives: a moment to save the position.
                Err(_) => {
                    self.output.save()?;
                    continue;
                }
            };
            let mut end = None;
            while let Some(line) = lines.next()? {
                match line {
                    Line::Event { json, version } => self.output.event(json, version)?,
                    Line::Cursor(version) => self.output.reached(version),
                    Line::End(version) => {
                        self.output.reached(version);
                        end = Some(None);
                    }
                    Line::Error(error) if error.not_now() => {
                        end = Some(Some(error.of("the rest of the export".to_owned())));
                    }
                    Line::Error(error) => {
                        return Err(error.of("the rest of the export".to_owned()));
                    }
                }
                *patience = match self.args.follow {
                    true => Patience::new(Patience::ENDLESS),
                    false => self.client.patience(),
                };
            }
            self.output.save_sometimes(SAVE_EVERY)?;
            let output = &self.output;
            if let Some(progress) = &mut self.progress {
                progress.set(output.events(), || output.summary());
            }
            if let Some(end) = end {
                return Ok(end);
            }
            if let Err(cause) = received {
                let url = self.client.base_url().to_owned();
                return Ok(Some(Error::Lost { url, cause }));
            }
        }
    }
}
