//! A service under a base path: requests with it and without it, and the links in its answers.

use newsfeed::{auth::AuthArgs, http::web::FILES};
use serde_json::json;

use crate::support::{
    bed::{Bed, Served, text},
    sse::Stream,
};

crate::on_every_engine!(
    requests_are_served_with_the_base_path_and_without,
    links_and_redirects_have_the_base_path,
    pages_and_the_library_have_the_base_path,
    the_cookie_is_for_the_base_path,
);

const BASE: &str = "/apps/feeds";

async fn under(bed: &Bed, base: &str) -> Served {
    let base = base.parse().expect("a base path");
    bed.node_with(None, |settings| settings.base_path = base)
        .await
}

async fn requests_are_served_with_the_base_path_and_without(bed: &Bed) {
    // `/newsfeed` is also the folder of the library's modules.
    for base in [BASE, "/newsfeed"] {
        let node = under(bed, base).await;
        for prefix in [base, ""] {
            let event = json!({ "kind": "visit", "feeds": ["repo:owner/name"] });
            let (status, _) = node.post(&format!("{prefix}/v1/events"), &event).await;
            assert_eq!(status, 200);
            let state = node
                .get(&format!("{prefix}/v1/feeds/repo:owner%2Fname"))
                .await;
            assert_eq!(state["feed"], "repo:owner/name");
            let live = node.url(&format!("{prefix}/v1/live?feed=a"));
            assert_eq!(
                Stream::open(&node.http, &live, None)
                    .await
                    .caught_up()
                    .await,
                []
            );
            let files = FILES.iter().map(|file| file.path).chain([
                "/docs",
                "/docs/limits",
                "/docs/api",
                "/healthz",
            ]);
            for path in files {
                let answer = node.send("GET", &format!("{prefix}{path}"), &[]).await;
                assert_eq!(answer.status, 200, "{prefix}{path}");
            }
        }
        assert_eq!(node.send("GET", base, &[]).await.status, 200);
        for path in [
            format!("{base}x/v1/events"),
            format!("{base}/nothing"),
            format!("{base}{base}/v1/events"),
        ] {
            let answer = node.send("GET", &path, &[]).await;
            answer.problem(404, "not_found").expect(&path);
        }
        // The routes of metrics are those without the base path.
        let metrics = node.send("GET", &format!("{base}/metrics"), &[]).await;
        let metrics = String::from_utf8(metrics.body.to_vec()).expect("text");
        assert!(
            metrics.contains(r#"route="/v1/feeds/{feed}""#) && !metrics.contains(base),
            "{metrics}"
        );
    }
}

async fn links_and_redirects_have_the_base_path(bed: &Bed) {
    let node = under(bed, BASE).await;
    let event = json!({ "kind": "visit", "feeds": ["a"] });
    node.append(&json!([event, event])).await;
    for prefix in [BASE, ""] {
        for path in ["/v1/feeds/a/entries", "/v1/entries"] {
            let query = if path == "/v1/entries" {
                "feed=a&limit=1"
            } else {
                "limit=1"
            };
            let page = node
                .send("GET", &format!("{prefix}{path}?{query}"), &[])
                .await;
            let link = page.header("link").expect("a link");
            assert!(link.starts_with(&format!("<{BASE}{path}?")), "{link}");
            let target = link
                .trim_start_matches('<')
                .split('>')
                .next()
                .expect("a target");
            assert_eq!(
                node.get(target).await["entries"].as_array().map(Vec::len),
                Some(1)
            );
        }
        let problem = node.send("GET", &format!("{prefix}/v1/events/"), &[]).await;
        let problem = problem.problem(404, "not_found").expect("a problem");
        assert!(
            text(&problem["detail"]).contains("use /apps/feeds/v1/events, without"),
            "{problem}"
        );
    }
    let quiet = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let redirect = quiet
        .build()
        .expect("a client")
        .get(node.url("/docs/"))
        .send()
        .await;
    let redirect = redirect.expect("an answer");
    assert_eq!(redirect.headers()["location"], "/apps/feeds/docs");
}

async fn pages_and_the_library_have_the_base_path(bed: &Bed) {
    let node = under(bed, BASE).await;
    let content = async |path: &str| {
        let answer = node.send("GET", path, &[]).await;
        String::from_utf8(answer.body.to_vec()).expect("text")
    };
    for path in ["/", "/docs", "/docs/limits", "/docs/api"] {
        let html = content(path).await;
        for attribute in ["href=\"/", "src=\"/"] {
            for link in html.split(attribute).skip(1) {
                assert!(
                    link.starts_with("apps/feeds/"),
                    "{attribute}{:.40} in {path}",
                    link
                );
            }
        }
        assert!(html.contains("href=\"/apps/feeds/ui/icon.svg\""), "{path}");
    }
    assert!(
        content("/newsfeed.js")
            .await
            .contains("const BASE_PATH = \"/apps/feeds\";")
    );
    assert!(
        content("/openapi.yaml")
            .await
            .contains("{ url: /apps/feeds, description")
    );
}

async fn the_cookie_is_for_the_base_path(bed: &Bed) {
    use clap::{Args, FromArgMatches};
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    std::fs::write(&key, crate::auth::SECRET_FILE).expect("written");
    let command = AuthArgs::augment_args(clap::Command::new("serve"));
    let flags = ["serve", "--auth-secret-file", key.to_str().expect("UTF-8")];
    let args = AuthArgs::from_arg_matches(&command.get_matches_from(flags)).expect("arguments");
    let auth = newsfeed::auth::Auth::open(&args, bed.wall.clone())
        .await
        .expect("keys");
    let node = bed
        .node_with(None, |settings| {
            settings.auth = auth;
            settings.base_path = BASE.parse().expect("a base path");
        })
        .await;
    let (name, value) = crate::auth::bearer(&crate::auth::master());
    for (method, status) in [("POST", 200), ("DELETE", 204)] {
        let path = format!("{BASE}/v1/session");
        let answer = node.send(method, &path, &[(name, &value)]).await;
        assert_eq!(answer.status, status);
        let cookie = answer.header("set-cookie").expect("a cookie");
        assert!(cookie.contains("; Path=/apps/feeds; "), "{cookie}");
    }
}
