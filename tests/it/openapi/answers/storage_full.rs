//! Answers to writes when the disk is full.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use newsfeed::store::{self, Batch};
use serde_json::json;

use super::{super::spec::Spec, Witness};
use crate::support::{
    bed::{Bed, JSON, text},
    stores::{Trouble, troubled},
};

struct Full;

#[async_trait::async_trait]
impl Trouble for Full {
    async fn before_commit(&self, _batch: &Batch) -> store::Result<()> {
        Err(store::Error::Full)
    }
}

pub(super) async fn refuse(bed: &Bed, spec: &Spec, seen: &mut BTreeSet<(String, String, String)>) {
    let node = bed.node_on(troubled(bed.store(), Arc::new(Full))).await;
    let mut witness = Witness {
        spec,
        node: &node,
        seen: std::mem::take(seen),
    };
    let moment = node.version("a").await;
    let page = "/v1/feeds/other/entries?limit=1";
    let page = node.send("GET", page, &[]).await.json();
    let entry = text(&page["entries"][0]["version"]);
    let event = json!({ "id": "full", "kind": "visit", "feeds": ["a"] });
    for (method, template, path, body) in [
        ("POST", "/v1/events", "/v1/events", &event),
        (
            "PUT",
            "/v1/feeds/{feed}/markers/{marker}",
            "/v1/feeds/unmarked/markers/seen",
            &json!({ "version": moment }),
        ),
        (
            "PUT",
            "/v1/markers/{marker}",
            "/v1/markers/seen?feed=unmarked",
            &json!({ "version": moment }),
        ),
        (
            "PUT",
            "/v1/feeds/{feed}/entries/{version}/state",
            &format!("/v1/feeds/other/entries/{entry}/state?reader=full"),
            &json!({ "read": true }),
        ),
        (
            "PUT",
            "/v1/entries/{version}/state",
            &format!("/v1/entries/{entry}/state?feed=other&reader=full"),
            &json!({ "read": true }),
        ),
    ] {
        let body = body.to_string();
        let answer = witness.ask(method, template, path, &[JSON], &body).await;
        answer.problem(507, "storage_full").expect(path);
    }
    let answer = witness.post("/v1/events", &json!([event])).await;
    assert_eq!(answer.json()[0]["error"]["code"], "storage_full");
    for (method, template, path) in [
        ("PATCH", "/v1/events/{id}", "/v1/events/m"),
        ("PATCH", "/v1/events", "/v1/events?id=m"),
        ("DELETE", "/v1/events/{id}", "/v1/events/m"),
        ("DELETE", "/v1/events", "/v1/events?id=m"),
        ("POST", "/v1/erasures", "/v1/erasures"),
    ] {
        let body = if method == "POST" {
            r#"{"feed":"a"}"#
        } else {
            r#"{"data":7}"#
        };
        let answer = witness.ask(method, template, path, &[JSON], body).await;
        answer.problem(507, "storage_full").expect(path);
    }
    *seen = witness.seen;
}

/// A disk on which a step of an erasure takes longer than the answer waits.
struct Slow;

#[async_trait::async_trait]
impl Trouble for Slow {
    async fn before_commit(&self, batch: &Batch) -> store::Result<()> {
        // Appends write keys with versions only: these are the claims that an erasure leaves.
        if batch.puts.len() > 40 {
            tokio::time::sleep(Duration::from_millis(2_100)).await;
        }
        Ok(())
    }
}

/// An erasure that is answered before it has ended.
pub(super) async fn erase_slowly(
    bed: &Bed,
    spec: &Spec,
    seen: &mut BTreeSet<(String, String, String)>,
) {
    let node = bed.node_on(troubled(bed.store(), Arc::new(Slow))).await;
    let mut witness = Witness {
        spec,
        node: &node,
        seen: std::mem::take(seen),
    };
    let event =
        |id: usize| json!({ "id": format!("slow-{id}"), "kind": "visit", "feeds": ["slow"] });
    let events: Vec<_> = (0..60).map(event).collect();
    witness.post("/v1/events", &json!(events)).await;
    let answer = witness
        .post("/v1/erasures", &json!({ "feed": "slow" }))
        .await;
    assert_eq!(answer.status, 202);
    let running = answer.json();
    assert_eq!(
        (&running["status"], &running["erased"]),
        (&json!("running"), &json!(50))
    );
    let path = format!("/v1/erasures/{}", text(&running["id"]));
    // The node goes on by itself.
    let done = loop {
        let state = witness
            .ask("GET", "/v1/erasures/{id}", &path, &[], "")
            .await;
        let state = state.json();
        if state["status"] == "done" {
            break state;
        }
    };
    assert_eq!(done["erased"], 60);
    *seen = witness.seen;
}
