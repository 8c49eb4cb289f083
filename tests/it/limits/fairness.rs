//! Requests at the documented limits do not hold the async workers: a node on one thread serves others in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    http::{items, message, visits},
    support::{
        bed::{Bed, JSON, NDJSON, Served},
        sse::Stream,
    },
};

/// Longest time on the processor between two turns of another task. A worker is held for less than 10 ms in a release
/// build; a debug build is many times slower, and parsing 8 MiB at once takes it more than a second.
const HELD_MAX_MS: u64 = 500;

const TICK: Duration = Duration::from_millis(1);

/// The processor time of this thread in ns, on which other load of the machine has no influence.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let time = stat.split(' ').next().expect("a number");
    time.parse().expect("a number")
}

/// A task that measures for how long others hold its thread.
struct Watch(Arc<AtomicU64>);

impl Watch {
    fn start() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        tokio::spawn({
            let longest = Arc::clone(&longest);
            async move {
                let mut last = processor_time();
                loop {
                    sleep(TICK).await;
                    let now = processor_time();
                    longest.fetch_max(now - last, Ordering::Relaxed);
                    last = now;
                }
            }
        });
        Self(longest)
    }

    async fn check<T>(&self, what: &str, request: impl Future<Output = T>) -> T {
        self.0.store(0, Ordering::Relaxed);
        let output = request.await;
        let held = self.0.load(Ordering::Relaxed) / 1_000_000;
        eprintln!("figure: {what} held the thread for {held} ms at most");
        assert!(held < HELD_MAX_MS, "{what}: {held} ms");
        output
    }
}

async fn post(node: &Served, headers: &[(&str, &str)], body: String) -> Value {
    let answer = node.send_body("POST", "/v1/events", headers, body).await;
    assert_eq!(answer.status, 200);
    let lines = answer
        .body
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    let values = lines.map(|line| serde_json::from_slice(line).expect("JSON"));
    let values: Vec<Value> = values.collect();
    match &values[..] {
        [one] => one.clone(),
        _ => json!(values),
    }
}

#[test]
fn no_request_at_its_limits_holds_the_thread() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Timers and sockets are looked at after every turn of a task.
    let runtime = runtime.enable_all().event_interval(1).build();
    runtime.expect("a runtime").block_on(ask_for_the_limits());
}

async fn ask_for_the_limits() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let names: Vec<String> = (0..100).map(|index| format!("f{index}")).collect();
    let feeds: Vec<&str> = names.iter().map(String::as_str).collect();

    // 8 MiB: 120 events of nearly 64 KiB, with many values and escapes.
    let data = json!(vec![
        json!({ "text": "line\nline \"quoted\" é", "n": [1, 2.5, null, true] });
        1_100
    ]);
    let event = |index: usize| json!({ "id": format!("big {index}"), "kind": "message", "feeds": ["big"], "data": data });
    let big: Vec<Value> = (0..120).map(event).collect();
    let (array, lines) = (
        json!(big).to_string(),
        big.iter()
            .map(|event| format!("{event}\n"))
            .collect::<String>()
            .replace("big ", "line "),
    );
    assert!((7 << 20..8 << 20).contains(&array.len()), "{}", array.len());
    let watch = Watch::start();
    watch
        .check("an array of 8 MiB", post(&node, &[JSON], array))
        .await;
    watch
        .check("8 MiB of NDJSON", post(&node, &[NDJSON], lines))
        .await;
    let path = "/v1/feeds/big/entries?limit=200";
    let page = watch
        .check("a page of 4 MiB", node.send("GET", path, &[]))
        .await;
    assert!(page.body.len() > 4 << 20);

    // 1,000 unread entries in each of 100 feeds, and 10,000 in one.
    for round in 0..10 {
        let feeds = if round == 0 { &feeds[..] } else { &feeds[7..8] };
        let event = |index: usize| message(&format!("m {round} {index}"), feeds);
        let array = (0..1_000).map(event).collect::<Value>().to_string();
        let what = format!("an array of 1,000 events in {} feeds", feeds.len());
        let results = watch.check(&what, post(&node, &[JSON], array)).await;
        assert!(
            items(&results)
                .iter()
                .all(|result| result["status"] == "appended")
        );
    }
    let mut conditional = visits("c", 1_000, &["all"]);
    for (index, event) in conditional
        .as_array_mut()
        .expect("an array")
        .iter_mut()
        .enumerate()
    {
        event["expect"] = json!({ "feed": format!("c{index}"), "version": null });
    }
    let what = "an array of 1,000 conditional events";
    watch
        .check(what, post(&node, &[JSON], conditional.to_string()))
        .await;

    let query = names
        .iter()
        .map(|name| format!("feed={name}&"))
        .collect::<String>();
    let path = format!("/v1/entries?{query}limit=200");
    watch
        .check("a merged page of 100 feeds", node.get(&path))
        .await;
    let path = format!("/v1/entries?{query}kind=other&limit=200");
    watch
        .check("a merged page that finds nothing", node.get(&path))
        .await;
    let state = watch
        .check("a state with 10,000 unread", node.get("/v1/feeds/f7"))
        .await;
    assert_eq!(state["unread"]["total"], 10_000);

    // Catching up with 100 feeds, up to their states.
    let url = node.url(&format!("/v1/live?{query}after=0"));
    let catch_up = async {
        let mut stream = Stream::open(&node.http, &url, None).await;
        let (mut entries, mut states) = (0, 0);
        while states < 100 {
            let frame = stream.block().await.expect("the stream goes on");
            entries += usize::from(frame.starts_with("event: notify"));
            states += usize::from(frame.starts_with("event: marker"));
        }
        entries
    };
    let entries = watch.check("catching up with 100 feeds", catch_up).await;
    assert_eq!(entries, 10_000);
}
