//! `newsfeed import`: appends what `newsfeed export` wrote to a service.
//!
//! [`line`] makes an event to append of a line, and [`change`] applies an edit or an erasure. Reading, sending and retrying are those of [`super::append`], so the order
//! of every feed is the order of the file.

mod change;
mod line;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use self::{
    change::Applied,
    line::{Event, Exported},
};
use super::{
    Error,
    api::Client,
    append::{
        input::{Line, Lines},
        send::Answer,
    },
    connection::Connection,
    output::{Output, Printer, status},
    progress::Progress,
    wire::Rejection,
};

/// Append the events that `newsfeed export` wrote
///
/// Ids, kinds, actors, feeds and data are kept, and so is the order; versions are new. An event keeps its `time`. One without
/// gets the time at which it was accepted (its `at`), so that it is still known; `at` itself is the time of the import. How
/// an event is delivered depends on the kinds that the service is configured with.
///
/// An event that is stored already is a duplicate. So to continue an import that was interrupted, or to add what an export
/// has got since, import the whole file again.
///
/// Lines that tell of edits and erasures are applied; the token needs the scopes read and change then. An erasure from some of
/// an event's feeds only is not: the command counts these and ends with exit code 1. An event that is rejected is printed and
/// does not stop the others.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed import events.ndjson                                        what `newsfeed export --output events.ndjson` wrote\n  \
    newsfeed export --url http://old:8080 | newsfeed import - --url http://new:8080\n  \
    zcat events.ndjson.gz | newsfeed import -")]
pub struct ImportArgs {
    /// File with exported events, or - for standard input
    file: PathBuf,
    /// Do not report progress on stderr
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: ImportArgs) -> Result<(), Error> {
    let client = args.connection.client()?;
    let mut input = Input::open(&args.file)?;
    let mut import = Import {
        client: &client,
        file: &args.file,
        printer: Some(args.output.open()),
        progress: (!args.quiet).then(|| Progress::new(input.length)),
        counts: Counts::default(),
    };
    let imported = import.run(&mut input).await;
    let counts = import.counts;
    drop(import);
    if !args.quiet {
        status(&counts.text());
    }
    imported?;
    match counts {
        Counts { rejected: 1.., .. } => Err(Error::SomeRejected {
            rejected: counts.rejected,
            events: counts.events(),
        }),
        Counts { skipped: 1.., .. } => Err(Error::Arguments(format!(
            "{} events were erased from some of their feeds only, which was not repeated: erase them by feed",
            counts.skipped
        ))),
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    appended: u64,
    duplicates: u64,
    rejected: u64,
    /// Changes that were applied, and those that were not.
    changes: u64,
    skipped: u64,
}

impl Counts {
    fn events(&self) -> u64 {
        self.appended + self.duplicates + self.rejected
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} events appended, {} were stored already",
            self.appended, self.duplicates
        );
        for (count, what) in [
            (self.rejected, "rejected"),
            (self.changes, "changes applied"),
            (self.skipped, "changes skipped"),
        ] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text
    }
}

/// The exported lines, as they arrive.
struct Input {
    lines: Lines,
    read: Arc<AtomicU64>,
    /// `None` if it is not a file.
    length: Option<u64>,
}

impl Input {
    fn open(path: &Path) -> Result<Self, Error> {
        let read = Arc::default();
        if path.as_os_str() == "-" {
            let lines = Lines::unchanged(
                Counted(io::stdin(), Arc::clone(&read)),
                "standard input".into(),
            );
            let length = None;
            return Ok(Self {
                lines,
                read,
                length,
            });
        }
        let unreadable = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        Ok(Self {
            lines: Lines::unchanged(Counted(file, Arc::clone(&read)), path.to_owned()),
            read,
            length: metadata.is_file().then_some(metadata.len()),
        })
    }
}

/// Counts the bytes that are read.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

struct Import<'a> {
    client: &'a Client,
    file: &'a Path,
    /// `None` once nobody reads the output any more.
    printer: Option<Printer>,
    progress: Option<Progress>,
    counts: Counts,
}

impl Import<'_> {
    async fn run(&mut self, input: &mut Input) -> Result<(), Error> {
        while let Some(lines) = input.lines.next().await {
            let (mut events, mut broken) = (Vec::new(), Ok(()));
            for line in lines? {
                match Exported::of(&line.json) {
                    Exported::Event(event) => events.push((line.number, event)),
                    Exported::Change(change) => {
                        // What it is about stands before it.
                        self.append(std::mem::take(&mut events)).await?;
                        match change::apply(self.client, &change).await? {
                            Applied::Yes => self.counts.changes += 1,
                            Applied::No => self.counts.skipped += 1,
                        }
                    }
                    Exported::Position => {}
                    Exported::Broken(rejection) => {
                        broken = Err(self.broken_off(line.number, &rejection));
                        break;
                    }
                }
            }
            self.append(events).await?;
            let counts = &self.counts;
            if let Some(progress) = &mut self.progress {
                progress.set(input.read.load(Ordering::Relaxed), || counts.text());
            }
            broken?;
        }
        Ok(())
    }

    async fn append(&mut self, events: Vec<(u64, Event)>) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let before = self.counts.events();
        let line = |number, json| Line { number, json };
        let (mut lines, mut timed) = (Vec::new(), Vec::new());
        for (number, event) in events {
            timed.push(event.timed);
            lines.push(line(number, event.json));
        }
        let mut answers = self.client.append_lines(&lines, before).await?;
        // An event that was never exported and imported has no time: it is the same event nevertheless.
        let is_untimed = |(index, answer): &(usize, &Answer)| {
            timed[*index].is_some()
                && answer
                    .rejection()
                    .is_some_and(|rejection| rejection.code == "id_reused")
        };
        let again: Vec<usize> = answers
            .iter()
            .enumerate()
            .filter(is_untimed)
            .map(|(index, _)| index)
            .collect();
        if !again.is_empty() {
            let untimed = again
                .iter()
                .map(|&index| line(lines[index].number, timed[index].take().unwrap_or_default()));
            let untimed: Vec<Line> = untimed.collect();
            let stored = self.client.append_lines(&untimed, before).await?;
            for (index, answer) in again.into_iter().zip(stored) {
                answers[index] = answer;
            }
        }
        for ((line, answer), event) in lines.iter().zip(&answers).zip(before + 1..) {
            match answer.is_duplicate() {
                None => self.counts.rejected += 1,
                Some(true) => self.counts.duplicates += 1,
                Some(false) => self.counts.appended += 1,
            }
            if answer.rejection().is_some()
                && let Some(printer) = &mut self.printer
            {
                let printed = printer
                    .print(&answer.json, |painter| answer.text(line, event, painter))
                    .and_then(|()| printer.flush());
                match printed {
                    Err(Error::Closed) => self.printer = None,
                    printed => printed?,
                }
            }
        }
        Ok(())
    }

    fn broken_off(&self, line: u64, Rejection { code, detail }: &Rejection) -> Error {
        Error::Arguments(format!(
            "{}, line {line}: the service broke the export off here ({code}: {detail}). The events before this line were \
             imported; export the rest, too",
            self.file.display()
        ))
    }
}
