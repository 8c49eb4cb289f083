//! Request ids and the caller's trace (W3C Trace Context).

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};

use crate::logging::TraceParent;

/// Longest `X-Request-Id` that is accepted from a caller, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

pub const REQUEST_ID: &str = "x-request-id";

/// Identifies a request in its response and in the log.
#[derive(Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's id if it is safe to log, else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID);
        let safe = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
                && bytes
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~:@/+=".contains(byte))
        };
        match given.filter(safe) {
            Some(value) => Self(value.clone()),
            None => {
                let mut text = uuid::Uuid::encode_buffer();
                let text = uuid::Uuid::now_v7().as_hyphenated().encode_lower(&mut text);
                let value = HeaderValue::from_str(text);
                Self(value.unwrap_or_else(|_| HeaderValue::from_static("-")))
            }
        }
    }

    pub fn into_header(self) -> HeaderValue {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

/// The caller's `traceparent`; `None` unless there is exactly one and it is valid. Then the request begins a new trace.
pub fn caller_trace(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all("traceparent").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => TraceParent::parse(value.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn two_traceparents_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", HeaderValue::from_static(GOOD));
        assert!(caller_trace(&headers).is_some());
        headers.append("traceparent", HeaderValue::from_static(GOOD));
        assert_eq!(caller_trace(&headers), None);
    }
}
