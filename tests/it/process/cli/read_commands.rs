//! `newsfeed history` and the commands that read and move markers.

use serde_json::{Value, json};

use super::{FEED, Service};
use crate::support::entries::{UNKNOWN, ahead};

fn version(entry: &str) -> String {
    let entry: Value = serde_json::from_str(entry).expect("JSON");
    entry["version"].as_str().expect("a version").to_owned()
}

#[tokio::test]
async fn history_prints_entries_exactly_as_the_api_does_in_either_order() {
    let service = Service::start().await;
    for part in 0..3 {
        service.fill(part * 150..(part + 1) * 150).await;
    }
    let oldest_first = service.entries().await;
    assert_eq!(oldest_first.len(), 450);
    let newest_first: Vec<String> = oldest_first.iter().rev().cloned().collect();
    let visits = |entry: &&String| entry.contains("\"visit\"");
    let visits: Vec<&String> = newest_first.iter().filter(visits).collect();
    let (low, high) = (&version(&oldest_first[99]), &version(&oldest_first[349]));

    let history = async |args: &[&str]| service.run(&[&["history", FEED], args].concat()).await;
    assert_eq!(history(&[]).await.lines(0), newest_first);
    assert_eq!(history(&["--reverse"]).await.lines(0), oldest_first);
    assert_eq!(history(&["--limit", "3"]).await.lines(0), newest_first[..3]);
    assert_eq!(history(&["-n", "201"]).await.lines(0), newest_first[..201]);
    assert_eq!(history(&["-n", "0"]).await.lines(0), newest_first[..0]);
    assert_eq!(
        history(&["-n", "201", "--reverse"]).await.lines(0),
        oldest_first[..201]
    );
    assert_eq!(history(&["--kind", "visit"]).await.lines(0), visits);
    assert_eq!(
        history(&["--kind", "visit", "-n", "5"]).await.lines(0),
        visits[..5]
    );
    let both = ["--kind", "visit", "--kind", "message"];
    assert_eq!(history(&both).await.lines(0), newest_first);
    let between = ["--after", low, "--until", high];
    assert_eq!(history(&between).await.lines(0), newest_first[100..350]);
    let between = [&between[..], &["--reverse"]].concat();
    assert_eq!(history(&between).await.lines(0), oldest_first[100..350]);
    // Nothing was there then.
    let long_ago = "2004-04-15T16:56:01+02:00";
    let since = history(&["--after", long_ago, "-n", "3"]).await;
    assert_eq!(since.lines(0), newest_first[..3]);
    assert!(history(&["--until", long_ago]).await.lines(0).is_empty());

    // Entries of both feeds are printed once.
    let merged = service.run(&["history", FEED, "chat:anna-ben"]).await;
    let merged = merged.json(0);
    assert_eq!(merged.len(), 450);
    assert_eq!(merged[0]["feeds"], json!([FEED, "chat:anna-ben"]));
}

#[tokio::test]
async fn the_long_form_shows_the_version_and_id_of_each_entry() {
    let service = Service::start().await;
    service.fill(0..3).await;
    for args in [
        &["history", FEED, "--reverse"][..],
        &["tail", FEED, "--no-follow"],
    ] {
        let said = async |more: &[&str]| service.run(&[args, more].concat()).await;
        let text = said(&["--format", "text", "--long"]).await;
        for (line, entry) in text.lines(0).into_iter().zip(service.entries().await) {
            let entry: Value = serde_json::from_str(&entry).expect("JSON");
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(
                (words[0], words[4]),
                (
                    entry["version"].as_str().expect("a version"),
                    entry["id"].as_str().expect("an id")
                )
            );
        }
        assert_eq!(text.lines(0).len(), 3);
        let short = said(&["--format", "text"]).await;
        assert!(short.lines(0)[0].starts_with("20"), "{short:?}");
        assert_eq!(said(&["--long"]).await.lines(0), service.entries().await);
    }
}

#[tokio::test]
async fn an_event_is_found_by_its_id() {
    let service = Service::start().await;
    let id = "notes/1 a";
    let flags = [
        "--feed", "user:b", "--feed", "user:a", "--id", id, "--text", "Hi",
    ];
    let appended = service
        .run(&[&["append", "--kind", "message"][..], &flags].concat())
        .await;
    let found = service.run(&["event", id]).await.json(0);
    assert_eq!(found[0]["feeds"], json!(["user:b", "user:a"]));
    assert_eq!(found[0]["version"], appended.json(0)[0]["version"]);
    let text = service.run(&["event", id, "--format", "text"]).await;
    let line = &text.lines(0)[0];
    assert!(line.contains(" → user:b, user:a  Hi"), "{line}");
    let missing = service.run(&["event", "other"]).await;
    missing.told(1, "404 event_not_found");
}

#[tokio::test]
async fn several_states_are_of_one_moment() {
    let service = Service::start().await;
    service.fill(0..3).await;
    let feeds: Vec<String> = (0..300).map(|n| format!("user:{n}")).collect();
    let feeds: Vec<&str> = feeds.iter().map(String::as_str).collect();
    let states = service.run(&[&["state", FEED][..], &feeds].concat()).await;
    let states = states.json(0);
    assert_eq!(states.len(), 301);
    assert!(
        states
            .iter()
            .all(|state| state["version"] == states[0]["version"])
    );
}

#[tokio::test]
async fn state_and_mark_report_the_unread_count() {
    let service = Service::start().await;
    service.fill(0..3).await;
    let states = service.run(&["state", FEED, "user:nobody"]).await.json(0);
    assert_eq!(states[0]["feed"], FEED);
    assert_eq!(states[0]["unread"]["total"], 2);
    assert_eq!(states[1]["latest"], Value::Null);

    let first = version(&service.entries().await[0]);
    let long_ago = ["mark", FEED, "read", "2004-04-15T16:56:01+02:00"];
    let unmoved = service.run(&long_ago).await.json(0);
    assert_eq!(unmoved[0]["markers"]["read"], Value::Null);
    let marked = service.run(&["mark", FEED, "read", &first]).await.json(0);
    assert_eq!(marked[0]["markers"]["read"], *first);
    assert_eq!(marked[0]["unread"]["total"], 1);
    assert_eq!(
        marked[0]["unread_before"],
        json!({ "total": 2, "kinds": { "message": 2 }, "more": false })
    );
    let seen = service.run(&["mark", FEED, "seen"]).await.json(0);
    assert!(seen[0]["markers"]["seen"].as_str() > Some(&*first));
    assert_eq!(seen[0]["unread"]["total"], 1);
    let all = service.run(&["mark", FEED]).await.json(0);
    assert_eq!(all[0]["unread"]["total"], 0);
    assert!(all[0]["markers"]["read"].as_str() > Some(&*first));

    // A version ahead of the store, and one of another store.
    for (version, answer) in [
        (&*ahead(&first), "400 version_ahead"),
        (UNKNOWN, "410 cursor_unknown"),
    ] {
        let said = service.run(&["mark", FEED, "read", version]).await;
        let expected = format!("newsfeed: the service answered {answer} to PUT /v1/markers/read: ");
        said.told(1, &expected);
    }
    // Newest first, too, although the pages are not asked for from there.
    for order in [&[][..], &["--reverse"]] {
        let args = [&["history", FEED, "--after", UNKNOWN], order].concat();
        let said = service.run(&args).await;
        said.told(
            1,
            "newsfeed: the service answered 410 cursor_unknown to GET /v1/entries: ",
        );
    }
}
