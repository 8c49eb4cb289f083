//! `newsfeed-bench`: its counts, its output files, and the faults that it must detect.

mod closed_loop;
mod fake;
mod http2;
mod interrupt;
mod lagging;
mod log;
/// The source of the program, so that its unit tests run as part of this test binary.
#[path = "../../../../benches/src/main.rs"]
#[expect(dead_code, reason = "`main` is not called here")]
mod program;
mod usage;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use self::fake::Fault;
use super::{Process, newsfeed_bench, output};

/// Runs `newsfeed-bench` with `args`, which are separated by spaces; returns its exit code, stderr and JSON.
async fn bench(url: &str, folder: &Path, args: &str) -> (Option<i32>, String, Value) {
    let [json, report] = ["json", "html"].map(|kind| folder.join(format!("bench.{kind}")));
    let [json_path, report_path] = [&json, &report].map(|path| path.to_str().expect("UTF-8"));
    let mut all: Vec<&str> = args.split(' ').collect();
    all.extend(["--url", url, "--json", json_path, "--report", report_path]);
    let output = output(newsfeed_bench(&all)).await;
    let stderr = String::from_utf8(output.stderr).expect("text");
    let text = fs::read_to_string(&json).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert!(stdout.contains("p99"), "{stdout}");
    assert_well_formed(&fs::read_to_string(&report).expect("a report"));
    (
        output.status.code(),
        stderr,
        serde_json::from_str(&text).expect("JSON"),
    )
}

/// Asserts that all elements are closed in order, and that the page loads nothing.
fn assert_well_formed(html: &str) {
    let body = html.strip_prefix("<!DOCTYPE html>").expect("HTML");
    let mut open = Vec::new();
    for tag in body.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a whole tag");
        assert!(!text.contains('>'), "{text}");
        let name = tag.split([' ', '\n']).next().expect("a name");
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        let attributes = tag.matches('"').count();
        assert!(attributes.is_multiple_of(2), "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(html.contains("prefers-color-scheme: dark") && html.contains("<polyline"));
    for unwanted in ["src=", "href=", "url(", "@import", "<script", "NaN", "inf"] {
        assert!(!html.contains(unwanted), "{unwanted}");
    }
}

#[tokio::test]
async fn each_subcommand_measures_a_real_service_and_finds_no_faults() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list.txt");
    let lines: String = (0..50)
        .map(|n| format!("{} {} {}\n", n % 7, n % 5 + 10, 1_000 + n * 60))
        .collect();
    fs::write(&list, lines).expect("written");
    let day = format!(
        "day {} --seconds 1 --connections 4",
        list.to_str().expect("UTF-8")
    );
    let load = "--rate 100 --seconds 1 --connections 4";
    let service = Process::start(&folder.path().join("store")).await;
    let url = service.api.url("");
    let mut runs = BTreeSet::new();
    for (args, counts, measured) in [
        (
            format!("append {load} --feeds 7"),
            &[
                ("events_due", 100),
                ("appended", 100),
                ("refused", 0),
                ("unanswered", 0),
            ][..],
            &["append", "start_lag"][..],
        ),
        (
            "append --rate 1000 --batch 50 --seconds 1 --connections 2 --feeds 7 --text 0"
                .to_owned(),
            &[("events_due", 1_000), ("appended", 1_000)],
            &["append"],
        ),
        (
            // The hot feed has 10 readers for 25 events. Both other channels, of 3 and 2 feeds, have 5 readers each for
            // the remaining 75 events.
            format!(
                "live {load} --subscribers 20 --hot-subscribers 10 --hot-rate 25 --feeds 5 --merged 3 --idle 5"
            ),
            &[
                ("appended", 100),
                ("readers", 25),
                ("deliveries_expected", 625),
                ("delivered", 625),
                ("broken", 0),
            ],
            &["append", "delivery"],
        ),
        (
            // Each reader of the log receives all events, whatever else there is on the node.
            format!("live {load} --subscribers 6 --feeds 3 --log-subscribers 2 --idle 1"),
            &[
                ("readers", 9),
                ("deliveries_expected", 400),
                ("delivered", 400),
                ("broken", 0),
            ],
            &["append", "delivery", "log_delivery"],
        ),
        (
            format!("poll {load} --subscribers 12 --feeds 4"),
            &[
                ("readers", 12),
                ("deliveries_expected", 300),
                ("delivered", 300),
                ("broken", 0),
            ],
            &["append", "delivery"],
        ),
        (
            format!("storm {load} --subscribers 12 --feeds 4 --idle 3"),
            &[
                ("readers", 15),
                ("whole_again", 15),
                ("deliveries_expected", 300),
                ("delivered", 300),
            ],
            &["append", "delivery", "until_whole"],
        ),
        (
            "pages --rate 100 --seconds 1 --connections 4 --feeds 3 --entries 50 --limit 20"
                .to_owned(),
            &[("pages_due", 100), ("pages", 100), ("pages_refused", 0)],
            &["page"],
        ),
        (
            "overload --seconds 1 --batch 10 --connections 4 --flood-connections 20 --feeds 5 --page-rate 20 \
             --subscribers 5 --live-rate 20"
                .to_owned(),
            &[("unanswered", 0), ("refused_peak", 0)],
            &["append_peak", "page_peak", "live_peak", "append_3x", "page_3x"],
        ),
        (
            day,
            &[
                ("appended", 50),
                ("readers", 5),
                ("delivered", 50),
                ("pages", 50),
            ],
            &["append", "delivery", "page"],
        ),
    ] {
        let (code, stderr, json) = bench(&url, folder.path(), &args).await;
        assert_eq!(code, Some(0), "{args}: {stderr}");
        assert_eq!(json["exact"], true);
        assert_eq!(json["command"], args.split(' ').next().expect("a command"));
        assert!(runs.insert(json["run"].to_string()), "run names are unique");
        assert!(json["elapsed_seconds"].as_f64() > Some(0.0));
        for (name, count) in counts {
            assert_eq!(json["counts"][name], *count, "{name} of {args}: {json}");
        }
        for name in measured {
            let latency = &json["latency"][name];
            let of_seconds: u64 = latency["seconds"]
                .as_array()
                .expect("seconds")
                .iter()
                .map(|second| second["count"].as_u64().expect("a count"))
                .sum();
            assert_eq!(latency["count"], of_seconds, "{name} of {args}");
            assert!(of_seconds > 0);
            let [p50, p99, max] =
                ["p50_ms", "p99_ms", "max_ms"].map(|field| latency[field].as_f64().expect(field));
            assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{latency}");
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn a_lost_duplicated_or_reordered_entry_fails_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    for (fault, kind) in fake::INEXACT {
        let url = fake::start(fault).await;
        for args in [
            "append --rate 50 --seconds 1 --feeds 2 --connections 1",
            "live --rate 50 --seconds 1 --feeds 2 --connections 1 --subscribers 6",
        ] {
            let (code, stderr, json) = bench(&url, folder.path(), args).await;
            assert_eq!(code, Some(1), "{fault:?}, {args}: {stderr}");
            assert_eq!(json["exact"], false);
            let faults = json["faults"].as_array().expect("faults");
            assert_eq!(faults.len(), 2, "one in each feed: {json}");
            for fault in faults {
                assert_eq!(fault["wrong"], kind, "{args}: {fault}");
                let run = json["run"].as_str().expect("a run");
                let [feed, id] = ["feed", "id"].map(|field| fault[field].as_str().expect(field));
                assert!(feed.starts_with(&format!("bench:{run}:")), "{feed}");
                assert!(id.starts_with(&format!("bench-{run}-")), "{id}");
                assert!(
                    stderr.contains(kind) && stderr.contains("bench-"),
                    "{stderr}"
                );
            }
        }
        let args = "pages --rate 50 --seconds 1 --feeds 1 --entries 5 --connections 1";
        let (code, _, json) = bench(&url, folder.path(), args).await;
        assert_eq!(
            (code, &json["exact"]),
            (Some(1), &Value::Bool(false)),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn refused_appends_are_counted_and_not_reported_as_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    for (fault, appended) in [(Fault::None, 50), (Fault::Refuses, 25)] {
        let url = fake::start(fault).await;
        let args = "live --rate 50 --seconds 1 --feeds 2 --connections 1 --subscribers 2";
        let (code, stderr, json) = bench(&url, folder.path(), args).await;
        assert_eq!(code, Some(0), "{stderr}");
        let counts = &json["counts"];
        assert_eq!(counts["appended"], appended);
        assert_eq!(counts["refused"], 50 - appended);
        assert_eq!(counts["delivered"], appended);
    }
}

#[tokio::test]
async fn errors_say_what_to_do() {
    // Bound and dropped, so that nothing listens on the port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let fake = fake::start(Fault::None).await;
    let many = "1000000";
    for (args, message) in [
        (
            &["append", "--url", &nobody][..],
            "is `newsfeed serve` running there?",
        ),
        (
            &["live", "--url", "ftp://here"],
            "is not the address of a service",
        ),
        (
            &["live", "--url", "https://127.0.0.1:1"],
            "newsfeed-bench measures without TLS",
        ),
        (
            &["live", "--url", &fake, "--hot-subscribers", "5"],
            "requires --hot-rate",
        ),
        (
            &["live", "--url", &fake, "--merged", "9", "--feeds", "8"],
            "--merged must not exceed",
        ),
        (
            &["day", "/nowhere/list.txt", "--url", &fake],
            "cannot read /nowhere/list.txt",
        ),
        (
            &["day", "/dev/null", "--url", &fake],
            "contains no messages",
        ),
        (
            &["live", "--url", &fake, "--pid", "4194305"],
            "no such process on this machine",
        ),
        (
            &[
                "append",
                "--url",
                &fake,
                "--rate",
                "9999999",
                "--seconds",
                "9999",
            ],
            "choose fewer",
        ),
        (
            &[
                "live",
                "--url",
                &fake,
                "--subscribers",
                many,
                "--idle",
                many,
            ],
            "run `ulimit -n 2000114`",
        ),
        (
            &[
                "append",
                "--url",
                &fake,
                "--rate",
                "1",
                "--seconds",
                "1",
                "--json",
                "/nowhere/x",
            ],
            "cannot write /nowhere/x",
        ),
    ] {
        let output = output(newsfeed_bench(args)).await;
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
    for args in [
        &["append", "--rate", "0"][..],
        &["append", "--batch", "1001"],
        &["append", "--closed-loop", "--rate", "5"],
        &["pages", "--closed-loop", "--rate", "5"],
        &["live", "--streams-per-connection", "5"],
        &["live", "--http2", "--streams-per-connection", "257"],
        &["live", "--source", "here"],
        &[],
    ] {
        let output = output(newsfeed_bench(args)).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
