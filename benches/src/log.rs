//! `newsfeed-bench log`: reads the whole log, as one answer of lines and as pages, beside the storage engine itself.

use std::{borrow::Cow, sync::Arc, time::Instant};

use memchr::memmem::Finder;
use newsfeed::client;
use serde::Deserialize;
use serde_json::json;

use super::{
    args::Common,
    connection::Connection,
    engine::{Engine, EngineArgs, Whole},
    error::Error,
    ledger::{Faults, Version},
    pages::Item,
    pool::Pool,
    run::{Run, with_progress},
    source::{READ_BYTES, Source, Wanted},
    stop::Stop,
    summary::Summary,
    target::Dialer,
    writers::unreachable,
};

const LINES: &str = "application/x-ndjson";
/// The highest limit that the API accepts.
const PAGE_EVENTS_MAX: u8 = 200;

/// Read the whole log, as one answer of lines
///
/// Appends nothing: fill the store with `newsfeed-bench append` first. Versions must ascend, and every round must find the
/// same number of events.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed-bench log --pid PID                           events and bytes per second, and the memory of the node\n  \
    newsfeed-bench log --data COPY                         beside the storage engine, in a copy of the data folder\n  \
    newsfeed-bench log --pages --query 'kind=a&kind=b'     the events of two kinds, also as pages")]
pub struct LogArgs {
    #[command(flatten)]
    common: Common,
    /// How often to read it, each way in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Read it also as pages, one request after the other
    #[arg(long)]
    pages: bool,
    /// Read only a part of the log: the filters of `GET /v1/log`, for example `kind=a&shard=0/4`
    #[arg(long, value_name = "FILTERS")]
    query: Option<String>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// A way to read the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Lines,
    Pages,
    /// The keys and values of the storage engine.
    Engine,
    /// The same, with the records decoded: as much as any reader has to do.
    Records,
}

impl Way {
    /// Names of the figures: events and MiB per second.
    fn figures(self) -> [&'static str; 2] {
        match self {
            Self::Lines => ["lines_events_per_second", "lines_mib_per_second"],
            Self::Pages => ["pages_events_per_second", "pages_mib_per_second"],
            Self::Engine => ["engine_events_per_second", "engine_mib_per_second"],
            Self::Records => ["records_events_per_second", "records_mib_per_second"],
        }
    }
}

pub async fn run(args: LogArgs, stop: Stop) -> Result<(), Error> {
    let run = Run::new(args.common.clone(), stop)?;
    let engine = args.engine.open().await?;
    let mut ways = vec![Way::Lines];
    ways.extend(args.pages.then_some(Way::Pages));
    ways.extend(
        engine
            .as_ref()
            .map(|_| [Way::Engine, Way::Records])
            .into_iter()
            .flatten(),
    );
    let dialer = run.dialer(ways.len()).await?;
    let mut reader = Reader {
        pool: Pool::new(dialer),
        query: args.query.clone().unwrap_or_default(),
        until: None,
        events: None,
        engine,
    };
    if let Some(engine) = &reader.engine {
        let whole = engine.read(true).await?;
        // The last key holds a batch.
        let until = whole.last.map(|last| last.at_index(u16::MAX).to_string());
        reader.until = until.and_then(|until| Version::parse(&until));
        reader.events = Some(whole.events);
    }
    run.readers_are_ready().await;

    let began = Instant::now();
    let mut all: Vec<Vec<Whole>> = Vec::new();
    let rounds = u64::from(args.rounds);
    let read = async {
        for _ in 0..rounds {
            if run.interrupted() {
                break;
            }
            let mut round = Vec::new();
            for way in &ways {
                round.push(reader.read(*way).await?);
            }
            all.push(round);
        }
        Ok::<_, Error>(())
    };
    let so_far = || (0, "reading the log".to_owned());
    run.measured(with_progress(rounds, so_far, read)).await?;
    let elapsed = began.elapsed();
    let events = reader.events.unwrap_or_default();
    if let Some(engine) = reader.engine.take() {
        engine.close().await;
    }

    let mut figures = Vec::new();
    let of_way = |index: usize, figure: &dyn Fn(&[Whole]) -> f64| {
        median(all.iter().map(|round| figure(&round[index..])).collect())
    };
    let rate = |whole: &Whole| events as f64 / whole.time.as_secs_f64();
    let mib = |whole: &Whole| whole.bytes as f64 / whole.time.as_secs_f64() / 1024.0 / 1024.0;
    for (index, way) in ways.iter().enumerate() {
        let [events, bytes] = way.figures();
        figures.push((events, of_way(index, &|round| rate(&round[0]))));
        figures.push((bytes, of_way(index, &|round| mib(&round[0]))));
    }
    for (way, name) in [
        (Way::Engine, "lines_to_engine_ratio"),
        (Way::Records, "lines_to_records_ratio"),
    ] {
        if let Some(index) = ways.iter().position(|other| *other == way) {
            let ratio = |round: &Vec<Whole>| rate(&round[0]) / rate(&round[index]);
            figures.push((name, median(all.iter().map(ratio).collect())));
        }
    }
    let times = ways
        .iter()
        .filter(|way| matches!(way, Way::Lines | Way::Pages));
    let read = events * (times.count() * all.len()) as u64;
    let summary = Summary {
        command: "log",
        run: "log".to_owned(),
        parameters: json!({
            "rounds": args.rounds, "pages": args.pages, "query": args.query, "urls": run.common.url,
        }),
        closed_loop: true,
        interrupted: run.interrupted(),
        elapsed,
        counts: vec![("events", events), ("rounds", all.len() as u64)],
        figures,
        latencies: Vec::new(),
        faults: Faults::default(),
        used: run.used(),
        per: vec![("event", read)],
        readers: 0,
    };
    run.conclude(&summary)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

struct Reader {
    pool: Arc<Pool>,
    query: String,
    /// The end of the first round, so that all rounds read the same.
    until: Option<Version>,
    events: Option<u64>,
    engine: Option<Engine>,
}

#[derive(Deserialize)]
struct LogPage<'a> {
    #[serde(borrow)]
    events: Vec<Item<'a>>,
    version: Cow<'a, str>,
    next: Option<Cow<'a, str>>,
}

impl Reader {
    /// Reads the log once; checks it against the rounds before.
    async fn read(&mut self, way: Way) -> Result<Whole, Error> {
        let began = Instant::now();
        let mut whole = match (way, &self.engine) {
            (Way::Lines, _) => self.lines().await?,
            (Way::Pages, _) => self.pages().await?,
            (way, Some(engine)) => engine.read(way == Way::Records).await?,
            (_, None) => Whole::default(),
        };
        whole.time = began.elapsed();
        if way != Way::Engine && *self.events.get_or_insert(whole.events) != whole.events {
            let expected = self.events.unwrap_or_default();
            return Err(Error::Log(format!(
                "{way:?} found {} events where {expected} were expected",
                whole.events
            )));
        }
        Ok(whole)
    }

    fn path(&self, after: &str) -> String {
        let query = match self.query.is_empty() {
            true => String::new(),
            false => format!("&{}", self.query),
        };
        let until = self.until.map(|until| format!("&until={}", until.as_str()));
        format!("/v1/log?after={after}{}{query}", until.unwrap_or_default())
    }

    async fn lines(&mut self) -> Result<Whole, Error> {
        let path = self.path("0");
        let wanted = Wanted {
            path: &path,
            accept: LINES,
            last_event_id: None,
        };
        let dialer: &Dialer = &self.pool.dialer;
        let base_url = self.pool.node(0).base_url.clone();
        let (mut source, pending) = match self.pool.slot(0) {
            Some(slot) => (Source::open_shared(&slot, wanted).await?, Vec::new()),
            None => Source::open(dialer.node(0), dialer.connect(0, None), wanted).await?,
        };
        let mut lines = Lines::new(pending);
        let mut is_open = true;
        while !lines.take()? {
            if !is_open {
                let broken = "the connection ended before the last line";
                return Err(Error::Log(broken.to_owned()));
            }
            let more = source.receive(READ_BYTES, &mut lines.pending).await;
            is_open = more.map_err(|error| unreachable(&base_url, &error))?;
        }
        self.until = self.until.or(lines.end);
        Ok(lines.whole)
    }

    async fn pages(&mut self) -> Result<Whole, Error> {
        let mut connection = Connection::new(&self.pool, 1);
        let base_url = connection.base_url().to_owned();
        let (mut whole, mut order) = (Whole::default(), Order::default());
        let mut after = "0".to_owned();
        loop {
            let path = format!("{}&limit={PAGE_EVENTS_MAX}", self.path(&after));
            let answer = connection.get(&path).await;
            let answer = answer.map_err(|error| unreachable(&base_url, &error))?;
            let page: LogPage = answer.json(&format!("GET {path}"), &base_url)?;
            whole.bytes += answer.body.len() as u64;
            for item in &page.events {
                order.check(&item.version)?;
                whole.events += 1;
            }
            match page.next {
                Some(next) => after = next.into_owned(),
                None => {
                    self.until = self.until.or(Version::parse(&page.version));
                    return Ok(whole);
                }
            }
        }
    }
}

/// Checks that versions ascend.
#[derive(Default)]
struct Order(Option<Version>);

impl Order {
    fn check(&mut self, version: &str) -> Result<(), Error> {
        let next = Version::parse(version);
        if next.is_none() || self.0 >= next {
            return Err(Error::Log(format!(
                "version {version} does not come after the one before it"
            )));
        }
        self.0 = next;
        Ok(())
    }
}

/// Takes lines apart only as far as the checks need it, because the generator shares the machine with the service.
struct Lines {
    /// Received, without the lines that have been taken.
    pending: Vec<u8>,
    whole: Whole,
    order: Order,
    version: Finder<'static>,
    /// That of the last line.
    end: Option<Version>,
}

/// A line that is not an event.
#[derive(Deserialize)]
struct Mark<'a> {
    cursor: Cow<'a, str>,
    #[serde(default)]
    end: bool,
    error: Option<client::Rejection>,
}

impl Lines {
    fn new(pending: Vec<u8>) -> Self {
        Self {
            pending,
            whole: Whole::default(),
            order: Order::default(),
            version: Finder::new(b"\"version\":\""),
            end: None,
        }
    }

    /// Takes the complete lines; returns whether the last line was among them.
    fn take(&mut self) -> Result<bool, Error> {
        let mut begin = 0;
        while let Some(len) = memchr::memchr(b'\n', &self.pending[begin..]) {
            let line = &self.pending[begin..begin + len];
            begin += len + 1;
            self.whole.bytes += line.len() as u64 + 1;
            // The names of feeds, which precede the version, have no quotes.
            if line.starts_with(b"{\"feeds\":") {
                let version = self
                    .version
                    .find(line)
                    .map(|at| at + self.version.needle().len());
                let version = version
                    .and_then(|at| line.get(at..at + 26))
                    .unwrap_or_default();
                self.order.check(&String::from_utf8_lossy(version))?;
                self.whole.events += 1;
                continue;
            }
            let mark: Mark = serde_json::from_slice(line).map_err(|error| {
                let line = String::from_utf8_lossy(line).into_owned();
                Error::Log(format!("not a line of the log ({error}): {line}"))
            })?;
            if let Some(error) = mark.error {
                return Err(error.of("GET /v1/log".to_owned()).into());
            }
            if mark.end {
                self.end = Version::parse(&mark.cursor);
                return Ok(true);
            }
        }
        self.pending.drain(..begin);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "00000000000000000000000001";
    const B: &str = "00000000000000000000000002";

    fn event(version: &str) -> String {
        format!("{{\"feeds\":[\"f\"],\"version\":\"{version}\",\"id\":\"x\"}}\n")
    }

    fn taken(text: &str, cut: usize) -> Result<(bool, u64), Error> {
        let mut lines = Lines::new(text[..cut].into());
        let mut is_over = lines.take()?;
        if !is_over {
            lines.pending.extend_from_slice(&text.as_bytes()[cut..]);
            is_over = lines.take()?;
        }
        Ok((is_over, lines.whole.events))
    }

    #[test]
    fn lines_are_counted_wherever_the_bytes_are_split_and_end_with_the_last_line() {
        let cursor = format!("{{\"cursor\":\"{A}\"}}\n");
        let end = format!("{{\"cursor\":\"{B}\",\"end\":true}}\n");
        let all = [event(A), cursor, event(B), end].concat();
        for cut in 0..=all.len() {
            assert_eq!(taken(&all, cut).expect("valid"), (true, 2), "{cut}");
        }
        let before_end = all.len() - 1;
        assert_eq!(taken(&all[..before_end], 0).expect("valid"), (false, 2));
    }

    #[test]
    fn repeated_and_reordered_events_errors_and_other_lines_end_the_run() {
        let refused = format!(
            "{{\"cursor\":\"{A}\",\"error\":{{\"code\":\"shutting_down\",\"detail\":\"gone\"}}}}\n"
        );
        for text in [
            [event(A), event(A)].concat(),
            [event(B), event(A)].concat(),
            event("short"),
            refused,
            "hello\n".to_owned(),
        ] {
            assert!(taken(&text, 0).is_err(), "{text}");
        }
    }
}
