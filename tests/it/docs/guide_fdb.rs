//! The commands that need a cluster, with readers that go on: the move from one machine to FoundationDB, and a backup of a
//! cluster that is restored.

use std::path::Path;

use super::{blocks, workplace::Workplace};
use crate::{
    fdb::cluster::{Cluster, fresh_prefix},
    support::needs::{self, not_tested, on_path},
};

/// What users did before, on the embedded engine. `tail` keeps its position in a file.
const BEFORE: &str = r#"
newsfeed serve
seq 900 | jq -c '{id: "m-\(.)", kind: "message", feeds: ["user:ben", "chat:\(. % 9)"], data: .}' | newsfeed append - >answers
newsfeed tail user:ben --no-follow --from beginning --cursor ben.cursor --format json >/dev/null
VN=$(newsfeed state user:ben --format json | jq -r .version)
newsfeed mark user:ben read "$(jq -r 'select(.id == "m-300").version' answers)"
seq 901 1000 | jq -c '{id: "m-\(.)", kind: "message", feeds: ["user:ben"], data: .}' | newsfeed append - >>answers
newsfeed state user:ben --format json | jq -c 'del(.version)' >state
newsfeed export --quiet >events
newsfeed export --quiet --cursor log.cursor >/dev/null
"#;

/// What they find on FoundationDB.
const AFTER: &str = r#"
newsfeed state user:ben --format json | jq -c 'del(.version)' | diff state -
newsfeed export --quiet | diff events -
echo '{"id": "new", "kind": "message", "feeds": ["user:ben"], "data": 1001}' | newsfeed append - >/dev/null
newsfeed tail user:ben --no-follow --cursor ben.cursor --format json | jq .data | diff <(seq 901 1001) -
curl -s "$U/v1/feeds/user:ben/entries?after=$VN&limit=200" | jq '.entries[].data' | diff <(seq 901 1001) -
newsfeed export --quiet --cursor log.cursor | jq .data | diff <(echo 1001) -
seq 900 | jq -c '{id: "m-\(.)", kind: "message", feeds: ["user:ben", "chat:\(. % 9)"], data: .}' | newsfeed append - |
  jq -c 'select(.status == "duplicate") | {id, version}' | diff <(head -900 answers | jq -c '{id, version}') -
newsfeed stop
newsfeed admin check --store fdb --cluster-file "$CLUSTER" --prefix "$PREFIX"
newsfeed admin copy --from "fdb:$CLUSTER?prefix=$PREFIX" --to embedded:./back
newsfeed admin check --data ./back
newsfeed serve --data ./back
newsfeed export --quiet | head -1000 | diff events -
curl -s "$U/v1/feeds/user:ben/entries?after=$VN&limit=200" | jq '.entries[].data' | diff <(seq 901 1001) -
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_moves_a_store_to_fdb_and_readers_go_on_where_they_were() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(1, "ssd"));
    let place = Workplace::new();
    let (file, prefix) = (cluster.file(), fresh_prefix());
    let file = file.to_str().expect("UTF-8");
    let mut guide = String::new();
    for block in blocks::all("sh fdb") {
        guide += &place.here(&block.code);
    }
    assert_eq!(guide.lines().count(), 3, "three commands: {guide}");
    let guide = guide
        .replace("/etc/foundationdb/fdb.cluster", file)
        .replace("prefix=newsfeed/", &format!("prefix={prefix}"))
        .replace("--store fdb", &format!("--store fdb --prefix {prefix}"));
    let url = format!(
        "U=http://{}\nCLUSTER={file}\nPREFIX={prefix}\n",
        place.address
    );
    let said = passed(&place, &format!("{url}{BEFORE}{guide}{AFTER}")).await;
    assert!(said.contains("and verified them"), "{said}");
}

/// Runs a script, none of whose commands may fail. Returns what it printed.
async fn passed(place: &Workplace, script: &str) -> String {
    let output = place.bash(&format!("set -euxo pipefail\n{script}")).await;
    let [said, errors] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(
        output.status.success(),
        "{}\n{said}\n{errors}",
        output.status
    );
    said
}

/// Where the packages install it.
const AGENT: &str = "/usr/lib/foundationdb/backup_agent/backup_agent";

const BEFORE_BACKUP: &str = r#"
newsfeed serve --store fdb --cluster-file "$CLUSTER"
seq 300 | jq -c '{id: "m-\(.)", kind: "message", feeds: ["user:ben"], data: .}' | newsfeed append - >/dev/null
newsfeed tail user:ben --no-follow --from beginning --cursor ben.cursor --format json >/dev/null
newsfeed export --quiet >events
$AGENT -C "$CLUSTER" >agent.log 2>&1 </dev/null &
trap 'kill %%' EXIT
mkdir newsfeed
"#;

const DISASTER: &str = r#"
echo '{"id": "lost", "kind": "message", "feeds": ["user:ben"], "data": 301}' | newsfeed append - >/dev/null
LOST=$(newsfeed state user:ben --format json | jq -r .version)
newsfeed stop
fdbcli -C "$CLUSTER" --exec 'writemode on; clearrange "" \xff'
"#;

const AFTER_RESTORE: &str = r#"
newsfeed serve --store fdb --cluster-file "$CLUSTER"
newsfeed export --quiet | diff events -
newsfeed tail user:ben --no-follow --cursor ben.cursor --format json | diff /dev/null -
curl -s "$U/v1/feeds/user:ben/entries?after=$LOST" | jq -e '.code == "cursor_unknown"'
seq 301 | jq -c '{id: (if . > 300 then "lost" else "m-\(.)" end), kind: "message", feeds: ["user:ben"], data: .}' |
  newsfeed append - | jq -r .status | uniq -c | diff -w <(printf '300 duplicate\n1 appended\n') -
newsfeed tail user:ben --no-follow --cursor ben.cursor --format json | jq .data | diff <(echo 301) -
newsfeed stop
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_fdb_is_restored_and_readers_go_on_where_they_were() {
    let has_agent = Path::new(AGENT).exists();
    let agent = has_agent.then_some(());
    let agent = agent.ok_or_else(|| format!("{AGENT} is missing"));
    if let Err(missing) = on_path("fdbbackup").and(agent) {
        return not_tested("backups of FoundationDB", &missing, needs::FDBBACKUP);
    }
    let cluster = tokio::task::block_in_place(|| Cluster::start(1, "ssd"));
    let place = Workplace::new();
    let file = cluster.file();
    let file = file.to_str().expect("UTF-8");
    let [backup, restore] = ["sh fdb backup", "sh fdb restore"].map(|kind| {
        let code = blocks::all(kind).into_iter().map(|block| block.code);
        let code = place.here(&code.collect::<String>());
        code.replace("/etc/foundationdb/fdb.cluster", file)
    });
    let names = format!(
        "U=http://{}\nCLUSTER={file}\nAGENT={AGENT}\n",
        place.address
    );
    let script = [
        &names,
        BEFORE_BACKUP,
        &backup,
        DISASTER,
        &restore,
        AFTER_RESTORE,
    ];
    let said = passed(&place, &script.concat()).await;
    assert!(said.contains("Restored to version"), "{said}");
}
