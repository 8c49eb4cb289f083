//! The proxies of the guide to operations, connected to the service by a unix socket.

use std::time::Duration;

use newsfeed::docs::GUIDES;
use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    blocks,
    proxies::{haproxy, nginx},
    workplace::Workplace,
};
use crate::support::{
    bed::Api,
    needs::{is_here, on_path},
    patience::PATIENCE,
    sse::Stream,
};

/// The configuration of the guide with the line `tcp` replaced by `unix`, which the guide gives for unix sockets.
fn config(place: &Workplace, info: &str, tcp: &str, unix: &str) -> String {
    let guide = GUIDES.iter().find(|guide| guide.slug == "operations");
    let guide = guide.expect("a guide").text;
    assert!(
        guide.contains(&format!("`{unix}`")),
        "{unix} is in the guide"
    );
    let [block] = &blocks::all(info)[..] else {
        panic!("there is one configuration of {info}");
    };
    assert!(block.code.contains(tcp), "{tcp} in {info}");
    let socket = place.path().join("http.sock");
    let unix = unix.replace("/run/newsfeed/http.sock", &socket.display().to_string());
    let address = front(place);
    block
        .code
        .replace(tcp, &unix)
        .replace("127.0.0.1:8081", &address)
        .replace("listen 8081", &format!("listen {address}"))
}

/// Where the proxy listens.
fn front(place: &Workplace) -> String {
    place.address.replace(":8080", ":8081")
}

/// Starts a service that the proxy can reach only through its socket, and uses it through the proxy.
async fn check(place: &Workplace, mut proxy: Command) {
    let begun = place
        .bash("newsfeed serve --listen $NEWSFEED_LISTEN --listen unix:$PWD/http.sock --trusted-proxy unix")
        .await;
    assert!(
        begun.status.success(),
        "{}",
        String::from_utf8_lossy(&begun.stderr)
    );
    let _proxy: Child = proxy.kill_on_drop(true).spawn().expect("it starts");
    let api = Api::at(format!("http://{}", front(place)));
    let ready = async {
        let request = || api.http.get(api.url("/readyz")).send();
        while !request().await.is_ok_and(|answer| answer.status() == 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ready).await.expect("the proxy answers");
    let mut stream = Stream::open(&api.http, &api.url("/v1/feeds/proxied/live"), None).await;
    stream.caught_up().await;
    // More than the buffers of the proxy.
    let data = json!({ "text": "x".repeat(60_000) });
    let event = json!({ "kind": "visit", "feeds": ["proxied"], "data": data });
    let sent = api.append(&json!(vec![event; 20])).await;
    let heard = stream.next_of(&["entry"]).await;
    assert_eq!(heard.data["version"], sent[0]["version"]);
    assert_eq!(heard.data["data"], data);
    assert_eq!(api.all("proxied").await.len(), 20);
}

#[tokio::test]
async fn nginx_uses_a_unix_socket() {
    if !is_here("nginx with a unix socket", [on_path("nginx")]) {
        return;
    }
    let place = Workplace::new();
    let config = config(
        &place,
        "nginx",
        "server 127.0.0.1:8080;",
        "server unix:/run/newsfeed/http.sock;",
    );
    check(&place, nginx(&place, config)).await;
}

#[tokio::test]
async fn haproxy_uses_a_unix_socket() {
    if !is_here("HAProxy with a unix socket", [on_path("haproxy")]) {
        return;
    }
    let place = Workplace::new();
    let config = config(
        &place,
        "haproxy",
        "server node1 127.0.0.1:8080 check",
        "server node1 unix@/run/newsfeed/http.sock check",
    );
    check(&place, haproxy(&place, config)).await;
}
