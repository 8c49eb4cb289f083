//! A fake service with a selectable fault.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// Faults in what readers receive, and how the benchmark reports them.
pub const INEXACT: [(Fault, &str); 3] = [
    (Fault::Loses, "lost"),
    (Fault::Duplicates, "duplicated"),
    (Fault::Reorders, "out of order"),
];

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The third entry of each feed is never delivered.
    Loses,
    /// The third entry of each feed is delivered twice.
    Duplicates,
    /// The third entry of each feed is delivered after the fourth.
    Reorders,
    /// Every other append is refused.
    Refuses,
    /// Appends get no response.
    Hangs,
    /// A stream ends after three entries; it can be resumed.
    HangsUp,
}

#[derive(Default)]
struct Store {
    last: u64,
    requests: u64,
    /// Version and id of each entry, in order.
    feeds: BTreeMap<String, Vec<(String, String)>>,
}

type Fake = Arc<(Fault, watch::Sender<Store>)>;

/// Starts a service that runs as long as the test; returns its base URL.
pub async fn start(fault: Fault) -> String {
    start_counting(fault).await.0
}

/// Like [`start`], but also returns the number of connections that were opened.
pub async fn start_counting(fault: Fault) -> (String, Arc<AtomicUsize>) {
    let fake: Fake = Arc::new((fault, watch::Sender::new(Store::default())));
    let router = Router::new()
        .route("/readyz", get(async || "{}"))
        .route("/v1/events", post(append))
        .route("/v1/feeds/{feed}/entries", get(page))
        .route("/v1/feeds/{feed}/live", get(live))
        .with_state(fake);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let listener = listener.tap_io(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), connections)
}

/// The entries that are delivered. As a feed grows, they are only extended.
fn shown(fault: Fault, store: &Store, feed: &str) -> Vec<(String, String)> {
    let mut entries = store.feeds.get(feed).cloned().unwrap_or_default();
    match fault {
        Fault::Loses if entries.len() > 2 => drop(entries.remove(2)),
        Fault::Duplicates if entries.len() > 2 => entries.insert(3, entries[2].clone()),
        Fault::Reorders if entries.len() == 3 => entries.truncate(2),
        Fault::Reorders if entries.len() > 3 => entries.swap(2, 3),
        _ => {}
    }
    entries
}

async fn append(State(fake): State<Fake>, Json(body): Json<Value>) -> Response {
    if fake.0 == Fault::Hangs {
        std::future::pending::<()>().await;
    }
    let mut answer = None;
    fake.1.send_modify(|store| {
        store.requests += 1;
        // Closing events are sent in arrays, and are not refused.
        if fake.0 == Fault::Refuses && body.is_object() && store.requests.is_multiple_of(2) {
            return;
        }
        let mut one = |event: &Value| {
            store.last += 1;
            let (id, version) = (
                event["id"].as_str().expect("an id"),
                format!("{:026}", store.last),
            );
            for feed in event["feeds"].as_array().expect("feeds") {
                let feed = feed.as_str().expect("a name").to_owned();
                let entry = (version.clone(), id.to_owned());
                store.feeds.entry(feed).or_default().push(entry);
            }
            json!({ "id": id, "version": version, "status": "appended" })
        };
        answer = Some(match &body {
            Value::Array(events) => events.iter().map(one).collect(),
            event => one(event),
        });
    });
    let busy = json!({ "status": 503, "code": "busy", "detail": "later" });
    match answer {
        Some(answer) => Json(answer).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(busy)).into_response(),
    }
}

async fn page(
    State(fake): State<Fake>,
    Path(feed): Path<String>,
    RawQuery(query): RawQuery,
) -> Json<Value> {
    let query = query.unwrap_or_default();
    let query: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
    let store = fake.1.borrow();
    let mut entries = shown(fake.0, &store, &feed);
    if !query.contains_key("after") {
        entries.retain(|(version, _)| {
            query
                .get("before")
                .is_none_or(|before| **version < **before)
        });
        entries.reverse();
        entries.truncate(query["limit"].parse().expect("a number"));
    }
    let entries: Value = entries
        .iter()
        .map(|(version, id)| json!({ "version": version, "id": id, "data": null }))
        .collect();
    Json(json!({ "version": format!("{:026}", store.last), "entries": entries, "next": null }))
}

async fn live(State(fake): State<Fake>, Path(feed): Path<String>, headers: HeaderMap) -> Response {
    let mut changes = fake.1.subscribe();
    changes.mark_changed();
    let from = headers.get("last-event-id");
    let from = from.map_or("", |id| id.to_str().expect("a version"));
    let had = fake.1.borrow().feeds.get(&feed).map_or(0, |entries| {
        entries
            .iter()
            .filter(|(version, _)| **version <= *from)
            .count()
    });
    let hello = "retry: 2000\n\nevent: version\nid: 00000000000000000000000000\ndata: {}\n\n";
    let state = (fake, changes, feed, (had, had), Some(hello.to_owned()));
    let frames = stream::unfold(
        state,
        async |(fake, mut changes, feed, (had, mut sent), hello)| {
            let mut frames = hello.unwrap_or_default();
            while frames.is_empty() {
                if fake.0 == Fault::HangsUp && sent >= had + 3 {
                    return None;
                }
                changes.changed().await.ok()?;
                let entries = shown(fake.0, &changes.borrow_and_update(), &feed);
                for (version, id) in &entries[sent..] {
                    let data = json!({ "feed": feed, "version": version, "id": id });
                    frames.push_str(&format!("event: entry\nid: {version}\ndata: {data}\n\n"));
                }
                sent = entries.len();
            }
            let frames = Ok::<_, Infallible>(Bytes::from(frames));
            Some((frames, (fake, changes, feed, (had, sent), None)))
        },
    );
    let content_type = [("content-type", "text/event-stream")];
    (content_type, Body::from_stream(frames)).into_response()
}
