//! The closed loop: it measures the highest throughput, and its results are marked as such.

use super::{super::Process, bench, fake, fake::Fault};

#[tokio::test]
async fn a_closed_loop_runs_at_full_speed_and_is_marked_in_the_results() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Process::start(&folder.path().join("store")).await;
    let url = service.api.url("");
    for (args, latency, due, done, requests_of) in [
        ("append --feeds 7", "append", "events_due", "appended", 1),
        (
            "append --feeds 7 --batch 10",
            "append",
            "events_due",
            "appended",
            10,
        ),
        (
            "pages --feeds 3 --entries 50 --limit 20",
            "page",
            "pages_due",
            "pages",
            1,
        ),
    ] {
        let args = format!("{args} --closed-loop --seconds 1 --connections 4");
        let (code, stderr, json) = bench(&url, folder.path(), &args).await;
        assert_eq!(code, Some(0), "{args}: {stderr}");
        assert_eq!(json["loop"], "closed", "{args}");
        assert!(json["parameters"]["rate"].is_null(), "{args}");
        let done = json["counts"][done].as_u64().expect("a count");
        assert!(
            done > 4 * requests_of,
            "more than one request per connection: {json}"
        );
        assert_eq!(json["counts"][due], done, "{args}");
        assert_eq!(
            json["latency"][latency]["count"],
            done / requests_of,
            "{args}"
        );
        assert!(
            json["latency"]["start_lag"].is_null(),
            "a closed loop has no start lag: {json}"
        );
    }
    let (_, _, json) = bench(&url, folder.path(), "append --rate 9 --seconds 1").await;
    assert_eq!(json["loop"], "open");
    service.stop().await;
}

#[tokio::test]
async fn a_closed_loop_detects_faults() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = fake::start(Fault::Loses).await;
    for args in ["append --feeds 2", "pages --feeds 1 --entries 5"] {
        let args = format!("{args} --closed-loop --seconds 1 --connections 1");
        let (code, _, json) = bench(&url, folder.path(), &args).await;
        assert_eq!(code, Some(1), "{args}");
        assert_eq!(json["faults"][0]["wrong"], "lost", "{args}: {json}");
    }
}
