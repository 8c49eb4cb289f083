//! Which ids and kinds a token may use, and that refusals tell nothing about feeds that it may not read.

use serde_json::{Value, json};

use super::{Signer, Site, ask, bearer, claims, master};
use crate::support::bed::{Answer, Served};

/// Claims with which `name` appends to everybody and reads their own feed.
fn member(name: &str) -> Value {
    let mut claims = claims("read append mark", &[]);
    claims["feeds"] = json!({ "read": [name], "append": ["user:*"], "mark": [name] });
    claims["actors"] = json!([name]);
    claims
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

async fn send(node: &Served, claims: &Value, path: &str, body: &Value) -> Answer {
    let (name, value) = bearer(&Signer::hs256().sign(claims));
    ask(node, "POST", path, &[(name, &value)], Some(body)).await
}

async fn append(node: &Served, claims: &Value, body: &Value) -> Answer {
    send(node, claims, "/v1/events", body).await
}

fn event(id: &str, feed: &str, actor: &str) -> Value {
    json!({ "id": id, "kind": "visit", "feeds": [feed], "actor": actor })
}

#[tokio::test]
async fn the_id_of_another_producer_cannot_be_squatted() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let eve = member("user:eve");
    let squat = event("invoice-7", "user:eve", "user:eve");
    let answer = append(&node, &eve, &squat).await;
    let problem = answer.problem(403, "id_forbidden").expect("refused");
    assert_eq!(
        (&problem["id"], &problem["index"]),
        (&json!("invoice-7"), &json!(0))
    );
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("\"user:eve/\""), "{detail}");
    // Nor one of another actor, also if one name begins with the other.
    for id in [
        "user:ev/1",
        "user:eve",
        "user:eve2/1",
        "user:anna/1",
        "User:eve/1",
    ] {
        let answer = append(&node, &eve, &event(id, "user:eve", "user:eve")).await;
        answer.problem(403, "id_forbidden").expect(id);
    }
    let shop = claims("append", &["user:*"]);
    let invoice = json!({ "id": "invoice-7", "kind": "invoice", "feeds": ["user:anna"] });
    assert_eq!(append(&node, &shop, &invoice).await.status, 200);
    let own = event("user:eve/invoice-7", "user:eve", "user:eve");
    assert_eq!(append(&node, &eve, &own).await.status, 200);
}

#[tokio::test]
async fn a_token_with_ids_uses_only_those() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let shop = claims("append", &["user:*"]);
    for (ids, id, allowed) in [
        (json!(["invoice-*"]), "invoice-7", true),
        (json!(["invoice-*"]), "invoice", false),
        (json!(["invoice-7"]), "invoice-7", true),
        (json!(["invoice-7"]), "invoice-71", false),
        (json!(["a b/c?*"]), "a b/c?d", true),
        (json!(["*"]), "anything", true),
        (json!([]), "anything", false),
        // `ids` replaces the rule for tokens with `actors`.
        (json!(["invoice-*"]), "user:shop/1", false),
    ] {
        let mut claims = with(shop.clone(), "ids", ids.clone());
        claims["actors"] = json!(["user:shop"]);
        let mut body = event(id, "user:anna", "user:shop");
        for (path, kind) in [("/v1/events", "visit"), ("/v1/transient", "typing")] {
            body["kind"] = json!(kind);
            let answer = send(&node, &claims, path, &body).await;
            match allowed {
                true => assert!(answer.status < 300, "{path} {ids} {id}"),
                false => {
                    let problem = answer.problem(403, "id_forbidden").expect(id);
                    assert_eq!(problem["id"], id, "{path} {ids}");
                }
            }
        }
    }
}

/// What the service makes is allowed at once, and again when the client repeats the event with that id.
#[tokio::test]
async fn an_id_made_by_the_service_is_allowed_and_stays_so() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let shop = claims("append", &["user:*"]);
    let actors = with(shop.clone(), "actors", json!(["user:*"]));
    for (claims, prefix) in [
        (shop.clone(), ""),
        (actors.clone(), "user:shop/"),
        (
            with(actors.clone(), "ids", json!(["shop-*", "one"])),
            "shop-",
        ),
        (with(shop.clone(), "ids", json!(["*"])), ""),
    ] {
        let mut body = event("", "user:anna", "user:shop");
        for absent in [Value::Null, json!("absent")] {
            match absent.is_null() {
                true => body["id"] = Value::Null,
                false => drop(body.as_object_mut().map(|fields| fields.remove("id"))),
            }
            let answer = append(&node, &claims, &body).await;
            assert_eq!(answer.status, 200, "{claims}");
            let id = answer.json()["id"].as_str().expect("an id").to_owned();
            let uuid = id.strip_prefix(prefix).expect(&id);
            let uuid: uuid::Uuid = uuid.parse().expect(&id);
            assert_eq!(uuid.get_version_num(), 7);
            let mut again = body.clone();
            again["id"] = json!(id);
            let answer = append(&node, &claims, &again).await.json();
            assert_eq!(answer["status"], "duplicate", "{claims}");
        }
    }
    // Without a beginning in `ids`, and with an actor that leaves no room, it is a UUID.
    let long = "x".repeat(newsfeed::types::NAME_BYTES_MAX);
    for (claims, actor) in [
        (with(actors.clone(), "ids", json!([])), "user:shop"),
        (with(shop, "actors", json!(["*"])), &*long),
    ] {
        let mut body = event("", "user:anna", actor);
        body["id"] = Value::Null;
        let answer = append(&node, &claims, &body).await.json();
        let id = answer["id"].as_str().expect("an id");
        id.parse::<uuid::Uuid>().expect(id);
    }
}

#[tokio::test]
async fn a_token_with_kinds_appends_only_those() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let plain = claims("append", &["user:*"]);
    for (kinds, kind, allowed) in [
        (json!(["message"]), "message", true),
        (json!(["message"]), "message2", false),
        (json!(["message"]), "system-notice", false),
        (json!(["chat.*", "typing"]), "chat.join", true),
        (json!(["chat.*", "typing"]), "typing", true),
        (json!(["chat.*"]), "typing", false),
        (json!([]), "visit", false),
        (json!(["*"]), "visit", true),
    ] {
        let path = match kind {
            "typing" => "/v1/transient",
            _ => "/v1/events",
        };
        let claims = with(plain.clone(), "kinds", kinds.clone());
        let body = json!({ "kind": kind, "feeds": ["user:anna"] });
        let answer = send(&node, &claims, path, &body).await;
        match allowed {
            true => assert!(answer.status < 300, "{kinds} {kind}"),
            false => {
                let problem = answer.problem(403, "kind_forbidden").expect(kind);
                assert_eq!(problem["kind"], kind, "{kinds}");
            }
        }
    }
}

#[tokio::test]
async fn refused_ids_and_kinds_are_reported_for_each_event() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let claims = with(member("user:ben"), "kinds", json!(["visit"]));
    let good = |n: u8| event(&format!("user:ben/{n}"), "user:anna", "user:ben");
    let wrong_id = event("invoice-7", "user:anna", "user:ben");
    let wrong_kind = with(good(7), "kind", json!("system-notice"));
    for (wrong, code) in [(&wrong_id, "id_forbidden"), (&wrong_kind, "kind_forbidden")] {
        let answer = append(&node, &claims, &json!([good(1), good(2), wrong])).await;
        let problem = answer.problem(403, code).expect("refused");
        assert_eq!(problem["index"], 2);
    }
    let (name, value) = bearer(&Signer::hs256().sign(&claims));
    let headers = [
        (name, value.as_str()),
        ("content-type", "application/x-ndjson"),
    ];
    let lines = [good(1), wrong_id, wrong_kind, good(2)];
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = node.send_body("POST", "/v1/events", &headers, body).await;
    let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    let results: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let statuses: Vec<_> = results.iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, ["appended", "rejected", "rejected", "appended"]);
    let errors = [&results[1], &results[2]].map(|result| {
        json!([
            result["index"],
            result["error"]["code"],
            result["error"]["kind"]
        ])
    });
    assert_eq!(
        errors,
        [
            json!([1, "id_forbidden", null]),
            json!([2, "kind_forbidden", "system-notice"])
        ]
    );
}

#[tokio::test]
async fn claims_of_ids_and_kinds_that_are_not_patterns_are_refused() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    for (claim, value, named) in [
        ("ids", Value::Null, "null"),
        ("kinds", Value::Null, "null"),
        ("ids", json!("invoice-*"), "string"),
        ("ids", json!(["a", ""]), "ids[1]"),
        ("ids", json!(["a\n"]), "ids[0]"),
        ("kinds", json!(["no kind "]), "kinds[0]"),
        (
            "ids",
            json!(vec!["a"; newsfeed::auth::PATTERNS_MAX + 1]),
            "at most",
        ),
    ] {
        let claims = with(claims("append", &["a"]), claim, value);
        let answer = append(&node, &claims, &json!({ "kind": "visit", "feeds": ["a"] })).await;
        let problem = answer.problem(401, "token_claims").expect(named);
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(named), "{detail}");
    }
}

/// A reused id names the version of the first event only to those who may read one of its feeds.
#[tokio::test]
async fn a_reused_id_tells_no_version_of_a_feed_that_the_caller_cannot_read() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let everything = claims("read append", &["*"]);
    let first = json!({ "id": "invoice-7", "kind": "invoice", "feeds": ["user:anna", "invoices"] });
    let version = append(&node, &everything, &first).await.json()["version"].clone();
    let other = json!({ "id": "invoice-7", "kind": "visit", "feeds": ["user:eve"] });
    let restricted = |read: Value| {
        let mut claims = claims("read append", &[]);
        claims["feeds"] = json!({ "read": read, "append": ["*"] });
        claims
    };
    for (claims, told) in [
        (everything.clone(), true),
        (restricted(json!(["*"])), true),
        (restricted(json!(["user:anna"])), true),
        (restricted(json!(["inv*"])), true),
        (restricted(json!(["user:eve", "user:bob"])), false),
        (restricted(json!([])), false),
        // Feeds that the claim `feeds` covers cannot be read without the scope.
        (claims("append", &["*"]), false),
    ] {
        let expected = if told { &version } else { &Value::Null };
        let problem = append(&node, &claims, &other).await;
        let problem = problem.problem(409, "id_reused").expect("reused");
        assert_eq!(&problem["version"], expected, "{claims}");
        assert_eq!(problem.get("version").is_some(), told);
        let array = append(&node, &claims, &json!([other])).await.json();
        assert_eq!(&array[0]["error"]["version"], expected, "{claims}");
        let (name, value) = bearer(&Signer::hs256().sign(&claims));
        let headers = [
            (name, value.as_str()),
            ("content-type", "application/x-ndjson"),
        ];
        let answer = node.send_body("POST", "/v1/events", &headers, other.to_string());
        let line: Value = serde_json::from_slice(&answer.await.body).expect("one line");
        assert_eq!(line["error"]["code"], "id_reused");
        assert_eq!(&line["error"]["version"], expected, "{claims}");
    }
    // Only some of many are looked up.
    let claims = restricted(json!(["user:anna"]));
    let array = append(&node, &claims, &Value::from(vec![other; 20]))
        .await
        .json();
    let told = array.as_array().expect("an array").iter();
    let told = told.filter(|result| result["error"]["version"] == version);
    assert_eq!(told.count(), 16);
}

/// Otherwise whoever may append to a feed could find out when it got its latest entry, by trying versions.
#[tokio::test]
async fn a_condition_needs_the_right_to_read_its_feed() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let (name, value) = bearer(&master());
    let secret = json!({ "kind": "visit", "feeds": ["user:anna"] });
    ask(
        &node,
        "POST",
        "/v1/events",
        &[(name, &value)],
        Some(&secret),
    )
    .await;
    let probe = |feed: &str| json!({ "kind": "visit", "feeds": ["user:eve"], "actor": "user:eve", "expect": { "feed": feed, "version": "0" } });
    let answer = append(&node, &member("user:eve"), &probe("user:anna")).await;
    let problem = answer.problem(403, "feed_forbidden").expect("refused");
    assert_eq!(problem["feed"], "user:anna");
    let answer = append(&node, &member("user:eve"), &probe("user:eve")).await;
    assert_eq!(answer.status, 200);
    let without_scope = claims("append", &["user:*"]);
    let answer = append(&node, &without_scope, &probe("user:anna")).await;
    let problem = answer.problem(403, "scope_missing").expect("refused");
    assert_eq!(problem["scope"], "read");
    let answer = append(
        &node,
        &claims("read append", &["user:*"]),
        &probe("user:anna"),
    )
    .await;
    let problem = answer.problem(409, "version_conflict").expect("a conflict");
    assert!(problem["current"].is_string());
}

#[tokio::test]
async fn moving_a_marker_tells_the_unread_count_only_to_readers() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    for (scope, told) in [("mark", false), ("read mark", true)] {
        let (name, value) = bearer(&Signer::hs256().sign(&claims(scope, &["a"])));
        let body = json!({ "version": "0" });
        let path = "/v1/feeds/a/markers/read";
        let answer = ask(&node, "PUT", path, &[(name, &value)], Some(&body)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json().get("unread").is_some(), told, "{scope}");
    }
}

/// Whatever a token with `append` and `mark` asks about a feed that it may not read, no answer tells the versions of its
/// entries, how many are unread, or whether a condition on it holds.
#[tokio::test]
async fn without_the_right_to_read_no_answer_tells_what_is_in_a_feed() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let (name, value) = bearer(&master());
    let secret = json!({ "id": "secret", "kind": "message", "feeds": ["a"] });
    let path = "/v1/events";
    let told = ask(&node, "POST", path, &[(name, &value)], Some(&secret)).await;
    let version = told.json()["version"].as_str().expect("it").to_owned();
    let later = json!({ "kind": "message", "feeds": ["b"] });
    ask(&node, "POST", path, &[(name, &value)], Some(&later)).await;

    let mut reads_another = claims("read append mark", &[]);
    reads_another["feeds"] = json!({ "read": ["b"], "append": ["a", "b"], "mark": ["a"] });
    let expects = |version: Value| json!({ "kind": "visit", "feeds": ["b"], "expect": { "feed": "a", "version": version } });
    for claims in [claims("append mark", &["a", "b"]), reads_another] {
        let (name, value) = bearer(&Signer::hs256().sign(&claims));
        let headers = [(name, value.as_str())];
        let mut answers = Vec::new();
        for guess in [Value::Null, json!("0"), json!(version)] {
            let event = expects(guess);
            answers.push(ask(&node, "POST", path, &headers, Some(&event)).await);
            answers.push(ask(&node, "POST", path, &headers, Some(&json!([event]))).await);
            let ndjson = [headers[0], crate::support::bed::NDJSON];
            let line = node.send_body("POST", path, &ndjson, format!("{event}\n"));
            answers.push(line.await);
        }
        let reused = json!({ "id": "secret", "kind": "visit", "feeds": ["b"] });
        answers.push(ask(&node, "POST", path, &headers, Some(&reused)).await);
        for marker in ["/v1/feeds/a/markers/read", "/v1/markers/seen?feed=a"] {
            let moved = json!({ "version": "0" });
            let answer = ask(&node, "PUT", marker, &headers, Some(&moved)).await;
            assert_eq!(answer.status, 200);
            answers.push(answer);
        }
        for read in [
            "/v1/feeds/a",
            "/v1/state?feed=a",
            "/v1/feeds/a/entries",
            "/v1/entries?feed=a&feed=b",
            "/v1/feeds/a/live",
            "/v1/live?feed=b&feed=a",
        ] {
            answers.push(ask(&node, "GET", read, &headers, None).await);
        }
        let ticket = json!({ "feeds": ["a"] });
        answers.push(ask(&node, "POST", "/v1/tickets", &headers, Some(&ticket)).await);
        assert_eq!(answers.len(), 19);
        for answer in answers {
            let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
            for leak in [
                &*version,
                "\"unread\"",
                "\"latest\"",
                "\"current\"",
                "version_conflict",
                "appended",
            ] {
                assert!(!text.contains(leak), "{leak}: {text}");
            }
        }
    }
}
