//! The proxies of the guide to operations, in front of a real service with keys.

use std::{fs, process::Stdio};

use futures_util::StreamExt;
use tokio::process::{Child, Command};

use super::{blocks, workplace::Workplace};
use crate::support::needs::{is_here, on_path};

/// A service and a proxy in front of it.
struct Front {
    place: Workplace,
    _proxy: Child,
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Front {
    /// `start` gets the configuration as it stands in the guide, with the addresses of this place.
    async fn start(info: &str, start: impl Fn(&Workplace, String) -> Command) -> Self {
        let place = Workplace::new();
        let begun = place
            .bash(
                "set -e; openssl rand -hex 32 > secret; newsfeed serve --auth-secret-file secret; \
                 newsfeed admin token --key secret --sub test --scope read,append --feed '*'",
            )
            .await;
        assert!(
            begun.status.success(),
            "{}",
            String::from_utf8_lossy(&begun.stderr)
        );
        let token = String::from_utf8(begun.stdout)
            .expect("text")
            .trim()
            .to_owned();
        let [block] = &blocks::all(info)[..] else {
            panic!("there is one configuration of {info}");
        };
        let address = place.address.replace(":8080", ":8081");
        let config = place
            .here(&block.code)
            .replace("127.0.0.1:8081", &address)
            .replace("listen 8081", &format!("listen {address}"));
        let proxy = start(&place, config)
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let http = reqwest::Client::new();
        let base = format!("http://{address}");
        for _ in 0..3000 {
            if http
                .get(format!("{base}/readyz"))
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Self {
            place,
            _proxy: proxy,
            base,
            token,
            http,
        }
    }

    async fn check(&self) {
        // A stream comes at once, and what is appended meanwhile.
        let live = self
            .http
            .get(format!("{}/v1/feeds/proxied/live", self.base))
            .bearer_auth(&self.token);
        let live = live.send().await.expect("an answer");
        assert_eq!(live.status(), 200);
        let mut frames = live.bytes_stream();
        frames.next().await.expect("a frame").expect("bytes");

        // More than the 1 MiB that nginx takes unless told otherwise.
        let text = "x".repeat(60_000);
        let event =
            serde_json::json!({"kind": "visit", "feeds": ["proxied"], "data": {"text": text}});
        let events = serde_json::Value::from(vec![event; 40]);
        let append = self
            .http
            .post(format!("{}/v1/events", self.base))
            .bearer_auth(&self.token);
        let answer = append.json(&events).send().await.expect("an answer");
        assert_eq!(
            answer.status(),
            200,
            "{}",
            answer.text().await.expect("text")
        );
        let mut received = Vec::new();
        while !String::from_utf8_lossy(&received).contains("event: entry") {
            received.extend(frames.next().await.expect("a frame").expect("bytes"));
        }

        // The cookie counts for requests from pages of the same origin: the service sees the proxy's own `Host`.
        let session = self
            .http
            .post(format!("{}/v1/session", self.base))
            .bearer_auth(&self.token);
        let session = session.send().await.expect("an answer");
        assert_eq!(session.status(), 200);
        let cookie = session.headers()["set-cookie"]
            .to_str()
            .expect("text")
            .split(';')
            .next()
            .expect("a cookie")
            .to_owned();
        for (origin, wanted) in [(self.base.as_str(), 200), ("http://other.example", 403)] {
            let append = self.http.post(format!("{}/v1/events", self.base));
            let append = append.header("cookie", &cookie).header("origin", origin);
            let event = serde_json::json!({"kind": "visit", "feeds": ["proxied"]});
            let answer = append.json(&event).send().await.expect("an answer");
            assert_eq!(
                answer.status(),
                wanted,
                "{origin}: {}",
                answer.text().await.expect("text")
            );
        }
        assert!(self.place.refused().is_empty());
    }
}

#[tokio::test]
async fn nginx_passes_streams_large_bodies_and_the_host() {
    if !is_here(
        "nginx in front of the service",
        [on_path("nginx"), on_path("openssl")],
    ) {
        return;
    }
    let front = Front::start("nginx", |place, config| {
        let at = place.path().display();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log {at}/nginx.log;\nevents {{}}\n\
             http {{\naccess_log off;\nclient_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n{config}\n}}\n"
        );
        fs::write(place.path().join("nginx.conf"), config).expect("written");
        let mut nginx = Command::new("nginx");
        nginx
            .arg("-p")
            .arg(place.path())
            .arg("-c")
            .arg(place.path().join("nginx.conf"))
            .stderr(Stdio::null());
        nginx
    });
    front.await.check().await;
}

#[tokio::test]
async fn haproxy_passes_streams_large_bodies_and_the_host() {
    if !is_here(
        "HAProxy in front of the service",
        [on_path("haproxy"), on_path("openssl")],
    ) {
        return;
    }
    let front = Front::start("haproxy", |place, config| {
        fs::write(place.path().join("haproxy.cfg"), config).expect("written");
        let mut haproxy = Command::new("haproxy");
        haproxy
            .arg("-f")
            .arg(place.path().join("haproxy.cfg"))
            .stderr(Stdio::null());
        haproxy
    });
    front.await.check().await;
}

/// HAProxy repeats a request after an empty response although the service may have stored its events.
#[test]
fn haproxy_repeats_only_what_no_node_has_received() {
    let [block] = &blocks::all("haproxy")[..] else {
        panic!("there is one configuration of HAProxy");
    };
    let retries = block
        .code
        .lines()
        .find(|line| line.contains("retry-on"))
        .expect("retries");
    assert_eq!(retries.trim(), "retry-on conn-failure 503");
}
