//! `newsfeed replay`: a message list, line by line, into a running service.
//!
//! One array is in flight at a time, so the order of every feed is the order of the file. A line's event
//! id comes from the file's name and the line's number, so a second run appends nothing.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use hdrhistogram::Histogram;
use indicatif::HumanCount;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::Instant;

use super::{
    ARRAY_EVENTS_MAX, Client, DEFAULT_URL, Error, NewEvent, Outcome, Progress, interrupted,
};

const LINE_BYTES_MAX: u64 = 256;
/// Lines the reading thread may be ahead of what is sent.
const READ_AHEAD_LINES: usize = 2 * ARRAY_EVENTS_MAX;
/// An id leaves 20 digits and a colon to the line number.
const STEM_BYTES_MAX: usize = 128 - 21;
/// An hour; what takes longer counts as that.
const LATENCY_US_MAX: u64 = 3_600_000_000;
const REASONS_SHOWN: usize = 5;
/// Stands for "never" where a slow pace puts an event beyond what a clock can say.
const DUE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Append a list of messages, a line each, to a running service
///
/// Each line `SENDER RECEIVER UNIX_SECONDS` (whole numbers) becomes one `message` in the feeds
/// `user:RECEIVER` and `chat:LOW-HIGH`. Its id is the file's name and the line's number, so running the
/// command again appends nothing twice. Stops at the first line that is malformed or rejected.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed replay CollegeMsg.txt.gz               as fast as the service takes it\n  \
    newsfeed replay CollegeMsg.txt.gz --pace 3600   an hour of the original every second\n  \
    head -100 list.txt | newsfeed replay -          from standard input")]
pub struct ReplayArgs {
    /// The list, plain or gzip; `-` is standard input
    pub file: PathBuf,
    /// Base URL of the service
    #[arg(long, default_value = DEFAULT_URL)]
    pub url: String,
    /// Times the original pace: 1 is as it happened, 60 a minute every second [default: as fast as possible]
    #[arg(long, value_name = "TIMES", value_parser = parse_pace)]
    pub pace: Option<f64>,
    /// Events in one request, at most (1 to 1000)
    #[arg(long, value_name = "EVENTS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch: u16,
    /// Stop after this many lines [default: all]
    #[arg(long, value_name = "LINES")]
    pub limit: Option<u64>,
}

fn parse_pace(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(pace) if pace.is_finite() && pace > 0.0 => Ok(pace),
        _ => Err("a number above 0, such as 3600".to_owned()),
    }
}

/// The command: replays, and prints the summary whatever the end, Ctrl-C included.
pub async fn run(args: ReplayArgs) -> Result<(), Error> {
    let client = Client::new(&args.url)?;
    client.probe().await?;
    let mut summary = Summary::start();
    let (result, stopped) = tokio::select! {
        result = replay(&client, &args, &mut summary) => (result, false),
        () = interrupted() => (Ok(()), true),
    };
    if stopped {
        println!(
            "stopped by Ctrl-C; run the same command again to go on, nothing is appended twice"
        );
    }
    if summary.lines > 0 || result.is_ok() {
        println!("{summary}");
    }
    result
}

/// Replays the file; `summary` is up to date at every answer, so it holds when this is dropped midway.
pub async fn replay(
    client: &Client,
    args: &ReplayArgs,
    summary: &mut Summary,
) -> Result<(), Error> {
    let stem = event_stem(&args.file)?;
    let (source, file_bytes) = open(&args.file)?;
    // The bar counts lines where their number is known, otherwise the bytes of the file.
    let mut progress = Progress::new(args.limit.or(file_bytes));
    let mut feeder = Feeder {
        lines: read_ahead(source, args.limit, &args.file)?,
        held: None,
        clock: args.pace.map(|times| PaceClock { times, start: None }),
        batch_max: usize::from(args.batch),
    };
    loop {
        let batch = feeder.next_batch().await?;
        let Some(last) = batch.last() else {
            return Ok(());
        };
        summary.lines += batch.len() as u64;
        let position = if args.limit.is_some() {
            summary.lines
        } else {
            last.message.file_offset
        };

        let events: Vec<NewEvent> = batch.iter().map(|due| due.message.event(&stem)).collect();
        let sent = Instant::now();
        let outcomes = client.append(&events).await?;
        let answered = Instant::now();

        let mut first_rejection = None;
        for (Due { message, at }, outcome) in batch.iter().zip(outcomes) {
            summary.record_latency(answered - at.unwrap_or(sent));
            match outcome {
                Outcome::Appended { .. } => summary.appended += 1,
                Outcome::Duplicate { .. } => summary.duplicates += 1,
                Outcome::Rejected { error, .. } => {
                    summary.rejected += 1;
                    if summary.reasons.len() < REASONS_SHOWN {
                        summary.reasons.push(format!(
                            "line {}: {}: {}",
                            message.line, error.code, error.detail
                        ));
                    }
                    first_rejection.get_or_insert((message.line, error));
                }
            }
        }
        progress.set(position, || summary.progress());
        if let Some((line, error)) = first_rejection {
            let what = format!("line {line} of {}", args.file.display());
            return Err(Error::Rejected {
                what,
                code: error.code,
                detail: error.detail,
            });
        }
    }
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq)]
struct Message {
    /// From 1.
    line: u64,
    from: u64,
    to: u64,
    /// Unix seconds.
    sent: i64,
    /// Bytes of the file (as stored, so compressed ones) read by the time this line was.
    file_offset: u64,
}

impl Message {
    fn event(&self, stem: &str) -> NewEvent {
        let Self {
            line,
            from,
            to,
            sent,
            ..
        } = self;
        NewEvent {
            id: format!("{stem}:{line}"),
            kind: "message".to_owned(),
            feeds: vec![
                format!("user:{to}"),
                format!("chat:{}-{}", from.min(to), from.max(to)),
            ],
            actor: Some(format!("user:{from}")),
            data: serde_json::json!({ "from": from, "to": to, "sent": sent }),
        }
    }
}

/// `SENDER RECEIVER UNIX_SECONDS` → the three numbers, or what is wrong.
fn parse_line(line: &[u8]) -> Result<(u64, u64, i64), String> {
    let text = std::str::from_utf8(line).map_err(|_| "not text".to_owned())?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [from, to, sent] = fields[..] else {
        return Err(format!(
            "{} fields where `SENDER RECEIVER UNIX_SECONDS` has 3",
            fields.len()
        ));
    };
    let user = |name, field: &str| {
        field
            .parse()
            .map_err(|_| format!("{name} {field:?} is not a whole number"))
    };
    let sent = sent
        .parse()
        .map_err(|_| format!("UNIX_SECONDS {sent:?} is not a whole number"))?;
    Ok((user("SENDER", from)?, user("RECEIVER", to)?, sent))
}

/// The file's name without `.gz` and `.txt`: the front of every event id.
fn event_stem(path: &Path) -> Result<String, Error> {
    if path == Path::new("-") {
        return Ok("stdin".to_owned());
    }
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let stem = name.strip_suffix(".txt").unwrap_or(name);
    let fits = (1..=STEM_BYTES_MAX).contains(&stem.len())
        && stem.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    if fits {
        Ok(stem.to_owned())
    } else {
        Err(Error::FileName(path.to_owned()))
    }
}

/// The messages of a source, in order; after the first error there is nothing more.
struct Lines {
    text: Box<dyn BufRead + Send>,
    offset: Arc<AtomicU64>,
    name: PathBuf,
    line: u64,
    failed: bool,
}

impl Iterator for Lines {
    type Item = Result<Message, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut bytes = Vec::new();
        let message = match (&mut self.text)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut bytes)
        {
            Ok(0) => return None,
            Ok(_) => self.message(&bytes),
            Err(source) => Err(Error::Read {
                path: self.name.clone(),
                source,
            }),
        };
        self.failed = message.is_err();
        Some(message)
    }
}

impl Lines {
    fn message(&mut self, bytes: &[u8]) -> Result<Message, Error> {
        self.line += 1;
        let parsed = if bytes.len() as u64 == LINE_BYTES_MAX {
            Err(format!("longer than {LINE_BYTES_MAX} bytes"))
        } else {
            parse_line(bytes)
        };
        let file_offset = self.offset.load(Ordering::Relaxed);
        match parsed {
            Ok((from, to, sent)) => Ok(Message {
                line: self.line,
                from,
                to,
                sent,
                file_offset,
            }),
            Err(reason) => Err(Error::BadLine {
                file: self.name.display().to_string(),
                line: self.line,
                reason,
            }),
        }
    }
}

/// Counts what goes through, to tell how far in the file we are.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.read(buffer)?;
        self.1.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

type Source = Box<dyn Read + Send>;

/// The source and, of a file on disk, its size in bytes.
fn open(path: &Path) -> Result<(Source, Option<u64>), Error> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// Gzip is known by its first two bytes, which no line of text starts with.
fn lines(mut source: Source, name: &Path) -> Result<Lines, Error> {
    let mut head = Vec::new();
    let read = source.by_ref().take(2).read_to_end(&mut head);
    read.map_err(|source| Error::Read {
        path: name.to_owned(),
        source,
    })?;
    let gzip = head == [0x1f, 0x8b];
    let offset = Arc::new(AtomicU64::new(0));
    let whole = Counted(Cursor::new(head).chain(source), offset.clone());
    let text: Box<dyn BufRead + Send> = if gzip {
        Box::new(BufReader::new(MultiGzDecoder::new(whole)))
    } else {
        Box::new(BufReader::new(whole))
    };
    Ok(Lines {
        text,
        offset,
        name: name.to_owned(),
        line: 0,
        failed: false,
    })
}

/// Reads on a thread of its own. Not one of the runtime's: those are waited for at exit, and a read of
/// standard input may never return.
fn read_ahead(
    source: Source,
    limit: Option<u64>,
    path: &Path,
) -> Result<Receiver<Result<Message, Error>>, Error> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD_LINES);
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let name = path.to_owned();
    // A send fails when the replay has ended early; then there is nobody to read for.
    let read = move || match lines(source, &name) {
        Ok(lines) => lines
            .take(limit)
            .try_for_each(|message| sender.blocking_send(message))
            .unwrap_or(()),
        Err(error) => sender.blocking_send(Err(error)).unwrap_or(()),
    };
    let spawned = std::thread::Builder::new()
        .name("replay-reader".to_owned())
        .spawn(read);
    spawned.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(receiver)
}

/// A message and, when paced, the moment it should be sent.
#[derive(Debug, PartialEq)]
struct Due {
    message: Message,
    at: Option<Instant>,
}

/// Cuts the messages into arrays: full ones, or with a pace whatever is due.
struct Feeder {
    lines: Receiver<Result<Message, Error>>,
    /// Taken from `lines`, but not for the array before: not due yet, or an error.
    held: Option<Result<Message, Error>>,
    clock: Option<PaceClock>,
    batch_max: usize,
}

impl Feeder {
    /// Empty at the end. What stood before a bad line is handed out before the error.
    async fn next_batch(&mut self) -> Result<Vec<Due>, Error> {
        let mut batch = Vec::new();
        while batch.len() < self.batch_max {
            let next = match self.held.take() {
                Some(held) => Some(held),
                // A paced array never waits for input to grow.
                None if self.clock.is_some() && !batch.is_empty() => self.lines.try_recv().ok(),
                None => self.lines.recv().await,
            };
            let message = match next {
                Some(Ok(message)) => message,
                Some(Err(error)) if batch.is_empty() => return Err(error),
                error_or_end => {
                    self.held = error_or_end;
                    break;
                }
            };
            let at = self.clock.as_mut().map(|clock| clock.due(message.sent));
            if let Some(at) = at
                && at > Instant::now()
            {
                if !batch.is_empty() {
                    self.held = Some(Ok(message));
                    break;
                }
                tokio::time::sleep_until(at).await;
            }
            batch.push(Due { message, at });
        }
        Ok(batch)
    }
}

/// Original times on our clock: the first message is due when it is seen.
struct PaceClock {
    times: f64,
    /// When the first message was due here, and its own time.
    start: Option<(Instant, i64)>,
}

impl PaceClock {
    fn due(&mut self, sent: i64) -> Instant {
        let (start, first) = *self.start.get_or_insert_with(|| (Instant::now(), sent));
        start + due_after(self.times, first, sent)
    }
}

/// (sent - first) / times; a message older than the first is due at once.
fn due_after(times: f64, first: i64, sent: i64) -> Duration {
    let original_seconds = sent.saturating_sub(first).max(0) as f64;
    Duration::try_from_secs_f64(original_seconds / times)
        .map_or(DUE_MAX, |after| after.min(DUE_MAX))
}

/// What a replay did so far.
#[derive(Debug)]
pub struct Summary {
    /// Lines sent; at a stop midway more than were answered.
    pub lines: u64,
    pub appended: u64,
    pub duplicates: u64,
    pub rejected: u64,
    /// Why, of the first few rejected ones.
    pub reasons: Vec<String>,
    latency_us: Histogram<u64>,
    started: Instant,
}

impl Summary {
    pub fn start() -> Self {
        Self {
            lines: 0,
            appended: 0,
            duplicates: 0,
            rejected: 0,
            reasons: Vec::new(),
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("3 digits are within 0 to 5, and the greatest value is at least 2"),
            started: Instant::now(),
        }
    }

    fn record_latency(&mut self, latency: Duration) {
        self.latency_us
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// From the moment an event was sent (or, paced, was due) to its answer.
    fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }

    fn events_per_second(&self) -> u64 {
        let answered = self.appended + self.duplicates + self.rejected;
        (answered as f64 / self.started.elapsed().as_secs_f64().max(1e-6)).round() as u64
    }

    fn progress(&self) -> String {
        let (lines, rate) = (HumanCount(self.lines), HumanCount(self.events_per_second()));
        format!(
            "{lines} lines, {rate} events/s, p99 {:.1} ms",
            self.latency_ms(0.99)
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "lines       {}", self.lines)?;
        writeln!(f, "appended    {}", self.appended)?;
        writeln!(f, "duplicates  {}", self.duplicates)?;
        writeln!(f, "rejected    {}", self.rejected)?;
        for reason in &self.reasons {
            writeln!(f, "            {reason}")?;
        }
        writeln!(
            f,
            "elapsed     {:.2} s",
            self.started.elapsed().as_secs_f64()
        )?;
        writeln!(f, "rate        {} events/s", self.events_per_second())?;
        write!(
            f,
            "latency     p50 {:.1} ms, p99 {:.1} ms",
            self.latency_ms(0.5),
            self.latency_ms(0.99)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Result<Message, Error>> {
        lines(Box::new(Cursor::new(bytes.to_vec())), Path::new("list.txt"))
            .unwrap()
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn message(line: u64, sent: i64) -> Message {
        Message {
            line,
            from: 9,
            to: 10,
            sent,
            file_offset: 0,
        }
    }

    #[test]
    fn a_line_is_three_whole_numbers() {
        assert_eq!(parse_line(b"1 2 1082040961\n"), Ok((1, 2, 1_082_040_961)));
        assert_eq!(parse_line(b"\t1  2 -5\r\n"), Ok((1, 2, -5)));
        for (line, reason) in [
            (&b"\n"[..], "0 fields"),
            (b"1 2", "2 fields"),
            (b"1 2 3 4", "4 fields"),
            (b"# comment of words", "4 fields"),
            (b"-1 2 3", "SENDER \"-1\""),
            (b"1 two 3", "RECEIVER \"two\""),
            (b"1 2 3.5", "UNIX_SECONDS \"3.5\""),
            (b"1 18446744073709551616 3", "RECEIVER"),
            (b"1 \xff 3", "not text"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_line_becomes_a_message_for_receiver_and_chat() {
        let event = Message {
            line: 7,
            from: 10,
            to: 9,
            sent: 1_082_040_961,
            file_offset: 0,
        }
        .event("CollegeMsg");
        assert_eq!(
            serde_json::to_value(&event).unwrap(),
            serde_json::json!({
                "id": "CollegeMsg:7", "kind": "message", "feeds": ["user:9", "chat:9-10"], "actor": "user:10",
                "data": {"from": 10, "to": 9, "sent": 1_082_040_961},
            })
        );
    }

    #[test]
    fn ids_start_with_the_bare_file_name() {
        for (path, stem) in [
            ("/data/CollegeMsg.txt.gz", "CollegeMsg"),
            ("a.txt", "a"),
            ("b.gz", "b"),
            ("c.v2.list", "c.v2.list"),
            ("-", "stdin"),
        ] {
            assert_eq!(event_stem(Path::new(path)).unwrap(), stem);
        }
        for path in ["/", "..", ".gz", "grüße.txt", &"x".repeat(108)] {
            assert!(
                matches!(event_stem(Path::new(path)), Err(Error::FileName(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn plain_and_gzip_read_the_same() {
        let text = b"1 2 3\n4 5 6\n7 8 9";
        let numbers = |bytes: &[u8]| -> Vec<(u64, u64)> {
            read(bytes)
                .into_iter()
                .map(|message| message.map(|m| (m.line, m.from)).unwrap())
                .collect()
        };
        let wanted = [(1, 1), (2, 4), (3, 7)];
        assert_eq!(numbers(text), wanted);
        assert_eq!(numbers(&gzip(text)), wanted);
        assert_eq!(
            numbers(&[gzip(&text[..8]), gzip(&text[8..])].concat()),
            wanted,
            "two gzip members"
        );
        assert!(read(b"").is_empty() && read(&gzip(b"")).is_empty());
    }

    #[test]
    fn reading_stops_at_the_first_bad_line_and_names_it() {
        let messages = read(b"1 2 3\nx\n4 5 6\n");
        assert_eq!(messages.len(), 2);
        let error = messages[1].as_ref().unwrap_err().to_string();
        assert!(error.starts_with("list.txt, line 2: 1 fields"), "{error}");
        let endless = read(&[b'1'; 10_000]);
        assert!(
            endless.len() == 1
                && endless[0]
                    .as_ref()
                    .unwrap_err()
                    .to_string()
                    .contains("longer than 256 bytes")
        );
        let whole = gzip(&b"1 2 3\n".repeat(1_000));
        let cut = read(&whole[..whole.len() - 4]);
        assert!(
            matches!(cut.last().unwrap(), Err(Error::Read { .. })),
            "a truncated gzip file is not the whole list"
        );
    }

    #[test]
    fn due_times_are_the_original_ones_divided() {
        assert_eq!(due_after(1.0, 100, 160), Duration::from_secs(60));
        assert_eq!(
            due_after(3600.0, 100, 100 + 1800),
            Duration::from_millis(500)
        );
        assert_eq!(due_after(0.5, 100, 101), Duration::from_secs(2));
        assert_eq!(due_after(1.0, 100, 40), Duration::ZERO);
        assert_eq!(due_after(1e-300, 0, 1), DUE_MAX);
        assert_eq!(due_after(1.0, i64::MIN, i64::MAX), DUE_MAX);
        assert!(
            parse_pace("0").is_err() && parse_pace("-1").is_err() && parse_pace("inf").is_err()
        );
        assert_eq!(parse_pace("0.5"), Ok(0.5));
    }

    #[test]
    fn latencies_keep_their_size() {
        let mut summary = Summary::start();
        (0..99).for_each(|_| summary.record_latency(Duration::from_millis(20)));
        summary.record_latency(Duration::from_secs(1_000_000));
        assert!((summary.latency_ms(0.5) - 20.0).abs() < 0.1);
        assert!((summary.latency_ms(1.0) - 3_600_000.0).abs() < 3_600.0);
    }

    async fn feeder(items: Vec<Result<Message, Error>>, times: Option<f64>) -> Feeder {
        let (sender, lines) = mpsc::channel(items.len());
        for item in items {
            sender.send(item).await.unwrap();
        }
        Feeder {
            lines,
            held: None,
            clock: times.map(|times| PaceClock { times, start: None }),
            batch_max: 3,
        }
    }

    fn line_numbers(batch: &[Due]) -> Vec<u64> {
        batch.iter().map(|due| due.message.line).collect()
    }

    #[tokio::test]
    async fn unpaced_arrays_are_full_and_an_error_comes_after_what_stood_before_it() {
        let bad = Error::BadLine {
            file: "f".to_owned(),
            line: 5,
            reason: "r".to_owned(),
        };
        let mut items: Vec<_> = (1..=4).map(|line| Ok(message(line, 0))).collect();
        items.push(Err(bad));
        let mut feeder = feeder(items, None).await;
        assert_eq!(line_numbers(&feeder.next_batch().await.unwrap()), [1, 2, 3]);
        assert_eq!(line_numbers(&feeder.next_batch().await.unwrap()), [4]);
        assert!(matches!(
            feeder.next_batch().await,
            Err(Error::BadLine { line: 5, .. })
        ));
        assert_eq!(feeder.next_batch().await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn paced_arrays_hold_what_is_due() {
        let sent = [1000, 1000, 1010, 1010, 1010, 1010, 1011];
        let items = sent
            .iter()
            .zip(1..)
            .map(|(&sent, line)| Ok(message(line, sent)))
            .collect();
        let mut feeder = feeder(items, Some(10.0)).await;
        let start = Instant::now();
        for (lines, due_ms) in [
            (&[1, 2][..], 0),
            (&[3, 4, 5], 1000),
            (&[6], 1000),
            (&[7], 1100),
        ] {
            let batch = feeder.next_batch().await.unwrap();
            assert_eq!(line_numbers(&batch), lines);
            assert_eq!(batch[0].at, Some(start + Duration::from_millis(due_ms)));
            assert!(
                start.elapsed().as_millis().abs_diff(u128::from(due_ms)) <= 1,
                "{:?}",
                start.elapsed()
            );
        }
        assert_eq!(feeder.next_batch().await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stall_what_fell_due_goes_at_once_and_keeps_its_due_time() {
        let items = (0..5).map(|second| Ok(message(1, second))).collect();
        let mut feeder = feeder(items, Some(1.0)).await;
        let start = feeder.next_batch().await.unwrap()[0].at.unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        let due: Vec<_> = feeder
            .next_batch()
            .await
            .unwrap()
            .iter()
            .map(|due| (due.at.unwrap() - start).as_secs())
            .collect();
        assert_eq!(due, [1, 2, 3]);
    }
}
