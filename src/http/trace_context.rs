//! The caller's trace (W3C Trace Context) and the ids by which a request is found again.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};

/// Longest `X-Request-Id` that is taken over.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

pub const REQUEST_ID: &str = "x-request-id";

/// Names a request in the answer and in the log.
#[derive(Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's, if it can harm no log; else a new one.
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

/// A `traceparent`: which trace, which span of the caller's, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
}

impl TraceParent {
    /// `None` for anything but one header that is as it must be: the caller's trace does not go on here.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        Self::parse(value.as_bytes())
    }

    /// `version-trace_id-parent_id-flags`, all in lower-case hex. Of a version to come what is known is read.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let mut parts = known.split(|&byte| byte == b'-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let value = |byte: &u8| match byte {
                b'0'..=b'9' => Some(u128::from(byte - b'0')),
                b'a'..=b'f' => Some(u128::from(byte - b'a' + 10)),
                _ => None,
            };
            part.iter()
                .try_fold(0, |sum, byte| Some(sum << 4 | value(byte)?))
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|&byte| byte == b'-'),
        };
        (ends && trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id: span_id as u64,
            sampled: flags & 1 == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says_and_rubbish_is_ignored() {
        let parent = TraceParent {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
        };
        let parse = |text: &str| TraceParent::parse(text.as_bytes());
        assert_eq!(parse(GOOD), Some(parent));
        let unsampled = GOOD.replace("-01", "-00");
        assert!(!parse(&unsampled).expect("as good").sampled);
        // A version to come may say more.
        for later in ["cc-", "01-"] {
            let later = GOOD.replacen("00-", later, 1);
            assert_eq!(parse(&later), Some(parent));
            assert_eq!(parse(&format!("{later}-what.else")), Some(parent));
            assert_eq!(parse(&format!("{later}.else")), None);
        }
        for bad in [
            "",
            "x",
            &GOOD.to_uppercase(),
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replacen("00-", "0g-", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
            &GOOD.replace("319c-b7", "319-cb7"),
            &GOOD.replace("-01", "-0é"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn two_traceparents_are_none() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", HeaderValue::from_static(GOOD));
        assert!(TraceParent::of(&headers).is_some());
        headers.append("traceparent", HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::of(&headers), None);
    }
}
