//! Ctrl-C: once ends the load and reports the results so far, twice exits at once.

use std::{fs, path::Path, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
    time::timeout,
};

use super::{
    super::{PATIENCE, Process, newsfeed_bench},
    fake,
    fake::Fault,
};

/// A run that takes an hour unless it is interrupted.
struct Bench {
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Bench {
    fn start(what: &str, url: &str, json: &Path) -> Self {
        let json = json.to_str().expect("UTF-8");
        let mut args: Vec<&str> = what.split(' ').collect();
        args.extend(["--url", url, "--json", json, "--seconds", "3600"]);
        let mut child = newsfeed_bench(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { child, stderr }
    }

    /// Waits for a line on stderr that contains `text`.
    async fn wait_for(&mut self, text: &str) {
        loop {
            let line = timeout(PATIENCE, self.stderr.next_line()).await;
            let line = line.expect("a line in time").expect("text");
            if line.expect("not the end of stderr").contains(text) {
                return;
            }
        }
    }

    fn interrupt(&self) {
        let id = self.child.id().expect("it runs");
        let pid = Pid::from_raw(id.cast_signed()).expect("not 0");
        kill_process(pid, Signal::INT).expect("signalled");
    }

    /// Waits for its end; returns its exit code and stdout.
    async fn ended(self) -> (Option<i32>, String) {
        let output = timeout(PATIENCE, self.child.wait_with_output()).await;
        let output = output.expect("an end in time").expect("output");
        let stdout = String::from_utf8(output.stdout).expect("text");
        (output.status.code(), stdout)
    }
}

#[tokio::test]
async fn results_until_ctrl_c_are_checked_and_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Process::start(&folder.path().join("store")).await;
    let json = folder.path().join("bench.json");
    for what in [
        "append --rate 100 --feeds 3",
        "append --closed-loop --feeds 3 --connections 2",
        "live --rate 100 --subscribers 6 --feeds 3 --stuck 2",
        "storm --rate 100 --subscribers 6 --feeds 3",
    ] {
        let mut bench = Bench::start(what, &service.api.url(""), &json);
        bench.wait_for("appended").await;
        bench.interrupt();
        let (code, stdout) = bench.ended().await;
        assert_eq!(code, Some(130), "{what}: {stdout}");
        assert!(
            stdout.contains("INTERRUPTED") && stdout.contains("p99"),
            "{stdout}"
        );
        let text = fs::read_to_string(&json).expect("results");
        fs::remove_file(&json).expect("removed");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["interrupted"], true);
        assert_eq!(json["exact"], true, "{json}");
        let counts = &json["counts"];
        let appended = counts["appended"].as_u64().expect("a count");
        assert!(appended > 0, "{json}");
        if what.contains("append") {
            assert_eq!(
                counts["events_due"], appended,
                "every request got its response"
            );
        } else {
            assert_eq!(counts["delivered"], counts["deliveries_expected"], "{json}");
        }
        assert!(json["elapsed_seconds"].as_f64() < Some(3_600.0));
    }
    service.stop().await;
}

#[tokio::test]
async fn a_fault_before_ctrl_c_fails_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("bench.json");
    let url = fake::start(Fault::Loses).await;
    let mut bench = Bench::start("append --rate 20 --feeds 1", &url, &json);
    bench.wait_for("appended").await;
    bench.interrupt();
    assert_eq!(bench.ended().await.0, Some(1));
    assert!(
        fs::read_to_string(&json)
            .expect("results")
            .contains("\"lost\"")
    );
}

#[tokio::test]
async fn a_second_ctrl_c_exits_at_once_and_so_does_one_before_the_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("bench.json");
    let url = fake::start(Fault::Hangs).await;
    for (what, sign, times) in [
        ("append --rate 100", "appended", 2),
        ("pages --feeds 1", "filling", 1),
    ] {
        let mut bench = Bench::start(what, &url, &json);
        bench.wait_for(sign).await;
        bench.interrupt();
        if times == 2 {
            bench.wait_for("Ctrl-C again").await;
            bench.interrupt();
        }
        let (code, stdout) = bench.ended().await;
        assert_eq!((code, &*stdout), (Some(130), ""), "{what}");
        assert!(!json.exists(), "{what}");
    }
}
