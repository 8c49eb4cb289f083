//! The client commands with names of real systems.

use serde_json::json;

use super::Service;
use crate::support::names::NAMES;

#[tokio::test]
async fn commands_take_names_of_real_systems() {
    let service = Service::start().await;
    for name in NAMES {
        let feeds = ["--feed", name, "--feed", "all"];
        let append = ["append", "--kind", name, "--actor", name, "--id", name];
        let appended = service.run(&[&append[..], &feeds].concat()).await.json(0);
        assert_eq!(
            (&appended[0]["id"], &appended[0]["status"]),
            (&json!(name), &json!("appended"))
        );
        let of_message = ["append", "--kind", "message", "--feed", name];
        service.run(&of_message).await.json(0);

        let history = service
            .run(&["history", name, "all", "--kind", name])
            .await
            .json(0);
        assert_eq!(history.len(), 1);
        assert_eq!(history[0]["feeds"], json!([name, "all"]));
        for field in ["id", "kind", "actor"] {
            assert_eq!(history[0][field], name);
        }
        let text = service
            .run(&["history", name, "--kind", name, "--format", "text"])
            .await;
        assert!(
            text.lines(0)[0].contains(&format!("{name} → {name}")) || has_marks(name),
            "{text:?}"
        );
        let state = service.run(&["state", name]).await.json(0);
        assert_eq!(
            (&state[0]["feed"], &state[0]["unread"]["total"]),
            (&json!(name), &json!(1))
        );
        let marked = service.run(&["mark", name]).await.json(0);
        assert_eq!(
            (&marked[0]["feed"], &marked[0]["unread"]["total"]),
            (&json!(name), &json!(0))
        );
    }
    let feeds: Vec<&str> = ["tail"]
        .into_iter()
        .chain(NAMES)
        .chain(["--from", "beginning"])
        .collect();
    let mut tail = service.begin(&feeds);
    for name in NAMES {
        for kind in [name, "message"] {
            let entry: serde_json::Value = serde_json::from_str(&tail.line().await).expect("JSON");
            assert_eq!(
                (&entry["feed"], &entry["kind"]),
                (&json!(name), &json!(kind))
            );
        }
    }
    // Live, and with the escapes of JSON.
    let name = NAMES[11];
    let line = json!({ "kind": "visit", "feeds": [name], "actor": name });
    service
        .run_with(&["append", "-"], &format!("{line}\n"))
        .await
        .json(0);
    let entry: serde_json::Value = serde_json::from_str(&tail.line().await).expect("JSON");
    assert_eq!(
        (&entry["feed"], &entry["actor"]),
        (&json!(name), &json!(name))
    );
    tail.interrupt();
}

/// Marks of direction are allowed in names, and escaped on the terminal.
fn has_marks(name: &str) -> bool {
    name.contains('\u{200f}')
}

#[tokio::test]
async fn a_name_that_the_service_would_refuse_is_a_usage_error() {
    let service = Service::start().await;
    for (name, reason) in [
        ("Zoe\u{308}", "normalize it to NFC"),
        ("user:*", "must not contain `*`"),
        (" a", "must not begin or end with a space"),
        ("a\u{202e}b", "but has U+202E"),
        ("..", "URLs treat as path segments"),
        (
            &"x".repeat(256),
            "must be 1 to 255 bytes of UTF-8, but has 256",
        ),
    ] {
        service.run(&["state", name]).await.told(2, reason);
    }
}
