//! What rules would remove now, without removing anything.

use std::fmt;

use super::{Retention, pass::floor};
use crate::{
    lineage::Lineage,
    store::{
        Error, KeyValue, Range, Result, Store,
        keys::{self, Keys, RangeOf, version_of, versioned},
        values::{decode_entry, decode_records},
    },
    times::version_at,
    types::{Delivery, FeedName},
    version::Version,
};

/// Limits of one read.
const PAGE_KEYS: usize = 1_000;
const PAGE_BYTES: usize = 1024 * 1024;

/// What is due by a rule, or in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// Feeds with something that is due.
    pub feeds: u64,
    /// Entries, twins among them; or events, once for each partition of the log.
    pub entries: u64,
    /// About so many bytes of keys and values, without what an engine adds or saves.
    pub bytes: u64,
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// In the order of the rules.
    pub rules: Vec<(String, Due)>,
    pub log: Option<Due>,
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rule, due) in &self.rules {
            let Due {
                feeds,
                entries,
                bytes,
            } = due;
            writeln!(
                f,
                "{rule}: {entries} entries of {feeds} feeds, about {bytes} bytes"
            )?;
        }
        match self.log {
            None => write!(f, "log: all is kept"),
            Some(due) => write!(f, "log: {} events, about {} bytes", due.entries, due.bytes),
        }
    }
}

/// Reads everything that `retention` is about, and says what is due at the time `now`, in µs since 1970.
pub async fn survey(
    store: &dyn Store,
    keys: &Keys,
    retention: &Retention,
    now: u64,
) -> Result<Survey> {
    let bounds = Bounds::read(store, keys, retention, now).await?;
    let mut rules = vec![Due::default(); retention.rules.len()];
    let (mut from, end) = keys.feeds();
    while let Some(feed) = next_feed(store, keys, &from, &end).await? {
        let prefix = keys.feed(&feed);
        let most = bounds.most_of(store, keys, retention, &feed).await?;
        let mut seen = vec![0; retention.rules.len()];
        let mut found = vec![Due::default(); retention.rules.len()];
        visit(store, (keys::entries, &prefix, bounds.floor), |item| {
            let entry = decode_entry(item)?;
            let rule = retention.rule_of(&feed, &entry.kind);
            let Some(rule) = rule.filter(|_| !entry.is_erased()) else {
                return Ok(());
            };
            seen[rule] += 1;
            if entry.version <= bounds.ages[rule] || seen[rule] <= most[rule] {
                let notify = match entry.delivery {
                    Delivery::Notify if !keys::is_unread(&item.key) => {
                        item.key.len() + entry.id.as_str().len() + 24
                    }
                    _ => 0,
                };
                found[rule].feeds = 1;
                found[rule].entries += 1;
                found[rule].bytes += (item.key.len() + item.value.len() + notify) as u64;
            }
            Ok(())
        })
        .await?;
        for (rule, found) in rules.iter_mut().zip(found) {
            rule.feeds += found.feeds;
            rule.entries += found.entries;
            rule.bytes += found.bytes;
        }
        from = versioned(&prefix, Version::MAX);
        from.push(0);
    }
    let mut log = retention.log_age.map(|_| Due::default());
    if let Some(due) = &mut log {
        for partition in 0..keys.partitions() {
            let prefix = keys.log(partition);
            visit(store, (keys::range, &prefix, bounds.log), |item| {
                due.entries += decode_records(item)?.len() as u64;
                due.bytes += (item.key.len() + item.value.len()) as u64;
                Ok(())
            })
            .await?;
        }
    }
    let names = retention.rules.iter().map(ToString::to_string);
    Ok(Survey {
        rules: names.zip(rules).collect(),
        log,
    })
}

struct Bounds {
    floor: Version,
    /// Of each rule.
    ages: Vec<Version>,
    log: Version,
}

impl Bounds {
    async fn read(store: &dyn Store, keys: &Keys, retention: &Retention, now: u64) -> Result<Self> {
        let snapshot = store.snapshot().await?;
        let known = Lineage::new(keys.clone()).at(&*snapshot).await?;
        let floor = floor(snapshot.version());
        let until = async |age: Option<std::time::Duration>| match age {
            None => Ok(Version::ZERO),
            Some(age) => {
                let then = now.saturating_sub(age.as_micros() as u64);
                let version = version_at(&*snapshot, keys, &known, then).await?;
                Result::Ok(version.min(floor))
            }
        };
        let mut ages = Vec::new();
        for rule in &*retention.rules {
            ages.push(until(rule.age).await?);
        }
        Ok(Self {
            floor,
            ages,
            log: until(retention.log_age).await?,
        })
    }

    /// For each rule, how many of the feed's entries are too many.
    async fn most_of(
        &self,
        store: &dyn Store,
        keys: &Keys,
        retention: &Retention,
        feed: &FeedName,
    ) -> Result<Vec<u64>> {
        let mut counts = vec![0u64; retention.rules.len()];
        let rules = retention.rules_of(feed);
        if rules
            .iter()
            .any(|rule| retention.rules[*rule].entries.is_some())
        {
            let prefix = keys.feed(feed);
            visit(store, (keys::entries, &prefix, Version::MAX), |item| {
                let entry = decode_entry(item)?;
                if let Some(rule) = retention.rule_of(feed, &entry.kind) {
                    counts[rule] += 1;
                }
                Ok(())
            })
            .await?;
        }
        let rules = counts.iter().zip(&*retention.rules);
        let most = |(count, rule): (&u64, &super::Rule)| match rule.entries {
            Some(entries) => count.saturating_sub(entries),
            None => 0,
        };
        Ok(rules.map(most).collect())
    }
}

async fn next_feed(
    store: &dyn Store,
    keys: &Keys,
    from: &[u8],
    end: &[u8],
) -> Result<Option<FeedName>> {
    let first = Range {
        limit: 1,
        ..Range::all(from.to_vec(), end.to_vec())
    };
    let slices = store.snapshot().await?.ranges(vec![first]).await?;
    let first = slices.first().and_then(|slice| slice.items.first());
    first.map(|item| keys.feed_of(&item.key)).transpose()
}

/// Visits what has versions up to `until`, page by page; each is read from its own snapshot.
async fn visit(
    store: &dyn Store,
    (range, prefix, until): (RangeOf, &[u8], Version),
    mut see: impl FnMut(&KeyValue) -> Result<()>,
) -> Result<()> {
    let mut after = Version::ZERO;
    loop {
        let page = range(prefix, Some(after), until, false, PAGE_KEYS, PAGE_BYTES);
        let slice = store.snapshot().await?.ranges(vec![page]).await?.pop();
        let slice = slice.ok_or(Error::Closed)?;
        slice.items.iter().try_for_each(&mut see)?;
        match slice.items.last() {
            Some(last) if slice.more => after = version_of(&last.key)?,
            _ => return Ok(()),
        }
    }
}
