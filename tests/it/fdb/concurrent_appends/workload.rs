//! The events that all nodes append, and what clients must see of them according to the stored claims.

use std::collections::BTreeMap;

use newsfeed::{
    store::{
        Store,
        keys::{self, Keys},
    },
    types::EventId,
    version::Version,
};
use serde_json::json;

use crate::support::messages;

const EVENTS: usize = 20_000;
/// Maximum number of claims of one id that are read: more than there can be.
const CLAIMS_MAX: usize = 100;

/// What a client sees of an entry: its version, its event's id and the feeds it came through.
pub type Seen = (String, String, Vec<String>);

pub struct Workload {
    /// Events as JSON.
    pub events: Vec<String>,
    /// The events of each feed.
    pub feeds: BTreeMap<String, Vec<usize>>,
}

pub fn id(event: usize) -> String {
    format!("m{event}")
}

impl Workload {
    /// The first messages of the data set; `None`, loudly, if that is missing.
    pub fn load() -> Option<Self> {
        let file = messages::file("many nodes appending the same events")?;
        let mut workload = Self {
            events: Vec::new(),
            feeds: BTreeMap::new(),
        };
        for (event, message) in messages::read(&file).take(EVENTS).enumerate() {
            let feeds = message.feeds();
            workload.events.push(
                json!({
                    "id": id(event), "kind": "message", "feeds": feeds,
                    "actor": format!("user:{}", message.from), "data": { "second": message.sent },
                })
                .to_string(),
            );
            for feed in feeds {
                workload.feeds.entry(feed).or_default().push(event);
            }
        }
        assert_eq!(workload.events.len(), EVENTS);
        Some(workload)
    }

    /// A JSON array of these events.
    pub fn array(&self, events: &[usize]) -> String {
        let events: Vec<&str> = events.iter().map(|&event| &*self.events[event]).collect();
        format!("[{}]", events.join(","))
    }

    /// The `count` feeds with the most events, most first.
    pub fn busiest(&self, kind: &str, count: usize) -> Vec<String> {
        let of_kind = self.feeds.iter().filter(|(feed, _)| feed.starts_with(kind));
        let mut feeds: Vec<(usize, &String)> =
            of_kind.map(|(feed, events)| (events.len(), feed)).collect();
        feeds.sort_by(|a, b| b.cmp(a));
        feeds
            .into_iter()
            .take(count)
            .map(|(_, feed)| feed.clone())
            .collect()
    }
}

/// All stored claims of each event, in version order.
pub struct Claims(Vec<Vec<Version>>);

impl Claims {
    pub async fn read(store: &dyn Store, keys: &Keys) -> Self {
        let mut claims = Vec::with_capacity(EVENTS);
        let events: Vec<usize> = (0..EVENTS).collect();
        for some in events.chunks(500) {
            let snapshot = store.snapshot().await.expect("a snapshot");
            let ranges = some.iter().map(|&event| {
                let id: EventId = id(event).parse().expect("an id");
                keys::range(
                    &keys.claim(&id),
                    None,
                    snapshot.version(),
                    false,
                    CLAIMS_MAX,
                    usize::MAX,
                )
            });
            let slices = snapshot
                .ranges(ranges.collect())
                .await
                .expect("claims are read");
            claims.extend(slices.iter().map(|slice| {
                let versions = slice.items.iter().map(|item| keys::version_of(&item.key));
                versions
                    .collect::<Result<Vec<_>, _>>()
                    .expect("versioned keys")
            }));
        }
        assert!(
            claims.iter().all(|claims| !claims.is_empty()),
            "every event has been committed"
        );
        Self(claims)
    }

    pub fn of(&self, event: usize) -> &[Version] {
        &self.0[event]
    }

    /// The first commit, which readers see.
    pub fn first(&self, event: usize) -> Version {
        self.0[event][0]
    }

    pub fn count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The number of twins, and the greatest distance of one from its first commit, in ticks.
    pub fn twins(&self) -> (usize, u64) {
        let distances = self
            .0
            .iter()
            .map(|claims| claims[claims.len() - 1].time() - claims[0].time());
        (self.count() - self.0.len(), distances.max().unwrap_or(0))
    }

    /// What a client that follows `feeds` must see, in this order.
    pub fn timeline(&self, workload: &Workload, feeds: &[String]) -> Vec<Seen> {
        let mut through: BTreeMap<Version, (usize, Vec<String>)> = BTreeMap::new();
        for feed in feeds {
            for &event in &workload.feeds[feed] {
                let (_, feeds) = through
                    .entry(self.first(event))
                    .or_insert((event, Vec::new()));
                feeds.push(feed.clone());
            }
        }
        let seen = through
            .into_iter()
            .map(|(version, (event, feeds))| (version.to_string(), id(event), feeds));
        seen.collect()
    }
}
