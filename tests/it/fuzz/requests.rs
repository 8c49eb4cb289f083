//! Requests: each is answered, with success or a problem that has a code; what is stored is what was sent.

use std::convert::Infallible;

use bytes::Bytes;
use newsfeed::{types::Data, version::Version};
use serde_json::{Value, value::RawValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::hammer;
use crate::support::bed::{Answer, Bed, Served, text};

const EVENTS: &[&str] = &[
    r#"{"id":"m-1","kind":"message","feeds":["a","chat:1"],"actor":"user:7","data":{"text":"Hello","n":1.5e3}}"#,
    r#"{"kind":"visit","feeds":["a"]}"#,
    r#"{"kind":"booking","feeds":["a"],"data":[null,true,"\ud83d\ude00",-0.0],"expect":{"feed":"a","version":null}}"#,
    r#"[{"kind":"visit","feeds":["a"]},{"id":"m-2","kind":"flirt","feeds":["a","b"],"data":"x"}]"#,
];

fn corpus(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// `data` in the service's canonical form; `None` if it is invalid.
fn canonical(data: &str) -> Option<String> {
    let raw: &RawValue = serde_json::from_str(data).ok()?;
    let data = Data::from_raw(raw).ok()?;
    Some(String::from_utf8(data.text().to_vec()).expect("UTF-8"))
}

/// Checks a 400, 409 or 413 problem.
fn check_problem(answer: &Answer) -> Result<(), String> {
    let problem: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let code = problem["code"].as_str().ok_or("no code")?;
    match answer.status {
        400 | 409 | 413 => answer.problem(answer.status, code).map(drop),
        other => Err(format!("{other} {problem}")),
    }
}

/// Checks that the event is in its first feed at the version answered, as it was sent.
async fn check_stored(node: &Served, sent: &Value, result: &Value) -> Result<(), String> {
    let status = result["status"].as_str().ok_or("no status")?;
    if status == "rejected" {
        return match result["error"]["code"].is_string() {
            true => Ok(()),
            false => Err(format!("no code in {result}")),
        };
    }
    let (feed, version) = (text(&sent["feeds"][0]), text(&result["version"]));
    let page = node
        .get(&format!("/v1/feeds/{feed}/entries?until={version}&limit=1"))
        .await;
    let entry = &page["entries"][0];
    let same = entry["version"] == result["version"]
        && entry["id"] == result["id"]
        && entry["kind"] == sent["kind"]
        && entry["actor"] == sent["actor"]
        && entry["data"] == sent["data"]
        && (sent["id"].is_null() || sent["id"] == result["id"]);
    match same {
        true => Ok(()),
        false => Err(format!("{sent} was taken, as {result}, and is {entry}")),
    }
}

async fn check_json(node: &Served, input: &[u8]) -> Result<(), String> {
    let headers = [("content-type", "application/json")];
    let answer = node
        .send_body("POST", "/v1/events", &headers, input.to_vec())
        .await;
    if answer.status != 200 {
        return check_problem(&answer);
    }
    let sent: Value = serde_json::from_slice(input).map_err(|error| format!("taken: {error}"))?;
    match (&sent, &answer.json()) {
        (Value::Array(sent), Value::Array(results)) if sent.len() == results.len() => {
            for (sent, result) in sent.iter().zip(results) {
                check_stored(node, sent, result).await?;
            }
            Ok(())
        }
        (Value::Object(_), result) => check_stored(node, &sent, result).await,
        (sent, result) => Err(format!("{sent} is answered {result}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_json() {
    let node = Bed::embedded().node().await;
    hammer("event JSON", &corpus(EVENTS), async |input| {
        check_json(&node, input).await
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn data_keeps_its_meaning_and_has_one_form() {
    let data = [
        r#"{"b":1,"a":[1e2,-0,"\u00e9\/"],"":{}}"#,
        r#""\ud83d\ude00\u0000""#,
        "1.0e-7",
        "null",
    ];
    hammer("data", &corpus(&data), async |input| {
        let Some((text, once)) = std::str::from_utf8(input)
            .ok()
            .and_then(|text| Some((text, canonical(text)?)))
        else {
            return Ok(());
        };
        let meaning = |text: &str| serde_json::from_str::<Value>(text).ok();
        if meaning(text) != meaning(&once) {
            return Err(format!("it becomes {once}"));
        }
        match canonical(&once) {
            Some(twice) if twice == once => Ok(()),
            other => Err(format!("{once} becomes {other:?}")),
        }
    })
    .await;
}

/// The first byte of the input is the size of the chunks in which the rest is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ndjson_cut_anywhere() {
    let node = Bed::embedded().node().await;
    let lines = [
        "\x01{\"id\":\"a\",\"kind\":\"visit\",\"feeds\":[\"a\"]}\n{\"kind\":\"visit\",\"feeds\":[\"b\"]}\n",
        "\x10\n\r\n {\"kind\":\"message\",\"feeds\":[\"a\"],\"data\":\"\\n\"} \r\n{}\nnull",
        "\x7f{\"kind\":\"visit\",\"feeds\":[]}\n\n{\"kind\":\"typing\",\"feeds\":[\"a\"]}\n",
    ];
    hammer("NDJSON", &corpus(&lines), async |input| {
        let (step, body) = match input.split_first() {
            Some((step, body)) => (usize::from(*step) + 1, body),
            None => (1, input),
        };
        let chunks: Vec<_> = body
            .chunks(step)
            .map(|chunk| Ok::<_, Infallible>(Bytes::copy_from_slice(chunk)))
            .collect();
        let body_of_chunks = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        let headers = [("content-type", "application/x-ndjson")];
        let answer = node
            .send_body("POST", "/v1/events", &headers, body_of_chunks)
            .await;
        if answer.status != 200 {
            return Err(format!("{} for NDJSON", answer.status));
        }
        let is_blank = |line: &&[u8]| line.iter().all(u8::is_ascii_whitespace);
        let sent: Vec<&[u8]> = body.split(|&byte| byte == b'\n').collect();
        let sent = sent.into_iter().filter(|line| !is_blank(line));
        let answered: Vec<Value> = answer
            .body
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?;
        let sent: Vec<&[u8]> = sent.collect();
        if sent.len() != answered.len() {
            return Err(format!(
                "{} lines have {} answers",
                sent.len(),
                answered.len()
            ));
        }
        for (index, (line, result)) in sent.into_iter().zip(&answered).enumerate() {
            match serde_json::from_slice(line) {
                Ok(sent) if result["index"].is_null() => {
                    check_stored(&node, &sent, result).await?;
                }
                _ if result["index"] == index && result["error"]["code"].is_string() => {}
                _ => return Err(format!("line {index} is answered {result}")),
            }
        }
        Ok(())
    })
    .await;
    node.stop().await;
}

/// Sent as bytes, because a client library would refuse the header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resume_header() {
    let node = Bed::embedded().node().await;
    let stored = node
        .append(&serde_json::json!({ "kind": "visit", "feeds": ["a"] }))
        .await;
    let version = text(&stored["version"]);
    let entry: Version = version.parse().expect("a version");
    let values = ["0", "", " ", &version, "vvvvvvvvvvvvvvvvvvvvvvvvvs", "m-1"];
    hammer("Last-Event-ID", &corpus(&values), async |input| {
        let mut request =
            b"GET /v1/feeds/a/live HTTP/1.1\r\nhost: localhost\r\nlast-event-id: ".to_vec();
        // A line feed would end the header.
        let value: Vec<u8> = input
            .iter()
            .copied()
            .filter(|byte| !b"\r\n".contains(byte))
            .collect();
        request.extend(&value);
        let value = without_spaces(&value);
        let start = std::str::from_utf8(value);
        let start = start.ok().and_then(|text| text.parse().ok());
        request.extend(b"\r\n\r\n");
        let mut socket = tokio::net::TcpStream::connect(node.address)
            .await
            .map_err(|error| error.to_string())?;
        socket
            .write_all(&request)
            .await
            .map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        loop {
            let said = String::from_utf8_lossy(&answer).into_owned();
            let (status, body) = match said.split_once("\r\n\r\n") {
                Some((head, body)) => (head.split(' ').nth(1).unwrap_or_default().to_owned(), body),
                None => (String::new(), ""),
            };
            match status.as_str() {
                "200" if start.is_none() && !value.is_empty() => return Err(said),
                "200" if body.contains("event: version\n") => {
                    return check_resumed(start, body, entry);
                }
                "400" if start.is_some() => return Err(said),
                "400" if body.contains("\"code\":\"invalid_version\"") => return Ok(()),
                "" | "200" | "400" => {}
                _ => return Err(said),
            }
            match socket.read_buf(&mut answer).await {
                // A request that is not HTTP is answered without a body.
                Ok(0) if status == "400" && body.is_empty() => return Ok(()),
                Ok(0) | Err(_) => return Err(format!("it ends after {said}")),
                Ok(_) => {}
            }
        }
    })
    .await;
    node.stop().await;
}

/// A header's value, without spaces and tabs around it.
fn without_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Checks that the stream sends the entry if it starts before it, and only `reset` if it starts ahead or in another epoch.
fn check_resumed(start: Option<Version>, body: &str, entry: Version) -> Result<(), String> {
    let shows = body.contains("event: entry\n");
    let is_reset = body.contains("event: reset\n");
    let expected = !is_reset && start.is_some_and(|start| start < entry);
    let is_good = start.is_none() || start == Some(Version::ZERO) || start == Some(entry);
    match shows == expected && !(is_reset && is_good) {
        true => Ok(()),
        false => Err(format!("from {start:?} with an entry at {entry}: {body}")),
    }
}
