//! The proxies of the guide to operations, in front of a real service with keys.

use std::{fs, path::Path, process::Stdio};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{blocks, workplace::Workplace};
use crate::support::{
    names::{NAMES, encoded},
    needs::{installed, is_here, on_path},
    patience::PATIENCE,
    sse::Stream,
};

/// A service and a proxy in front of it.
struct Front {
    place: Workplace,
    _proxy: Child,
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Front {
    /// `path` is the base path of the service, or empty. `start` gets the configuration as it stands in the guide, with the addresses of this place.
    async fn start(info: &str, path: &str, start: impl Fn(&Workplace, String) -> Command) -> Self {
        let place = Workplace::new();
        let begun = place
            .bash(&format!(
                "set -e; openssl rand -hex 32 > secret; newsfeed serve --auth-secret-file secret --base-path {path}/; \
                 newsfeed admin token --key secret --sub test --scope read,append,mark --feed '*'",
            ))
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
        let http = crate::support::bed::http_client();
        let base = format!("http://{address}{path}");
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

        self.check_cookie("/").await;
    }

    /// The cookie counts for requests from pages of the same origin: the service sees the proxy's own `Host`.
    async fn check_cookie(&self, path: &str) {
        let session = self
            .http
            .post(format!("{}/v1/session", self.base))
            .bearer_auth(&self.token);
        let session = session.send().await.expect("an answer");
        assert_eq!(session.status(), 200);
        let cookie = session.headers()["set-cookie"].to_str().expect("text");
        assert!(cookie.contains(&format!("; Path={path};")), "{cookie}");
        let cookie = cookie.split(';').next().expect("a cookie").to_owned();
        let own = reqwest::Url::parse(&self.base).expect("a URL").origin();
        for (origin, wanted) in [
            (own.ascii_serialization(), 200),
            ("http://other.example".to_owned(), 403),
        ] {
            let append = self.http.post(format!("{}/v1/events", self.base));
            let append = append.header("cookie", &cookie).header("origin", &origin);
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

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> reqwest::Response {
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.bearer_auth(&self.token).send().await;
        answer.expect("an answer")
    }

    async fn get(&self, path: &str) -> serde_json::Value {
        let answer = self.send("GET", path, None).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.expect("JSON")
    }

    async fn append(&self, event: serde_json::Value) {
        let answer = self.send("POST", "/v1/events", Some(event)).await;
        assert_eq!(answer.status(), 200);
    }

    /// Each name reaches its feed, in the path and in the query.
    async fn check_names(&self) {
        for name in NAMES {
            self.append(json!({ "id": name, "kind": name, "feeds": [name], "actor": name }))
                .await;
            let in_url = encoded(name);
            let state = self.get(&format!("/v1/feeds/{in_url}")).await;
            assert_eq!(
                (&state["feed"], state["latest"].is_string()),
                (&json!(name), true)
            );
            for path in [
                format!("/v1/feeds/{in_url}/entries?limit=1"),
                format!("/v1/entries?feed={in_url}"),
            ] {
                assert_eq!(self.get(&path).await["entries"][0]["actor"], name);
            }
            let body = Some(json!({ "version": state["version"] }));
            let path = format!("/v1/feeds/{in_url}/markers/read");
            assert_eq!(self.send("PUT", &path, body).await.status(), 200);
            let live = self
                .send("GET", &format!("/v1/feeds/{in_url}/live?after=0"), None)
                .await;
            let mut live = Stream::over(live.bytes_stream());
            assert_eq!(live.caught_up().await[0].data["actor"], name);
        }
        self.check_queries().await;
    }

    /// The forms that name the feed in the query.
    async fn check_queries(&self) {
        for name in NAMES {
            self.append(json!({ "kind": "visit", "feeds": [name], "actor": name }))
                .await;
            let in_url = encoded(name);
            let state = self.get(&format!("/v1/state?feed={in_url}")).await;
            assert_eq!(
                (&state["feed"], state["latest"].is_string()),
                (&json!(name), true)
            );
            let body = Some(json!({ "version": state["version"] }));
            let path = format!("/v1/markers/seen?feed={in_url}");
            assert_eq!(self.send("PUT", &path, body).await.status(), 200);
            let live = self
                .send("GET", &format!("/v1/live?feed={in_url}&after=0"), None)
                .await;
            let mut live = Stream::over(live.bytes_stream());
            assert_eq!(live.caught_up().await[0].data["feed"], name);
        }
    }

    /// A merged page of 100 feeds with long names, and then with the longest. The `Link` header of the first would be
    /// longer than the buffer that nginx has by default for the headers of an answer.
    async fn check_many_long_names(&self) {
        for (length, ends) in [(70, "x"), (255, "x"), (198, "é")] {
            let name = |index: usize| {
                let name = format!("{length}-{index:03}-");
                let rest = length - name.len() - ends.len();
                name + &ends.repeat(rest / ends.len()) + ends
            };
            let feeds: Vec<String> = (0..100).map(name).collect();
            for _ in 0..2 {
                self.append(json!({ "kind": "visit", "feeds": feeds }))
                    .await;
            }
            let query: String = feeds
                .iter()
                .map(|feed| format!("feed={}&", encoded(feed)))
                .collect();
            let answer = self
                .send("GET", &format!("/v1/entries?{query}limit=1"), None)
                .await;
            assert_eq!(answer.status(), 200, "{length}");
            assert!(!answer.headers().contains_key("link"));
            let page: serde_json::Value = answer.json().await.expect("JSON");
            assert!(page["next"].is_string());
        }
    }

    /// The page in Chromium, with the library, the documentation and the API reference.
    async fn check_page(&self) {
        let script = "prefix.test.mjs";
        let needed = [
            on_path("node"),
            on_path("chromium"),
            installed("node_modules/playwright-core"),
        ];
        if !is_here(script, needed) {
            return;
        }
        let mut command = Command::new("node");
        command
            .args(["--test-reporter=spec", script])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web"))
            .env("NEWSFEED_PREFIXED", &self.base)
            .env("NEWSFEED_TOKEN", &self.token)
            .kill_on_drop(true);
        let output = timeout(PATIENCE * 3, command.output()).await;
        let output = output.expect("it ends by itself").expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

pub(super) fn nginx(place: &Workplace, config: String) -> Command {
    let at = place.path().display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log {at}/nginx.log;\nevents {{}}\n\
         http {{\naccess_log off;\nclient_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n{config}\n}}\n"
    );
    let file = place.path().join("nginx.conf");
    fs::write(&file, config).expect("written");
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(place.path()).arg("-c").arg(file);
    nginx.stderr(Stdio::null());
    nginx
}

pub(super) fn haproxy(place: &Workplace, config: String) -> Command {
    let file = place.path().join("haproxy.cfg");
    fs::write(&file, config).expect("written");
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-f").arg(file).stderr(Stdio::null());
    haproxy
}

/// nginx with the location of the guide for a base path. `stripping`: it removes the prefix, which decodes `%2F`.
fn nginx_under_a_path(place: &Workplace, config: String, stripping: bool) -> Command {
    let [block] = &blocks::all("nginx prefix")[..] else {
        panic!("there is one location with a prefix");
    };
    let (begin, _) = config.split_once("  location / {").expect("a location");
    let location = match stripping {
        true => block.code.replace(
            "proxy_pass http://newsfeed;",
            "proxy_pass http://newsfeed/;",
        ),
        false => block.code.clone(),
    };
    nginx(place, format!("{begin}{location}}}\n"))
}

fn nginx_is_here() -> bool {
    let what = "nginx in front of the service";
    is_here(what, [on_path("nginx"), on_path("openssl")])
}

#[tokio::test]
async fn nginx_passes_streams_large_bodies_and_the_host() {
    if !nginx_is_here() {
        return;
    }
    let front = Front::start("nginx", "", nginx).await;
    front.check().await;
    front.check_names().await;
    front.check_many_long_names().await;
}

#[tokio::test]
async fn haproxy_passes_streams_large_bodies_and_the_host() {
    if !is_here(
        "HAProxy in front of the service",
        [on_path("haproxy"), on_path("openssl")],
    ) {
        return;
    }
    let front = Front::start("haproxy", "", haproxy).await;
    front.check().await;
    front.check_names().await;
    front.check_many_long_names().await;
}

/// The service is found under its path, whether the proxy strips the path or not. Where it does, names with `/` need the
/// query.
#[tokio::test]
async fn under_a_base_path_everything_works_through_nginx() {
    if !nginx_is_here() {
        return;
    }
    for stripping in [false, true] {
        let start = |place: &Workplace, config| nginx_under_a_path(place, config, stripping);
        let front = Front::start("nginx", "/feeds", start).await;
        front.check_cookie("/feeds").await;
        front.check_queries().await;
        if !stripping {
            front.check_names().await;
        }
        front.check_page().await;
    }
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
