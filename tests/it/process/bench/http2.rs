//! The subcommands over HTTP/2, on shared connections.

use std::sync::atomic::Ordering;

use super::{super::Process, bench, fake, fake::Fault};

#[tokio::test]
async fn each_subcommand_supports_http2() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list.txt");
    let lines: String = (0..20)
        .map(|n| format!("{} {} {}\n", n % 7, n % 5 + 10, 1_000 + n))
        .collect();
    std::fs::write(&list, lines).expect("written");
    let day = format!("day {}", list.to_str().expect("UTF-8"));
    let service = Process::start(&folder.path().join("store")).await;
    let url = service.api.url("");
    for (args, counts) in [
        ("append --rate 100 --feeds 7", &[("appended", 100)][..]),
        (
            "append --rate 1000 --batch 50 --text 3000 --feeds 7",
            &[("appended", 1_000)],
        ),
        (
            // Of 100 events, 50 go to the hot feed, with 4 prompt and 3 lagging readers, and 50 to the other one, with
            // 8 prompt readers.
            "live --rate 100 --feeds 1 --subscribers 12 --idle 2 --hot-subscribers 4 --hot-rate 50 --stuck 2 --slow 1 \
             --text 3000",
            &[
                ("delivered", 750),
                ("delivered_late", 150),
                ("readers", 17),
                ("broken", 0),
            ],
        ),
        (
            "poll --rate 100 --subscribers 12 --feeds 4",
            &[("delivered", 300)],
        ),
        (
            "storm --rate 100 --subscribers 12 --feeds 4",
            &[("delivered", 300), ("whole_again", 12)],
        ),
        (
            "pages --rate 100 --feeds 3 --entries 50 --limit 20",
            &[("pages", 100)],
        ),
        (&day, &[("delivered", 20), ("pages", 20)]),
    ] {
        let args = format!("{args} --seconds 1 --connections 4 --http2 --streams-per-connection 5");
        let (code, stderr, json) = bench(&url, folder.path(), &args).await;
        assert_eq!(code, Some(0), "{args}: {stderr}");
        for (name, count) in counts {
            assert_eq!(json["counts"][name], *count, "{name} of {args}: {json}");
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn connections_are_shared_and_a_storm_drops_them() {
    let folder = tempfile::tempdir().expect("a folder");
    // 12 readers use 3 connections, and 3 more after a storm. 7 writers use up to 2, since a writer that gets no
    // request opens none. The initial probe of the service uses 1.
    for (command, opened) in [("live", 5..=6), ("storm", 8..=9)] {
        let (url, connections) = fake::start_counting(Fault::None).await;
        let args = format!(
            "{command} --rate 100 --seconds 1 --feeds 2 --subscribers 12 --connections 7 --http2 --streams-per-connection 5"
        );
        let (code, stderr, json) = bench(&url, folder.path(), &args).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(json["counts"]["delivered"], 600, "{json}");
        let connections = connections.load(Ordering::Relaxed);
        assert!(opened.contains(&connections), "{command}: {connections}");
    }
}

#[tokio::test]
async fn faults_are_found_over_http2_too() {
    let folder = tempfile::tempdir().expect("a folder");
    for (fault, kind) in [(Fault::Loses, "lost"), (Fault::Duplicates, "duplicated")] {
        let url = fake::start(fault).await;
        for args in [
            "append --feeds 2",
            "live --feeds 2 --subscribers 6",
            "live --feeds 1 --subscribers 0 --stuck 1",
        ] {
            let args = format!("{args} --rate 50 --seconds 1 --connections 1 --http2");
            let (code, _, json) = bench(&url, folder.path(), &args).await;
            assert_eq!(code, Some(1), "{fault:?}, {args}");
            assert_eq!(json["faults"][0]["wrong"], kind, "{args}: {json}");
        }
    }
}

/// When a stream ends, other streams on its connection continue.
#[tokio::test]
async fn a_stream_that_ends_is_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = fake::start(Fault::HangsUp).await;
    let args =
        "live --rate 50 --seconds 1 --feeds 1 --connections 1 --subscribers 0 --stuck 3 --http2";
    let (code, stderr, json) = bench(&url, folder.path(), args).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(json["counts"]["closed_by_service"], 3, "{json}");
    assert_eq!(json["counts"]["delivered"], 150, "{json}");
}
