//! Stores as `newsfeed admin copy` names them.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use super::{CLUSTER_FILE, DISK_RESERVE_MIB, PREFIX};
use crate::{
    clock::WallTime,
    store::{Error, Result, Store, copy::Side, embedded::Embedded},
};

/// Where a store is: `embedded:FOLDER`, or `fdb:CLUSTER_FILE?prefix=TEXT`, both parts of which have defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Embedded(PathBuf),
    Fdb {
        cluster_file: PathBuf,
        prefix: String,
    },
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            Some(("embedded", folder)) if !folder.is_empty() => Ok(Self::Embedded(folder.into())),
            Some(("fdb", rest)) => {
                let (file, prefix) = match rest.rsplit_once('?') {
                    None => (rest, PREFIX),
                    Some((file, option)) => match option.split_once('=') {
                        Some(("prefix", prefix)) => (file, prefix),
                        _ => return Err(format!("expected ?prefix=TEXT instead of ?{option}")),
                    },
                };
                let file = if file.is_empty() { CLUSTER_FILE } else { file };
                Ok(Self::Fdb {
                    cluster_file: file.into(),
                    prefix: prefix.to_owned(),
                })
            }
            _ => Err(format!(
                "expected embedded:FOLDER or fdb:CLUSTER_FILE?prefix=TEXT, such as embedded:/var/lib/newsfeed or \
                 'fdb:{CLUSTER_FILE}?prefix={PREFIX}'"
            )),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(folder) => write!(f, "embedded:{}", folder.display()),
            Self::Fdb {
                cluster_file,
                prefix,
            } => write!(f, "fdb:{}?prefix={prefix}", cluster_file.display()),
        }
    }
}

/// The two sides of a copy. Dropping it stops the FoundationDB client's network thread.
pub struct Sides {
    pub from: Side,
    pub to: Side,
    stores: [Arc<dyn Store>; 2],
    #[cfg(feature = "fdb")]
    _network: Option<crate::store::fdb::Network>,
}

impl Sides {
    /// Opens the store `from`, which must exist, and the place of the store `to`, which is created if it is a folder.
    pub async fn open(from: &Location, to: &Location) -> Result<Self> {
        if from.is(to) {
            return Err(Error::Open(format!("{from} cannot be copied to itself")));
        }
        #[cfg(feature = "fdb")]
        let is_fdb = |location: &Location| matches!(location, Location::Fdb { .. });
        #[cfg(feature = "fdb")]
        let network = match is_fdb(from) || is_fdb(to) {
            true => Some(crate::store::fdb::boot()?),
            false => None,
        };
        let (from, from_prefix) = from.open(Role::Source).await?;
        let (to, to_prefix) = to.open(Role::Target).await?;
        Ok(Self {
            from: Side::new(Arc::clone(&from), &from_prefix),
            to: Side::new(Arc::clone(&to), &to_prefix),
            stores: [from, to],
            #[cfg(feature = "fdb")]
            _network: network,
        })
    }

    pub async fn close(&self) {
        for store in &self.stores {
            store.close().await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Source,
    Target,
}

impl Location {
    fn is(&self, other: &Self) -> bool {
        let path = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match (self, other) {
            (Self::Embedded(one), Self::Embedded(other)) => path(one) == path(other),
            (
                Self::Fdb {
                    cluster_file,
                    prefix,
                },
                Self::Fdb {
                    cluster_file: other_file,
                    prefix: other_prefix,
                },
            ) => prefix == other_prefix && path(cluster_file) == path(other_file),
            _ => false,
        }
    }

    /// Also returns the prefix of all keys.
    async fn open(&self, role: Role) -> Result<(Arc<dyn Store>, Vec<u8>)> {
        match self {
            Self::Embedded(folder) => {
                let folder = folder.clone();
                let open = move || {
                    let wall = WallTime::system(0);
                    match role {
                        Role::Source => Embedded::open_existing(&folder, wall),
                        Role::Target => {
                            let reserve_bytes = DISK_RESERVE_MIB * 1024 * 1024;
                            Embedded::open_to_copy(&folder, wall, reserve_bytes)
                        }
                    }
                };
                let opening = tokio::task::spawn_blocking(open).await;
                let store = opening.map_err(|panic| Error::Open(panic.to_string()))??;
                Ok((Arc::new(store), Vec::new()))
            }
            #[cfg(feature = "fdb")]
            Self::Fdb {
                cluster_file,
                prefix,
            } => {
                use crate::store::{
                    epoch,
                    fdb::{Fdb, Tuning},
                };
                let timeout = std::time::Duration::from_millis(super::FDB_TIMEOUT_MS);
                let prefix = prefix.as_bytes().to_vec();
                let store = Fdb::open(cluster_file, &prefix, Tuning { timeout })?;
                let answer = epoch::current(&store).await;
                answer.map_err(|error| super::of_cluster(error, cluster_file))?;
                Ok((Arc::new(store), prefix))
            }
            #[cfg(not(feature = "fdb"))]
            Self::Fdb { .. } => Err(super::without_fdb()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_an_engine_and_where_its_store_is() {
        let parse = |text: &str| text.parse::<Location>();
        let fdb = |file: &str, prefix: &str| {
            Ok(Location::Fdb {
                cluster_file: file.into(),
                prefix: prefix.into(),
            })
        };
        let folder = Ok(Location::Embedded("./a:b?prefix=c".into()));
        assert_eq!(parse("embedded:./a:b?prefix=c"), folder);
        assert_eq!(parse("fdb:"), fdb(CLUSTER_FILE, PREFIX));
        assert_eq!(
            parse("fdb:/a?b/c?prefix=d/?e=f"),
            Err("expected ?prefix=TEXT instead of ?e=f".into())
        );
        assert_eq!(parse("fdb:/a?b/c?prefix=d="), fdb("/a?b/c", "d="));
        assert_eq!(parse("fdb:?prefix="), fdb(CLUSTER_FILE, ""));
        for text in ["embedded:/a", "fdb:/a?prefix=b"] {
            assert_eq!(parse(text).expect("a location").to_string(), text);
        }
        for wrong in [
            "",
            "/var/lib/newsfeed",
            "embedded:",
            "fdb",
            "sqlite:/a",
            "fdb:/a?prefx=b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
