//! Readers that do not keep up: they must get all the same, only later.

use super::{super::Process, bench, fake, fake::Fault};

#[tokio::test]
async fn readers_that_do_not_read_get_what_they_missed_when_they_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Process::start(&folder.path().join("store")).await;
    let url = service.api.url("");
    // Of 300 events 200 are hot: 2 prompt readers and 5 that lag get those, 3 prompt ones the others. Then without a
    // hot feed: of 4 readers, 2 follow each feed.
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
async fn what_a_service_keeps_from_a_reader_that_was_stuck_fails_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    for (fault, wrong) in fake::INEXACT {
        let url = fake::start(fault).await;
        let args = "live --rate 50 --seconds 1 --feeds 1 --connections 1 --subscribers 0 --stuck 2 --slow 2";
        let (code, _, json) = bench(&url, folder.path(), args).await;
        assert_eq!(code, Some(1), "{fault:?}");
        assert_eq!(json["faults"][0]["wrong"], wrong, "{json}");
        assert_eq!(json["faults"][0]["readers"], 4, "{json}");
    }
}

/// A reader that read on would be hung up on after every third entry.
#[tokio::test]
async fn a_stuck_reader_that_was_closed_comes_back_and_is_whole() {
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
