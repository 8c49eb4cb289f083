//! The log, read from the storage engine without the service: what the engine itself can do.
//!
//! Reads go through the service's contract for engines, one range read of [`READ_BYTES`] after the other, partition by
//! partition: nothing is merged, and twins are not hidden.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use newsfeed::{
    clock::WallTime,
    store::{
        Range, Slice, Store,
        embedded::Embedded,
        keys::{self, Keys},
        values::decode_records,
    },
    version::Version,
};

use super::error::Error;

/// Bytes of a read: that of one part of the service's answers, or more.
const READ_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// Also read the log from the storage engine, in a copy of the node's data folder that was made while the node was
    /// stopped, and show what share of that speed the service has
    #[arg(long, value_name = "FOLDER", conflicts_with = "query")]
    data: Option<PathBuf>,
    /// The same with FoundationDB: the cluster file of the node's cluster
    #[cfg(feature = "fdb")]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["query", "data"])]
    cluster_file: Option<PathBuf>,
    /// With --cluster-file, the prefix of all keys of the service
    #[cfg(feature = "fdb")]
    #[arg(long, value_name = "TEXT", default_value = "newsfeed/")]
    prefix: String,
}

pub struct Engine {
    store: Box<dyn Store>,
    keys: Keys,
    /// Stops the client library's thread when it is dropped.
    #[cfg(feature = "fdb")]
    _network: Option<newsfeed::store::fdb::Network>,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whole {
    /// 0 if the records were not decoded.
    pub events: u64,
    pub bytes: u64,
    pub time: Duration,
    /// That of the last key.
    pub last: Option<Version>,
}

impl EngineArgs {
    pub async fn open(&self) -> Result<Option<Engine>, Error> {
        #[cfg(feature = "fdb")]
        if let Some(file) = &self.cluster_file {
            use newsfeed::store::fdb::{self, Fdb};
            let network = fdb::boot().map_err(failed)?;
            let tuning = fdb::Tuning {
                timeout: Duration::from_secs(5),
            };
            let prefix = self.prefix.as_bytes();
            let store = Fdb::open(file, prefix, tuning).map_err(failed)?;
            return Engine::new(Box::new(store), prefix, Some(network))
                .await
                .map(Some);
        }
        let Some(folder) = &self.data else {
            return Ok(None);
        };
        let store = Embedded::open_existing(folder, WallTime::system(0)).map_err(failed)?;
        #[cfg(feature = "fdb")]
        let engine = Engine::new(Box::new(store), b"", None);
        #[cfg(not(feature = "fdb"))]
        let engine = Engine::new(Box::new(store), b"");
        engine.await.map(Some)
    }
}

impl Engine {
    async fn new(
        store: Box<dyn Store>,
        prefix: &[u8],
        #[cfg(feature = "fdb")] network: Option<newsfeed::store::fdb::Network>,
    ) -> Result<Self, Error> {
        let keys = Keys::open_existing(&*store, prefix).await.map_err(failed)?;
        let keys = keys.ok_or_else(|| failed("there is no store"))?;
        Ok(Self {
            store,
            keys,
            #[cfg(feature = "fdb")]
            _network: network,
        })
    }

    /// Reads the whole log. Counts the events if it may `decode` their records.
    pub async fn read(&self, decode: bool) -> Result<Whole, Error> {
        let began = Instant::now();
        let mut whole = Whole::default();
        for partition in 0..self.keys.partitions() {
            let prefix = self.keys.log(partition);
            let mut after = None;
            loop {
                let range =
                    keys::range(&prefix, after, Version::MAX, false, usize::MAX, READ_BYTES);
                let slice = self.slice(range).await?;
                for item in &slice.items {
                    whole.bytes += item.value.len() as u64;
                    if decode {
                        let records = decode_records(item).map_err(failed)?;
                        whole.events +=
                            records.iter().filter(|record| record.exports).count() as u64;
                    }
                }
                if let Some(last) = slice.items.last() {
                    let version = keys::version_of(&last.key).map_err(failed)?;
                    after = Some(version);
                    whole.last = whole.last.max(after);
                }
                if !slice.more {
                    break;
                }
            }
        }
        whole.time = began.elapsed();
        Ok(whole)
    }

    async fn slice(&self, range: Range) -> Result<Slice, Error> {
        let snapshot = self.store.snapshot().await.map_err(failed)?;
        let slices = snapshot.ranges(vec![range]).await.map_err(failed)?;
        Ok(slices.into_iter().next().unwrap_or_default())
    }

    pub async fn close(self) {
        self.store.close().await;
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Log(error.to_string())
}
