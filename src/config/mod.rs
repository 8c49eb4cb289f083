//! The configuration of `newsfeed serve`. Flags override environment variables, which override the file.

pub mod check;
pub mod file;

mod drain;
mod exposure;
mod kinds;
mod location;
mod retention;
mod transport;

use std::{
    collections::BTreeMap,
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};

pub use self::{
    drain::DrainConfig,
    kinds::{KindList, KindSetting},
    location::{Location, Sides},
    retention::{RetentionArgs, RuleList},
    transport::TransportConfig,
};
use crate::{
    append,
    auth::{Auth, AuthArgs},
    clock::WallTime,
    http::{Deliveries, Place, resolve},
    logging::LogArgs,
    projection::{self, Projection},
    server::Settings,
    store::{
        self, Store,
        embedded::{Embedded, no_store},
        keys::Keys,
    },
};

const CLUSTER_FILE: &str = "/etc/foundationdb/fdb.cluster";
const PREFIX: &str = "newsfeed/";
const DISK_RESERVE_MIB: u64 = 256;
const FDB_TIMEOUT_MS: u64 = 10_000;

/// The storage engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// On this machine, in the folder given by --data.
    Embedded,
    /// In the FoundationDB cluster of --cluster-file, shared by any number of nodes.
    Fdb,
}

impl Engine {
    /// Log partitions of a new store. On one machine, more only cost; a cluster spreads them over its servers.
    pub const fn partitions(self) -> u16 {
        match self {
            Self::Embedded => 1,
            Self::Fdb => 4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Where events are stored.
#[derive(Debug, Clone, Args)]
pub struct StoreConfig {
    /// Configuration file (TOML) for `newsfeed serve`. Its keys are the long flags, written with `_` (flags that can be
    /// repeated may also be in the plural). Flags override environment variables, which override the file.
    #[arg(long, env = "NEWSFEED_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Storage engine.
    #[arg(long, env = "NEWSFEED_STORE", value_enum, default_value_t = Engine::Embedded)]
    pub store: Engine,

    /// Folder of the embedded store. `newsfeed serve` creates it if missing; admin commands do not.
    #[arg(
        long,
        env = "NEWSFEED_DATA",
        default_value = "./newsfeed-data",
        value_name = "FOLDER"
    )]
    pub data: PathBuf,

    /// Cluster file of the FoundationDB cluster.
    #[arg(
        long,
        env = "NEWSFEED_CLUSTER_FILE",
        default_value = CLUSTER_FILE,
        value_name = "FILE"
    )]
    pub cluster_file: PathBuf,

    /// Prefix of all keys in the cluster, so that several services can share one cluster.
    #[arg(
        long,
        env = "NEWSFEED_PREFIX",
        default_value = PREFIX,
        value_name = "TEXT"
    )]
    pub prefix: String,

    /// Time in ms after which a read or commit in the cluster is retried.
    #[arg(long, env = "NEWSFEED_FDB_TIMEOUT_MS", default_value_t = FDB_TIMEOUT_MS, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub fdb_timeout_ms: u64,

    /// Free disk space to keep in reserve (MiB). Below it, appends fail with 507. The embedded store needs the reserve to
    /// compact its files. 0 disables the check.
    #[arg(
        long,
        env = "NEWSFEED_DISK_RESERVE_MIB",
        default_value_t = DISK_RESERVE_MIB,
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(..=1024 * 1024)
    )]
    pub disk_reserve_mib: u64,

    /// Number of log partitions of a new store [default: 1; with --store fdb, 4]. An existing store keeps its number.
    #[arg(long, env = "NEWSFEED_PARTITIONS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: Option<u16>,
}

/// An open store and its key space. Dropping it stops the FoundationDB client's network thread.
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub keys: Keys,
    #[cfg(feature = "fdb")]
    _network: Option<store::fdb::Network>,
}

impl Opened {
    fn embedded(store: Arc<dyn Store>, keys: Keys) -> Self {
        Self {
            store,
            keys,
            #[cfg(feature = "fdb")]
            _network: None,
        }
    }
}

impl StoreConfig {
    fn partitions(&self) -> u16 {
        self.partitions.unwrap_or(self.store.partitions())
    }

    /// Opens the store and creates it if there is none.
    pub async fn open(&self, wall: WallTime) -> store::Result<Opened> {
        match self.store {
            Engine::Embedded => {
                let reserve_bytes = self.disk_reserve_mib * 1024 * 1024;
                let clock = wall.clone();
                let open =
                    move |folder: &Path| Embedded::open_to_serve(folder, clock, reserve_bytes);
                let store = self.open_folder(open).await?;
                let keys = Keys::open(&*store, b"", self.partitions(), &wall).await?;
                Ok(Opened::embedded(store, keys))
            }
            Engine::Fdb => self.open_fdb(Some(&wall)).await,
        }
    }

    /// Opens the store; fails if there is none. Never creates anything.
    pub async fn open_existing(&self) -> store::Result<Opened> {
        match self.store {
            Engine::Embedded => {
                let open = |folder: &Path| Embedded::open_existing(folder, WallTime::system(0));
                let store = self.open_folder(open).await?;
                match Keys::open_existing(&*store, b"").await? {
                    Some(keys) => Ok(Opened::embedded(store, keys)),
                    None => Err(no_store(&self.data)),
                }
            }
            Engine::Fdb => self.open_fdb(None).await,
        }
    }

    async fn open_folder(
        &self,
        open: impl FnOnce(&Path) -> store::Result<Embedded> + Send + 'static,
    ) -> store::Result<Arc<dyn Store>> {
        let folder = self.data.clone();
        let opening = tokio::task::spawn_blocking(move || open(&folder));
        let store = opening
            .await
            .map_err(|panic| store::Error::Open(panic.to_string()))??;
        Ok(Arc::new(store))
    }

    fn check(&self) -> store::Result<()> {
        match self.store {
            Engine::Embedded => Ok(()),
            Engine::Fdb if cfg!(feature = "fdb") => match std::fs::read(&self.cluster_file) {
                Ok(_) => Ok(()),
                Err(error) => Err(store::Error::Open(format!(
                    "cannot read the cluster file {}: {error}",
                    self.cluster_file.display()
                ))),
            },
            Engine::Fdb => Err(without_fdb()),
        }
    }

    /// Opens the store in the cluster; creates it, by the clock `create`, if there is none.
    #[cfg(feature = "fdb")]
    async fn open_fdb(&self, create: Option<&WallTime>) -> store::Result<Opened> {
        let tuning = store::fdb::Tuning {
            timeout: std::time::Duration::from_millis(self.fdb_timeout_ms),
        };
        let network = store::fdb::boot()?;
        let prefix = self.prefix.as_bytes();
        let store = store::fdb::Fdb::open(&self.cluster_file, prefix, tuning)?;
        let store: Arc<dyn Store> = Arc::new(store);
        let keys = match create {
            Some(wall) => Keys::open(&*store, prefix, self.partitions(), wall)
                .await
                .map(Some),
            None => Keys::open_existing(&*store, prefix).await,
        };
        let keys = keys.map_err(|error| of_cluster(error, &self.cluster_file))?;
        let keys = keys.ok_or_else(|| {
            store::Error::Open(format!(
                "there is no store with the key prefix {:?} in the cluster of {}: \
                 specify the prefix of an existing store with --prefix, or another cluster with --cluster-file",
                self.prefix,
                self.cluster_file.display()
            ))
        })?;
        Ok(Opened {
            store,
            keys,
            _network: Some(network),
        })
    }

    #[cfg(not(feature = "fdb"))]
    async fn open_fdb(&self, _create: Option<&WallTime>) -> store::Result<Opened> {
        Err(without_fdb())
    }
}

/// Explains an error of the first transaction in a cluster.
#[cfg(feature = "fdb")]
fn of_cluster(error: store::Error, cluster_file: &Path) -> store::Error {
    let file = cluster_file.display();
    match error {
        store::Error::Unavailable(_) | store::Error::Unknown => store::Error::Open(format!(
            "the cluster of {file} does not answer ({error}): check that FoundationDB is running there and its database is configured",
        )),
        store::Error::Refused(_) => store::Error::Open(format!(
            "cannot use the cluster file {file} ({error}): give a copy of your cluster's file",
        )),
        other => other,
    }
}

fn without_fdb() -> store::Error {
    store::Error::Open(
        "this program was built without FoundationDB: build it with `cargo build --release --features fdb`, \
         on a machine with the FoundationDB client package"
            .into(),
    )
}

#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to listen on: ADDRESS:PORT, `localhost:PORT`, `:PORT` (all addresses, IPv4 and IPv6) or `unix:/PATH`. Port 0
    /// picks a free port and prints it. Can be repeated or comma-separated.
    #[arg(
        long,
        env = "NEWSFEED_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub listen: Vec<Place>,

    /// Permissions of the files of unix sockets, in octal. Whoever may write to the file may connect.
    #[arg(long, env = "NEWSFEED_LISTEN_MODE", default_value = "0660", value_name = "MODE", value_parser = parse_mode)]
    pub listen_mode: u32,

    #[command(flatten)]
    pub store: StoreConfig,

    #[command(flatten)]
    pub auth: AuthArgs,

    #[command(flatten)]
    pub transport: TransportConfig,

    /// Delivery of a kind of event: `entry` (an entry), `notify` (an entry that counts as unread) or `transient` (live
    /// only, not stored). With `+indexed` after it, as in `message=notify+indexed`, reading only this kind of a feed costs
    /// no more than the entries that are returned. Can be repeated or comma-separated; a comma in the name of a kind is
    /// written `\,`. Kinds that are not listed are `entry`.
    #[arg(
        long = "kind",
        env = "NEWSFEED_KINDS",
        value_name = "KIND=DELIVERY[+indexed]",
        default_value = "message=notify,flirt=entry,visit=entry,typing=transient"
    )]
    pub kinds: Vec<KindList>,

    /// Index the log by actor, so that reading the events of an actor costs no more than the events that are returned.
    #[arg(long, env = "NEWSFEED_INDEX_ACTORS")]
    pub index_actors: bool,

    /// Whether this node works on the indexes. Indexes that no node works on stay correct, but reading what is newer than
    /// they are costs more.
    #[arg(long, env = "NEWSFEED_PROJECTIONS", value_enum, default_value_t = Switch::On)]
    pub projections: Switch,

    #[command(flatten)]
    pub retention: RetentionArgs,

    /// Minimum interval in ms between two reads of the log for live delivery. A longer interval batches more events,
    /// which trades latency for CPU. 0 delivers immediately.
    #[arg(long, env = "NEWSFEED_TAIL_GAP_MS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    pub tail_gap_ms: u64,

    /// Time in µs that a batch of appends waits for more events before it is committed.
    #[arg(long, env = "NEWSFEED_APPEND_LINGER_US", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=100_000))]
    pub append_linger_us: u64,

    /// Maximum number of append batches in flight.
    #[arg(long, env = "NEWSFEED_APPEND_BATCHES", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub append_batches: u8,

    /// New appends get 503 while the oldest one in the queue has been waiting for this time in ms.
    #[arg(long, env = "NEWSFEED_APPEND_QUEUE_MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    pub append_queue_ms: u64,

    /// Delay of live delivery in ms from which the node reports that it is not ready (`/readyz`).
    #[arg(long, env = "NEWSFEED_READY_LAG_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub ready_lag_ms: u64,

    #[command(flatten)]
    pub logging: LogArgs,

    #[command(flatten)]
    pub drain: DrainConfig,

    /// Offset in seconds added to this node's wall clock, to test clocks that are wrong.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, hide = true)]
    pub wall_offset_s: i64,
}

impl Config {
    /// Checks for anything that would keep the service from starting, without starting it. Fetches a JWKS if one is
    /// configured.
    pub async fn check(&self) -> Result<(), Box<dyn Error>> {
        self.store.check()?;
        self.retention.retention()?;
        self.places().await?;
        self.warn_of_exposure();
        self.transport.tls()?;
        self.auth().await?;
        Ok(())
    }

    /// The addresses to listen on, with host names resolved. Fails if the service must not listen on one of them.
    pub async fn places(&self) -> Result<Vec<Place>, String> {
        let places = resolve(&self.listen).await?;
        let names: Vec<_> = places.iter().map(ToString::to_string).collect();
        let mut named = places.iter().zip(&names);
        let remote = named.find(|(place, _)| !place.is_local());
        self.auth
            .may_listen(&names.join(" "), remote.map(|(_, name)| name.as_str()))?;
        Ok(places)
    }

    /// The keys that verify tokens, if any are configured.
    pub async fn auth(&self) -> Result<Option<Arc<Auth>>, String> {
        let mut args = self.auth.clone();
        // With TLS the cookie must never travel in plain text.
        args.auth_cookie_secure |= self.transport.tls_cert.is_some();
        Auth::open(&args, self.wall()).await
    }

    pub fn wall(&self) -> WallTime {
        WallTime::system(self.wall_offset_s.saturating_mul(1_000_000))
    }

    /// The settings of all kinds. A later one of the same kind replaces an earlier one.
    fn kinds(&self) -> impl Iterator<Item = &KindSetting> {
        let lists = self.kinds.iter();
        let by_kind: BTreeMap<_, _> = lists
            .flat_map(|list| &list.0)
            .map(|setting| (setting.kind.as_str(), setting))
            .collect();
        by_kind.into_values()
    }

    /// The projections that this node works on.
    fn projections(&self) -> Vec<Projection> {
        let indexed = self.kinds().filter(|setting| setting.indexed);
        let indexed = indexed.map(|setting| setting.kind.clone());
        match self.projections {
            Switch::On => Projection::of(self.index_actors, indexed),
            Switch::Off => Vec::new(),
        }
    }

    /// The settings of the node. `auth` is the result of [`Self::auth`].
    pub fn settings(&self, auth: Option<Arc<Auth>>) -> Settings {
        Settings {
            auth,
            base_path: self.transport.base_path.clone(),
            appends: append::Tuning {
                linger: Duration::from_micros(self.append_linger_us),
                batches_in_flight: self.append_batches.into(),
                queue_time_max: Duration::from_millis(self.append_queue_ms),
            },
            deliveries: Deliveries::new(self.kinds().map(|it| (it.kind.clone(), it.delivery))),
            projections: projection::Settings {
                projections: self.projections(),
                limits: projection::Limits::default(),
            },
            retention: self.retention.retention().unwrap_or_default(),
            wall: self.wall(),
            tail_gap: Duration::from_millis(self.tail_gap_ms),
            cors: self.transport.cors(),
            hosts: self.transport.hosts(),
            proxies: self.transport.proxies(),
            limits: self.transport.limits(),
            ready_lag_max: Duration::from_millis(self.ready_lag_ms),
            log: None,
            drain: self.drain.drain(),
        }
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected permissions in octal, from 0000 to 0777".to_owned()),
    }
}
