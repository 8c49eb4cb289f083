//! Clients that live through crashes of the service: writers, followers of streams, and an auditor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

use super::{PATIENCE, Place, place};
use crate::support::{
    bed::{Api, text},
    sse::{Event, Stream},
};

pub const FEEDS: [&str; 4] = ["user:0", "user:1", "user:2", "chat:all"];

/// One life of the service: from a start to a crash or stop.
#[derive(Clone)]
pub struct Life {
    pub number: usize,
    pub api: Api,
}

/// What the clients together know of one life.
#[derive(Default, Clone)]
pub struct Known {
    /// The greatest version seen: of an acknowledged event, a vN or a delivered entry.
    pub greatest: String,
    /// The least version that was appended in this life.
    pub least_appended: Option<String>,
    pub acknowledged: u64,
}

/// A client's view of the service over all its lives.
#[derive(Clone)]
pub struct Client {
    pub life: watch::Receiver<Life>,
    pub stop: watch::Receiver<bool>,
    pub known: Arc<watch::Sender<Vec<Known>>>,
}

impl Client {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn know(&self, life: &Life, what: impl FnOnce(&mut Known)) {
        self.known
            .send_modify(|known| what(&mut known[life.number]));
    }

    fn saw(&self, life: &Life, version: &str) {
        self.know(life, |known| {
            if *version > *known.greatest {
                version.clone_into(&mut known.greatest);
            }
        });
    }

    /// Sends until there is a complete answer, which must be 200. After a broken connection, or 503 from a stopping node, it
    /// sends again in the next life.
    async fn call(&self, request: impl Fn(&Api) -> reqwest::RequestBuilder) -> (Life, Value) {
        let mut lives = self.life.clone();
        loop {
            let life = lives.borrow_and_update().clone();
            let answer = async {
                let response = request(&life.api).send().await?;
                let status = response.status();
                let again = response.headers().contains_key("retry-after");
                let answer: Value = response.json().await?;
                let stops = status == 503 && answer["code"] == "shutting_down" && again;
                assert!(status == 200 || stops, "{status} {answer}");
                Ok::<_, reqwest::Error>((!stops).then_some(answer))
            };
            match answer.await {
                Ok(Some(answer)) => return (life, answer),
                Ok(None) | Err(_) => next_life(&mut lives, &life).await,
            }
        }
    }

    async fn get(&self, path: &str) -> (Life, Value) {
        self.call(|api| api.http.get(api.url(path))).await
    }
}

async fn next_life(lives: &mut watch::Receiver<Life>, last: &Life) {
    let begun = lives.wait_for(|life| life.number > last.number);
    let begun = timeout(PATIENCE, begun).await;
    drop(begun.expect("the service is restarted"));
}

/// The version and feeds of acknowledged events, by id.
pub type Acknowledged = BTreeMap<String, (String, Vec<&'static str>)>;

/// Appends events, single and in arrays, each until it is acknowledged; sometimes repeats an acknowledged one.
pub async fn write(client: Client, writer: u64, mut rng: StdRng) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    let mut ids: Vec<String> = Vec::new();
    let mut last = String::new();
    while !client.stopped() {
        let fresh = if rng.random_bool(0.5) {
            1
        } else {
            rng.random_range(2..40)
        };
        let mut events: Vec<(String, Vec<&str>)> = (ids.len()..ids.len() + fresh)
            .map(|number| {
                let some = (0..rng.random_range(1..=FEEDS.len())).map(|_| FEEDS.choose(&mut rng));
                let feeds: BTreeSet<&str> = some.flatten().copied().collect();
                (format!("{writer}-{number}"), feeds.into_iter().collect())
            })
            .collect();
        ids.extend(events.iter().map(|(id, _)| id.clone()));
        if let Some(old) = ids[..ids.len() - fresh].choose(&mut rng) {
            events.insert(0, (old.clone(), acknowledged[old].1.clone()));
        }
        let body: Vec<Value> = events
            .iter()
            .map(|(id, feeds)| json!({ "id": id, "kind": "message", "feeds": feeds, "data": { "text": id } }))
            .collect();
        let body = if let [single] = &body[..] {
            single.clone()
        } else {
            json!(body)
        };

        let post = |api: &Api| api.http.post(api.url("/v1/events")).json(&body);
        let (life, answer) = client.call(post).await;
        let outcomes = if answer.is_array() {
            answer
        } else {
            json!([answer])
        };
        let outcomes = outcomes.as_array().expect("outcomes");
        assert_eq!(outcomes.len(), events.len());
        for ((id, feeds), outcome) in events.into_iter().zip(outcomes) {
            assert_eq!(outcome["id"], id);
            let version = text(&outcome["version"]);
            if let Some((first, _)) = acknowledged.get(&id) {
                assert_eq!((&outcome["status"], &version), (&json!("duplicate"), first));
                continue;
            }
            assert!(
                version > last,
                "{id} at {version}, but what was sent before is at {last}"
            );
            client.saw(&life, &version);
            client.know(&life, |known| {
                known.acknowledged += 1;
                if outcome["status"] == "appended" {
                    let least = known.least_appended.get_or_insert_with(|| version.clone());
                    *least = version.clone().min(least.clone());
                }
            });
            last.clone_from(&version);
            acknowledged.insert(id, (version, feeds));
        }
    }
    acknowledged
}

/// Follows a stream from its beginning through all lives; also reconnects after every `reconnect_every` entries.
pub async fn follow(client: Client, path: String, reconnect_every: usize) -> Vec<Place> {
    let mut heard: Vec<Place> = Vec::new();
    let mut position: Option<String> = None;
    let mut lives = client.life.clone();
    let mut stop = client.stop.clone();
    let open = async |life: &Life, position: Option<&str>| {
        Stream::try_open(&life.api.http, &life.api.url(&path), position).await
    };
    while !client.stopped() {
        let life = lives.borrow_and_update().clone();
        let Ok(mut stream) = open(&life, position.as_deref()).await else {
            next_life(&mut lives, &life).await;
            continue;
        };
        let until = heard.len().saturating_add(reconnect_every);
        while heard.len() < until {
            let event = tokio::select! {
                event = stream.next() => event,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match event {
                Some(event) => take(&mut heard, position.as_deref(), &event),
                None => {
                    next_life(&mut lives, &life).await;
                    break;
                }
            }
            position.clone_from(&stream.last_id);
            position
                .iter()
                .for_each(|position| client.saw(&life, position));
        }
    }
    // Nobody writes any more; reads the rest.
    let life = lives.borrow().clone();
    let mut stream = open(&life, position.as_deref()).await.expect("an answer");
    for event in stream.caught_up().await {
        take(&mut heard, position.as_deref(), &event);
    }
    heard
}

fn take(heard: &mut Vec<Place>, position: Option<&str>, event: &Event) {
    match event.name.as_str() {
        "entry" | "notify" => {
            let new = place(&event.data);
            assert_eq!(event.id.as_ref(), Some(&new.0));
            assert!(
                position.is_none_or(|position| *new.0 > *position),
                "{new:?} not above {position:?}"
            );
            heard.push(new);
        }
        "version" => {
            let moment = event.id.as_deref();
            assert!(
                moment >= position,
                "the stream stepped back from {position:?} to {moment:?}"
            );
        }
        "marker" => {}
        "bye" => assert_eq!(event.data, json!({ "reason": "shutdown" })),
        other => panic!("{other}: {}", event.data),
    }
}

/// Long polls through all lives, from the first entry to the last that is written.
pub async fn poll(client: Client, feed: &str) -> Vec<Place> {
    let mut heard: Vec<Place> = Vec::new();
    let mut after = "0".to_owned();
    loop {
        let wait = if client.stopped() { 0 } else { 2 };
        let path = format!("/v1/feeds/{feed}/entries?after={after}&limit=100&wait={wait}");
        let (life, page) = client.get(&path).await;
        let entries = page["entries"].as_array().expect("entries");
        heard.extend(entries.iter().map(place));
        if wait == 0 && page["next"].is_null() {
            return heard;
        }
        let next = page["next"].as_str().or(page["version"].as_str());
        next.expect("a position").clone_into(&mut after);
        client.saw(&life, &after);
    }
}

/// Reads states and pages and moves a marker: versions never decrease, and a page at a version never changes.
pub async fn audit(client: Client, mut rng: StdRng) {
    let mut moment = String::new();
    let mut latest: BTreeMap<&str, Option<String>> = BTreeMap::new();
    let mut seen: BTreeMap<&str, Option<String>> = BTreeMap::new();
    let mut pages: Vec<(String, Value)> = Vec::new();
    let optional = |value: &Value| value.as_str().map(str::to_owned);
    while !client.stopped() {
        let feed = *FEEDS.choose(&mut rng).expect("feeds");
        let (life, head) = client.get(&format!("/v1/feeds/{feed}")).await;
        let now = text(&head["version"]);
        assert!(now >= moment, "vN fell from {moment} to {now}");
        client.saw(&life, &now);
        moment = now;
        for (value, known) in [
            (&head["latest"], &mut latest),
            (&head["markers"]["seen"], &mut seen),
        ] {
            let value = optional(value);
            let known = known.entry(feed).or_default();
            assert!(
                value >= *known,
                "{feed} fell back from {known:?} to {value:?}"
            );
            *known = value;
        }

        let path = format!(
            "/v1/feeds/{feed}/entries?until={moment}&limit={}",
            rng.random_range(1..=200)
        );
        let (_, page) = client.get(&path).await;
        pages.push((path, page));
        let (path, page) = pages.choose(&mut rng).expect("one at least");
        assert_eq!(client.get(path).await.1, *page, "{path} changed");

        let put = |api: &Api| {
            let url = api.url(&format!("/v1/feeds/{feed}/markers/seen"));
            api.http.put(url).json(&json!({ "version": moment }))
        };
        let (_, state) = client.call(put).await;
        assert_eq!(state["markers"]["seen"], moment);
        seen.insert(feed, Some(moment.clone()));
    }
}
