//! Invalid input and limits: each gets its documented answer, changes nothing, and the service keeps working.

mod bodies;
mod capacity;
mod dead_links;
mod fairness;
mod hostile;
mod memory;
mod outage;
mod sizes;
mod slow;
mod strict;
mod unread;
mod urls;

pub use self::capacity::{all_transients, filler};
use serde_json::{Value, json};

use crate::support::{bed::Served, raw};

/// The feed that all refused events name.
const UNTOUCHED: &str = "untouched";

/// A request and the expected problem.
struct Case {
    what: String,
    request: Vec<u8>,
    status: u16,
    code: &'static str,
    /// Expected extension members of the problem; null for one that must be absent.
    with: Value,
}

impl Case {
    fn new(status: u16, code: &'static str, method: &str, path: &str) -> Self {
        Self::body(status, code, method, path, &[], b"")
    }

    fn body(
        status: u16,
        code: &'static str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Self {
        let start = String::from_utf8_lossy(&body[..body.len().min(200)]);
        Self {
            what: format!("{method} {path} {start}"),
            request: raw::request(method, path, headers, body),
            status,
            code,
            with: json!({}),
        }
    }

    fn with(mut self, with: Value) -> Self {
        self.with = with;
        self
    }
}

/// Checks that each case gets the expected answer, and that nothing was appended.
async fn refused(node: &Served, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(error) = check(node, case).await {
            wrong.push(format!("{}\n    {error}", case.what));
        }
        let head = node.get(&format!("/v1/feeds/{UNTOUCHED}")).await;
        if head["latest"] != Value::Null || head["unread"]["total"] != 0 {
            panic!("{} appended: {head}", case.what);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

async fn check(node: &Served, case: &Case) -> Result<(), String> {
    let answer = raw::exchange(node.address, &case.request).await;
    let problem = answer.problem(case.status, case.code)?;
    for (name, value) in case.with.as_object().into_iter().flatten() {
        if problem[name] != *value {
            return Err(format!("expected {name} {value} in {problem}"));
        }
    }
    Ok(())
}

/// Checks that the service works: appends an event with this id, which must be new.
async fn appends(node: &Served, id: &str) {
    let event = json!({ "id": id, "kind": "visit", "feeds": ["goes-on"] });
    assert_eq!(node.append(&event).await["status"], "appended");
    assert_eq!(
        node.get("/v1/feeds/goes-on/entries?limit=1").await["entries"][0]["id"],
        id
    );
}
