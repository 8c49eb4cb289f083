//! `POST /v1/events` with JSON.

use serde_json::{Value, json};

use super::{column, items, message, visit, visits};
use crate::support::{
    bed::{Bed, Served, text},
    sse::Stream,
    stores::failed_attempts,
};

crate::on_every_engine!(
    an_event_stands_in_each_feed_it_names_at_the_version_answered,
    an_id_made_by_the_server_is_a_new_uuid_of_version_7,
    versions_grow_in_the_order_of_the_request,
    the_same_id_with_the_same_content_is_a_duplicate_of_the_first,
    the_same_id_with_other_content_is_refused_and_changes_nothing,
    a_condition_holds_or_nothing_is_appended,
    a_failed_condition_in_an_array_stops_only_its_own_event,
    a_retried_conditional_append_is_a_duplicate,
    of_fifty_clients_that_expect_an_empty_feed_exactly_one_wins,
    data_comes_back_as_it_was_sent,
    absent_and_null_fields_are_the_same,
);

async fn ids(node: &Served, feed: &str) -> Vec<String> {
    column(&node.all(feed).await, "id")
}

/// Appends an event; expects the 409 problem `code`, and returns it.
async fn conflict(node: &Served, event: &Value, code: &str) -> Value {
    let headers = [("content-type", "application/json")];
    let answer = node.send_body("POST", "/v1/events", &headers, event.to_string());
    answer.await.problem(409, code).expect("a conflict")
}

async fn an_event_stands_in_each_feed_it_names_at_the_version_answered(bed: &Bed) {
    let node = bed.node().await;
    let event = json!({ "id": "e 1", "kind": "flirt", "feeds": ["a", "b", "a"], "actor": "x",
                        "data": { "n": 1 } });
    let answer = node.append(&event).await;
    assert_eq!(answer["id"], "e 1");
    assert_eq!(answer["status"], "appended");
    assert_eq!(answer.as_object().expect("an object").len(), 3);
    for feed in ["a", "b"] {
        let entries = node.all(feed).await;
        assert_eq!(entries.len(), 1, "{feed}");
        let entry = &entries[0];
        assert_eq!(entry["version"], answer["version"]);
        assert_eq!(
            (
                &entry["id"],
                &entry["kind"],
                &entry["actor"],
                &entry["data"]
            ),
            (
                &json!("e 1"),
                &json!("flirt"),
                &json!("x"),
                &json!({ "n": 1 })
            )
        );
    }
    assert!(node.all("c").await.is_empty());
}

async fn an_id_made_by_the_server_is_a_new_uuid_of_version_7(bed: &Bed) {
    let node = bed.node().await;
    let event = json!({ "kind": "visit", "feeds": ["a"] });
    let single = node.append(&event).await;
    let several = node.append(&json!([event, event])).await;
    let mut made = column(items(&several), "id");
    made.push(text(&single["id"]));
    for id in &made {
        let id: uuid::Uuid = id.parse().expect("a UUID");
        assert_eq!(id.get_version_num(), 7);
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 3);
    assert_eq!(node.all("a").await.len(), 3);
}

async fn versions_grow_in_the_order_of_the_request(bed: &Bed) {
    let node = bed.node().await;
    let mut events = visits("v", 1000, &["a"]);
    // Some of them are conditional.
    for (index, other) in [(100, "b"), (101, "c"), (999, "d")] {
        events[index]["expect"] = json!({ "feed": other, "version": null });
    }
    let answer = node.append(&events).await;
    let versions = column(items(&answer), "version");
    assert!(versions.is_sorted_by(|a, b| a < b));
    assert!(items(&answer).iter().all(|r| r["status"] == "appended"));
    let entries = node.all("a").await;
    assert_eq!(column(&entries, "version"), versions);
    assert_eq!(column(&entries, "id"), column(items(&events), "id"));
}

async fn the_same_id_with_the_same_content_is_a_duplicate_of_the_first(bed: &Bed) {
    let node = bed.node().await;
    let event = r#"{"id":"m","kind":"message","feeds":["a","b"],"actor":"x","data":{"k":1,"l":{"m":[],"n":2}}}"#;
    // The order of feeds and keys, repeated feeds and white space make no difference.
    let same = r#" { "data":{ "l":{"n":2,"m":[ ]},"k":1 }, "actor":"x", "feeds":["b","a","b"],"kind":"message","id":"m" } "#;
    let headers = [("content-type", "application/json; charset=utf-8")];
    let array = format!("[{event},{same},{event}]");
    let answer = node.send_body("POST", "/v1/events", &headers, array).await;
    let first = &answer.json()[0]["version"];
    assert_eq!(
        column(items(&answer.json()), "status"),
        ["appended", "duplicate", "duplicate"]
    );
    for body in [event, same] {
        let again = node.send_body("POST", "/v1/events", &headers, body).await;
        assert_eq!(again.status, 200);
        let expected = json!({ "id": "m", "version": first, "status": "duplicate" });
        assert_eq!(again.json(), expected);
    }
    for result in items(&answer.json()) {
        assert_eq!(&result["version"], first);
    }
    for feed in ["a", "b"] {
        assert_eq!(ids(&node, feed).await, ["m"]);
        let head = node.get(&format!("/v1/feeds/{feed}")).await;
        assert_eq!(head["unread"]["total"], 1);
    }
    // That the id was assumed to be new is no failure.
    let failed = failed_attempts(&*bed.store(), "append");
    assert!(failed.is_empty(), "{failed:?}");
}

async fn the_same_id_with_other_content_is_refused_and_changes_nothing(bed: &Bed) {
    let node = bed.node().await;
    let event =
        json!({ "id": "r", "kind": "visit", "feeds": ["a", "b"], "actor": "x", "data": [1, 2] });
    let first = node.append(&event).await["version"].clone();
    let others = [
        ("kind", json!("flirt")),
        ("feeds", json!(["a"])),
        ("feeds", json!(["a", "b", "c"])),
        ("actor", json!("y")),
        ("actor", json!(null)),
        ("data", json!([2, 1])),
        ("data", json!(null)),
    ];
    let mut array = vec![visit("before", &["d"])];
    for (field, value) in others {
        let mut other = event.clone();
        other[field] = value;
        let problem = conflict(&node, &other, "id_reused").await;
        assert_eq!(
            (&problem["id"], &problem["version"]),
            (&json!("r"), &first),
            "{field}"
        );
        array.push(other);
    }
    array.push(visit("after", &["d"]));
    // Also if the first event with the id is in the same request.
    array.push(json!({ "id": "after", "kind": "visit", "feeds": ["e"] }));
    let answer = node.append(&json!(array)).await;
    let (results, last) = (items(&answer), array.len() - 1);
    for (index, result) in results.iter().enumerate() {
        if index == 0 || index == last - 1 {
            assert_eq!(result["status"], "appended");
            continue;
        }
        let first = if index == last {
            &results[last - 1]["version"]
        } else {
            &first
        };
        assert_eq!(result["status"], "rejected");
        assert_eq!(result["id"], array[index]["id"]);
        assert_eq!(result["error"]["code"], "id_reused");
        assert_eq!(&result["error"]["version"], first);
    }
    for (feed, expected) in [
        ("a", &["r"][..]),
        ("b", &["r"]),
        ("c", &[]),
        ("d", &["before", "after"]),
        ("e", &[]),
    ] {
        assert_eq!(ids(&node, feed).await, expected, "{feed}");
    }
    assert_eq!(node.all("a").await[0]["data"], json!([1, 2]));
}

fn expecting(id: &str, feed: &str, version: &Value) -> Value {
    json!({ "id": id, "kind": "visit", "feeds": ["slot"],
            "expect": { "feed": feed, "version": version } })
}

async fn a_condition_holds_or_nothing_is_appended(bed: &Bed) {
    let node = bed.node().await;
    let mut latest = vec![json!("0")];
    let mut appended = Vec::new();
    // For an empty feed, null, 0 and any vN hold.
    let now = json!(node.version("slot").await);
    for (index, holds) in [json!(null), json!("0"), now].iter().enumerate() {
        let (id, feed) = (format!("empty{index}"), format!("empty{index}"));
        let answer = node.append(&expecting(&id, &feed, holds)).await;
        assert_eq!(answer["status"], "appended");
        appended.push(id);
        latest.push(answer["version"].clone());
    }
    for index in 0..3 {
        for (place, stale) in [&[json!(null)], &latest[..latest.len() - 1]]
            .concat()
            .iter()
            .enumerate()
        {
            let id = format!("stale{index}-{place}");
            let problem = conflict(&node, &expecting(&id, "slot", stale), "version_conflict").await;
            assert_eq!(problem["id"], json!(id));
            assert_eq!(problem["feed"], "slot");
            assert_eq!(problem["current"], latest[latest.len() - 1]);
        }
        // The version of the latest entry, or any moment after it.
        let current = match index {
            1 => json!(node.version("slot").await),
            _ => latest[latest.len() - 1].clone(),
        };
        let answer = node
            .append(&expecting(&format!("ok{index}"), "slot", &current))
            .await;
        assert_eq!(answer["status"], "appended");
        appended.push(format!("ok{index}"));
        latest.push(answer["version"].clone());
    }
    // A condition may name a feed that the event is not in. A refused event does not claim its id.
    let elsewhere = expecting("x", "empty0", &json!(null));
    assert_eq!(node.append(&elsewhere).await["status"], "appended");
    appended.push("x".to_owned());
    let mut elsewhere = expecting("y", "slot", &json!(null));
    elsewhere["feeds"] = json!(["empty1"]);
    conflict(&node, &elsewhere, "version_conflict").await;
    assert!(node.all("empty1").await.is_empty());
    assert_eq!(ids(&node, "slot").await, appended);
}

async fn a_failed_condition_in_an_array_stops_only_its_own_event(bed: &Bed) {
    let node = bed.node().await;
    let none = json!(null);
    let events = json!([
        expecting("a", "slot", &none),
        expecting("b", "slot", &none),
        visit("c", &["slot"]),
        expecting("d", "other", &none),
    ]);
    let answer = node.append(&events).await;
    let results = items(&answer);
    let status = ["appended", "rejected", "appended", "appended"];
    assert_eq!(column(results, "status"), status);
    let error = &results[1]["error"];
    assert_eq!(results[1]["id"], "b");
    assert_eq!(
        (&error["code"], &error["feed"]),
        (&json!("version_conflict"), &json!("slot"))
    );
    assert_eq!(error["current"], results[0]["version"]);
    assert_eq!(ids(&node, "slot").await, ["a", "c", "d"]);
}

async fn a_retried_conditional_append_is_a_duplicate(bed: &Bed) {
    let node = bed.node().await;
    let event = expecting("once", "slot", &json!(null));
    let first = node.append(&event).await;
    node.append(&visit("later", &["slot"])).await;
    // The condition no longer holds, but the event is already stored.
    let again = node.append(&event).await;
    assert_eq!(again["status"], "duplicate");
    assert_eq!(again["version"], first["version"]);
    let within = node.append(&json!([event, event])).await;
    assert_eq!(column(items(&within), "status"), ["duplicate", "duplicate"]);
    assert_eq!(ids(&node, "slot").await, ["once", "later"]);
}

async fn of_fifty_clients_that_expect_an_empty_feed_exactly_one_wins(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    for round in 0..3 {
        let slot = format!("slot{round}");
        let claims = (0..50).map(|client| {
            // Of kinds that count as unread, that do not, and of both: their keys are apart.
            let kind = ["visit", "message"][[0, 1, client / 2 % 2][round]];
            let event = json!({ "id": format!("{slot}-{client}"), "kind": kind, "feeds": [slot],
                                "expect": { "feed": slot, "version": null } });
            let node = &nodes[client % 2];
            async move { node.post("/v1/events", &event).await }
        });
        let answers = futures_util::future::join_all(claims).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
        assert_eq!(won.len(), 1, "{answers:?}");
        let winner = &won[0].1;
        for (status, problem) in lost {
            assert_eq!(
                (*status, &problem["code"]),
                (409, &json!("version_conflict"))
            );
            assert_eq!(problem["current"], winner["version"]);
        }
        assert_eq!(ids(&nodes[0], &slot).await, [text(&winner["id"])]);
    }
}

async fn data_comes_back_as_it_was_sent(bed: &Bed) {
    let node = bed.node().await;
    let headers = [("content-type", "application/json")];
    let texts = [
        r#"{"z":1,"a":{"y":[],"b":{}},"m":[1,[2,{"q":null}]]}"#,
        "[1.50,100,1e2,1E+400,-0,-0.0,0.1000000000000000055511151231257827]",
        "123456789012345678901234567890123456789",
        r#""Grüße 🦀 \u00e9 \"\\\/\n\t\u2028 \ud83d\ude00""#,
        "null",
        "true",
        r#""""#,
        "{}",
        r#"{"":"","a b":{"c\"d":0}}"#,
        r#"{"$serde_json::private::Number":"not a number"}"#,
        r#"{"$serde_json::private::RawValue":"not JSON"}"#,
        r#"{"same":1,"same":2}"#,
    ];
    let mut stream = Stream::open(&node.http, &node.url("/v1/feeds/d/live?after=0"), None).await;
    for (index, data) in texts.iter().enumerate() {
        let spaced = format!("\n\t {data} \r\n");
        for (id, data) in [(format!("a{index}"), *data), (format!("b{index}"), &spaced)] {
            let body = format!(r#"{{"id":"{id}","kind":"visit","feeds":["d"],"data":{data}}}"#);
            let answer = node
                .send_body("POST", "/v1/events", &headers, body.clone())
                .await;
            assert_eq!(answer.status, 200, "{body}");
            let again = node.send_body("POST", "/v1/events", &headers, body).await;
            assert_eq!(again.json()["status"], "duplicate", "{data}");
        }
        let page = node.send("GET", "/v1/feeds/d/entries?limit=2", &[]).await;
        let page = String::from_utf8(page.body.to_vec()).expect("UTF-8");
        let expected = format!(r#""data":{data}}}"#);
        assert_eq!(page.matches(&expected).count(), 2, "{data} in {page}");
        for _ in 0..2 {
            let frame = loop {
                let frame = stream.block().await.expect("the stream goes on");
                if frame.starts_with("event: entry") {
                    break frame;
                }
            };
            assert!(frame.ends_with(&expected), "{data} in {frame}");
        }
    }
}

async fn absent_and_null_fields_are_the_same(bed: &Bed) {
    let node = bed.node().await;
    let nulls = json!({ "id": null, "kind": "message", "feeds": ["a"], "actor": null,
                        "expect": null, "data": null });
    let made = text(&node.append(&nulls).await["id"]);
    let absent = json!({ "id": made, "kind": "message", "feeds": ["a"] });
    assert_eq!(node.append(&absent).await["status"], "duplicate");
    let entry = &node.all("a").await[0];
    assert_eq!(
        (&entry["actor"], &entry["data"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(
        node.append(&message("other", &["a"])).await["status"],
        "appended"
    );
}
