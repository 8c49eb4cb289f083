//! The path under which a proxy publishes the service, such as `/feeds`. It is part of every link that the service
//! writes. Requests are served with it and without it, because a proxy may pass it on or strip it.

use std::{str::FromStr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{Uri, uri::PathAndQuery},
    middleware::Next,
    response::Response,
};

use super::{OPERATIONS, web};

/// Longest base path, in bytes.
pub const BASE_PATH_BYTES_MAX: usize = 255;

/// Empty, or one or more segments without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BasePath(Arc<str>);

impl FromStr for BasePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() && text == "/" {
            return Ok(Self::default());
        }
        let is_segment = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        };
        let segments = path.strip_prefix('/').map(|path| path.split('/'));
        if path.len() > BASE_PATH_BYTES_MAX || !segments.is_some_and(|mut all| all.all(is_segment))
        {
            return Err(format!(
                "write it like /feeds or /apps/feeds, with A-Z a-z 0-9 - . _ ~ and at most {BASE_PATH_BYTES_MAX} bytes"
            ));
        }
        let first = first_segment(path);
        // The library's folder `/newsfeed` is the exception: none of its files has the name of an own first segment.
        if first != LIBRARY && is_own(first) {
            return Err(format!(
                "the service has paths of its own that begin with /{first}: choose another prefix"
            ));
        }
        Ok(Self(path.into()))
    }
}

/// The folder of the modules of the JavaScript library.
const LIBRARY: &str = "newsfeed";

fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').next().unwrap_or_default()
}

/// Whether a path of the service begins with this segment.
fn is_own(segment: &str) -> bool {
    let operations = OPERATIONS.iter().map(|operation| operation.path);
    let mut paths = operations
        .chain(web::FILES.iter().map(|file| file.path))
        .chain(["/docs"]);
    paths.any(|path| first_segment(path) == segment)
}

impl BasePath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `path` without the base path; `None` if it does not begin with it, or if what is left is not a path of the service.
    fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(self.as_str())? {
            "" | "/" => Some("/"),
            rest if rest.starts_with('/') && is_own(first_segment(rest)) => Some(rest),
            _ => None,
        }
    }

    /// The HTML with the base path in front of its links to this service.
    pub fn html(&self, html: &str) -> String {
        let mut out = html.to_owned();
        for attribute in ["href", "src"] {
            let link = format!("{attribute}=\"/");
            out = out.replace(&link, &format!("{attribute}=\"{}/", self.0));
        }
        out
    }
}

/// Strips the base path from the path of a request, before it is routed.
pub async fn strip(State(base): State<BasePath>, mut request: Request, next: Next) -> Response {
    if let Some(path) = base.strip(request.uri().path()) {
        let stripped = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        if let Ok(stripped) = stripped.parse::<PathAndQuery>() {
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = Some(stripped);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> BasePath {
        text.parse().expect("a base path")
    }

    #[test]
    fn a_base_path_is_one_or_more_plain_segments() {
        for (text, path) in [
            ("/", ""),
            ("/feeds", "/feeds"),
            ("/feeds/", "/feeds"),
            ("/apps/feeds-1.2_x~", "/apps/feeds-1.2_x~"),
            ("/newsfeed", "/newsfeed"),
        ] {
            assert_eq!(base(text).as_str(), path, "{text}");
        }
        for text in [
            "",
            "feeds",
            "//",
            "/feeds//",
            "//feeds",
            "/a//b",
            "/.",
            "/a/../b",
            "/a b",
            "/ä",
            "/a?b",
            "/a#b",
            "/a%20",
            "/a;b",
            "/a\"b",
            "/v1",
            "/v1/feeds",
            "/docs",
            "/ui/x",
            "/metrics",
            "http://a.example/feeds",
        ] {
            assert!(text.parse::<BasePath>().is_err(), "{text}");
        }
        let long = format!("/{}", "x".repeat(BASE_PATH_BYTES_MAX));
        assert!(long[..BASE_PATH_BYTES_MAX].parse::<BasePath>().is_ok());
        assert!(long.parse::<BasePath>().is_err());
    }

    #[test]
    fn it_is_stripped_only_from_paths_under_it() {
        for (path, stripped) in [
            ("/feeds", Some("/")),
            ("/feeds/", Some("/")),
            ("/feeds/v1/feeds/a%2Fb/live", Some("/v1/feeds/a%2Fb/live")),
            ("/feeds/newsfeed.js", Some("/newsfeed.js")),
            ("/feedsx", None),
            ("/feeds/nothing", None),
            ("/v1/events", None),
            ("/", None),
        ] {
            assert_eq!(base("/feeds").strip(path), stripped, "{path}");
        }
        // The proxy has stripped it already: what is left is a file of the library.
        assert_eq!(base("/newsfeed").strip("/newsfeed/follow.js"), None);
        let with = base("/newsfeed");
        assert_eq!(
            with.strip("/newsfeed/newsfeed/follow.js"),
            Some("/newsfeed/follow.js")
        );
        assert_eq!(with.strip("/newsfeed/v1/live"), Some("/v1/live"));
    }

    #[test]
    fn links_of_pages_begin_with_it() {
        let html = r##"<a href="/">a</a><img src="/ui/icon.svg"><a href="#x">b</a><a href="https://a.example/">c</a>"##;
        assert_eq!(
            base("/feeds").html(html),
            r##"<a href="/feeds/">a</a><img src="/feeds/ui/icon.svg"><a href="#x">b</a><a href="https://a.example/">c</a>"##
        );
        assert_eq!(base("/").html(html), html);
    }
}
