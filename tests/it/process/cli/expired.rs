//! A position that is older than what the service keeps. What answers here is not the service: nothing else is needed of it.

use axum::{
    Json, Router,
    extract::RawQuery,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};

use super::{FEED, PATIENCE, Said, newsfeed};

const OLD: &str = "000000800pgcvgg8srfg000000";
const OLDEST: &str = "000000800pgcvgij9uqfvvvvvs";
const ENTRY: &str = "000000800pgcvgnbsh0fvvvvvs";

fn entry() -> Value {
    json!({ "feed": FEED, "version": ENTRY, "id": "m", "kind": "visit", "actor": null,
            "at": "2026-11-29T10:53:13.000000Z", "data": null })
}

fn expired() -> Response {
    let problem = json!({ "type": "about:blank", "title": "Gone", "status": 410, "code": "cursor_expired",
                          "detail": "gone", "oldest": OLDEST, "version": ENTRY });
    (StatusCode::GONE, Json(problem)).into_response()
}

async fn entries(RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let after = pairs.find(|(name, _)| *name == "after");
    match after.map(|(_, after)| after) {
        // Whoever began at the beginning reads on, although something above is gone.
        Some("0") => Json(json!({ "feeds": [FEED], "version": ENTRY, "entries": [], "next": OLD }))
            .into_response(),
        Some(OLD) if !query.contains("kept=true") => expired(),
        Some(OLD | OLDEST) | None => {
            let page =
                json!({ "feeds": [FEED], "version": ENTRY, "entries": [entry()], "next": null });
            Json(page).into_response()
        }
        Some(_) => Json(json!({ "feeds": [FEED], "version": ENTRY, "entries": [], "next": null }))
            .into_response(),
    }
}

/// A stream that cannot continue from an old position, and ends.
async fn live(headers: axum::http::HeaderMap) -> Response {
    let from = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let reset = json!({ "code": "cursor_expired", "detail": "gone", "version": ENTRY });
    let body = match from {
        Some(OLD) => format!("retry: 1\n\nevent: reset\nid: {ENTRY}\ndata: {reset}\n\n"),
        _ => format!(
            "retry: 1\n\nevent: entry\nid: {ENTRY}\ndata: {}\n\n",
            entry()
        ),
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

async fn service() -> String {
    let router = Router::new()
        .route("/readyz", get(async || Json(json!({ "status": "ready" }))))
        .route("/v1/entries", get(entries))
        .route("/v1/live", get(live))
        .route("/v1/log", get(async || expired()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await.expect("axum serves") });
    format!("http://{address}")
}

#[tokio::test]
async fn tail_starts_over_and_export_says_what_to_do() {
    let url = service().await;
    let folder = tempfile::tempdir().expect("a folder");
    let cursor = folder.path().join("cursor");
    let cursor = cursor.to_str().expect("UTF-8");
    let run = async |args: &[&str]| -> Said {
        let mut command = newsfeed(args);
        command.env("NEWSFEED_URL", &url);
        let output = timeout(PATIENCE, command.output()).await;
        output.expect("it ends by itself").expect("it runs").into()
    };
    let is_older = "is older than what the service keeps: something after it has been removed";
    std::fs::write(cursor, OLD).expect("written");
    let no_follow = [
        "tail",
        FEED,
        "--no-follow",
        "--cursor",
        cursor,
        "--from",
        "beginning",
    ];
    let said = run(&no_follow).await;
    said.told(0, is_older);
    assert_eq!(said.json(0)[0]["id"], "m");
    assert_eq!(std::fs::read_to_string(cursor).expect("kept").trim(), ENTRY);

    // Followed from a version that is too old, from the oldest that is kept.
    let follow = ["tail", FEED, "--from", OLD];
    let mut command = newsfeed(&follow);
    command.env("NEWSFEED_URL", &url);
    let mut following = super::Running::start(&mut command);
    following.says(is_older).await;
    following
        .says(&format!("following {FEED} from {OLDEST}"))
        .await;
    let line: Value = serde_json::from_str(&following.line().await).expect("JSON");
    assert_eq!(line["id"], "m");
    following.interrupt();
    following.end().await;

    let history = run(&["history", FEED, "--reverse"]).await;
    assert_eq!(history.json(0)[0]["id"], "m");
    let history = run(&["history", FEED, "--after", OLD]).await;
    history.told(
        1,
        &format!("410 cursor_expired to GET /v1/entries: gone (`oldest` is {OLDEST})"),
    );
    let export = run(&["export", "--after", OLD]).await;
    export.told(
        1,
        &format!("{is_older}; the oldest position to continue from is {OLDEST}"),
    );
    std::fs::write(cursor, OLD).expect("written");
    let export = run(&["export", "--cursor", cursor]).await;
    export.told(
        1,
        "What reads the output may have events that are gone: let it start over, remove",
    );
}
