//! Readers that lag must still receive everything, only later.

use super::{super::Process, bench, fake, fake::Fault};

#[tokio::test]
async fn lagging_readers_receive_what_they_missed_when_they_catch_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Process::start(&folder.path().join("store")).await;
    let url = service.api.url("");
    // First: of 300 events, 200 go to the hot feed, with 2 prompt and 5 lagging readers, and 100 to the other one, with
    // 3 prompt readers. Then without a hot feed: 2 of 4 lagging readers follow each feed.
    for (args, expected, late) in [
        (
            "--rate 300 --subscribers 5 --hot-subscribers 2 --hot-rate 200 --feeds 1 --text 3000 --stuck 3 --slow 2",
            7 * 200 + 3 * 100,
            5 * 200,
        ),
        (
            "--rate 99 --subscribers 0 --feeds 2 --stuck 2 --slow 2",
            198,
            198,
        ),
    ] {
        let args = format!("live {args} --seconds 1 --connections 4");
        let (code, stderr, json) = bench(&url, folder.path(), &args).await;
        assert_eq!(code, Some(0), "{stderr}");
        let counts = &json["counts"];
        assert_eq!(counts["deliveries_expected"], expected, "{args}");
        assert_eq!(counts["delivered"], expected, "{args}");
        assert_eq!(counts["delivered_late"], late, "{args}");
        assert_eq!(counts["closed_by_service"], 0, "{args}");
        let of_prompt = &json["latency"]["delivery"]["count"];
        assert_eq!(of_prompt.as_u64().unwrap_or(0), expected - late, "{args}");
        let lagging = if expected == late { 4 } else { 5 };
        assert_eq!(json["latency"]["catch_up"]["count"], lagging, "{args}");
    }
    service.stop().await;
}

#[tokio::test]
async fn faults_in_what_lagging_readers_receive_fail_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    for (fault, kind) in fake::INEXACT {
        let url = fake::start(fault).await;
        let args = "live --rate 50 --seconds 1 --feeds 1 --connections 1 --subscribers 0 --stuck 2 --slow 2";
        let (code, _, json) = bench(&url, folder.path(), args).await;
        assert_eq!(code, Some(1), "{fault:?}");
        assert_eq!(json["faults"][0]["wrong"], kind, "{json}");
        assert_eq!(json["faults"][0]["readers"], 4, "{json}");
    }
}

/// A stream is closed after every third entry, so the counts show that the readers lagged: each was closed only once.
#[tokio::test]
async fn a_stuck_reader_whose_stream_was_closed_reconnects_and_catches_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = fake::start(Fault::HangsUp).await;
    let args =
        "live --rate 50 --seconds 1 --feeds 1 --connections 1 --subscribers 0 --stuck 3 --slow 1";
    let (code, stderr, json) = bench(&url, folder.path(), args).await;
    assert_eq!(code, Some(0), "{stderr}");
    let counts = &json["counts"];
    assert_eq!(counts["delivered"], 200, "{counts}");
    assert_eq!(counts["closed_by_service"], 4, "{counts}");
    assert_eq!(json["latency"]["catch_up"]["count"], 4);
}
