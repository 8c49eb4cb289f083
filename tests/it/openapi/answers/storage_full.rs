//! Answers to writes when the disk is full.

use std::{collections::BTreeSet, sync::Arc};

use newsfeed::store::{self, Batch};
use serde_json::json;

use super::{super::spec::Spec, Witness};
use crate::support::{
    bed::{Bed, JSON},
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
    ] {
        let body = body.to_string();
        let answer = witness.ask(method, template, path, &[JSON], &body).await;
        answer.problem(507, "storage_full").expect(path);
    }
    let answer = witness.post("/v1/events", &json!([event])).await;
    assert_eq!(answer.json()[0]["error"]["code"], "storage_full");
    *seen = witness.seen;
}
