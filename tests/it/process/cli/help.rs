//! Help texts, and messages about mistakes.

use std::process::{Command, Stdio};

use super::{FEED, Said, Service, newsfeed};
use crate::process::run;

async fn said(args: &[&str]) -> Said {
    run(args).await.into()
}

#[tokio::test]
async fn every_command_has_help_with_examples() {
    let short = said(&["--help"]).await;
    for group in ["Read and write feeds:", "Run the service:", "Examples:"] {
        assert!(short.stdout.contains(group), "{}", short.stdout);
    }
    for command in [
        "append",
        "event",
        "edit",
        "erase",
        "tail",
        "history",
        "export",
        "import",
        "state",
        "mark",
        "readers",
        "replay",
        "demo",
        "completions",
    ] {
        assert!(
            short.stdout.contains(&format!("\n  {command} ")),
            "{command}"
        );
        let help = said(&[command, "--help"]).await;
        assert_eq!(help.code, Some(0));
        let examples = help.stdout.split_once("\nExamples:\n").expect("examples").1;
        assert!(
            examples.contains(&format!("newsfeed {command} ")),
            "{}",
            help.stdout
        );
        let has_url = help.stdout.contains("[env: NEWSFEED_URL");
        assert_eq!(has_url, command != "completions", "{command}");
    }
}

/// Also while the environment variable is set, which once made clap list `--url` among the required arguments.
#[tokio::test]
async fn usage_lines_show_only_what_is_required() {
    for (command, usage) in [
        ("tail", "tail <FEED>..."),
        ("history", "history <FEED>..."),
        ("state", "state <FEED>..."),
        ("mark", "mark <FEED> [MARKER] [VERSION|TIME|now]"),
        ("edit", "edit <ID> [DATA|@FILE|-]"),
        ("readers", "readers <FEED>"),
        ("replay", "replay <FILE>"),
        ("import", "import <FILE>"),
    ] {
        for url in ["", "http://127.0.0.1:1"] {
            let mut missing = newsfeed(&[command]);
            let missing = missing.env("NEWSFEED_URL", url).output().await;
            let missing = Said::from(missing.expect("it runs"));
            missing.told(2, &format!("Usage: newsfeed {usage}\n"));
        }
    }
}

#[tokio::test]
async fn mistakes_are_reported_with_advice() {
    for (args, told) in [
        (&["tial", FEED][..], "'tail'"),
        (&["tail"], "<FEED>"),
        (
            &["tail", "user:*"],
            "a name, such as user:ben, must not contain `*`",
        ),
        (
            &["tail", FEED, "--from", "yesterday"],
            ": expected `beginning`, `now`, a version or a time: a version is 26 characters",
        ),
        (
            &["history", FEED, "--after", "yesterday"],
            "a time is written like 2026-11-28T00:00:00Z",
        ),
        (
            &["tail", FEED, "--from", "now", "-n", "1"],
            "cannot be used with",
        ),
        (
            &["history", FEED, "--until", "1"],
            "`newsfeed state FEED` shows",
        ),
        (
            &["history", FEED, "--until", "2026-11-28"],
            ": expected `now`, a version or a time: a version is 26 characters",
        ),
        (&["mark", FEED, "raed"], "'read'"),
        (&["mark", FEED, "unread"], "with --entry VERSION"),
        (&["mark", FEED, "seen", "--entry", "0"], "leave --entry out"),
        (
            &["mark", FEED, "read", "0", "--entry", "0"],
            "cannot be used with",
        ),
        (
            &["mark", FEED, "--reader", "user:*"],
            "must not contain `*`",
        ),
        (
            &["history", FEED, "--state", "seen"],
            "values: unread, read, archived, any]",
        ),
        (
            &["tail", "--all", "--reader", "user:ben"],
            "cannot be used with",
        ),
        (&["erase"], "--feed <FEED>|--actor <ACTOR>>"),
        (&["erase", "a", "--feed", "b"], "cannot be used with"),
        (
            &["erase", "--feed", "a", "--actor", "b"],
            "cannot be used with",
        ),
        (
            &["erase", "--actor", "b", "--everywhere"],
            "cannot be used with",
        ),
        (
            &["erase", "a", "b", "--revision", "0"],
            "--revision is for one event",
        ),
        (&["edit", "a", "{b:1}"], "the data is not valid JSON"),
        (&["edit", "a", "1", "--text", "b"], "cannot be used with"),
        (
            &["edit", "a", "1", "--revision", "later"],
            "a version is 26 characters",
        ),
        (&["append", "--kind", "message"], "--feed"),
        (&["append", "--text", "Hi"], "--kind"),
        (
            &["append", "-", "--kind", "a", "--feed", "b"],
            "cannot be used with",
        ),
        (
            &["append", "--kind", "a", "--feed", "b", "--expect", "b"],
            "slot:6pm@0",
        ),
        (
            &["append", "--kind", "a", "--feed", "b", "--data", "{a:1}"],
            "--data is not valid JSON",
        ),
    ] {
        said(args).await.told(2, told);
    }
}

#[tokio::test]
async fn an_unreachable_service_is_reported_with_advice() {
    // Bound and dropped: nothing listens on this port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    for args in [
        &["state", FEED][..],
        &["history", FEED],
        &["mark", FEED],
        &["tail", FEED, "--wait", "0"],
        &["tail", FEED, "--from", "beginning", "--wait", "0"],
        &["append", "--kind", "a", "--feed", "b", "--wait", "0"],
    ] {
        let said = said(&[args, &["--url", &nobody]].concat()).await;
        for part in [&*nobody, "`newsfeed serve`", "--url"] {
            said.told(1, part);
        }
    }
    let strange = said(&["state", FEED, "--url", "localhost:8080"]).await;
    strange.told(
        1,
        "is not the address of a service; write it like http://127.0.0.1:8080",
    );
}

#[tokio::test]
async fn completions_exist_for_every_shell_and_work_in_bash() {
    let service = Service::start().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&["completions", shell]).await;
        assert_eq!(script.code, Some(0));
        for part in ["history", "readers", "--cursor", "no-follow", "--reader"] {
            let part = part.trim_start_matches('-');
            assert!(script.stdout.contains(part), "{shell}: {part}");
        }
        if shell == "bash" {
            let file = service.file("completions");
            std::fs::write(&file, &script.stdout).expect("written");
            let check = "set -e; bash -n \"$1\"; . \"$1\"; COMP_WORDS=(newsfeed hi); COMP_CWORD=1; \
                         _newsfeed newsfeed hi newsfeed; echo \"${COMPREPLY[*]}\"";
            let bash = Command::new("bash")
                .args(["-c", check, "bash"])
                .arg(&file)
                .stdin(Stdio::null())
                .output()
                .expect("bash runs");
            let Said {
                code,
                stdout,
                stderr,
            } = bash.into();
            assert_eq!((code, &*stdout), (Some(0), "history\n"), "{stderr}");
        }
    }
}
