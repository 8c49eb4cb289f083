//! Clients that follow growing feeds in different ways, until the last event.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::workload::Seen;
use crate::support::{
    bed::{Served, text},
    entries::{feeds_of, path, position_after},
    sse::Stream,
};

/// The id of the last event, which is in every followed feed.
pub const END: &str = "end";

/// Pause of a polling client.
const POLL: Duration = Duration::from_millis(100);
/// The value of `Retry-After`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Pages, oldest first, each from another node.
    Pages,
    /// The same, with `wait`.
    LongPolls,
    /// One stream from one node.
    Stream,
    /// Short streams, each continued on another node with `Last-Event-ID`.
    Reconnects,
}

pub const WAYS: [Way; 4] = [Way::Pages, Way::LongPolls, Way::Stream, Way::Reconnects];

/// A running client.
pub struct Reader {
    pub way: Way,
    pub feeds: Vec<String>,
    pub seen: JoinHandle<Vec<Seen>>,
}

impl Reader {
    /// Follows `feeds` from their beginnings, first on node number `first`.
    pub fn start(nodes: &Arc<Vec<Served>>, way: Way, feeds: Vec<String>, first: usize) -> Self {
        let following = Following {
            nodes: Arc::clone(nodes),
            feeds: feeds.clone(),
            first,
            seen: Vec::new(),
            reached: "0".to_owned(),
        };
        let seen = tokio::spawn(async move {
            match way {
                Way::Pages => following.pages(false).await,
                Way::LongPolls => following.pages(true).await,
                Way::Stream => following.streams(false).await,
                Way::Reconnects => following.streams(true).await,
            }
        });
        Self { way, feeds, seen }
    }
}

struct Following {
    nodes: Arc<Vec<Served>>,
    feeds: Vec<String>,
    first: usize,
    seen: Vec<Seen>,
    /// The position up to which everything was received.
    reached: String,
}

impl Following {
    fn path(&self, what: &str) -> String {
        path(&self.feeds, what)
    }

    async fn pages(mut self, wait: bool) -> Vec<Seen> {
        let path = self.path("entries");
        let wait = if wait { "&wait=10" } else { "" };
        let mut turn = self.first;
        loop {
            let node = &self.nodes[turn % self.nodes.len()];
            turn += 1;
            let after = &self.reached;
            let page = get(node, &format!("{path}after={after}&limit=150{wait}")).await;
            let entries = page["entries"].as_array().expect("entries");
            let last = entries.len();
            for entry in entries {
                if self.take(entry) {
                    return self.seen;
                }
            }
            self.reached = position_after(&page);
            if last == 0 && wait.is_empty() {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn streams(mut self, reconnect: bool) -> Vec<Seen> {
        let path = self.path("live");
        let mut rng = StdRng::seed_from_u64(self.first as u64);
        // Without a request timeout, because a stream does not end.
        let http = reqwest::Client::new();
        let (mut last_id, mut turn) = (None, self.first);
        loop {
            let url = self.nodes[turn % self.nodes.len()].url(&format!("{path}after=0"));
            turn += 1;
            let mut stream = Stream::open(&http, &url, last_id.as_deref()).await;
            let mut left = if reconnect {
                rng.random_range(1..=2 + 20 * self.feeds.len())
            } else {
                usize::MAX
            };
            while left > 0 {
                left -= 1;
                let event = stream.next().await.expect("the stream goes on");
                match &*event.name {
                    "entry" | "notify" => {
                        assert_eq!(event.id.as_deref(), event.data["version"].as_str());
                        if self.take(&event.data) {
                            return self.seen;
                        }
                    }
                    "version" => {
                        let version = text(&event.data["version"]);
                        assert!(version >= self.reached, "positions never go back");
                        self.reached = version;
                    }
                    "marker" => {}
                    // Reconnects to another node.
                    "bye" if event.data["reason"] == "unavailable" => {
                        count_unavailable();
                        break;
                    }
                    other => panic!("nobody told the stream to say {other}"),
                }
            }
            last_id = stream.last_id.or(last_id);
        }
    }

    /// Notes an entry; returns whether it is the last.
    fn take(&mut self, entry: &Value) -> bool {
        let version = text(&entry["version"]);
        assert!(
            version > self.reached,
            "an entry at {version}, after all up to {} had been told",
            self.reached
        );
        self.reached.clone_from(&version);
        let id = text(&entry["id"]);
        let end = id == END;
        if !end {
            let feeds = feeds_of(entry, &self.feeds);
            self.seen.push((version, id, feeds));
        }
        end
    }
}

/// How often a client was told to try again later.
static UNAVAILABLE: AtomicU32 = AtomicU32::new(0);
const UNAVAILABLE_MAX: u32 = 1000;

pub fn unavailable() -> u32 {
    UNAVAILABLE.load(Ordering::SeqCst)
}

fn count_unavailable() {
    let before = UNAVAILABLE.fetch_add(1, Ordering::SeqCst);
    assert!(before < UNAVAILABLE_MAX, "the store is always away");
}

/// GET; tries again after 503 `store_unavailable`.
pub async fn get(node: &Served, path: &str) -> Value {
    loop {
        let answer = node.send("GET", path, &[]).await;
        if answer.status == 200 {
            return answer.json();
        }
        let problem = answer.problem(503, "store_unavailable");
        problem.expect("a page, or that there is none now");
        count_unavailable();
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
