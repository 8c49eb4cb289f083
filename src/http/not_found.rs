//! The answer to paths that the service does not have, with a hint at what was probably meant.

use std::sync::Arc;

use axum::{extract::State, http::Uri};

use super::{
    App, OPERATIONS,
    problem::{Code, Problem},
    web,
};
use crate::docs::GUIDES;

pub async fn not_found(State(app): State<Arc<App>>, uri: Uri) -> Problem {
    let base = app.base_path.as_str();
    Problem::new(Code::NotFound, hint(base, uri.path()))
}

fn hint(base: &str, path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() < path.len() && is_path(trimmed) {
        return format!(
            "there is nothing at this path; use {base}{trimmed}, without a slash at the end"
        );
    }
    if path.starts_with("/v1/feeds/") {
        return format!(
            "there is nothing at this path; if a `/` is part of the feed's name, write it as %2F, or name the feed in the \
             query, as in {base}/v1/state?feed=…"
        );
    }
    if path.starts_with("/v1/events/") {
        return format!(
            "there is nothing at this path; if a `/` is part of the event's id, write it as %2F, or name the id in the query, as \
             in {base}/v1/events?id=…"
        );
    }
    format!("there is nothing at this path; GET {base}/openapi.yaml describes the API")
}

fn is_path(path: &str) -> bool {
    let is_guide = || {
        let slug = path.strip_prefix("/docs/");
        slug.is_some_and(|slug| GUIDES.iter().any(|guide| guide.slug == slug))
    };
    OPERATIONS
        .iter()
        .any(|operation| matches(operation.path, path))
        || web::FILES.iter().any(|file| file.path == path)
        || path == "/docs/api"
        || is_guide()
}

fn matches(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(known), Some(given)) if known == given => {}
            (Some(known), Some(given)) if known.starts_with('{') && !given.is_empty() => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_of_a_known_path_is_named() {
        for path in [
            "/v1/events",
            "/v1/events/m-1",
            "/v1/feeds",
            "/v1/feeds/a%2Fb",
            "/v1/feeds/a/markers/read",
            "/docs/limits",
            "/newsfeed.js",
        ] {
            for slashes in ["/", "//"] {
                let hint = hint("/feeds", &format!("{path}{slashes}"));
                assert!(
                    hint.contains(&format!("use /feeds{path}, without")),
                    "{hint}"
                );
            }
        }
        for path in [
            "/v1/nothing/",
            "/v1/markers/",
            "/nothing",
            "/docs/nothing/",
            "/v2/events/",
        ] {
            assert!(!hint("", path).contains("without a slash"), "{path}");
        }
    }

    #[test]
    fn an_unescaped_slash_in_a_name_is_explained() {
        assert!(hint("", "/v1/feeds/repo:owner/name").contains("%2F"));
        assert!(hint("", "/v1/events/notes/1").contains("/v1/events?id="));
        assert!(!hint("", "/v1/nothing").contains("%2F"));
    }
}
