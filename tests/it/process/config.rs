//! The configuration: flags override environment variables, which override the file.

use std::{fs, path::PathBuf};

use newsfeed::{
    clock::WallTime,
    store::{Store, embedded::Embedded},
};
use proptest::prelude::*;

use super::{Process, failure, newsfeed, run};
use crate::support::bed::text;

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(content: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("newsfeed.toml");
        fs::write(&path, content).expect("written");
        Self {
            _folder: folder,
            path,
        }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }
}

/// Runs `config check`, which must succeed; returns what it prints.
async fn checked(args: &[&str], env: &[(&str, &str)]) -> String {
    let output = newsfeed(&[&["config", "check"], args].concat())
        .envs(env.iter().copied())
        .output()
        .await
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

fn has(config: &str, line: &str) {
    assert!(
        config.lines().any(|have| have == line),
        "{line} in\n{config}"
    );
}

#[tokio::test]
async fn flags_override_the_environment_which_overrides_the_file() {
    let file =
        File::new("tail_gap_ms = 5\n[append]\nlinger_us = 50\nqueue_ms = 500\nbatches = 2\n");
    let config = checked(
        &["--config", file.path(), "--append-batches", "3"],
        &[
            ("NEWSFEED_APPEND_BATCHES", "9"),
            ("NEWSFEED_APPEND_QUEUE_MS", "700"),
        ],
    )
    .await;
    has(&config, "tail_gap_ms = 5  # file");
    has(&config, "append_linger_us = 50  # file");
    has(&config, "append_queue_ms = 700  # environment");
    has(&config, "append_batches = 3  # flag");
    has(&config, "listen = [\"127.0.0.1:8080\"]");
}

#[tokio::test]
async fn the_printed_configuration_is_an_equivalent_file() {
    let args = ["--tail-gap-ms", "9", "--kind", "a=notify,b=transient"];
    let first = checked(&args, &[]).await;
    has(&first, "kinds = [\"a=notify\", \"b=transient\"]  # flag");
    let file = File::new(&first);
    let second = checked(&["--config", file.path()], &[]).await;
    let plain = |config: &str| {
        let lines = config.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.map(|line| line.split("  # ").next().unwrap_or(line).to_owned());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(plain(&first), plain(&second));
}

/// Flags that can be repeated have two names in the file: the flag's and the plural.
#[tokio::test]
async fn both_spellings_of_a_list_are_read_and_one_is_printed() {
    for (singular, plural, value) in [
        ("kind", "kinds", "[\"a=notify\", \"b=transient\"]"),
        (
            "cors_origin",
            "cors_origins",
            "[\"https://a.example\", \"https://b.example\"]",
        ),
        (
            "trusted_proxy",
            "trusted_proxies",
            "[\"10.0.0.0/8\", \"192.0.2.1\"]",
        ),
    ] {
        for key in [singular, plural] {
            let file = File::new(&format!("{key} = {value}\n"));
            let config = checked(&["--config", file.path()], &[]).await;
            has(&config, &format!("{plural} = {value}  # file"));
            assert!(!config.contains(&format!("{singular} = ")), "{config}");
        }
        for (first, second) in [(singular, plural), (plural, singular)] {
            let file = File::new(&format!("{first} = {value}\n{second} = {value}\n"));
            let said = failure(&["config", "check", "--config", file.path()]).await;
            assert!(said.contains("are the same setting"), "{said}");
            assert!(said.contains(&format!("keep {plural:?}")), "{said}");
        }
    }
    let tables = "[kind]\na = \"notify\"\n[cors]\norigin = \"https://a.example\"\n";
    let config = checked(&["--config", File::new(tables).path()], &[]).await;
    has(&config, "kinds = [\"a=notify\"]  # file");
    has(&config, "cors_origins = [\"https://a.example\"]  # file");
    let flag = ["--kind", "c=notify"];
    let file = File::new("kind = [\"a=notify\"]\n");
    let config = checked(&[&["--config", file.path()][..], &flag].concat(), &[]).await;
    has(&config, "kinds = [\"c=notify\"]  # flag");
}

#[tokio::test]
async fn the_service_uses_its_configuration_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = File::new("[kinds]\nblip = \"transient\"\n");
    let service =
        Process::start_with(&folder.path().join("store"), &["--config", file.path()]).await;
    let blip = serde_json::json!({"kind": "blip", "feeds": ["f"]});
    let (status, problem) = service.api.post("/v1/events", &blip).await;
    assert_eq!(
        (status, text(&problem["code"])),
        (400, "kind_transient".into())
    );
    service.stop().await;
}

#[tokio::test]
async fn mistakes_in_the_file_are_reported_with_their_place() {
    for (content, wanted) in [
        (
            "lisen = \"127.0.0.1:1\"",
            "\"lisen\" is unknown; the settings are ",
        ),
        ("[append]\nlingers = 1", "\"append_lingers\" is unknown"),
        (
            "tail-gap-ms = 1",
            "\"tail-gap-ms\" is unknown; write it tail_gap_ms",
        ),
        ("config = \"other.toml\"", "\"config\" is unknown"),
        ("tail_gap_ms = 1\ntail_gap_ms = 2", "line 2: "),
        (
            "append_linger_us = 1\n[append]\nlinger_us = 2",
            "\"append_linger_us\" is set twice",
        ),
        ("\n\nlisten = ", "line 3: "),
        ("listen = \"here\"", "'here' for '--listen"),
        ("tail_gap_ms = 100000", "'100000' for '--tail-gap-ms"),
        (
            "tail_gap_ms = [[1]]",
            "\"tail_gap_ms\" must be a string, a number",
        ),
        ("tail_gap_ms = [1, 2]", "'--tail-gap-ms"),
        ("[kinds]\nmessage = \"loud\"", "message=loud"),
        ("[[retention]]\nfeeds = \"a\"", "needs age, entries or both"),
        (
            "[[retention]]\nage = [[\"1d\"]]",
            "\"retention\" must be a string, a number",
        ),
        (
            "[[kinds]]\nage = \"1d\"",
            "\"kinds\" must be a string, a number",
        ),
        ("retention = \"age=1d,age=2d\"", "age is there twice"),
        ("retention_log_age = \"1s\"", "is not an age"),
    ] {
        let file = File::new(content);
        for command in [&["config", "check"][..], &["serve"]] {
            let said = failure(&[command, &["--config", file.path()]].concat()).await;
            assert!(
                said.contains(file.path()) && said.contains(wanted),
                "{content}: {said}"
            );
        }
    }
    let missing = failure(&["serve", "--config", "/nonexistent.toml"]).await;
    assert!(
        missing.contains("cannot read the configuration file /nonexistent.toml"),
        "{missing}"
    );
    let long = File::new(&"#".repeat(1024 * 1024 + 1));
    let said = failure(&["serve", "--config", long.path()]).await;
    assert!(said.contains("longer than 1048576 bytes"), "{said}");
}

/// As tables, as texts, in the environment and as flags; what is printed can be read again.
#[tokio::test]
async fn retention_rules_are_read_everywhere() {
    let tables = File::new(
        "retention_log_age = \"90d\"\n[[retention]]\nage = \"7d\"\nfeeds = \"chat:*\"\nkinds = [\"visit\", \"a,b\"]\n\n[[retention]]\nentries = 100\n",
    );
    let from_tables = checked(&["--config", tables.path()], &[]).await;
    has(&from_tables, "retention_log_age = \"90d\"  # file");
    let line = from_tables
        .lines()
        .find(|line| line.starts_with("retention = "));
    let line = line.expect("the rules").trim_end_matches("  # file");
    let texts = File::new(line);
    let from_texts = checked(&["--config", texts.path()], &[]).await;
    has(&from_texts, &format!("{line}  # file"));
    let rules = r"feeds=chat:*,kinds=visit,kinds=a\,b,age=7d;entries=100";
    let from_environment = checked(&[], &[("NEWSFEED_RETENTION", rules)]).await;
    let shown = r#"["feeds=chat:*,kinds=visit,kinds=a\\,b,age=7d", "entries=100"]"#;
    assert!(
        from_environment.contains("entries=100"),
        "{from_environment}"
    );
    let line = from_environment
        .lines()
        .find(|line| line.starts_with("retention = "))
        .expect("the rules");
    let value: toml::Table = line.parse().expect("TOML");
    let wanted: toml::Table = format!("retention = {shown}").parse().expect("TOML");
    assert_eq!(value, wanted);
}

#[tokio::test]
async fn an_unknown_environment_variable_is_reported() {
    let output = newsfeed(&["config", "check"])
        .env("NEWSFEED_LISTN", "127.0.0.1:1")
        .env("NEWSFEED_LISTEN", "127.0.0.1:1")
        .output()
        .await
        .expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("NEWSFEED_LISTN is not a setting"), "{said}");
    assert!(!said.contains("NEWSFEED_LISTEN"), "{said}");
    assert_eq!(output.status.code(), Some(0));
}

/// No output shows secrets. Defects of the files are reported before anything starts.
#[tokio::test]
async fn named_files_are_checked_and_no_secret_is_shown() {
    const SECRET: &str = "0f6b7a1d2c93e84a5b06d7f1c8e92a34b5d60718293a4b5c6d7e8f90a1b2c3d4";
    let keys = File::new(SECRET);
    let config = checked(
        &["--auth-secret-file", keys.path(), "--listen", "0.0.0.0:1"],
        &[("NEWSFEED_AUTH_SECRET", SECRET)],
    )
    .await;
    let line = format!("auth_secret_file = {:?}  # flag", keys.path());
    has(&config, &line);
    assert!(!config.contains(SECRET), "{config}");
    let short = File::new("short");
    let pem = File::new("no PEM");
    for (args, wanted) in [
        (&["--auth-keys", keys.path()][..], "--auth-secret-file"),
        (&["--auth-secret-file", short.path()], "32 random bytes"),
        (&["--auth-keys", "/nonexistent"], "/nonexistent"),
        (&["--listen", "0.0.0.0:1"], "--insecure"),
        (
            &["--tls-cert", pem.path(), "--tls-key", pem.path()],
            pem.path(),
        ),
    ] {
        let said = failure(&[&["config", "check"], args].concat()).await;
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn admin_commands_use_the_store_of_the_configuration_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    Process::start(&store).await.stop().await;
    let file = File::new(&format!("data = {store:?}\nlisten = \"127.0.0.1:0\"\n"));
    let output = run(&["admin", "epoch", "--config", file.path()]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(epoch(&output.stdout) > 0);
}

/// The epoch that `newsfeed admin epoch` has printed.
fn epoch(stdout: &[u8]) -> u32 {
    let text = std::str::from_utf8(stdout).expect("text");
    let epoch = text.trim_end().strip_prefix("epoch ").expect(text);
    epoch.parse().expect("a number")
}

/// All admin commands that open a store.
const STORE_COMMANDS: [&[&str]; 3] = [
    &["admin", "epoch"],
    &["admin", "epoch", "--raise"],
    &["admin", "check"],
];

#[tokio::test]
async fn no_admin_command_creates_a_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let (missing, empty, other) = (
        folder.path().join("missing/store"),
        folder.path().join("empty"),
        folder.path().join("other"),
    );
    std::fs::create_dir(&empty).expect("made");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join("notes.txt"), "mine").expect("written");
    let listing = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.collect::<Vec<_>>()
    };
    for command in STORE_COMMANDS {
        for data in [&missing, &empty, &other] {
            let before = (data.exists(), listing(data));
            let path = data.to_str().expect("UTF-8");
            let said = failure(&[command, &["--data", path]].concat()).await;
            for part in ["there is no store in", path] {
                assert!(said.contains(part), "{command:?}: {said}");
            }
            assert_eq!((data.exists(), listing(data)), before, "{command:?}");
        }
    }
    assert!(!folder.path().join("missing").exists());
}

#[tokio::test]
async fn admin_commands_do_not_complete_a_store_without_a_key_space() {
    // A process that was killed while it created its store leaves an open database without keys.
    let folder = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(folder.path(), WallTime::system(0)).expect("opens");
    store.close().await;
    let data = folder.path().to_str().expect("UTF-8");
    for command in STORE_COMMANDS {
        let said = failure(&[command, &["--data", data]].concat()).await;
        assert!(said.contains("there is no store in"), "{command:?}: {said}");
    }
    // The service completes it.
    Process::start(folder.path()).await.stop().await;
    let shown = run(&["admin", "epoch", "--data", data]).await;
    let raised = run(&["admin", "epoch", "--raise", "--data", data]).await;
    assert!(epoch(&raised.stdout) > epoch(&shown.stdout));
    let said = failure(&[
        "admin",
        "epoch",
        "--raise",
        "--restored-version",
        "7",
        "--data",
        data,
    ])
    .await;
    assert!(
        said.contains("recognises restored copies by itself"),
        "{said}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any content is accepted or refused with an error; nothing panics.
    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "([a-z_]{1,12}( = |\\.)|\\[[a-z]{1,8}\\]\n|[0-9]{1,4}|\"[^\"]{0,5}\"|\n|\\PC){0,12}") {
        use clap::{Args, Command};
        let file = File::new(&text);
        let command = newsfeed::config::Config::augment_args(Command::new("serve"));
        let args = ["serve", "--config", file.path()].map(Into::into).to_vec();
        let _ = newsfeed::config::file::parse(&command, args);
    }
}
