//! The JSON data of an event: size and depth limits, the compact text, and the digest of its value.

use std::fmt;

use bytes::Bytes;
use memchr::memchr2;
use serde_json::value::RawValue;

use super::{DATA_BYTES_MAX, DATA_DEPTH_MAX, Invalid, canonical};

/// An event's JSON as compact text. Apart from white space it is what the producer wrote: key order and digits are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    pub(super) text: Bytes,
    /// Hash of the value, not of its text; see [`canonical`].
    pub(super) digest: u128,
}

impl Data {
    pub fn null() -> Self {
        Self {
            text: Bytes::from_static(b"null"),
            digest: digest(b"null"),
        }
    }

    /// Checks size and depth. The syntax of `raw` must have been checked by a JSON parser.
    pub fn from_raw(raw: &RawValue) -> Result<Self, Invalid> {
        let text = compact(raw.get())?;
        if text.len() > DATA_BYTES_MAX {
            return Err(Invalid::DataSize(text.len()));
        }
        let mut canonical = Vec::with_capacity(text.len() + 16);
        canonical::write(&text, &mut canonical)
            .map_err(|canonical::LoneSurrogate| Invalid::DataText)?;
        Ok(Self {
            text: text.into(),
            digest: digest(&canonical),
        })
    }

    pub fn text(&self) -> &Bytes {
        &self.text
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

/// Removes white space outside strings.
fn compact(json: &str) -> Result<Vec<u8>, Invalid> {
    let mut out = Vec::with_capacity(json.len());
    let mut depth = 0usize;
    let mut rest = json.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => continue,
            b'"' => {
                let end = end_of_string(after);
                out.push(byte);
                out.extend_from_slice(&after[..end]);
                rest = &after[end..];
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DATA_DEPTH_MAX {
            return Err(Invalid::DataDepth);
        }
        out.push(byte);
    }
    Ok(out)
}

/// Where the string ends whose first quote stands before `text`: behind its last quote.
fn end_of_string(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr2(b'"', b'\\', &text[at.min(text.len())..]) {
        at += found + 1;
        if text[at - 1] == b'"' {
            return at;
        }
        // Whatever stands behind a backslash is not the end.
        at += 1;
    }
    text.len()
}

pub(super) fn digest(bytes: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(json: &str) -> Result<Data, Invalid> {
        Data::from_raw(&RawValue::from_string(json.to_owned()).expect("test JSON"))
    }

    #[test]
    fn data_keeps_its_text_but_compares_as_a_value() {
        let a = data("{ \"b\" : 1.50, \"a\":[1, 2 ] ,\"s\":\"x \\\" y\" }").expect("valid");
        assert_eq!(&a.text()[..], br#"{"b":1.50,"a":[1,2],"s":"x \" y"}"#);
        let b = data(r#"{"a":[1.0,2e0],"s":"\u0078 \u0022 y","b":15e-1}"#).expect("valid");
        assert_eq!(
            &b.text()[..],
            br#"{"a":[1.0,2e0],"s":"\u0078 \u0022 y","b":15e-1}"#
        );
        assert_eq!(a.digest, b.digest);
    }

    #[test]
    fn values_in_their_shortest_form_hash_as_in_earlier_releases() {
        for (text, canonical) in [
            (
                r#"{"b":[],"a":"é/","n":-1.5}"#,
                r#"{"a":"é/","b":[],"n":-1.5,}"#,
            ),
            (r#"{"a":"\u00e9\/\u000A\u0000"}"#, r#"{"a":"é/\n\u0000",}"#),
            (
                r#"[null,{"k":true,"k":[0.000001,"",12]}]"#,
                r#"[null,{"k":[0.000001,"",12,],},]"#,
            ),
        ] {
            assert_eq!(
                data(text).expect("valid").digest,
                digest(canonical.as_bytes()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_lone_surrogate_is_not_text() {
        for bad in [
            r#""\ud83d""#,
            r#"[{"a":["x\udd80"]}]"#,
            r#"{"\ud83d\ud83d":1}"#,
        ] {
            assert_eq!(data(bad), Err(Invalid::DataText), "{bad}");
        }
        assert!(data(r#"["\ud83e\udd80","\\ud83d"]"#).is_ok());
    }

    #[test]
    fn data_limits() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(data(&deep(DATA_DEPTH_MAX)).is_ok());
        assert_eq!(data(&deep(DATA_DEPTH_MAX + 1)), Err(Invalid::DataDepth));
        let string = |n: usize| format!("\"{}\"", "x".repeat(n - 2));
        assert!(data(&string(DATA_BYTES_MAX)).is_ok());
        assert_eq!(
            data(&string(DATA_BYTES_MAX + 1)),
            Err(Invalid::DataSize(DATA_BYTES_MAX + 1))
        );
        // White space is removed before the size is checked.
        assert!(data(&format!("[{}1]", " ".repeat(DATA_BYTES_MAX))).is_ok());
    }

    proptest! {
        #[test]
        fn compaction_changes_no_value(strings in proptest::collection::vec(".*", 0..4), n in any::<f64>()) {
            let n = if n.is_finite() { n } else { 0.0 };
            let value = serde_json::json!({ "strings": strings, "n": n, "nested": [[], {}, null, true] });
            let pretty = serde_json::to_string_pretty(&value).expect("serializable");
            let compacted = data(&pretty).expect("small");
            let expected = serde_json::to_vec(&value).expect("serializable");
            prop_assert_eq!(&compacted.text()[..], &expected[..]);
        }
    }
}
