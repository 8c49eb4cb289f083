//! Commands on a pseudo-terminal.

use std::{
    fs::File,
    io::{Read, Write},
    process::Stdio,
};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::json;
use tokio::{process::Command, time::timeout};

use super::{FEED, PATIENCE, Service};

/// Runs `command` on a terminal; returns its output.
async fn on_terminal(command: Command) -> String {
    typing("", command).await
}

/// The same, with `keys` typed ahead. The terminal echoes them.
async fn typing(keys: &'static str, mut command: Command) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a pseudo-terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let slave = || Stdio::from(ioctl_tiocgptpeer(&master, flags).expect("its other end"));
    let mut child = command
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .expect("it starts");
    // The terminal ends when the last copy of its other end is closed.
    drop(command);
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        let mut master = File::from(master);
        master.write_all(keys.as_bytes()).expect("typed");
        // The end is reported as EIO; what was read before is kept.
        let _ = master.read_to_end(&mut shown);
        String::from_utf8(shown)
            .expect("text")
            .replace("\r\n", "\n")
    });
    let status = timeout(PATIENCE, child.wait()).await;
    status.expect("it ends by itself").expect("reaped");
    shown.await.expect("read")
}

async fn service() -> Service {
    let service = Service::start().await;
    service
        .process()
        .api
        .append(&json!([
            { "id": "m-1", "kind": "message", "feeds": [FEED, "chat:1"], "actor": "user:anna", "data": { "text": "Hi Ben" } },
            { "id": "v-1", "kind": "visit", "feeds": [FEED], "actor": "user:mallory",
              "data": { "text": "\u{1b}]0;owned\u{7}\u{1b}[2J\r\n\u{9b}31m" } },
            { "id": "x-1", "kind": "other", "feeds": [FEED], "data": ["\u{202e}", 1] },
        ]))
        .await;
    service
}

#[tokio::test]
async fn entries_are_coloured_lines_and_their_data_cannot_control_the_terminal() {
    let service = service().await;
    for args in [
        &["history", FEED, "--reverse"][..],
        &["tail", FEED, "--no-follow"],
    ] {
        let shown = on_terminal(service.command(args)).await;
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown:?}");
        assert!(lines[0].contains("\x1b[36mmessage \x1b[0m"), "{shown:?}");
        assert!(lines[0].ends_with(" → user:ben  Hi Ben"), "{shown:?}");
        assert!(
            lines[1].ends_with("  \\u{1b}]0;owned\\u{7}\\u{1b}[2J\\r\\n\\u{9b}31m"),
            "{shown:?}"
        );
        assert!(lines[2].contains("[\"\\u{202e}\",1]"), "{shown:?}");
    }
}

#[tokio::test]
async fn colours_can_be_switched_off_and_on() {
    let service = service().await;
    let args = ["history", FEED];
    let mut plain = service.command(&args);
    plain.env("NO_COLOR", "1");
    let plain = on_terminal(plain).await;
    assert!(
        plain.contains("message") && !plain.contains('\x1b'),
        "{plain:?}"
    );
    let never = service.command(&[&args[..], &["--color", "never"]].concat());
    assert_eq!(on_terminal(never).await, plain);
    let text = service
        .run(&[&args[..], &["--format", "text"]].concat())
        .await;
    assert_eq!(text.stdout, plain);

    let colored = on_terminal(service.command(&args)).await;
    let always = ["--format", "text", "--color", "always"];
    let always = service.run(&[&args[..], &always].concat()).await;
    assert_eq!(always.stdout, colored);
    let json = service.command(&[&args[..], &["--format", "json"]].concat());
    let json = on_terminal(json).await;
    let parsed = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let entries = service.entries().await.into_iter().rev();
    let entries: Vec<_> = entries.map(|entry| parsed(&entry)).collect();
    assert_eq!(json.lines().map(parsed).collect::<Vec<_>>(), entries);
}

/// C1 controls, DEL and bidirectional formatting may stand in JSON as they are.
#[tokio::test]
async fn json_is_escaped_on_a_terminal_and_unchanged_elsewhere() {
    let service = service().await;
    let data = "\u{9b}31m\u{7f}\u{85}\u{202e}";
    service
        .process()
        .api
        .append(&json!([{ "id": "c-1", "kind": "other", "feeds": [FEED], "data": data }]))
        .await;
    let dangerous = |text: &str| {
        text.chars()
            .any(|c| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c))
    };
    for args in [
        &["history", FEED, "--format", "json"][..],
        &["tail", FEED, "--no-follow", "--format", "json"],
    ] {
        let shown = on_terminal(service.command(args)).await;
        assert!(!dangerous(&shown), "{shown:?}");
        assert!(shown.contains(r"\u009b31m\u007f\u0085\u202e"), "{shown:?}");
        let piped = service.run(args).await.stdout;
        assert!(piped.contains(data), "{piped:?}");
        let parsed = |text: &str| -> Vec<serde_json::Value> {
            let lines = text.lines();
            lines
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect()
        };
        assert_eq!(parsed(&shown), parsed(&piped));
    }
}

#[tokio::test]
async fn states_and_answers_are_printed_as_text() {
    let service = service().await;
    let state =
        on_terminal(service.command(&["state", FEED, "user:bne", "--color", "never"])).await;
    let lines: Vec<&str> = state.lines().collect();
    assert!(
        lines[0].starts_with("user:ben  unread 1 (1 message)  read –  seen –  version "),
        "{state}"
    );
    assert!(lines[1].ends_with("empty: no entries yet"), "{state}");
    let mark = on_terminal(service.command(&["mark", FEED, "--color", "never"])).await;
    assert!(mark.starts_with("user:ben  unread 0  read 0"), "{mark}");
    assert!(mark.ends_with("before: unread 1 (1 message)\n"), "{mark}");
    let nothing = on_terminal(service.command(&["history", "user:bne"])).await;
    assert!(nothing.contains("no entries"), "{nothing}");

    let event = [
        "append", "--kind", "visit", "--feed", FEED, "--id", "v-2", "--color", "never",
    ];
    let appended = on_terminal(service.command(&event)).await;
    assert!(
        appended.starts_with("appended   0") && appended.ends_with("  v-2\n"),
        "{appended}"
    );
    let again = on_terminal(service.command(&event)).await;
    assert!(again.starts_with("duplicate  0"), "{again}");
    // Without flags it does not read events from a terminal.
    let nothing = on_terminal(service.command(&["append"])).await;
    assert!(
        nothing.contains("no event: give --kind and --feed"),
        "{nothing}"
    );
}

#[tokio::test]
async fn erasing_asks_first_and_changes_are_told_as_text() {
    let service = service().await;
    let edit = service.command(&["edit", "m-1", "--text", "Ho", "--color", "never"]);
    let edited = on_terminal(edit).await;
    assert!(
        edited.starts_with("edited     0") && edited.ends_with("  m-1\n"),
        "{edited}"
    );
    let no_data = on_terminal(service.command(&["edit", "m-1"])).await;
    assert!(no_data.contains("no data: give it as JSON"), "{no_data}");

    let erase = ["erase", "m-1", "--color", "never"];
    for refusal in ["n\n", "\n", "\u{4}"] {
        let refused = typing(refusal, service.command(&erase)).await;
        let asked = "Erase the event m-1 for good? This cannot be undone. [y/N] ";
        assert!(refused.contains(asked), "{refused}");
        assert!(
            refused.ends_with("newsfeed: nothing was erased\n"),
            "{refused}"
        );
    }
    let erased = typing("y\n", service.command(&erase)).await;
    assert!(
        erased.contains("[y/N] ") && erased.contains("erased     0"),
        "{erased}"
    );
    let again = on_terminal(service.command(&["erase", "m-1", "--yes"])).await;
    assert_eq!(again, "m-1 had been erased before\n");
    for (args, asked) in [
        (&["erase", "m-1", "v-1"][..], "Erase 2 events for good?"),
        (
            &["erase", "--feed", FEED],
            "Erase all entries of user:ben for good?",
        ),
        (
            &["erase", "--feed", FEED, "--everywhere"],
            "Erase all events that are in user:ben, in all their feeds",
        ),
        (
            &["erase", "--actor", "user:mallory"],
            "Erase all events of user:mallory, in all feeds",
        ),
    ] {
        let shown = typing("no\n", service.command(args)).await;
        assert!(shown.contains(asked), "{shown}");
    }
    let both = typing("yes\n", service.command(&["erase", "v-1", "m-1"])).await;
    assert!(both.contains("1 event erased of 2 ("), "{both}");
    service.run(&["edit", "x-1", "1"]).await.lines(0);
    let tail = [
        "tail",
        FEED,
        "--no-follow",
        "--from",
        "beginning",
        "--color",
        "never",
    ];
    let told = on_terminal(service.command(&tail)).await;
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].ends_with(" → user:ben  1  (edited)"), "{told}");
    assert_eq!(
        lines[1..3],
        [
            "erased  message   m-1 → user:ben",
            "erased  visit     v-1 → user:ben"
        ]
    );
    assert!(
        lines[3].starts_with("edited  20") && lines[3].ends_with(" → user:ben  1"),
        "{told}"
    );
    let append = [
        "append", "--kind", "message", "--feed", FEED, "--id", "m-1", "--color", "never",
    ];
    let appended = on_terminal(service.command(&append)).await;
    assert!(appended.contains("erased     0"), "{appended}");
    assert!(
        appended.contains("1 of 1 events had been erased and were not stored again"),
        "{appended}"
    );
}
