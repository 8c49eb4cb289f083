//! Changes while others are at work: steps of projections, twins, other changes.

use std::time::Duration;

use newsfeed::{
    error::Error,
    feed::Feeds,
    lifecycle::{Lifecycle, NewData},
    log::{Filter, LogQuery},
    projection::{self, Projection, Step, Turn},
    store::{self, Plan, Transaction, rows::What, transact_until},
    types::FeedName,
};
use serde_json::json;

use super::data;
use crate::support::{bed::Bed, model::feed_name};

crate::on_every_engine!(
    a_step_in_flight_does_not_index_what_was_erased_meanwhile,
    edits_at_the_same_time_happen_one_after_the_other,
    erasing_a_feed_leaves_the_copies_elsewhere,
);

async fn lifecycle(bed: &Bed) -> Lifecycle {
    Lifecycle::new(bed.store(), bed.keys().await, Default::default())
}

async fn a_step_in_flight_does_not_index_what_was_erased_meanwhile(bed: &Bed) {
    let node = bed.node().await;
    let events = json!([
        { "id": "x", "kind": "visit", "feeds": ["a"], "actor": "anna" },
        { "id": "y", "kind": "visit", "feeds": ["a"], "actor": "ben" },
    ]);
    node.append(&events).await;
    let (store, keys) = (bed.store(), bed.keys().await);
    let projections = Projection::of(true, ["visit".parse().expect("a kind")]);
    let limits = projection::Limits::default();
    let mut step = Step::new(&keys, &projections, Turn::First, limits);
    let (snapshot, first) = store.begin(step.first_reads()).await.expect("begun");
    let plan = step.plan(&*snapshot, first, false).await.expect("planned");
    let Plan::Commit(batch) = plan else {
        panic!("there is something to project");
    };
    let erased = lifecycle(bed).await;
    let erased = erased
        .erase(&"x".parse().expect("an id"), None, &|_, _| Ok(()))
        .await;
    erased.expect("erased");
    let refused = snapshot.commit(batch).await.expect_err("x is gone");
    let is_refused = matches!(
        refused,
        store::Error::ConditionFailed(_) | store::Error::Conflict
    );
    assert!(is_refused, "{refused:?}");

    let now = tokio::time::Instant::now() + Duration::from_secs(20);
    transact_until(&*store, &mut step, now)
        .await
        .expect("the step");
    let feeds = Feeds::new(store, keys);
    let query = LogQuery {
        filter: Filter {
            actors: vec!["anna".parse().expect("an actor")],
            ..Filter::default()
        }
        .into(),
        order: newsfeed::feed::Order::<newsfeed::version::Version>::NewestFirst {
            until: None,
            before: None,
        },
        limit: 10,
        bytes: 1_000_000,
    };
    assert!(
        feeds
            .log_page(&query)
            .await
            .expect("a page")
            .events
            .is_empty()
    );
}

async fn edits_at_the_same_time_happen_one_after_the_other(bed: &Bed) {
    let node = bed.node().await;
    node.append(&json!({ "id": "x", "kind": "visit", "feeds": ["a", "b"], "data": -1 }))
        .await;
    let lifecycle = lifecycle(bed).await;
    let id = &"x".parse().expect("an id");
    let edit = async |number: usize, revision| {
        let new = NewData {
            data: data(&number.to_string()),
            // Each is sent twice.
            change_id: Some(format!("change {}", number / 2)),
            revision,
        };
        lifecycle.edit(id, &new, &|_, _| Ok(())).await
    };
    let edits: Vec<_> = (0..8).map(|number| edit(number, None)).collect();
    let edited = futures_util::future::join_all(edits).await;
    let edited: Vec<_> = edited
        .into_iter()
        .map(|edited| edited.expect("edited"))
        .collect();
    for both in edited.chunks(2) {
        assert_eq!(both[0].edited, both[1].edited);
    }
    let last = edited
        .iter()
        .map(|edited| edited.edited)
        .max()
        .expect("eight");
    let mut distinct: Vec<_> = edited.iter().map(|edited| edited.edited).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 4);
    let entry = node.get("/v1/events/x").await;
    assert_eq!(entry["edited"], last.to_string());
    // Only the last news is left, in each feed and in the log.
    for path in ["/v1/feeds/a/entries?after=0", "/v1/feeds/b/entries?after=0"] {
        let page = node.get(path).await;
        assert_eq!(page["changes"].as_array().map(Vec::len), Some(1), "{page}");
        assert_eq!(page["changes"][0]["edited"], last.to_string());
        assert_eq!(page["changes"][0]["data"], entry["data"]);
        assert_eq!(page["entries"][0]["data"], entry["data"]);
    }
    let log = node.get("/v1/log?after=0").await;
    assert_eq!(log["events"].as_array().map(Vec::len), Some(2), "{log}");
    // Of those who expect the same revision, one wins.
    let expecting: Vec<_> = (100..106)
        .map(|number| edit(2 * number, Some(last.into())))
        .collect();
    let edited = futures_util::future::join_all(expecting).await;
    let (won, lost): (Vec<_>, Vec<_>) = edited.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 5));
    for lost in lost {
        assert!(matches!(lost, Err(Error::RevisionConflict { .. })));
    }
}

async fn erasing_a_feed_leaves_the_copies_elsewhere(bed: &Bed) {
    let node = bed.node().await;
    let names: Vec<FeedName> = (0..40)
        .map(|index| feed_name(&format!("f{index}")))
        .collect();
    // The erased feed is the first, one of several, the last, or the only one.
    let erased = names[7].to_string();
    let events: Vec<_> = (0..120usize)
        .map(|index| {
            let feeds: Vec<String> = match index % 4 {
                0 => vec![erased.clone(), names[index % 7].to_string()],
                1 => vec![names[index % 7].to_string(), erased.clone(), names[20].to_string()],
                2 => vec![names[30].to_string(), erased.clone()],
                _ => vec![erased.clone()],
            };
            json!({ "id": format!("e{index}"), "kind": "message", "feeds": feeds, "data": format!("text {index}"), "actor": "anna" })
        })
        .collect();
    node.append(&json!(events)).await;
    let lifecycle = lifecycle(bed).await;
    for index in [0, 1, 2, 5] {
        let new = NewData {
            data: data(&format!("\"edited {index}\"")),
            change_id: None,
            revision: None,
        };
        let id = format!("e{index}").parse().expect("an id");
        lifecycle
            .edit(&id, &new, &|_, _| Ok(()))
            .await
            .expect("edited");
    }
    let start = node.version(&erased).await;
    let what = What::Feed {
        feed: names[7].clone(),
        everywhere: false,
    };
    let id = lifecycle.begin(what).await.expect("begun");
    let state = lifecycle
        .work_on(id, Duration::from_secs(60))
        .await
        .expect("works");
    assert!(state.is_done && state.erased == 120);
    assert!(node.all(&erased).await.is_empty());
    let state = node.get(&format!("/v1/feeds/{erased}")).await;
    assert_eq!(
        (&state["latest"], &state["unread"]["total"]),
        (&json!(null), &json!(0))
    );
    let told = node
        .get(&format!(
            "/v1/feeds/{erased}/entries?after={start}&limit=200"
        ))
        .await;
    assert_eq!(told["changes"].as_array().map(Vec::len), Some(120));
    // The others have all of theirs, and nobody else is told.
    let other = node.all(names[20].as_str()).await;
    assert_eq!(other.len(), 30);
    let told = node
        .get(&format!("/v1/feeds/{}/entries?after={start}", names[20]))
        .await;
    assert_eq!(told.get("changes"), None);
    let log = node.lines("/v1/log?after=0").await;
    let entries: Vec<_> = log
        .iter()
        .filter(|line| line.get("change").is_none())
        .collect();
    assert_eq!(entries.len(), 90);
    for line in log.iter().filter(|line| line["change"] != "erased") {
        let feeds = line["feeds"].as_array().expect("feeds");
        assert!(
            !feeds.is_empty() && !feeds.contains(&json!(erased)),
            "{line}"
        );
    }
    for index in 0..120usize {
        let answer = node.send("GET", &format!("/v1/events/e{index}"), &[]).await;
        assert_eq!(
            answer.status,
            if index % 4 == 3 { 404 } else { 200 },
            "{index}"
        );
        if answer.status == 200 {
            let feeds = answer.json()["feeds"].as_array().map(Vec::len);
            assert_eq!(feeds, Some(if index % 4 == 1 { 2 } else { 1 }), "{index}");
        }
    }
    let again = node.append(&json!(events)).await;
    let statuses = again
        .as_array()
        .expect("results")
        .iter()
        .map(|it| it["status"].as_str());
    for (index, status) in statuses.enumerate() {
        // What is left has other feeds than the event that is sent again.
        let expected = if index % 4 == 3 {
            "erased"
        } else {
            "duplicate"
        };
        assert_eq!(status, Some(expected), "{index}");
    }
}
