//! `newsfeed-bench log`: all ways to read the log find the same events.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    super::{Process, lineage::copy, newsfeed_bench, output},
    bench,
};

async fn read(url: &str, folder: &Path, args: &[&str]) -> (Option<i32>, String, Value) {
    let path = folder.join("log.json");
    let json = ["log", "--url", url, "--json", path.to_str().expect("UTF-8")];
    let output = output(newsfeed_bench(&[&json, args].concat())).await;
    let stderr = String::from_utf8(output.stderr).expect("text");
    let json = fs::read(&path).map_or(Value::Null, |text| {
        serde_json::from_slice(&text).expect("JSON")
    });
    (output.status.code(), stderr, json)
}

#[tokio::test]
async fn all_ways_to_read_the_log_find_all_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let [store, of_store] = ["store", "copy"].map(|name| folder.path().join(name));
    let service = Process::start(&store).await;
    let load = "append --rate 300 --seconds 1 --connections 4 --feeds 7";
    let (code, stderr, _) = bench(&service.api.url(""), folder.path(), load).await;
    assert_eq!(code, Some(0), "{stderr}");
    service.stop().await;
    copy(&store, &of_store);

    let service = Process::start(&store).await;
    let url = service.api.url("");
    let data = of_store.to_str().expect("UTF-8");
    let all = ["--rounds", "2", "--pages", "--data", data];
    let (code, stderr, json) = read(&url, folder.path(), &all).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(json["counts"]["events"], 300);
    for way in ["lines", "pages", "engine", "records"] {
        let rate = &json["figures"][format!("{way}_events_per_second")];
        assert!(rate.as_f64() > Some(0.0), "{way}: {json}");
    }
    for ratio in ["lines_to_engine_ratio", "lines_to_records_ratio"] {
        assert!(json["figures"][ratio].as_f64() > Some(0.0), "{json}");
    }
    let none = ["--rounds", "1", "--pages", "--query", "kind=nothing"];
    let (code, stderr, json) = read(&url, folder.path(), &none).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(json["counts"]["events"], 0);

    // A part of the log is not what the engine has.
    let both = [&all[..], &none[3..]].concat();
    let (code, stderr, _) = read(&url, folder.path(), &both).await;
    assert_eq!(code, Some(2), "{stderr}");
    let (code, stderr, _) = read(&url, folder.path(), &["--query", "kid=x"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("kid"), "{stderr}");
    service.stop().await;
}
