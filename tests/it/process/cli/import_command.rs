//! `newsfeed import` of what `newsfeed export` wrote.

use serde_json::{Value, json};

use super::{Said, Service, newsfeed};
use crate::support::bed::JSON;

fn events(said: &Said) -> Vec<Value> {
    said.json(0)
}

/// An exported event without what a store adds to it. `time` is when it happened or, if that is not told, when it was accepted.
fn content(mut event: Value) -> Value {
    let event = event.as_object_mut().expect("an event");
    event.remove("version");
    let at = event.remove("at").expect("a time");
    event.entry("time").or_insert(at);
    event.clone().into()
}

async fn export(service: &Service) -> Vec<Value> {
    events(&service.run(&["export", "--quiet"]).await)
}

/// Events near the limits of what a service accepts, whose data is longer in an export than it was.
fn odd_events() -> Value {
    let name = |letter: &str| format!("{}{}", letter.repeat(5), "\"\u{e9}".repeat(80));
    let feeds: Vec<String> = (0..32).map(|feed| format!("{feed}{}", name("f"))).collect();
    json!([
        { "id": name("i"), "kind": name("k"), "actor": name("a"), "feeds": feeds, "data": "\u{2028}".repeat(10_000) },
        { "id": "two", "kind": "visit", "feeds": ["z", "a", "m"], "data": { "b": [1.0, -0.0], "a": null } },
        { "id": "bare", "kind": "visit", "feeds": ["z"] },
        { "id": "timed", "kind": "message", "feeds": ["z"], "time": "2004-04-15T16:56:01.5+02:00", "data": "" },
        { "id": "big", "kind": "message", "feeds": ["z"], "data": "\u{85}".repeat(32_000) },
    ])
}

#[tokio::test]
async fn what_was_exported_is_the_same_in_another_service_and_there_once() {
    let (old, new) = (Service::start().await, Service::start().await);
    old.fill(0..600).await;
    old.fill(600..1_200).await;
    old.process().api.append(&odd_events()).await;
    old.fill(1_200..1_300).await;
    let exported = export(&old).await;
    assert_eq!(exported.len(), 1_305);
    let file = old.file("events");
    let path = file.to_str().expect("UTF-8");
    old.run(&[
        "export",
        "--output",
        path,
        "--cursor",
        &format!("{path}.cursor"),
    ])
    .await
    .lines(0);
    let lines = std::fs::read_to_string(&file).expect("a file");

    // Cut in the middle of a line.
    let cut = lines.find("\"m-700\"").expect("an id") + 9;
    let said = new.run_with(&["import", "-"], &lines[..cut]).await;
    said.told(1, "700 events appended, 0 were stored already, 1 rejected");
    said.told(1, "1 of 701 events were rejected");
    assert!(said.stdout.contains("\"status\":\"rejected\""), "{said:?}");
    let said = new.run(&["import", path]).await;
    assert!(said.lines(0).is_empty());
    said.told(0, "605 events appended, 700 were stored already\n");
    for service in [&new, &old] {
        let said = service.run(&["import", path]).await;
        said.told(0, "0 events appended, 1305 were stored already\n");
    }
    let imported = export(&new).await;
    let [before, after] =
        [exported, imported].map(|events| events.into_iter().map(content).collect::<Vec<_>>());
    crate::support::entries::assert_same(&after, &before, "the second export");
    assert_eq!(export(&old).await.len(), 1_305);

    // An import of the import is the same again.
    let third = Service::start().await;
    let said = new.run(&["export", "--quiet"]).await;
    third
        .run_with(&["import", "-", "--quiet"], &said.stdout)
        .await
        .lines(0);
    let again: Vec<Value> = export(&third).await.into_iter().map(content).collect();
    crate::support::entries::assert_same(&again, &before, "the third export");
}

#[tokio::test]
async fn lines_that_are_no_events_are_told_and_the_others_are_imported() {
    let service = Service::start().await;
    let event = |id: &str| {
        let at = "2026-11-29T10:53:13.000001Z";
        json!({ "version": "v", "feeds": ["z"], "id": id, "kind": "visit", "actor": null, "at": at, "data": 1 }).to_string()
    };
    let import = async |lines: &[&str]| service.run_with(&["import", "-"], &lines.join("\n")).await;
    let (cursor, end) = (r#"{"cursor":"v"}"#, r#"{"cursor":"v","end":true}"#);
    let said = import(&[&event("a"), cursor, &event("b"), end]).await;
    said.told(0, "2 events appended, 0 were stored already\n");
    let erased =
        r#"{"change":"erased","version":"v","id":"a","kind":"visit","feeds":["z"],"erased":"w"}"#;
    let edited = event("b").replace(
        "\"data\":1",
        "\"data\":7,\"change\":\"edited\",\"edited\":\"w\"",
    );
    let unknown = erased.replace("\"a\"", "\"never seen\"");
    let several = event("c").replace("[\"z\"]", "[\"z\",\"y\"]");
    for _ in 0..2 {
        let lines = [&several[..], erased, &event("d"), &edited, &unknown];
        let said = import(&lines).await;
        said.told(0, "3 changes applied\n");
    }
    let stored = export(&service).await;
    let b = stored
        .iter()
        .find(|line| line["id"] == "b" && line.get("change").is_none());
    assert_eq!(b.map(|line| &line["data"]), Some(&json!(7)));
    assert!(
        !stored
            .iter()
            .any(|line| line["id"] == "a" && line["change"] != "erased")
    );
    let changes = stored.iter().filter(|line| line.get("change").is_some());
    assert_eq!(changes.count(), 2, "each is made once: {stored:?}");
    // A later edit is not undone by another import of an earlier one, and what is as the line says is not edited again.
    let api = &service.process().api;
    let later = json!({ "data": 9 }).to_string();
    let answer = api.send_body("PATCH", "/v1/events/b", &[JSON], later).await;
    assert_eq!(answer.status, 200);
    let before = api.get("/v1/events/b").await;
    let same = edited
        .replace("\"data\":7", "\"data\":9")
        .replace("\"w\"", "\"x\"");
    for line in [&edited, &same] {
        import(&[line]).await.told(0, "1 changes applied\n");
        assert_eq!(api.get("/v1/events/b").await, before, "{line}");
    }
    let in_part = erased.replace("\"a\"", "\"c\"");
    let said = import(&[&in_part]).await;
    said.told(1, "1 changes skipped\n");
    said.told(1, "1 events were erased from some of their feeds only");
    let broken = r#"{"cursor":"v","error":{"code":"shutting_down","detail":"later"}}"#;
    let said = import(&[&event("e"), broken, &event("f")]).await;
    said.told(1, "1 events appended");
    said.told(
        1,
        "-, line 2: the service broke the export off here (shutting_down: later)",
    );
    // Another event with the same id stays an error.
    let other = event("d").replace("\"data\":1", "\"data\":2");
    let said = import(&[&other, &event("g")]).await;
    said.told(1, "1 of 2 events were rejected");
    assert!(said.stdout.contains("id_reused"), "{said:?}");
    // Five events, and the news of two changes.
    assert_eq!(export(&service).await.len(), 7);
    let missing = newsfeed(&["import", "/no/such/file", "--url", &service.url])
        .output()
        .await;
    Said::from(missing.expect("it runs")).told(1, "cannot read /no/such/file");
}
