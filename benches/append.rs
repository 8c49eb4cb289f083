//! Append throughput and latency of a node over HTTP and, on FoundationDB, beside it what the bare client library
//! does with the same keys and bytes (no deduplication, no HTTP): closed-loop clients, each waiting for its answer.
//!
//!     cargo bench --bench append -- --seconds 5
//!     cargo bench --bench append --features fdb -- --cluster-file "$(fdb/up /tmp/cluster --engine ssd)"
//!
//! Run it on an otherwise idle machine; compare the ratios of one run, not figures of different runs.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Clients, and how many events each sends at once.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    events: usize,
}

impl std::str::FromStr for Load {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let (clients, events) = text.split_once('x').ok_or("a load is CLIENTSxEVENTS")?;
        Ok(Self {
            clients: clients.parse()?,
            events: events.parse()?,
        })
    }
}

#[derive(clap::Parser)]
struct Args {
    /// Measure on this FoundationDB cluster instead of the embedded engine.
    #[arg(long)]
    cluster_file: Option<String>,
    /// Time of each measurement, in s.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rest before each measurement, in s: a cluster goes on writing for as long after one.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// What to measure, in order: CLIENTSxEVENTS, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1x1,10x1,50x1,250x1,4x100,4x500"
    )]
    loads: Vec<Load>,
    /// Kind of the events. A `message` stands in two feeds and counts as unread there, any other kind is an entry in one.
    #[arg(long, default_value = "message")]
    kind: String,
    /// Cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = <Args as clap::Parser>::parse();
    let time = Duration::from_secs(args.seconds);
    let folder = tempfile::tempdir()?;
    let server = Server::start(folder.path(), args.cluster_file.as_deref())?;
    println!(
        "{:>8} {:>7} {:>5} {:>12} {:>9} {:>9} {:>13}",
        "clients", "events", "", "events/s", "p50 ms", "p99 ms", "CPU µs/event"
    );
    let kind: Arc<str> = args.kind.into();
    #[cfg(feature = "fdb")]
    let _network = args
        .cluster_file
        .is_some()
        .then(newsfeed::store::fdb::boot)
        .transpose()?;
    let pause = Duration::from_secs(args.pause);
    for Load { clients, events } in args.loads {
        tokio::time::sleep(pause).await;
        let used = server.cpu()?;
        let connect = |_| Http::connect(&server.address);
        let node = measure(time, clients, events, &kind, connect).await?;
        let used = server.cpu()? - used;
        node.print(clients, events, "node", Some(used));
        #[cfg(feature = "fdb")]
        if let Some(file) = &args.cluster_file {
            tokio::time::sleep(pause).await;
            let raw = measure(time, clients, events, &kind, |_| raw::Raw::open(file)).await?;
            raw.print(clients, events, "raw", None);
            println!(
                "{:>8} {:>7} {:>5} {:>12.2}",
                "",
                "",
                "ratio",
                node.rate / raw.rate
            );
        }
    }
    Ok(())
}

struct Measured {
    rate: f64,
    sent: usize,
    latency: Histogram<u64>,
}

impl Measured {
    /// `used` is the processor time the service took, user and system.
    fn print(&self, clients: usize, events: usize, what: &str, used: Option<Duration>) {
        let ms = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let used = used.map_or(String::new(), |used| {
            format!("{:.1}", used.as_secs_f64() * 1e6 / self.sent as f64)
        });
        println!(
            "{clients:>8} {events:>7} {what:>5} {:>12.0} {:>9.2} {:>9.2} {used:>13}",
            self.rate,
            ms(0.5),
            ms(0.99)
        );
    }
}

/// Somebody who appends and waits for the answer.
trait Client: Send + 'static {
    fn append(&mut self, events: &[Sample]) -> impl Future<Output = Result<(), Failure>> + Send;
}

async fn measure<C: Client, F: Future<Output = Result<C, Failure>>>(
    time: Duration,
    clients: usize,
    events: usize,
    kind: &Arc<str>,
    connect: impl Fn(usize) -> F,
) -> Result<Measured, Failure> {
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for number in 0..clients {
        let mut client = connect(number).await?;
        let kind = Arc::clone(kind);
        tasks.spawn(async move {
            let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
            let mut sent = 0;
            while begin.elapsed() < time {
                let samples: Vec<Sample> = (0..events).map(|_| Sample::next(&kind)).collect();
                let asked = Instant::now();
                client.append(&samples).await?;
                latency.record(asked.elapsed().as_micros() as u64)?;
                sent += events;
            }
            Ok::<_, Failure>((sent, latency))
        });
    }
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let mut sent = 0;
    while let Some(done) = tasks.join_next().await {
        let (count, part) = done??;
        sent += count;
        latency.add(part)?;
    }
    Ok(Measured {
        rate: sent as f64 / begin.elapsed().as_secs_f64(),
        sent,
        latency,
    })
}

/// A message between two of a thousand users.
struct Sample {
    id: String,
    kind: Arc<str>,
    from: u64,
    to: u64,
}

impl Sample {
    fn next(kind: &Arc<str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("bench-{}-{number}", std::process::id());
        Self {
            id,
            kind: Arc::clone(kind),
            from: number.wrapping_mul(7919) % 1000,
            to: number.wrapping_mul(104_729) % 1000,
        }
    }

    fn is_message(&self) -> bool {
        *self.kind == *"message"
    }

    fn feeds(&self) -> Vec<String> {
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        let mut feeds = vec![format!("user:{}", self.to)];
        if self.is_message() {
            feeds.push(format!("chat:{low}-{high}"));
        }
        feeds
    }

    fn data(&self) -> String {
        format!(
            r#"{{"from":{},"to":{},"text":"see you tonight at the usual place?"}}"#,
            self.from, self.to
        )
    }

    fn json(&self) -> String {
        format!(
            r#"{{"id":"{}","kind":"{}","feeds":{:?},"actor":"user:{}","data":{}}}"#,
            self.id,
            self.kind,
            self.feeds(),
            self.from,
            self.data()
        )
    }
}

/// A kept-alive HTTP/1.1 connection that does no more than it must, so that the service is what is measured.
struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    async fn connect(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }
}

impl Client for Http {
    async fn append(&mut self, events: &[Sample]) -> Result<(), Failure> {
        let items: Vec<String> = events.iter().map(Sample::json).collect();
        let body = if let [item] = &items[..] {
            item.clone()
        } else {
            format!("[{}]", items.join(","))
        };
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes()).await?;
        self.buffer.clear();
        let (head, length) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the service closed the connection".into());
            }
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
                let length = head
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.lines().next());
                break (
                    end + 4,
                    length.ok_or("no content-length")?.parse::<usize>()?,
                );
            }
        };
        while self.buffer.len() < head + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the service closed the connection".into());
            }
        }
        let answer = String::from_utf8_lossy(&self.buffer);
        let appended = answer.matches(r#""status":"appended""#).count();
        if appended == events.len() {
            Ok(())
        } else {
            Err(format!("not all appended: {answer}").into())
        }
    }
}

/// `newsfeed serve` as a process of its own, ended with this one.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(folder: &std::path::Path, cluster_file: Option<&str>) -> Result<Self, Failure> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_newsfeed"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder)
            .stdout(Stdio::piped());
        if let Some(file) = cluster_file {
            let prefix = format!("bench{}/", std::process::id());
            command.args([
                "--store",
                "fdb",
                "--cluster-file",
                file,
                "--prefix",
                &prefix,
            ]);
        }
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().ok_or("no stdout")?;
        let line = BufReader::new(stdout)
            .lines()
            .next()
            .ok_or("the service did not start")??;
        let address = line
            .rsplit("http://")
            .next()
            .ok_or("no address")?
            .to_owned();
        Ok(Self { process, address })
    }
}

impl Server {
    /// Processor time so far, user and system.
    fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // Behind the name, which may hold anything: fields 14 and 15, in ticks of 10 ms.
        let fields = stat.rsplit(')').next().ok_or("no stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(10 * ticks))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(feature = "fdb")]
mod raw {
    //! The bare client library: the same keys and values in one blind transaction.

    use std::sync::{Arc, OnceLock};

    use foundationdb::{Database, options::MutationType, options::TransactionOption};
    use newsfeed::{
        append::writes,
        store::{fdb::stamped_key, keys::Keys},
        types::{Data, Delivery, Draft, Entry, Event},
    };

    use super::{Client, Failure, Sample};

    pub struct Raw {
        db: Arc<Database>,
        keys: Keys,
    }

    impl Raw {
        pub async fn open(file: &str) -> Result<Self, Failure> {
            static DB: OnceLock<Arc<Database>> = OnceLock::new();
            if DB.get().is_none() {
                let _ = DB.set(Arc::new(Database::from_path(file)?));
            }
            let db = Arc::clone(DB.get().ok_or("no database")?);
            let tuning = newsfeed::store::fdb::Tuning {
                timeout: std::time::Duration::from_secs(5),
            };
            let store = newsfeed::store::fdb::Fdb::open(file.as_ref(), b"raw/", tuning)?;
            let keys = Keys::open(&store, b"raw/", 16).await?;
            Ok(Self { db, keys })
        }
    }

    fn event(sample: &Sample) -> Result<Event, Failure> {
        let data = serde_json::value::RawValue::from_string(sample.data())?;
        let feeds = sample
            .feeds()
            .iter()
            .map(|feed| feed.parse())
            .collect::<Result<_, _>>()?;
        let draft = Draft {
            id: sample.id.parse()?,
            kind: sample.kind.parse()?,
            delivery: match sample.is_message() {
                true => Delivery::Notify,
                false => Delivery::Entry,
            },
            feeds,
            actor: Some(format!("user:{}", sample.from).parse()?),
            data: Data::from_raw(&data)?,
            expect: None,
        };
        draft.check().map_err(|(_, error)| error.into())
    }

    impl Client for Raw {
        async fn append(&mut self, events: &[Sample]) -> Result<(), Failure> {
            let events = events
                .iter()
                .map(event)
                .collect::<Result<Vec<Event>, _>>()?;
            let entries: Vec<(&Event, Entry)> = events
                .iter()
                .map(|event| (event, writes::entry(event, 1, 0)))
                .collect();
            let batch = writes::of_events(&self.keys, &entries);
            let transaction = self.db.create_trx()?;
            transaction.set_option(TransactionOption::ReadYourWritesDisable)?;
            for (key, value) in &batch.maxima {
                transaction.atomic_op(key, value, MutationType::ByteMax);
            }
            for put in &batch.versioned {
                let key = stamped_key(&put.prefix, 0, put.index);
                transaction.atomic_op(&key, &put.value, MutationType::SetVersionstampedKey);
            }
            transaction.atomic_op(
                &self.keys.wake(),
                &[0; 14],
                MutationType::SetVersionstampedValue,
            );
            transaction
                .commit()
                .await
                .map_err(foundationdb::FdbError::from)?;
            Ok(())
        }
    }
}
