//! `newsfeed append`.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};

use super::{FEED, PATIENCE, Process, Running, Service, newsfeed, with_token};

const EVENT: [&str; 5] = ["append", "--kind", "message", "--feed", FEED];

#[tokio::test]
async fn flags_describe_one_event() {
    let service = Service::start().await;
    let flags = [
        "--feed",
        "chat:a",
        "--actor",
        "user:anna",
        "--id",
        "m-1",
        "--text",
        "Hi \"Ben\"",
    ];
    let flags = [&EVENT[..], &flags].concat();
    let said = service.run(&flags).await;
    let [answer] = &said.json(0)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(answer["status"], "appended");
    let entries = service.process().api.all(FEED).await;
    assert_eq!(entries[0]["version"], answer["version"]);
    assert_eq!(entries[0]["actor"], "user:anna");
    assert_eq!(entries[0]["data"], json!({ "text": "Hi \"Ben\"" }));
    assert_eq!(service.process().api.all("chat:a").await.len(), 1);

    // The same event again is a duplicate; other content with the same id is refused.
    assert_eq!(service.run(&flags).await.json(0)[0]["status"], "duplicate");
    let other = service.run(&[&EVENT[..], &["--id", "m-1"]].concat()).await;
    other.told(1, "newsfeed: the event was rejected, id_reused: ");
    assert_eq!(other.json(1)[0]["error"]["code"], "id_reused");
}

#[tokio::test]
async fn atomic_events_are_all_appended_or_none() {
    let service = Service::start().await;
    let all = async |feed: &str| service.process().api.all(feed).await;
    let lines = |who: &str| -> String {
        let line = |slot| json!({ "id": format!("{who}-{slot}"), "kind": "booking", "feeds": [format!("slot:{slot}"), "all"] });
        (6..8).map(|slot| format!("{}\n", line(slot))).collect()
    };
    let free = [
        "append", "--atomic", "--expect", "slot:6@0", "--expect", "slot:7@0",
    ];
    let said = service.run_with(&free, &lines("anna")).await.json(0);
    assert_eq!(said.len(), 2);
    assert!(said.iter().all(|answer| answer["status"] == "appended"));
    let again = service.run_with(&free, &lines("anna")).await.json(0);
    assert!(again.iter().all(|answer| answer["status"] == "duplicate"));
    let late = service.run_with(&free, &lines("ben")).await;
    late.told(1, "409 version_conflict");
    late.told(
        1,
        "nothing was appended, because of expect[0] (feed slot:6): ",
    );
    let mixed = format!(
        "{}{}",
        lines("cleo"),
        json!({ "id": "anna-6", "kind": "visit", "feeds": ["all"] })
    );
    let reused = service.run_with(&["append", "--atomic"], &mixed).await;
    reused.told(1, "nothing was appended, because of event 2: ");
    assert_eq!(all("all").await.len(), 2);

    // One event from flags, with two conditions.
    let flags = ["--atomic", "--expect", "slot:7@0", "--expect", "slot:9@0"];
    let one = service.run(&[&EVENT[..], &flags].concat()).await;
    one.told(1, "because of expect[0] (feed slot:7)");
    let one = service
        .run(&[&EVENT[..], &flags[..1], &flags[3..]].concat())
        .await;
    assert_eq!(one.json(0)[0]["status"], "appended");

    let many: String = (0..101)
        .map(|n| {
            format!(
                "{}\n",
                json!({ "id": format!("m{n}"), "kind": "visit", "feeds": ["many"] })
            )
        })
        .collect();
    let too_many = service.run_with(&["append", "--atomic"], &many).await;
    too_many.told(1, "at most 100 events");
    assert_eq!(all("many").await.len(), 0);
    for (args, wrong) in [
        (&["append", "--expect", "slot:6@0"][..], "needs --atomic"),
        (
            &[
                "append", "--kind", "visit", "--feed", "a", "--expect", "a@0", "--expect", "b@0",
            ],
            "need --atomic",
        ),
        (
            &["append", "--atomic", "--transient"],
            "cannot be used with",
        ),
    ] {
        service.run_with(args, "").await.told(2, wrong);
    }
}

#[tokio::test]
async fn an_event_says_when_it_happened_from_flags_and_from_lines() {
    let service = Service::start().await;
    let (first, second) = ("2004-04-15T16:56:01.5+02:00", "2004-04-15T14:57:00Z");
    let flags = [&EVENT[..], &["--actor", "user:anna", "--time", first]].concat();
    service.run(&flags).await.json(0);
    let line = json!({ "kind": "message", "feeds": [FEED], "actor": "user:anna", "time": second });
    service
        .run_with(&["append"], &format!("{line}\n"))
        .await
        .json(0);
    let [wrong] = &service
        .run(&[&EVENT[..], &["--time", "yesterday"]].concat())
        .await
        .json(1)[..]
    else {
        panic!("one answer")
    };
    assert_eq!(wrong["error"]["field"], "time");
    for args in [
        &["history", FEED, "--reverse"][..],
        &["tail", FEED, "--from", "beginning", "--no-follow"],
    ] {
        let entries = service.run(args).await.json(0);
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (&entries[0]["time"], &entries[1]["time"]),
            (&json!(first), &json!(second))
        );
        let shown = service.run(&[args, &["--format", "text"]].concat()).await;
        let shown = shown.lines(0);
        // In the local zone.
        assert!(shown[0].starts_with("2004-04-15 "), "{shown:?}");
        assert!(shown[1].contains(":57:00  message"), "{shown:?}");
    }
}

#[tokio::test]
async fn data_comes_from_the_command_line_a_file_or_a_pipe() {
    let service = Service::start().await;
    let file = service.file("data.json");
    std::fs::write(&file, "[2, 1e400]\n").expect("written");
    let at_file = format!("@{}", file.to_str().expect("UTF-8"));
    for data in ["{\"b\":1.0,\"a\":[]}", &at_file, "@-"] {
        let flags = [&EVENT[..], &["--data", data]].concat();
        service.run_with(&flags, "3").await.json(0);
    }
    let data: Vec<String> = service
        .entries()
        .await
        .iter()
        .map(|entry| entry.split_once("\"data\":").expect("data").1.to_owned())
        .collect();
    assert_eq!(data, ["{\"b\":1.0,\"a\":[]}}", "[2,1e400]}", "3}"]);
}

#[tokio::test]
async fn conditions_and_signals() {
    let service = Service::start().await;
    let once = [&EVENT[..], &["--expect", "user:ben@0"]].concat();
    service.run(&once).await.json(0);
    let again = service.run(&once).await;
    again.told(1, "version_conflict");
    let current = again.json(1)[0]["error"]["current"].clone();
    let current = format!("user:ben@{}", current.as_str().expect("a version"));
    service
        .run(&[&EVENT[..], &["--expect", &current]].concat())
        .await
        .json(0);

    let mut tail = service.begin(&["tail", FEED, "--from", "now", "--events", "all"]);
    while !tail.line().await.contains("\"markers\"") {}
    let typing = ["append", "--kind", "typing", "--feed", FEED];
    service.run(&typing).await.told(1, "(use --transient)");
    let sent = service
        .run(&[&typing[..], &["--transient"]].concat())
        .await
        .json(0);
    let heard: Value = serde_json::from_str(&tail.line().await).expect("JSON");
    assert_eq!(
        (&heard["kind"], &heard["id"]),
        (&json!("typing"), &sent[0]["id"])
    );
    assert!(heard.get("version").is_none());
    let stored = service.run(&[&EVENT[..], &["--transient"]].concat()).await;
    stored.told(1, "kind_not_transient");
}

#[tokio::test]
async fn lines_are_answered_as_they_come_in_their_order() {
    let service = Service::start().await;
    let mut append = service.begin(&["append"]);
    // Each line is answered before the next is written.
    for number in 0..3 {
        append
            .write(&format!(
                "{{\"id\":\"m-{number}\",\"kind\":\"a\",\"feeds\":[\"{FEED}\"]}}\n"
            ))
            .await;
        let answer: Value = serde_json::from_str(&append.line().await).expect("JSON");
        assert_eq!(
            (&answer["id"], &answer["status"]),
            (&json!(format!("m-{number}")), &json!("appended"))
        );
    }
    append.end().await.lines(0);

    let lines: String = (0..5_000)
        .map(|number| format!("{{\"kind\":\"a\",\"feeds\":[\"many\"],\"data\":{number}}}\n"))
        .collect();
    let file = service.file("events.ndjson");
    std::fs::write(&file, &lines).expect("written");
    let said = service
        .run(&["append", file.to_str().expect("UTF-8")])
        .await;
    let answers = said.json(0);
    let entries = service.process().api.all("many").await;
    assert_eq!((answers.len(), entries.len()), (5_000, 5_000));
    for (number, (answer, entry)) in answers.iter().zip(&entries).enumerate() {
        assert_eq!(
            (&answer["version"], &answer["id"]),
            (&entry["version"], &entry["id"])
        );
        assert_eq!(entry["data"], number);
    }
}

#[tokio::test]
async fn a_rejected_line_is_reported_and_the_others_are_appended() {
    let service = Service::start().await;
    let lines = format!(
        "{{\"kind\":\"a\",\"feeds\":[\"{FEED}\"]}}\n\n{{\"kind\":\"a\"}}\nnonsense\n{{\"kind\":\"b\",\"feeds\":[\"{FEED}\"]}}"
    );
    let (first, others) = lines.split_once('\n').expect("several");
    let mut append = service.begin(&["append", "-"]);
    append.write(&format!("{first}\n")).await;
    append.line().await;
    // The other lines are sent in a second request, but their numbers continue.
    append.write(others).await;
    let said = append.end().await;
    said.told(1, "newsfeed: 2 of 4 events were rejected");
    let of = |answer: &Value| (answer["index"].clone(), answer["error"]["code"].clone());
    let answers: Vec<_> = said.json(1).iter().map(of).collect();
    assert_eq!(
        answers,
        [
            (json!(1), json!("invalid_event")),
            (json!(2), json!("invalid_json")),
            (Value::Null, Value::Null),
        ]
    );
    assert_eq!(service.entries().await.len(), 2);

    // In the text format lines are numbered from 1, as in an editor.
    let said = service
        .run_with(&["append", "-", "--format", "text"], &lines)
        .await;
    assert!(
        said.lines(1)[1].starts_with("rejected   line 3 (event 2), invalid_event: "),
        "{said:?}"
    );

    let long = format!(
        "{{\"kind\":\"a\",\"feeds\":[\"{FEED}\"],\"data\":\"{}\"}}\n",
        "x".repeat(300_000)
    );
    let said = service
        .run_with(
            &["append"],
            &format!("{}\n{long}", lines.lines().next().expect("one")),
        )
        .await;
    said.told(
        1,
        "standard input, line 2, event 2: the event is longer than 261888 bytes",
    );
    assert_eq!(said.json(1).len(), 1);
}

#[tokio::test]
async fn pretty_json_arrays_and_a_byte_order_mark_are_read() {
    let service = Service::start().await;
    let event = |number: usize| json!({ "kind": "a", "feeds": [FEED], "data": { "n": number, "s": "{[\n\"" } });
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("JSON");
    let several: Vec<String> = (1..4).map(|number| pretty(&event(number))).collect();
    let several = several.join("\n");
    let array = json!((4..1_300).map(event).collect::<Vec<_>>());
    let file = service.file("array.json");
    std::fs::write(&file, format!("\u{feff}{}\r\n", pretty(&array))).expect("written");
    for (args, input) in [
        (&["append"][..], format!("\u{feff}{}\n", event(0))),
        (&["append", "-"], several),
        (&["append", file.to_str().expect("UTF-8")], String::new()),
        (
            &["append"],
            format!("{}{}", event(1_300), json!([event(1_301)])),
        ),
    ] {
        service.run_with(args, &input).await.json(0);
    }
    let entries = service.process().api.all(FEED).await;
    let numbers: Vec<_> = entries
        .iter()
        .map(|entry| entry["data"]["n"].clone())
        .collect();
    assert_eq!(numbers, (0..1_302).map(Value::from).collect::<Vec<_>>());

    // Data from a file, too.
    std::fs::write(&file, "\u{feff}{\"n\": 1}").expect("written");
    let at_file = format!("@{}", file.to_str().expect("UTF-8"));
    let data = [&EVENT[..], &["--data", &at_file]].concat();
    service.run(&data).await.json(0);
}

#[tokio::test]
async fn input_that_cannot_be_read_is_reported_with_its_line_and_event() {
    let service = Service::start().await;
    let event = format!("{{\"kind\":\"a\",\"feeds\":[\"{FEED}\"]}}");
    for (input, stored, told) in [
        (
            format!("[{event},\n{event}\n{event}]"),
            2,
            "standard input, line 3, event 3: expected `,` or `]`",
        ),
        (
            format!("{event}\n{{\n  \"kind\": \"a\"\n  \"feeds\": []\n}}"),
            1,
            "line 4, event 2: column 3: expected `,` or `}`",
        ),
        (
            format!("[{event},\n"),
            1,
            "line 2, event 2: the input ends, but the array",
        ),
    ] {
        let said = service.run_with(&["append"], &input).await;
        said.told(1, told);
        said.told(1, "This event and those after it were not appended");
        assert_eq!(said.json(1).len(), stored, "{said:?}");
    }
    let utf16: Vec<u8> = event.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, found) in [
        ([&[0xff, 0xfe][..], &utf16].concat(), "UTF-16"),
        (utf16, "UTF-16"),
        (b"\x1f\x8b\x08\0".to_vec(), "compressed with gzip"),
    ] {
        let file = service.file("foreign");
        std::fs::write(&file, bytes).expect("written");
        let file = file.to_str().expect("UTF-8");
        let said = service.run(&["append", file]).await;
        said.told(1, found);
        said.told(1, "events are JSON in UTF-8");
        let data = format!("@{file}");
        let said = service
            .run(&[&EVENT[..], &["--data", &data]].concat())
            .await;
        said.told(1, found);
    }
}

/// The whole array has 40 MB, and as much again once it is parsed.
#[tokio::test]
async fn a_large_array_takes_little_memory() {
    let service = Service::start().await;
    let mut command = service.command(&["append"]);
    let mut append = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let status = format!("/proc/{}/status", append.id().expect("it runs"));
    let event = json!({ "kind": "visit", "feeds": ["large"], "data": "x".repeat(2_000) });
    let event = serde_json::to_string_pretty(&event).expect("JSON");
    let mut stdin = append.stdin.take().expect("piped");
    for number in 0..20_000 {
        let before = if number == 0 { "[" } else { ",\n" };
        let written = stdin.write_all(format!("{before}{event}").as_bytes()).await;
        written.expect("it reads");
    }
    let status = std::fs::read_to_string(status).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().strip_suffix(" kB"));
    let peak: u64 = peak.expect("a peak").trim().parse().expect("a number");
    stdin.write_all(b"]").await.expect("it reads");
    drop(stdin);
    let ended = timeout(PATIENCE, append.wait()).await.expect("it ends");
    assert_eq!(ended.expect("reaped").code(), Some(0));
    let state = service
        .process()
        .api
        .get("/v1/feeds/large/entries?limit=1")
        .await;
    assert_eq!(state["entries"].as_array().map(Vec::len), Some(1));
    assert!(peak < 90_000, "{peak} kB");
}

#[tokio::test]
async fn it_waits_for_an_unavailable_service_and_appends_once() {
    let mut service = Service::start().await;
    let mut append = service.begin(&["append", "--wait", "600"]);
    let line = format!("{{\"kind\":\"a\",\"feeds\":[\"{FEED}\"]}}\n");
    append.write(&line).await;
    append.line().await;
    for _ in 0..2 {
        service.kill().await;
        append.write(&line).await;
        append.says("retrying for up to 600 s").await;
        service.restart().await;
        let answer: Value = serde_json::from_str(&append.line().await).expect("JSON");
        assert_eq!(answer["status"], "appended");
    }
    append.end().await.lines(0);
    assert_eq!(service.entries().await.len(), 3);
}

#[tokio::test]
async fn a_closed_stdout_does_not_stop_appends() {
    let service = Service::start().await;
    let mut append = service.begin(&["append"]);
    let line = format!("{{\"kind\":\"a\",\"feeds\":[\"{FEED}\"]}}\n");
    append.write(&line).await;
    append.line().await;
    let Running {
        mut child,
        stdin,
        lines,
        stderr,
    } = append;
    drop(lines);
    let mut stdin = stdin.expect("open");
    for stored in 2..5 {
        let written = stdin.write_all(line.as_bytes()).await;
        written.expect("it reads on");
        // One at a time: writing the previous answer has failed.
        let there = async { while service.entries().await.len() < stored {} };
        timeout(PATIENCE, there).await.expect("it is appended");
    }
    drop(stdin);
    let status = timeout(PATIENCE, child.wait()).await;
    assert_eq!(status.expect("it ends").expect("reaped").code(), Some(0));
    drop(stderr);
    assert_eq!(service.entries().await.len(), 4);
}

/// A server that answers requests as scripted, one per connection, and returns their bodies. With an empty status it
/// closes the connection instead.
async fn scripted(script: Vec<(&'static str, String)>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let bodies = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for (status, answer) in script {
            let (connection, _) = listener.accept().await.expect("a connection");
            let mut connection = BufReader::new(connection);
            let mut length = 0;
            let mut line = String::new();
            while connection.read_line(&mut line).await.expect("a head") > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            connection.read_exact(&mut body).await.expect("a body");
            bodies.push(String::from_utf8(body).expect("text"));
            let length = answer.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\nretry-after: 0\r\ncontent-length: {length}\r\n\r\n{answer}"
            );
            if !status.is_empty() {
                connection.write_all(answer.as_bytes()).await.expect("sent");
            }
        }
        bodies
    });
    (url, bodies)
}

#[tokio::test]
async fn unanswered_events_are_sent_again_with_the_same_ids() {
    let stored =
        |id: &str| format!("{{\"id\":\"{id}\",\"version\":\"0\",\"status\":\"appended\"}}\n");
    let busy = |status, code| {
        (
            status,
            format!("{{\"code\":\"{code}\",\"detail\":\"later\"}}"),
        )
    };
    let away = "{\"index\":1,\"status\":\"rejected\",\"error\":{\"code\":\"store_unavailable\",\"detail\":\"\"}}\n";
    let (url, bodies) = scripted(vec![
        ("", String::new()),
        busy("503 Service Unavailable", "busy"),
        busy("429 Too Many Requests", "too_many_requests"),
        // An answer that ends early, as from a stopping service.
        ("200 OK", stored("a")),
        ("200 OK", format!("{}{away}{}", stored("b"), stored("d"))),
        ("200 OK", stored("c")),
    ])
    .await;
    let service = Service::start().await;
    let line = |number| format!("{{\"kind\":\"a\",\"feeds\":[\"b\"],\"data\":{number}}}\n");
    let lines: String = (0..4).map(line).collect();
    let said = service.run_with(&["append", "--url", &url], &lines).await;
    let ids: Vec<Value> = said
        .json(0)
        .iter()
        .map(|answer| answer["id"].clone())
        .collect();
    assert_eq!(
        ids,
        ["a", "b", "c", "d"],
        "the answers are in the order of the lines"
    );

    let bodies = bodies.await.expect("all was asked for");
    let lines = |body: &String| body.lines().map(str::to_owned).collect::<Vec<_>>();
    let all = lines(&bodies[0]);
    assert_eq!(all.len(), 4);
    for (number, line) in all.iter().enumerate() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            (event["id"].is_string(), &event["data"]),
            (true, &json!(number))
        );
    }
    for again in &bodies[1..4] {
        assert_eq!(lines(again), all);
    }
    assert_eq!(lines(&bodies[4]), all[1..]);
    assert_eq!(lines(&bodies[5]), all[2..3]);
}

/// The actor comes from the payload of the token. An explicit actor wins.
#[tokio::test]
async fn the_only_actor_of_the_token_is_filled_in() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        &secret,
        "0f6b7a1d2c93e84a5b06d7f1c8e92a34b5d60718293a4b5c6d7e8f90a1b2c3d4",
    )
    .expect("written");
    let secret = secret.path().to_str().expect("UTF-8");
    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::start_with(folder.path(), &["--auth-secret-file", secret]).await;
    let url = process.api.url("");
    let token = async |actors: &[&str]| {
        let args = [
            "admin",
            "token",
            "--key",
            secret,
            "--scope",
            "append,read",
            "--feed",
            "*",
        ];
        let actors = actors.iter().flat_map(|actor| ["--actor", *actor]);
        let args: Vec<&str> = args.into_iter().chain(actors).collect();
        let output = newsfeed(&args).output().await.expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let lines = folder.path().join("events.ndjson");
    let line = |id: &str, actor: &str| {
        format!("{{\"id\":\"{id}\",\"kind\":\"message\",\"feeds\":[\"{FEED}\"]{actor}}}\n")
    };
    std::fs::write(
        &lines,
        line("user:anna/2", "")
            + &line("m-3", ",\"actor\":\"user:ben\"")
            + &line("m-4", ",\"actor\":null"),
    )
    .expect("written");
    let run = async |token: &str, args: &[&str]| with_token(&url, token, args).await;
    let lines = ["append", lines.to_str().expect("UTF-8")];

    let anna = token(&["user:anna"]).await;
    run(&anna, &[&EVENT[..], &["--id", "user:anna/1"]].concat())
        .await
        .json(0);
    let other = [&EVENT[..], &["--actor", "user:ben"]].concat();
    run(&anna, &other).await.told(1, "actor_forbidden");
    // An actor in the line wins, also null, and the service rejects it.
    let said = run(&anna, &lines).await;
    said.told(1, "newsfeed: 2 of 3 events were rejected");
    let statuses: Vec<_> = said
        .json(1)
        .iter()
        .map(|answer| answer["status"].clone())
        .collect();
    assert_eq!(statuses, ["appended", "rejected", "rejected"]);

    // Where the token allows several actors, or any, none is filled in.
    let several = token(&["user:anna", "user:ben"]).await;
    run(&several, &EVENT).await.told(1, "actor_forbidden");
    let prefix = token(&["user:*"]).await;
    run(&prefix, &EVENT).await.told(1, "actor_forbidden");
    let any = token(&[]).await;
    run(&any, &[&EVENT[..], &["--id", "m-5"]].concat())
        .await
        .json(0);

    let history = run(&any, &["history", FEED, "--reverse"]).await.json(0);
    let actors: Vec<_> = history
        .iter()
        .map(|entry| (&entry["id"], &entry["actor"]))
        .collect();
    assert_eq!(
        actors,
        [
            (&json!("user:anna/1"), &json!("user:anna")),
            (&json!("user:anna/2"), &json!("user:anna")),
            (&json!("m-5"), &Value::Null),
        ]
    );
    process.stop().await;
}
