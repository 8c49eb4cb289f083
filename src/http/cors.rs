//! Cross-origin resource sharing (CORS): which pages of other origins may use the API.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};

use super::{OPERATIONS, limits::Quotas};

/// How long a browser may cache the response to a preflight request. Chromium caches none longer than this.
const PREFLIGHT_AGE_MAX: Duration = Duration::from_secs(2 * 3600);

/// One origin, exactly as browsers send it, or all origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Any,
    One(HeaderValue),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains('*') {
            return Err("list each origin; a wildcard is allowed only as * alone".to_owned());
        }
        let form = "write it like https://app.example.com or http://localhost:3000";
        let url = reqwest::Url::parse(text).map_err(|error| format!("{error}: {form}"))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(format!("only http and https origins are supported: {form}"));
        }
        // The header that a browser sends is compared with this byte by byte.
        let sent = url.origin().ascii_serialization();
        if sent != text {
            return Err(format!(
                "no browser sends this form of the origin: did you mean {sent}?"
            ));
        }
        let value = sent.parse().map_err(|_| form.to_owned())?;
        Ok(Self::One(value))
    }
}

/// The origins whose pages may use the API. Listed origins may send credentials; with [`Origin::Any`], all others may
/// use it without credentials.
#[derive(Debug, Clone, Default)]
pub struct Cors(pub Vec<Origin>);

impl Cors {
    /// `None` if no origin is allowed: responses then have no CORS headers.
    pub fn layer(&self) -> Option<CorsLayer> {
        let named: Vec<HeaderValue> = self.0.iter().filter_map(Origin::named).collect();
        let origins = match self.0.contains(&Origin::Any) {
            true => AllowOrigin::mirror_request(),
            false if named.is_empty() => return None,
            false => AllowOrigin::list(named.clone()),
        };
        let methods = OPERATIONS.iter().map(|operation| operation.method.clone());
        let mut methods: Vec<Method> = methods.collect();
        methods.push(Method::HEAD);
        methods.sort_by_key(ToString::to_string);
        methods.dedup();
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_credentials(AllowCredentials::predicate(move |origin, _| {
                named.contains(origin)
            }))
            .allow_methods(methods)
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                header::IF_NONE_MATCH,
                HeaderName::from_static("last-event-id"),
                HeaderName::from_static("traceparent"),
                HeaderName::from_static("tracestate"),
                HeaderName::from_static("x-request-id"),
            ])
            .expose_headers([
                header::ETAG,
                header::LINK,
                header::RETRY_AFTER,
                HeaderName::from_static("x-request-id"),
            ])
            .max_age(PREFLIGHT_AGE_MAX);
        Some(layer)
    }
}

/// Counts preflight requests against their peer's address, before [`Cors::layer`] answers them.
pub async fn count_preflights(
    State(quotas): State<Arc<Quotas>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::OPTIONS
        && let Err(problem) = quotas.take_unverified(request.extensions())
    {
        let (parts, body) = request.into_parts();
        let problem = quotas.refuse(&parts.extensions, body, problem, true);
        return problem.into_response();
    }
    next.run(request).await
}

impl Origin {
    fn named(&self) -> Option<HeaderValue> {
        match self {
            Self::Any => None,
            Self::One(origin) => Some(origin.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_form_of_an_origin_that_browsers_send_is_accepted() {
        for origin in [
            "https://app.example.com",
            "http://localhost:3000",
            "http://[::1]",
            "*",
        ] {
            assert!(origin.parse::<Origin>().is_ok(), "{origin}");
        }
        for (origin, meant) in [
            ("https://a.example/", "https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://[::1]:80", "http://[::1]"),
            ("https://A.example", "https://a.example"),
            ("https://a.example/path?x", "https://a.example"),
            ("https://u:p@a.example", "https://a.example"),
        ] {
            let error = origin.parse::<Origin>().expect_err(origin);
            assert!(
                error.ends_with(&format!("did you mean {meant}?")),
                "{error}"
            );
        }
        for origin in [
            "",
            "a.example",
            "null",
            "ftp://a.example",
            "https://*.a.example",
        ] {
            let taken = origin.parse::<Origin>();
            assert!(taken.is_err(), "{origin}: {taken:?}");
        }
    }
}
