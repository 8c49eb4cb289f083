//! Answers to requests for a backup.

use std::{collections::BTreeSet, sync::Arc};

use super::{super::spec::Spec, BACKUP, Witness};
use crate::support::{
    bed::{Bed, JSON},
    stores::{Trouble, troubled},
};

/// Adds nothing. A store around another one has no files of its own.
struct Nothing;

impl Trouble for Nothing {}

pub(super) async fn answer(spec: &Spec, seen: &mut BTreeSet<(String, String, String)>) {
    let bed = Bed::embedded();
    let (app, node) = bed.app_on(bed.store()).await;
    let (_, other) = bed.app_on(troubled(bed.store(), Arc::new(Nothing))).await;
    let running = app.backing_up.try_acquire().expect("none is running");
    for (node, body, status, code) in [
        (&node, "{}", 409, "backup_running"),
        (&node, r#"{"have":[]}"#, 400, "invalid_body"),
        (&other, "{}", 501, "not_supported"),
    ] {
        let mut witness = Witness {
            spec,
            node,
            seen: std::mem::take(seen),
        };
        let answer = witness.ask("POST", BACKUP, BACKUP, &[JSON], body).await;
        let problem = answer.problem(status, code).expect("a problem");
        if status == 501 {
            assert!(problem["detail"].to_string().contains("fdbbackup"));
        }
        *seen = witness.seen;
    }
    drop(running);
    let mut witness = Witness {
        spec,
        node: &node,
        seen: std::mem::take(seen),
    };
    let huge = " ".repeat(2 * 1024 * 1024);
    for (headers, body, status) in [(&[JSON][..], &huge[..], 413), (&[], "{}", 415)] {
        let answer = witness.ask("POST", BACKUP, BACKUP, headers, body).await;
        assert_eq!(answer.status, status);
    }
    let answer = witness.ask("POST", BACKUP, BACKUP, &[JSON], "{}").await;
    assert_eq!(answer.status, 200);
    *seen = witness.seen;
    node.stop().await;
    other.stop().await;
}
