//! Commands with a token that is restricted to its actors, and so to their ids.

use std::fs;

use serde_json::json;

use super::{Process, newsfeed, with_token};
use crate::auth::SECRET_FILE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_choose_ids_that_the_token_allows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (secret, list, lines) = (path("secret"), path("list.txt"), path("events.ndjson"));
    fs::write(&secret, SECRET_FILE).expect("written");
    fs::write(&list, "1 2 1082040961\n3 4 1082155839\n").expect("written");
    let line = json!({ "kind": "visit", "feeds": ["user:2"], "actor": "user:anna" });
    fs::write(&lines, format!("{line}\n")).expect("written");
    let data = tempfile::tempdir().expect("a folder");
    let process = Process::start_with(data.path(), &["--auth-secret-file", &secret]).await;
    let url = process.api.url("");
    let run = async |token: &str, args: &[&str]| with_token(&url, token, args).await;
    let mint = [
        "admin",
        "token",
        "--key",
        &secret,
        "--scope",
        "append,read,mark",
        "--feed",
        "*",
    ];
    let minted = async |more: &[&str]| {
        let output = newsfeed(&[&mint, more].concat()).output().await;
        String::from_utf8(output.expect("it runs").stdout).expect("text")
    };
    let actors = minted(&["--actor", "user:*"]).await;
    let append = ["append", &*lines];
    let event = run(&actors, &append).await.json(0);
    assert!(
        event[0]["id"]
            .as_str()
            .expect("an id")
            .starts_with("user:anna/")
    );
    let one = [
        "append", "--kind", "visit", "--feed", "user:2", "--actor", "user:ben",
    ];
    let event = run(&actors, &one).await.json(0);
    assert!(
        event[0]["id"]
            .as_str()
            .expect("an id")
            .starts_with("user:ben/")
    );
    let own = [&one[..], &["--id", "invoice-7"]].concat();
    run(&actors, &own).await.told(1, "id_forbidden");

    // Without the claim `readers`, its actors are also its readers.
    let state = |reader| ["state", "user:2", "--reader", reader];
    run(&actors, &state("user:ben")).await.lines(0);
    run(&actors, &state("bot"))
        .await
        .told(1, "403 reader_forbidden");

    // Repeated, the messages are duplicates.
    for _ in 0..2 {
        run(&actors, &["replay", &list]).await.told(0, "");
    }
    let history = run(&actors, &["history", "chat:1-2"]).await.json(0);
    let ids: Vec<_> = history.iter().map(|entry| &entry["id"]).collect();
    assert_eq!(ids, ["user:1/list:1"]);
    let demo = [
        "demo",
        "--users",
        "3",
        "--backlog",
        "20",
        "--for",
        "2",
        "--rate",
        "10",
    ];
    run(&actors, &demo).await.told(0, "");

    let shop = minted(&["--id", "shop-*", "--kind", "visit"]).await;
    let event = run(&shop, &one).await.json(0);
    assert!(event[0]["id"].as_str().expect("an id").starts_with("shop-"));
    let flirt = ["append", "--kind", "flirt", "--feed", "user:2"];
    run(&shop, &flirt).await.told(1, "kind_forbidden");
    process.stop().await;
}
