//! The CPU time and memory that `newsfeed-bench` reports for the service and for itself.

use std::fs;

use serde_json::Value;

use super::{super::Process, bench};

fn number(of: &Value) -> f64 {
    of.as_f64().unwrap_or_else(|| panic!("not a number: {of}"))
}

#[tokio::test]
async fn cpu_and_memory_of_the_service_and_the_generator_are_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Process::start(&folder.path().join("store")).await;
    let pid = service.child.id().expect("it runs");
    let url = service.api.url("");
    let args = format!(
        "live --rate 200 --seconds 2 --connections 4 --subscribers 200 --feeds 5 --pid {pid}"
    );
    let (code, stderr, json) = bench(&url, folder.path(), &args).await;
    assert_eq!(code, Some(0), "{stderr}");
    let processes = json["usage"]["processes"].as_array().expect("processes");
    let [served, generator] = &processes[..] else {
        panic!("two processes: {json}");
    };
    assert_eq!(
        [&served["name"], &served["pid"]],
        [&Value::from("newsfeed"), &Value::from(pid)]
    );
    assert_eq!(generator["name"], "this generator");
    let delivered = number(&json["counts"]["delivered"]);
    for process in [served, generator] {
        let cpu = number(&process["cpu_seconds"]);
        assert!(cpu > 0.0, "{process}");
        let window = number(&process["window_seconds"]);
        assert!(window >= 1.9, "{process}");
        let near = |got: &Value, wanted: f64| (number(got) / wanted - 1.0).abs() < 1e-6;
        assert!(near(&process["cpu_percent"], 100.0 * cpu / window));
        assert!(near(&process["cpu_us_per_append"], cpu * 1e6 / 400.0));
        assert!(near(&process["cpu_us_per_delivery"], cpu * 1e6 / delivered));
        let resident = &process["resident_bytes"];
        let [before, ready, peak] =
            ["before", "ready", "peak"].map(|moment| number(&resident[moment]));
        assert!(
            0.0 < before && ready <= peak && before <= peak,
            "{resident}"
        );
        let per_reader = number(&resident["per_reader"]);
        assert!((per_reader - (ready - before) / 200.0).abs() < 1e-6);
        assert!(!process["seconds"].as_array().expect("seconds").is_empty());
    }
    let report = fs::read_to_string(folder.path().join("bench.html")).expect("a report");
    for title in ["CPU over time", "Resident memory over time"] {
        assert!(report.contains(title), "{title}");
    }
    service.stop().await;
}

#[tokio::test]
async fn the_cost_of_readers_can_be_measured_without_appends() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Process::start(&folder.path().join("store")).await;
    let pid = service.child.id().expect("it runs");
    for (readers, args) in [
        (0, "live --subscribers 0 --rate 0 --seconds 1".to_owned()),
        (
            30,
            "live --subscribers 0 --idle 30 --rate 0 --seconds 1".to_owned(),
        ),
        (5, "poll --subscribers 5 --rate 0 --seconds 1".to_owned()),
        (
            7,
            "storm --subscribers 0 --idle 7 --rate 0 --seconds 1".to_owned(),
        ),
    ] {
        let args = format!("{args} --pid {pid}");
        let (code, stderr, json) = bench(&service.api.url(""), folder.path(), &args).await;
        assert_eq!(code, Some(0), "{args}: {stderr}");
        assert_eq!(json["counts"]["readers"], readers, "{args}");
        assert_eq!(json["counts"]["appended"], 0);
        let served = &json["usage"]["processes"][0];
        assert!(number(&served["window_seconds"]) >= 1.0, "{served}");
        assert!(number(&served["cpu_percent"]) >= 0.0);
        assert_eq!(served["cpu_us_per_append"], Value::Null);
        let per_reader = &served["resident_bytes"]["per_reader"];
        assert_eq!(per_reader.is_null(), readers == 0, "{args}: {served}");
    }
    service.stop().await;
}
