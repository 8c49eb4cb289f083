//! The commands that need a cluster: the move from one machine to FoundationDB, with readers that go on.

use super::{blocks, workplace::Workplace};
use crate::fdb::cluster::{Cluster, fresh_prefix};

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
    let script = format!("set -euxo pipefail\n{url}{BEFORE}{guide}{AFTER}");
    let output = place.bash(&script).await;
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        said[0],
        said[1]
    );
    assert!(said[0].contains("and verified them"), "{}", said[0]);
}
