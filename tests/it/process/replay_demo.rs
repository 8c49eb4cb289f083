//! `newsfeed replay` with real messages, and `newsfeed demo`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{PATIENCE, Place, Process, assert_same, place, run};
use crate::support::{
    bed::Api,
    entries::{path, position_after},
    messages::{self, Message},
    sse::Stream,
};

/// So many of the messages fill hundreds of requests and feeds; all of them would do nothing else.
const MESSAGES: usize = 12_000;

/// Writes the first messages to a file in `folder`; returns it and them.
fn first(all: &Path, folder: &Path) -> (PathBuf, Vec<Message>) {
    let list: Vec<Message> = messages::read(all).take(MESSAGES).collect();
    let lines = list
        .iter()
        .map(|message| format!("{} {} {}\n", message.from, message.to, message.sent));
    let file = folder.join("CollegeMsg.txt.gz");
    let created = std::fs::File::create(&file).expect("a file");
    let mut gzip = GzEncoder::new(created, Compression::fast());
    let written = gzip.write_all(lines.collect::<String>().as_bytes());
    written.and_then(|()| gzip.try_finish()).expect("written");
    (file, list)
}

/// The entry that a message becomes.
fn entry(message: &Message) -> Value {
    let Message {
        line,
        from,
        to,
        sent,
    } = message;
    let time = jiff::Timestamp::from_second(*sent).expect("a time");
    json!({
        "id": format!("CollegeMsg:{line}"), "kind": "message", "actor": format!("user:{from}"),
        "time": time.to_string(),
        "data": { "from": from, "to": to, "sent": sent },
    })
}

/// Runs `newsfeed replay`; returns the numbers of appended events and duplicates that it prints.
async fn replay(list: &Path, api: &Api) -> (usize, usize) {
    let list = list.to_str().expect("a UTF-8 path");
    let output = run(&["replay", list, "--url", &api.url("")]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let figure = |name: &str| {
        let line = stdout
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect(name);
        line.trim().parse().expect("a number")
    };
    assert_eq!(figure("rejected"), 0, "{stdout}");
    (figure("appended"), figure("duplicates"))
}

/// A client that joins when there are `begun` entries: it reads the history up to vN, then live from vN, until it has
/// `count` entries. It reconnects after every `reconnect_every` entries.
async fn join(
    api: Api,
    feeds: Vec<String>,
    begun: usize,
    count: usize,
    reconnect_every: usize,
) -> Vec<Place> {
    let (pages, live) = (path(&feeds, "entries"), path(&feeds, "live"));
    let entries = |page: &Value| -> Vec<Place> {
        page["entries"]
            .as_array()
            .expect("entries")
            .iter()
            .map(place)
            .collect()
    };
    let (mut there, mut after) = (0, "0".to_owned());
    while there < begun {
        let page = api.get(&format!("{pages}after={after}&wait=60")).await;
        there += entries(&page).len();
        after = position_after(&page);
    }

    let now = api.version(&feeds[0]).await;
    let mut read = Vec::new();
    let mut before = String::new();
    loop {
        let page = api
            .get(&format!("{pages}until={now}&limit=200{before}"))
            .await;
        read.extend(entries(&page));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        before = format!("&before={next}");
    }
    read.reverse();
    assert!(
        (begun..count).contains(&read.len()),
        "joined with {} of {count}",
        read.len()
    );

    let url = api.url(&format!("{live}after={now}"));
    let mut position: Option<String> = None;
    let mut connections = 0;
    while read.len() < count {
        let mut stream = Stream::open(&api.http, &url, position.as_deref()).await;
        connections += 1;
        let until = count.min(read.len().saturating_add(reconnect_every));
        while read.len() < until {
            let Some(event) = stream.next().await else {
                break;
            };
            match event.name.as_str() {
                "notify" => {
                    let new = place(&event.data);
                    assert!(read.last() < Some(&new), "{new:?} after {:?}", read.last());
                    read.push(new);
                }
                "version" | "marker" => {}
                other => panic!("{other}: {}", event.data),
            }
        }
        position = stream.last_id;
    }
    assert!(
        connections > (count - there) / reconnect_every / 2,
        "it reconnected often"
    );
    let mut stream = Stream::open(&api.http, &url, position.as_deref()).await;
    assert_eq!(stream.caught_up().await, [], "more than was sent");
    read
}

/// Checks that a feed has exactly `messages`, in order, all unread; returns their places.
async fn holds(api: &Api, feed: &str, messages: &[Value]) -> Vec<Place> {
    let mut entries = api.all(feed).await;
    let places: Vec<Place> = entries.iter().map(place).collect();
    assert!(places.is_sorted(), "{feed}");
    for entry in &mut entries {
        let entry = entry.as_object_mut().expect("an object");
        entry.retain(|name, _| ["id", "kind", "actor", "time", "data"].contains(&name.as_str()));
    }
    assert!(entries == messages, "{feed} holds {entries:#?}");
    let head = api.get(&format!("/v1/feeds/{feed}")).await;
    assert_eq!(head["unread"]["total"], messages.len(), "{feed}");
    let latest = places.last().map(|(version, _)| version.as_str());
    assert_eq!(head["latest"].as_str(), latest, "{feed}");
    places
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_messages_are_in_every_feed_once_and_clients_that_join_midway_miss_nothing() {
    let Some(file) = messages::file("the replay of real messages") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, list) = first(&file, folder.path());
    let users: BTreeSet<u64> = list
        .iter()
        .flat_map(|message| [message.from, message.to])
        .collect();
    let pairs: BTreeSet<(u64, u64)> = list
        .iter()
        .map(|message| (message.from, message.to))
        .collect();
    assert_eq!(list.len(), MESSAGES);
    assert!(
        users.len() > 500 && pairs.len() > 2_000,
        "{} users, {} pairs",
        users.len(),
        pairs.len()
    );
    let mut feeds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for user in users {
        feeds.insert(format!("user:{user}"), Vec::new());
    }
    for message in &list {
        for feed in message.feeds() {
            feeds.entry(feed).or_default().push(entry(message));
        }
    }
    let busiest = |kind: &str, count: usize| -> Vec<String> {
        let mut names: Vec<&String> = feeds.keys().filter(|feed| feed.starts_with(kind)).collect();
        names.sort_by_key(|&feed| std::cmp::Reverse(feeds[feed].len()));
        names.into_iter().take(count).cloned().collect()
    };
    let receivers = busiest("user:", 20);
    let count = |of: &[String]| -> usize { of.iter().map(|feed| feeds[feed].len()).sum() };

    let process = Process::start(&folder.path().join("store")).await;
    let api = &process.api;
    let joining = [
        (&receivers[..1], 20, usize::MAX),
        (&receivers[..], 500, 300),
    ]
    .map(|(feeds, begun, reconnect_every)| {
        let read = join(
            api.clone(),
            feeds.to_vec(),
            begun,
            count(feeds),
            reconnect_every,
        );
        (feeds, tokio::spawn(timeout(PATIENCE, read)))
    });
    assert_eq!(replay(&file, api).await, (MESSAGES, 0));

    let checked = [busiest("user:", usize::MAX), busiest("chat:", 100)].concat();
    let stored: BTreeMap<String, Vec<Place>> = stream::iter(checked)
        .map(|feed| async { (holds(api, &feed, &feeds[&feed]).await, feed) })
        .buffer_unordered(8)
        .map(|(places, feed)| (feed, places))
        .collect()
        .await;
    for (feeds, read) in joining {
        let read = read.await.expect("the client reads on");
        let mut wanted: Vec<Place> = feeds.iter().flat_map(|feed| stored[feed].clone()).collect();
        wanted.sort();
        assert_same(&read.expect("all comes"), &wanted, &feeds.join(", "));
    }

    assert_eq!(replay(&file, api).await, (0, MESSAGES));
    for feed in &receivers {
        let again = holds(api, feed, &feeds[feed]).await;
        assert_same(&again, &stored[feed], feed);
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_fills_the_service_and_the_commands_it_prints_work() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start(folder.path()).await;
    let api = &process.api;
    let options = ["--backlog", "600", "--for", "1", "--rate", "50"];
    let output = run(&[&["demo", "--url", &api.url("")][..], &options].concat()).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let stdout = String::from_utf8(output.stdout).expect("text");
    let commands: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.trim().strip_prefix("curl "))
        .collect();
    assert_eq!(commands.len(), 6, "{stdout}");
    for command in commands {
        let url = command
            .split(' ')
            .next_back()
            .expect("an URL")
            .trim_matches('\'');
        let path = url.strip_prefix(&api.url("")).expect("of this service");
        if path.ends_with("/live") {
            assert_eq!(
                Stream::open(&api.http, url, None).await.caught_up().await,
                []
            );
        } else if path.contains("/entries") {
            let page = api.get(path).await;
            assert!(
                !page["entries"].as_array().expect("entries").is_empty(),
                "{url}: {page}"
            );
        } else {
            assert!(api.get(path).await["unread"]["total"].is_u64());
        }
    }
    process.stop().await;
}
