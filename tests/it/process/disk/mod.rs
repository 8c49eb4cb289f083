//! Full and failing disks: appends are refused, reads and streams keep working, nothing acknowledged is lost, and the
//! service recovers by itself.

mod full_disk;
mod small_disk;
mod sync_faults;

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{PATIENCE, Place, assert_same, place};
use crate::support::{
    bed::{Api, text},
    sse::Stream,
};

const FEED: &str = "user:1";
/// Characters of `data`: large enough to fill a small disk quickly, and hard to compress.
const DATA_CHARS: usize = 60_000;

fn event(id: &str) -> Value {
    // The seed is computed from the id, so that the same id has the same content.
    let seed = id
        .bytes()
        .fold(7u64, |seed, byte| seed * 131 + u64::from(byte));
    let mut rng = StdRng::seed_from_u64(seed);
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let data: String = (0..DATA_CHARS)
        .map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())]))
        .collect();
    json!({ "id": id, "kind": "message", "feeds": [FEED], "data": data })
}

/// What the test knows about the events it appended.
#[derive(Default)]
struct Ledger {
    next: usize,
    /// Versions by id.
    acknowledged: BTreeMap<String, String>,
    /// Ids of events whose outcome is unknown.
    unsure: Vec<String>,
}

impl Ledger {
    /// Appends events until one is refused because the disk is full.
    async fn append_until_full(&mut self, api: &Api) {
        loop {
            let id = format!("e-{}", self.next);
            self.next += 1;
            let (status, answer) = api.post("/v1/events", &event(&id)).await;
            match (status, answer["code"].as_str()) {
                (200, _) => {
                    self.acknowledged.insert(id, text(&answer["version"]));
                }
                (507, Some("storage_full")) => return,
                (503, Some("store_unavailable")) => self.unsure.push(id),
                other => panic!("{other:?}: {answer}"),
            }
        }
    }

    /// Appends a new event, again and again until it is acknowledged.
    async fn append_until_taken(&mut self, api: &Api) {
        let id = format!("e-{}", self.next);
        self.next += 1;
        self.settle(api, id).await;
    }

    async fn settle(&mut self, api: &Api, id: String) {
        let taken = async {
            loop {
                let (status, answer) = api.post("/v1/events", &event(&id)).await;
                match (status, answer["code"].as_str()) {
                    (200, _) => return text(&answer["version"]),
                    (507, Some("storage_full")) | (503, Some("store_unavailable")) => {
                        sleep(Duration::from_millis(100)).await;
                    }
                    other => panic!("{other:?}: {answer}"),
                }
            }
        };
        let version = timeout(PATIENCE, taken).await.expect("it is taken again");
        self.acknowledged.insert(id, version);
    }

    /// Appends the events whose outcome is unknown, until they are acknowledged.
    async fn settle_unsure(&mut self, api: &Api) {
        for id in std::mem::take(&mut self.unsure) {
            self.settle(api, id).await;
        }
    }

    fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self
            .acknowledged
            .iter()
            .map(|(id, version)| (version.clone(), id.clone()))
            .collect();
        places.sort();
        places
    }

    /// Checks that all acknowledged events are stored once, in pages, in the feed's state and in a stream.
    async fn audit(&self, api: &Api) {
        let shown: Vec<Place> = api.all(FEED).await.iter().map(place).collect();
        let sure = |place: &&Place| !self.unsure.contains(&place.1);
        let of_sure: Vec<Place> = shown.iter().filter(sure).cloned().collect();
        assert_same(&of_sure, &self.places(), "the feed");
        let head = api.get(&format!("/v1/feeds/{FEED}")).await;
        assert_eq!(head["unread"]["total"], shown.len());
        let url = api.url(&format!("/v1/feeds/{FEED}/live?after=0"));
        let heard = Stream::open(&api.http, &url, None).await.caught_up().await;
        let heard: Vec<Place> = heard.iter().map(|event| place(&event.data)).collect();
        assert_same(&heard, &shown, "a stream");
    }
}
