//! Full disks.

use std::time::Duration;

use newsfeed::version::Version;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    super::{PATIENCE, Process, place},
    FEED, Ledger, event,
    small_disk::{MIB, SmallDisk},
};
use crate::support::{
    bed::{Api, text},
    sse::Stream,
};

/// Checks that writes are refused in every form, and that duplicates and reads are answered as usual.
async fn check_refusals(api: &Api, ledger: &Ledger) {
    let (version, id) = ledger.places().first().expect("something").clone();
    let (status, again) = api.post("/v1/events", &event(&id)).await;
    assert_eq!(
        (status, &again["status"], text(&again["version"])),
        (200, &json!("duplicate"), version.clone())
    );
    let array = json!([{ "id": "in-array", "kind": "visit", "feeds": [FEED] }]);
    let marker = json!({ "version": version });
    for (method, path, body) in [
        ("POST", "/v1/events", event("refused")),
        ("PUT", "/v1/feeds/user:1/markers/seen", marker),
    ] {
        let headers = [("content-type", "application/json")];
        let answer = api
            .send_body(method, path, &headers, body.to_string())
            .await;
        answer.problem(507, "storage_full").expect(path);
    }
    let (status, answer) = api.post("/v1/events", &array).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer[0]["status"], "rejected");
    assert_eq!(answer[0]["error"]["code"], "storage_full");
    assert_eq!(api.get("/readyz").await["status"], "ready", "it reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_reserve_appends_are_refused_until_there_is_room() {
    let Some(disk) = SmallDisk::new(64).await else {
        return;
    };
    let process = disk.serve(&["--disk-reserve-mib", "16"]).await;
    let api = &process.api;
    let mut ledger = Ledger::default();
    for _ in 0..20 {
        ledger.append_until_taken(api).await;
    }
    disk.fill_but(8 * MIB);
    // The service checks the disk periodically; the events until then must not fill it.
    let small = json!({ "kind": "visit", "feeds": ["probe"] });
    while api.post("/v1/events", &small).await.0 == 200 {
        sleep(Duration::from_millis(50)).await;
    }
    ledger.append_until_full(api).await;
    assert_eq!(ledger.unsure, [""; 0], "no write has failed");
    check_refusals(api, &ledger).await;
    ledger.audit(api).await;

    disk.make_room();
    ledger.append_until_taken(api).await;
    ledger.audit(api).await;
    process.stop().await;
}

/// Frees the disk; checks that the running service accepts appends again and has lost nothing.
async fn recovers(disk: &SmallDisk, ledger: &mut Ledger, process: &Process) {
    disk.make_room();
    ledger.append_until_taken(&process.api).await;
    ledger.settle_unsure(&process.api).await;
    ledger.audit(&process.api).await;
}

/// Restarts the service; checks that it has lost nothing.
async fn restarts(disk: &SmallDisk, ledger: &mut Ledger, process: Process, args: &[&str]) {
    process.stop().await;
    let process = disk.serve(args).await;
    ledger.audit(&process.api).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_loses_nothing_and_recovers_when_there_is_room() {
    let Some(disk) = SmallDisk::new(64).await else {
        return;
    };
    let reserve = ["--disk-reserve-mib", "0"];
    let process = disk.serve(&reserve).await;
    let mut ledger = Ledger::default();
    ledger.append_until_taken(&process.api).await;
    let url = process.api.url(&format!("/v1/feeds/{FEED}/live?after=0"));
    let mut stream = Stream::open(&process.api.http, &url, None).await;
    assert_eq!(stream.caught_up().await.len(), 1);
    // Read all the time: the service closes a stream whose client does not take it for long.
    let (sender, mut hear) = mpsc::unbounded_channel();
    let listener = tokio::spawn(async move {
        while let Some(event) = stream.next().await {
            if event.name == "notify" && sender.send(place(&event.data)).is_err() {
                return;
            }
        }
    });

    disk.fill_but(12 * MIB);
    ledger.append_until_full(&process.api).await;
    assert!(ledger.acknowledged.len() > 20, "hardly anything was stored");
    check_refusals(&process.api, &ledger).await;
    ledger.audit(&process.api).await;

    recovers(&disk, &mut ledger, &process).await;
    let mut heard = Vec::new();
    while heard.len() + 1 < ledger.acknowledged.len() {
        let next = timeout(PATIENCE, hear.recv()).await;
        heard.push(next.expect("in time").expect("the stream goes on"));
    }
    let stored = ledger.places();
    super::assert_same(&heard, &stored[1..], "the stream that was there all along");
    listener.abort();

    // Full again, then killed: the restarted service behaves the same.
    disk.fill_but(2 * MIB);
    ledger.append_until_full(&process.api).await;
    process.kill().await;
    let process = disk.serve(&reserve).await;
    ledger.audit(&process.api).await;
    ledger.append_until_full(&process.api).await;
    ledger.audit(&process.api).await;
    recovers(&disk, &mut ledger, &process).await;
    restarts(&disk, &mut ledger, process, &reserve).await;
}

/// Tables are written in the background, from events that were acknowledged before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_does_not_fit_loses_nothing() {
    let Some(disk) = SmallDisk::new(160).await else {
        return;
    };
    let process = disk.serve(&["--disk-reserve-mib", "0"]).await;
    let mut ledger = Ledger::default();
    // Slightly less than a table collects in memory.
    while ledger.acknowledged.len() < 500 {
        ledger.append_until_taken(&process.api).await;
    }
    disk.fill_but(16 * MIB);
    ledger.append_until_full(&process.api).await;
    ledger.audit(&process.api).await;
    recovers(&disk, &mut ledger, &process).await;
    restarts(&disk, &mut ledger, process, &[]).await;
}

/// Checks that the versions are accepted.
async fn are_known(api: &Api, versions: &[String]) {
    for version in versions {
        let page = format!("/v1/feeds/{FEED}/entries?after={version}&limit=1");
        let answer = api.send("GET", &page, &[]).await;
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
    }
}

/// A start begins an epoch. Without room for that, it begins with the first append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_on_a_full_disk_and_its_versions_are_those_of_its_last_life_until_there_is_room()
 {
    // Below the reserve, and without any space at all.
    for (reserve, free) in [("256", 8 * MIB), ("0", 0)] {
        let args = ["--disk-reserve-mib", reserve];
        let Some(disk) = SmallDisk::new(64).await else {
            return;
        };
        let process = disk.serve(&["--disk-reserve-mib", "0"]).await;
        let mut ledger = Ledger::default();
        for _ in 0..3 {
            ledger.append_until_taken(&process.api).await;
        }
        let mut known: Vec<String> = ledger.places().into_iter().map(|it| it.0).collect();
        known.push(process.api.version(FEED).await);
        process.kill().await;

        disk.fill_but(free);
        for _ in 0..2 {
            let process = disk.serve(&args).await;
            if free > 0 {
                let now = process.api.version(FEED).await;
                assert_eq!(now, known[3], "nothing can be written");
                check_refusals(&process.api, &ledger).await;
            }
            ledger.append_until_full(&process.api).await;
            ledger.audit(&process.api).await;
            are_known(&process.api, &known).await;
            process.kill().await;
        }
        let process = disk.serve(&["--disk-reserve-mib", "0"]).await;
        disk.make_room();
        ledger.append_until_taken(&process.api).await;
        ledger.settle_unsure(&process.api).await;
        let (new, _) = ledger.places().pop().expect("the last one");
        let epoch = |version: &str| version.parse::<Version>().expect("a version").epoch();
        assert!(epoch(&new) > epoch(&known[3]));
        known.extend([new, process.api.version(FEED).await]);
        are_known(&process.api, &known).await;
        process.stop().await;
        let process = disk.serve(&["--disk-reserve-mib", "0"]).await;
        are_known(&process.api, &known).await;
        ledger.audit(&process.api).await;
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_full_disk_says_what_to_do() {
    let Some(disk) = SmallDisk::new(8).await else {
        return;
    };
    let message = disk.refused(&["--disk-reserve-mib", "16"]).await;
    assert!(message.contains("--disk-reserve-mib"), "{message}");
}
