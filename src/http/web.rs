//! The web page at `/` and the JavaScript client library that it uses, served from the binary without credentials. They
//! are not part of the API and not in `openapi.yaml`.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;

use super::{App, base_path::BasePath, feeds::matches_etag, routes::method_not_allowed};

/// The page loads from this origin only, has no inline script or style, submits no form and cannot be framed.
pub(super) const SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const TYPES: &str = "application/typescript; charset=utf-8";
pub(super) const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

pub struct File {
    pub path: &'static str,
    pub content_type: &'static str,
    pub content: &'static str,
}

macro_rules! files {
    ($($path:literal $content_type:ident $file:literal,)+) => {
        &[$(File {
            path: $path,
            content_type: $content_type,
            content: include_str!(concat!("../web/", $file)),
        },)+]
    };
}

pub const FILES: &[File] = files![
    "/" HTML "index.html",
    "/newsfeed.js" JAVASCRIPT "newsfeed.js",
    "/newsfeed.d.ts" TYPES "newsfeed.d.ts",
    "/newsfeed/badges.js" JAVASCRIPT "newsfeed/badges.js",
    "/newsfeed/changes.js" JAVASCRIPT "newsfeed/changes.js",
    "/newsfeed/follow.js" JAVASCRIPT "newsfeed/follow.js",
    "/newsfeed/http.js" JAVASCRIPT "newsfeed/http.js",
    "/newsfeed/list.js" JAVASCRIPT "newsfeed/list.js",
    "/newsfeed/share.js" JAVASCRIPT "newsfeed/share.js",
    "/newsfeed/sse.js" JAVASCRIPT "newsfeed/sse.js",
    "/newsfeed/temporary.js" JAVASCRIPT "newsfeed/temporary.js",
    "/ui/api.css" CSS "ui/api.css",
    "/ui/api.js" JAVASCRIPT "ui/api.js",
    "/ui/app.js" JAVASCRIPT "ui/app.js",
    "/ui/chat.js" JAVASCRIPT "ui/chat.js",
    "/ui/docs.css" CSS "ui/docs.css",
    "/ui/dom.js" JAVASCRIPT "ui/dom.js",
    "/ui/entries.js" JAVASCRIPT "ui/entries.js",
    "/ui/icon.svg" SVG "ui/icon.svg",
    "/ui/marks.js" JAVASCRIPT "ui/marks.js",
    "/ui/own.js" JAVASCRIPT "ui/own.js",
    "/ui/people.js" JAVASCRIPT "ui/people.js",
    "/ui/reading.js" JAVASCRIPT "ui/reading.js",
    "/ui/seen.js" JAVASCRIPT "ui/seen.js",
    "/ui/session.js" JAVASCRIPT "ui/session.js",
    "/ui/status.js" JAVASCRIPT "ui/status.js",
    "/ui/style.css" CSS "ui/style.css",
    "/ui/toasts.js" JAVASCRIPT "ui/toasts.js",
    "/ui/token.js" JAVASCRIPT "ui/token.js",
    "/ui/typing.js" JAVASCRIPT "ui/typing.js",
    "/ui/words.js" JAVASCRIPT "ui/words.js",
];

/// In `newsfeed.js`: where the library finds the service that has served it.
const BASE_PATH: &str = "const BASE_PATH = \"\";";

impl File {
    /// The content for a service that is published under `base`.
    fn under(&self, base: &BasePath) -> Bytes {
        if *base == BasePath::default() {
            return Bytes::from_static(self.content.as_bytes());
        }
        let path = base.as_str();
        match self.content_type {
            HTML => base.html(self.content),
            JAVASCRIPT => self
                .content
                .replace(BASE_PATH, &format!("const BASE_PATH = \"{path}\";")),
            _ => self.content.to_owned(),
        }
        .into()
    }
}

/// The routes of all files.
pub fn routes(base: &BasePath) -> Router<Arc<App>> {
    let router = FILES.iter().fold(Router::new(), |router, file| {
        let content = file.under(base);
        let content = Content::new(file.content_type, SECURITY_POLICY, content);
        router.route(
            file.path,
            get(async move |headers: HeaderMap| content.answer(&headers)),
        )
    });
    router.method_not_allowed_fallback(method_not_allowed)
}

/// Static content, served at one path.
#[derive(Clone)]
pub(super) struct Content {
    content_type: &'static str,
    security_policy: &'static str,
    etag: String,
    content: Bytes,
}

impl Content {
    pub fn new(content_type: &'static str, security_policy: &'static str, content: Bytes) -> Self {
        let hash = twox_hash::XxHash3_64::oneshot(&content);
        Self {
            content_type,
            security_policy,
            etag: format!("\"{hash:016x}\""),
            content,
        }
    }

    /// Browsers revalidate the file at every use, so that after an upgrade no page runs with a mixture of old and new
    /// files.
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let known = headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|known| matches_etag(known.trim(), &self.etag));
        let headers = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "no-cache"),
            (header::ETAG, &self.etag),
            (header::CONTENT_SECURITY_POLICY, self.security_policy),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, self.content.clone()).into_response()
    }
}
