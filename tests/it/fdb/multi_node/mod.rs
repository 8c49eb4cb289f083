//! Load on several node processes, and the check that nothing was lost, doubled or out of order.

mod client;
mod node;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use newsfeed::{
    clock::WallTime,
    store::{
        KeyValue, Store,
        keys::{self, Keys},
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use self::client::{UNKNOWN, assert_away};
pub use self::{
    client::Client,
    node::{NodeProcess, Targets, newsfeed},
};
use crate::support::{
    bed::text,
    entries::{Place, assert_same, place, position_after},
    patience::PATIENCE,
    sse::Stream,
};

/// The feed of all events. Each event is also in one of [`PARTS`] other feeds.
pub const ALL: &str = "all";
const PARTS: usize = 3;
/// The id of the last event.
pub const END: &str = "end";

/// What a producer was answered.
#[derive(Default)]
struct Produced {
    acknowledged: BTreeMap<String, String>,
    timeouts: usize,
}

/// What a reader received.
struct Journey {
    how: String,
    places: Vec<Place>,
    /// Times from the loss of a connection to the next entry.
    reconnects: Vec<Duration>,
}

#[derive(Clone, Copy)]
pub struct Pressure {
    pub producers: usize,
    /// Time between the requests of a producer.
    pub pace: Duration,
    /// Time after which a producer sends the same events to another node.
    pub patience: Duration,
    /// The epoch is raised meanwhile. Then a moment above the last append may be unknown; readers go on from the last entry
    /// that they have, whose version is never refused.
    pub raises: bool,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            producers: 4,
            pace: Duration::from_millis(20),
            patience: Duration::from_secs(60),
            raises: false,
        }
    }
}

/// Running producers and readers. For each node there is a stream of [`ALL`], a merged stream of the other feeds, and a
/// client that long-polls.
pub struct Load {
    targets: Targets,
    stop: CancellationToken,
    acknowledged: Arc<watch::Sender<usize>>,
    producers: JoinSet<Produced>,
    readers: JoinSet<Journey>,
    seen: Vec<watch::Receiver<usize>>,
}

impl Load {
    pub fn start(targets: &Targets, pressure: Pressure) -> Self {
        let mut load = Self {
            targets: targets.clone(),
            stop: CancellationToken::new(),
            acknowledged: Arc::new(watch::Sender::new(0)),
            producers: JoinSet::new(),
            readers: JoinSet::new(),
            seen: Vec::new(),
        };
        for number in 0..pressure.producers {
            let mut client = Client::new(targets, number);
            let http = reqwest::Client::builder().timeout(pressure.patience);
            client.http = http.build().expect("a client");
            load.producers.spawn(produce(
                client,
                number,
                pressure.pace,
                load.stop.clone(),
                Arc::clone(&load.acknowledged),
            ));
        }
        let merged: Vec<String> = (0..PARTS).map(|part| format!("feed=part:{part}")).collect();
        let live = [
            format!("/v1/feeds/{ALL}/live?after=0"),
            format!("/v1/live?after=0&{}", merged.join("&")),
        ];
        for node in 0..targets.len() {
            for path in &live {
                let seen = load.watch();
                let client = Client::new(targets, node);
                load.readers
                    .spawn(stream(client, path.clone(), seen, pressure.raises));
            }
            let seen = load.watch();
            load.readers
                .spawn(poll(Client::new(targets, node), seen, pressure.raises));
        }
        load
    }

    fn watch(&mut self) -> watch::Sender<usize> {
        let (seen, receiver) = watch::channel(0);
        self.seen.push(receiver);
        seen
    }

    /// Waits until `more` events are acknowledged.
    pub async fn acknowledged(&self, more: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let target = *acknowledged.borrow() + more;
        let reached = acknowledged.wait_for(|&count| count >= target);
        let reached = timeout(PATIENCE, reached).await.map(|_| ());
        reached.expect("appends go on");
    }

    /// Waits until every reader has as many entries as are acknowledged now.
    pub async fn delivered(&self) {
        let target = *self.acknowledged.borrow();
        for seen in &self.seen {
            let mut seen = seen.clone();
            let reached = timeout(PATIENCE, seen.wait_for(|&count| count >= target)).await;
            let reached = reached.expect("readers go on").map(|_| ());
            reached.expect("the reader found no error");
        }
    }

    /// Stops the load; compares what producers were answered, what readers received, and what is stored.
    pub async fn finish(mut self) -> Report {
        self.stop.cancel();
        let mut produced = Produced::default();
        while let Some(done) = timeout(PATIENCE, self.producers.join_next())
            .await
            .expect("producers end")
        {
            let done = done.expect("the producer found no error");
            produced.acknowledged.extend(done.acknowledged);
            produced.timeouts += done.timeouts;
        }
        let mut client = Client::new(&self.targets, 0);
        let parts: Vec<String> = (0..PARTS).map(|part| format!("part:{part}")).collect();
        let feeds = [&[ALL.to_owned()], &parts[..]].concat();
        let end = json!({ "id": END, "kind": "message", "feeds": feeds });
        let version = client.append(&end).await;
        produced.acknowledged.insert(END.to_owned(), version);

        let mut journeys = Vec::new();
        while let Some(journey) = timeout(PATIENCE, self.readers.join_next())
            .await
            .expect("readers end")
        {
            journeys.push(journey.expect("the reader found no error"));
        }
        let all = pages(&mut client).await;
        let told_twins = check(&all, &produced, &journeys);
        let unread = &client.get(&format!("/v1/feeds/{ALL}")).await["unread"];
        assert_eq!(unread["total"], all.len().min(10_000), "unread");
        let reconnects = journeys
            .into_iter()
            .flat_map(|journey| journey.reconnects)
            .collect();
        Report {
            all,
            reconnects,
            timeouts: produced.timeouts,
            told_twins,
        }
    }
}

pub struct Report {
    /// All events, in order.
    pub all: Vec<Place>,
    pub reconnects: Vec<Duration>,
    /// Number of appends that timed out.
    pub timeouts: usize,
    /// Versions that producers were answered, but that are twins of the entries.
    told_twins: Vec<String>,
}

async fn produce(
    mut client: Client,
    producer: usize,
    pace: Duration,
    stop: CancellationToken,
    acknowledged: Arc<watch::Sender<usize>>,
) -> Produced {
    let mut produced = Produced::default();
    let mut due = interval(pace.max(Duration::from_millis(1)));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    for request in 0.. {
        due.tick().await;
        if stop.is_cancelled() {
            break;
        }
        let size = [1, 1, 2, 8][request % 4];
        let event = |number: usize| {
            json!({
                "id": format!("{producer}-{number}"),
                "kind": "message",
                "feeds": [ALL, format!("part:{}", number % PARTS)],
                "data": { "number": number },
            })
        };
        let events: Vec<Value> = (number..number + size).map(event).collect();
        number += size;
        let body = match &events[..] {
            [event] => event.clone(),
            _ => json!(events),
        };
        // Sends the whole request again until each event is acknowledged, as a client does that lost the answer.
        let mut waiting: Vec<String> = events.iter().map(|event| text(&event["id"])).collect();
        let sent = Instant::now();
        let mut sent_before = false;
        while !waiting.is_empty() {
            assert!(sent.elapsed() < PATIENCE, "no node takes {waiting:?}");
            for outcome in client.try_append(&body).await.unwrap_or_default() {
                let id = text(&outcome["id"]);
                let status = text(&outcome["status"]);
                if status == "rejected" {
                    assert_away(&outcome["error"]);
                    continue;
                }
                let known = status == "duplicate" && sent_before;
                assert!(status == "appended" || known, "first of its id: {outcome}");
                if let Some(place) = waiting.iter().position(|waiting| *waiting == id) {
                    waiting.swap_remove(place);
                    let told = text(&outcome["version"]);
                    produced.acknowledged.insert(id, told);
                    acknowledged.send_modify(|count| *count += 1);
                }
            }
            if waiting.is_empty() {
                client.node += 1;
            } else {
                sent_before = true;
                client.move_on().await;
            }
        }
    }
    produced.timeouts = client.timeouts;
    produced
}

async fn stream(
    mut client: Client,
    path: String,
    seen: watch::Sender<usize>,
    raises: bool,
) -> Journey {
    let mut journey = Journey {
        how: format!("stream {path} from node {}", client.node),
        places: Vec::new(),
        reconnects: Vec::new(),
    };
    let mut last_id: Option<String> = None;
    let mut lost: Option<Instant> = None;
    loop {
        let url = client.url(&path);
        if let Ok(mut stream) = Stream::try_open(&client.http, &url, last_id.as_deref()).await {
            let mut is_reset = false;
            while let Some(event) = stream.next().await {
                is_reset = event.name == "reset";
                assert!(raises || !is_reset, "{} at {last_id:?}", journey.how);
                if is_reset {
                    break;
                }
                if !["entry", "notify"].contains(&&*event.name) {
                    continue;
                }
                journey
                    .reconnects
                    .extend(lost.take().map(|lost| lost.elapsed()));
                journey.places.push(place(&event.data));
                assert_eq!(
                    event.id.as_ref(),
                    journey.places.last().map(|place| &place.0)
                );
                if event.data["id"] == END {
                    return journey;
                }
                seen.send_replace(journey.places.len());
            }
            last_id = match is_reset {
                true => journey.places.last().map(|(version, _)| version.clone()),
                false => stream.last_id,
            };
            lost.get_or_insert_with(Instant::now);
        }
        client.move_on().await;
    }
}

async fn poll(mut client: Client, seen: watch::Sender<usize>, raises: bool) -> Journey {
    let mut journey = Journey {
        how: format!("long polls from node {}", client.node),
        places: Vec::new(),
        reconnects: Vec::new(),
    };
    let mut after = "0".to_owned();
    loop {
        let path = format!("/v1/feeds/{ALL}/entries?after={after}&limit=100&wait=5");
        let page = client.get(&path).await;
        if raises && page["code"] == UNKNOWN {
            after = journey
                .places
                .last()
                .map_or_else(|| "0".to_owned(), |(version, _)| version.clone());
            continue;
        }
        let entries = page["entries"].as_array().expect("entries");
        journey.places.extend(entries.iter().map(place));
        if journey.places.last().is_some_and(|(_, id)| id == END) {
            return journey;
        }
        seen.send_replace(journey.places.len());
        after = position_after(&page);
        client.node += 1;
    }
}

fn places(page: &Value) -> impl Iterator<Item = Place> {
    let entries = page["entries"].as_array().expect("entries");
    entries.iter().map(place)
}

/// All entries of [`ALL`], read in both directions, each page from another node.
async fn pages(client: &mut Client) -> Vec<Place> {
    let mut forwards = Vec::new();
    let mut after = "0".to_owned();
    loop {
        let path = format!("/v1/feeds/{ALL}/entries?after={after}&limit=200");
        let page = client.get(&path).await;
        client.node += 1;
        forwards.extend(places(&page));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    let now = text(&client.get(&format!("/v1/feeds/{ALL}")).await["version"]);
    let mut backwards = Vec::new();
    let mut before = String::new();
    loop {
        let path = format!("/v1/feeds/{ALL}/entries?until={now}&limit=200{before}");
        let page = client.get(&path).await;
        client.node += 1;
        backwards.extend(places(&page));
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    backwards.reverse();
    assert_same(&backwards, &forwards, "newest first");
    forwards
}

/// Checks everything; returns the versions of twins that producers were answered.
fn check(all: &[Place], produced: &Produced, journeys: &[Journey]) -> Vec<String> {
    let grow = all.windows(2).all(|pair| pair[0].0 < pair[1].0);
    assert!(grow, "versions do not grow");
    let mut entries = BTreeMap::new();
    let mut latest: BTreeMap<&str, usize> = BTreeMap::new();
    for (version, id) in all {
        assert_eq!(entries.insert(id, version), None, "{id} is there twice");
        let Some((producer, number)) = id.split_once('-') else {
            continue;
        };
        let number = number.parse().expect("a number");
        let earlier = latest.insert(producer, number);
        assert!(earlier < Some(number), "{id} comes after {earlier:?}");
    }
    let mut told_twins = Vec::new();
    for (id, told) in &produced.acknowledged {
        let version = entries.remove(id);
        let version = version.unwrap_or_else(|| panic!("{id}, acknowledged at {told}, is lost"));
        // A node whose commit became a twin answered the twin's version.
        assert!(version <= told, "{id} was told {told}, but is at {version}");
        if version != told {
            told_twins.push(told.clone());
        }
    }
    assert_eq!(entries, BTreeMap::new(), "nobody sent these");
    for Journey { how, places, .. } in journeys {
        assert_same(places, all, how);
    }
    told_twins
}

/// The number of invisible twins in [`ALL`]. Each version that a producer was answered must have been committed.
pub async fn twins(store: &dyn Store, prefix: &str, report: &Report) -> usize {
    let keys = Keys::open(store, prefix.as_bytes(), 16, &WallTime::system(0)).await;
    let feed = keys.expect("opened").feed(&ALL.parse().expect("a name"));
    let snapshot = store.snapshot().await.expect("a snapshot");
    let now = snapshot.version();
    let range = keys::entries(&feed, None, now, false, usize::MAX, usize::MAX);
    let slices = snapshot.ranges(vec![range]).await.expect("a range");
    let version = |item: &KeyValue| {
        keys::version_of(&item.key)
            .expect("an entry's key")
            .to_string()
    };
    let stored: HashSet<String> = slices[0].items.iter().map(version).collect();
    for told in &report.told_twins {
        assert!(stored.contains(told), "nothing was committed at {told}");
    }
    stored.len() - report.all.len()
}

/// A percentile of sorted durations.
pub fn percentile(sorted: &[Duration], per_cent: usize) -> Duration {
    sorted[(sorted.len() * per_cent / 100).min(sorted.len() - 1)]
}
