//! Commands in the name of a reader: counts, lists, marks, and who has read how far.

use serde_json::{Value, json};

use super::{FEED, Service};

const CHAT: &str = "chat:anna-ben";
const BEN: [&str; 2] = ["--reader", "user:ben"];
const ANNA: [&str; 2] = ["--reader", "user:anna"];

/// The versions of entries, newest first.
fn versions(entries: &[Value]) -> Vec<&str> {
    let version = |entry| Value::get(entry, "version")?.as_str();
    entries.iter().filter_map(version).collect()
}

#[tokio::test]
async fn each_reader_has_counts_lists_and_marks_of_its_own() {
    let service = Service::start().await;
    // Two messages of Anna, and a visit.
    service.fill(0..3).await;
    let run = async |args: &[&[&str]]| service.run(&args.concat()).await;
    let unread = async |reader: &[&str]| {
        let state = run(&[&["state", CHAT], reader]).await.json(0);
        state[0]["unread"]["total"].clone()
    };
    // Who wrote an entry has read it.
    assert_eq!(
        (unread(&BEN).await, unread(&ANNA).await),
        (json!(2), json!(0))
    );
    let listed = async |state: &str| {
        run(&[&["history", CHAT, "--state", state], &BEN])
            .await
            .json(0)
    };
    let all = listed("unread").await;
    let [second, first] = versions(&all)[..] else {
        panic!("{all:?}")
    };

    let marked = run(&[&["mark", CHAT, "--entry", second], &BEN])
        .await
        .json(0);
    assert_eq!(
        (
            &marked[0]["reader"],
            &marked[0]["entry"],
            &marked[0]["state"]
        ),
        (&json!("user:ben"), &json!(second), &json!("read"))
    );
    assert_eq!(marked[0]["unread"]["total"], 1);
    assert_eq!(versions(&listed("unread").await), [first]);
    assert_eq!(versions(&listed("read").await), [second]);
    let moved = run(&[&["mark", CHAT], &BEN]).await.json(0);
    assert_eq!(
        (
            &moved[0]["unread"]["total"],
            &moved[0]["unread_before"]["total"]
        ),
        (&json!(0), &json!(1))
    );
    run(&[&["mark", CHAT, "unread", "--entry", first], &BEN])
        .await
        .lines(0);
    assert_eq!(unread(&BEN).await, 1);
    run(&[&["mark", CHAT, "archived"], &BEN]).await.lines(0);
    assert_eq!(versions(&listed("archived").await), [second]);
    // From the archive, back to what is read.
    run(&[&["mark", CHAT, "read", "--entry", second], &BEN])
        .await
        .lines(0);
    assert_eq!(versions(&listed("read").await), [second]);
    run(&[&["mark", CHAT, "archived", "--entry", second], &BEN])
        .await
        .lines(0);

    // As text, each list and mark says what it is.
    let text = ["--format", "text"];
    let history = run(&[&["history", CHAT, "--state", "any"], &BEN, &text]).await;
    let ends: Vec<bool> = [None, Some("(archived)"), Some("(unread)")]
        .iter()
        .zip(history.lines(0))
        .map(|(end, line)| end.map_or(line.ends_with('}'), |end| line.ends_with(end)))
        .collect();
    assert_eq!(ends, [true; 3], "{history:?}");
    let marked = run(&[&["mark", CHAT, "unread", "--entry", first], &BEN, &text]).await;
    let line = format!("chat:anna-ben as user:ben  {first}  unread  unread 1 (1 message)");
    assert_eq!(marked.lines(0), [line]);

    // The feed's own reader is another one, and so is the other feed.
    assert_eq!(
        (unread(&[]).await, unread(&ANNA).await),
        (json!(2), json!(0))
    );
    let state = run(&[&["state", FEED, CHAT], &BEN]).await.json(0);
    assert_eq!(state[0]["unread"]["total"], 2);
    assert_eq!(
        state[1]["markers"]["archived"].as_str().map(str::len),
        Some(26)
    );

    let readers = run(&[&["readers", CHAT]]).await.json(0);
    assert_eq!(readers.len(), 1);
    assert_eq!(readers[0]["reader"], "user:ben");
    assert_eq!(readers[0]["markers"]["read"], moved[0]["markers"]["read"]);
    let text = run(&[&["readers", FEED, "--format", "text"]]).await;
    text.told(0, "-- no readers");

    let refused = run(&[&["mark", CHAT, "unread", "--entry", second], &ANNA]).await;
    refused.told(1, "409 own_entry to PUT /v1/entries/");
    let moment = state[1]["version"].as_str().expect("a version");
    let refused = run(&[&["mark", CHAT, "--entry", moment], &ANNA]).await;
    refused.told(1, "404 entry_not_found");
}

#[tokio::test]
async fn tail_tells_marks_of_its_reader_and_how_far_others_read() {
    let service = Service::start().await;
    service.fill(0..1).await;
    let run = async |args: &[&[&str]]| service.run(&args.concat()).await.json(0);
    let args = [&["tail", CHAT, "--format", "text"][..], &BEN].concat();
    let mut text = service.begin(&args);
    let args = [&["tail", CHAT, "--events", "all"][..], &BEN].concat();
    let mut lines = service.begin(&args);
    text.line().await;
    let entry: Value = serde_json::from_str(&lines.line().await).expect("JSON");
    let version = entry["version"].as_str().expect("a version");
    let start = "-- chat:anna-ben as user:ben  unread 1 (1 message)  read –  seen –";
    assert_eq!(text.line().await, start);
    let start: Value = serde_json::from_str(&lines.line().await).expect("JSON");
    assert_eq!(start["unread"]["total"], 1);

    let moved = run(&[&["mark", CHAT], &ANNA]).await;
    let read = moved[0]["markers"]["read"].as_str().expect("a version");
    assert_eq!(
        text.line().await,
        format!("-- chat:anna-ben  user:anna  read {read}  seen –")
    );
    let other: Value = serde_json::from_str(&lines.line().await).expect("JSON");
    assert_eq!(other["reader"], "user:anna");
    assert_eq!(other.get("unread"), None);

    run(&[&["mark", CHAT, "--entry", version], &BEN]).await;
    assert_eq!(
        text.line().await,
        format!("-- chat:anna-ben as user:ben  {version}  read")
    );
    assert!(text.line().await.contains(" as user:ben  unread 0  "));
    let marked: Value = serde_json::from_str(&lines.line().await).expect("JSON");
    assert_eq!(marked["entry"], version);
    // Entries come with the count.
    service.fill(1..2).await;
    let entry = loop {
        let line: Value = serde_json::from_str(&lines.line().await).expect("JSON");
        if line.get("id").is_some() {
            break line;
        }
    };
    assert_eq!(entry["unread"]["total"], 1);
}
