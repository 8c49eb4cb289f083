//! `newsfeed edit` and `newsfeed erase`, and what the other commands say of changes.

use serde_json::{Value, json};

use super::{FEED, Service};
use crate::support::bed::text;

fn column(lines: &[Value], name: &str) -> Vec<String> {
    lines.iter().map(|line| text(&line[name])).collect()
}

#[tokio::test]
async fn an_edit_is_made_once_and_shows_in_every_command() {
    let service = Service::start().await;
    service.fill(0..3).await;
    let edited = service
        .run(&["edit", "m-0", "{\"text\": \"Ho\"}"])
        .await
        .json(0);
    assert_eq!(
        (&edited[0]["id"], &edited[0]["status"]),
        (&json!("m-0"), &json!("edited"))
    );
    let at = text(&edited[0]["edited"]);
    let found = service.run(&["event", "m-0"]).await.json(0);
    assert_eq!(
        (&found[0]["edited"], &found[0]["data"]),
        (&json!(at), &json!({ "text": "Ho" }))
    );

    // From a pipe and a file; and a change id of one's own makes it once.
    let piped = service
        .run_with(&["edit", "m-1", "-"], "[1, 2]")
        .await
        .json(0);
    let file = service.file("data.json");
    std::fs::write(&file, "{\"text\":\"filed\"}").expect("written");
    let file = format!("@{}", file.display());
    for status in ["edited", "duplicate"] {
        let args = ["edit", "m-0", &file, "--change", "from-a-file"];
        assert_eq!(service.run(&args).await.json(0)[0]["status"], status);
    }
    let conditional = ["edit", "m-0", "--text", "Ha", "--revision", &at];
    service
        .run(&conditional)
        .await
        .told(1, "409 revision_conflict");
    let current = text(&service.run(&["event", "m-0"]).await.json(0)[0]["edited"]);
    let conditional = ["edit", "m-0", "--text", "Ha", "--revision", &current];
    let last = text(&service.run(&conditional).await.json(0)[0]["edited"]);
    service
        .run(&["edit", "other", "1"])
        .await
        .told(1, "404 event_not_found");

    // The history has entries only, as they are now; the others tell the changes in order.
    for order in [&[][..], &["--reverse"]] {
        let history = service
            .run(&[&["history", FEED], order].concat())
            .await
            .json(0);
        assert_eq!(history.len(), 3);
        assert!(history.iter().all(|entry| entry.get("change").is_none()));
    }
    let told = service
        .run(&["tail", FEED, "--no-follow", "--from", "beginning"])
        .await
        .json(0);
    assert_eq!(column(&told, "id"), ["m-0", "m-1", "m-2", "m-1", "m-0"]);
    assert_eq!(told[3]["edited"], piped[0]["edited"]);
    assert_eq!(
        (&told[4]["change"], &told[4]["edited"]),
        (&json!("edited"), &json!(last))
    );
    assert_eq!(told[4]["data"], json!({ "text": "Ha" }));
    let exported = service.run(&["export"]).await.json(0);
    assert_eq!(column(&exported, "id"), ["m-0", "m-1", "m-2", "m-1", "m-0"]);
}

#[tokio::test]
async fn what_is_erased_is_told_and_continued_after() {
    let service = Service::start().await;
    service.fill(0..9).await;
    let (file, cursor) = (service.file("events"), service.file("cursor"));
    let export = [
        "export",
        "--output",
        file.to_str().expect("UTF-8"),
        "--cursor",
        cursor.to_str().expect("UTF-8"),
    ];
    service.run(&export).await.lines(0);
    let position = service.file("position");
    let tail = [
        "tail",
        FEED,
        "--cursor",
        position.to_str().expect("UTF-8"),
        "--from",
        "beginning",
    ];
    let no_follow = [&tail[..], &["--no-follow"]].concat();
    assert_eq!(service.run(&no_follow).await.json(0).len(), 9);

    let erased = service.run(&["erase", "m-0"]).await.json(0);
    assert_eq!(erased[0]["status"], "erased");
    let again = service.run(&["erase", "m-0"]).await.json(0);
    assert_eq!(again[0]["status"], "duplicate");
    let revision = ["erase", "m-1", "--revision", "0"];
    service
        .run(&revision)
        .await
        .told(1, "409 revision_conflict");
    service
        .run(&["erase", "other"])
        .await
        .told(1, "404 event_not_found");
    let some = service
        .run(&["erase", "m-0", "m-1", "other", "--yes"])
        .await;
    assert_eq!(some.json(0)[0]["erased"], 1);
    // In a file or a pipe, where there are as many as one likes.
    let many: Vec<String> = (0..301).map(|id| format!("x-{id}")).collect();
    let many: Vec<&str> = ["erase"]
        .into_iter()
        .chain(many.iter().map(|id| &**id))
        .collect();
    assert_eq!(service.run(&many).await.json(0).len(), 2);

    // Each change is told once, also to whoever was away.
    for told in [&["m-0", "m-1"][..], &[]] {
        let heard = service.run(&no_follow).await.json(0);
        assert_eq!(column(&heard, "id"), told);
        assert!(heard.iter().all(|news| news["change"] == "erased"));
        service
            .run(&export)
            .await
            .told(0, &format!("{} events up to", told.len()));
    }
    let exported = std::fs::read_to_string(&file).expect("a file");
    assert_eq!(exported.lines().count(), 11);
    let mut live = service.begin(&tail);
    live.says("following").await;
    let feed = service.run(&["erase", "--feed", FEED]).await.json(0);
    assert_eq!(
        (&feed[0]["status"], &feed[0]["erased"]),
        (&json!("done"), &json!(7))
    );
    for id in 2..9 {
        let news: Value = serde_json::from_str(&live.line().await).expect("JSON");
        assert_eq!(
            (&news["id"], &news["change"]),
            (&json!(format!("m-{id}")), &json!("erased"))
        );
    }
    live.interrupt();
    live.end().await.told(0, "saved in");
    assert!(service.run(&["history", FEED]).await.lines(0).is_empty());
    // They are still in the other feed, until the actor is erased.
    assert_eq!(
        service
            .run(&["history", "chat:anna-ben"])
            .await
            .lines(0)
            .len(),
        7
    );
    let actor = service
        .run(&["erase", "--actor", "user:anna"])
        .await
        .json(0);
    assert_eq!(actor[0]["erased"], 7);
    assert!(
        service
            .run(&["history", "chat:anna-ben"])
            .await
            .lines(0)
            .is_empty()
    );

    // An event whose id was erased is not stored, which is no failure.
    let lines = "{\"id\":\"m-0\",\"kind\":\"visit\",\"feeds\":[\"a\"]}\n{\"id\":\"n\",\"kind\":\"visit\",\"feeds\":[\"a\"]}\n";
    let appended = service.run_with(&["append", "-"], lines).await;
    assert_eq!(column(&appended.json(0), "status"), ["erased", "appended"]);
    appended.told(0, "1 of 2 events had been erased and were not stored again");
    let atomic = service.run_with(&["append", "--atomic", "-"], lines).await;
    assert_eq!(column(&atomic.json(0), "status"), ["erased", "duplicate"]);
    atomic.told(0, "1 of 2 events had been erased");
}
