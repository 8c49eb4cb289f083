//! The JSON data of an event: size and depth limits, the compact text, and the digest of its value.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Range};

use bytes::Bytes;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{DATA_BYTES_MAX, DATA_DEPTH_MAX, Invalid};

/// An event's JSON as compact text. Apart from white space it is what the producer wrote: key order and digits are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    pub(super) text: Bytes,
    /// Hash of the value, not of its text: a different order of keys is the same content.
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
        if canonicalize_plain(&text, &mut canonical).is_none() {
            canonical.clear();
            canonicalize(raw, &mut canonical).map_err(|e| Invalid::DataJson(e.to_string()))?;
        }
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
    let (mut in_string, mut escaped, mut depth) = (false, false, 0usize);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => continue,
                b'"' => in_string = true,
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DATA_DEPTH_MAX {
                return Err(Invalid::DataDepth);
            }
        }
        out.push(byte);
    }
    Ok(out)
}

/// Writes the canonical text of a value: keys sorted, one way to escape characters, all digits kept.
/// (`serde_json::Value` cannot be used: it reads objects with certain private keys as numbers.)
fn canonicalize(json: &RawValue, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let text = json.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text)?;
            out.push(b'{');
            for (key, value) in fields {
                serde_json::to_writer(&mut *out, &key)?;
                out.push(b':');
                canonicalize(value, out)?;
                out.push(b',');
            }
            out.push(b'}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            out.push(b'[');
            for item in items {
                canonicalize(item, out)?;
                out.push(b',');
            }
            out.push(b']');
        }
        Some(b'"') => serde_json::to_writer(out, &serde_json::from_str::<Cow<'_, str>>(text)?)?,
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Ok(())
}

/// A faster [`canonicalize`] for compact text without escapes; `None` if the text contains any.
fn canonicalize_plain(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if memchr::memchr(b'\\', text).is_some() {
        return None;
    }
    let rest = canonicalize_value(text, out)?;
    rest.is_empty().then_some(())
}

/// Returns the text that follows the first value in `text`.
fn canonicalize_value<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (&first, mut rest) = text.split_first()?;
    match first {
        b'{' => {
            out.push(b'{');
            let begin = out.len();
            let mut fields: SmallVec<[(&[u8], Range<usize>); 8]> = SmallVec::new();
            while *rest.first()? != b'}' {
                rest = rest.strip_prefix(b",").unwrap_or(rest);
                let start = out.len() - begin;
                let end = string_len(rest)?;
                let (key, value) = rest.split_at_checked(end)?;
                out.extend_from_slice(key);
                out.push(b':');
                rest = canonicalize_value(value.strip_prefix(b":")?, out)?;
                out.push(b',');
                // Compared without the closing quote, which would otherwise be compared with a character of a longer key.
                fields.push((key.get(1..end - 1)?, start..out.len() - begin));
            }
            if !fields.is_sorted_by(|(a, _), (b, _)| a < b) {
                let written = out.split_off(begin);
                // The sort is stable: of equal keys, the last one counts.
                fields.sort_by_key(|&(key, _)| key);
                for (index, (key, range)) in fields.iter().enumerate() {
                    if fields.get(index + 1).is_none_or(|(next, _)| next != key) {
                        out.extend_from_slice(&written[range.clone()]);
                    }
                }
            }
            out.push(b'}');
            Some(&rest[1..])
        }
        b'[' => {
            out.push(b'[');
            while *rest.first()? != b']' {
                rest = canonicalize_value(rest.strip_prefix(b",").unwrap_or(rest), out)?;
                out.push(b',');
            }
            out.push(b']');
            Some(&rest[1..])
        }
        _ => {
            let len = match first {
                b'"' => string_len(text)?,
                _ => memchr::memchr3(b',', b']', b'}', text).unwrap_or(text.len()),
            };
            let (scalar, rest) = text.split_at_checked(len)?;
            out.extend_from_slice(scalar);
            Some(rest)
        }
    }
}

/// Length, including its quotes, of the escape-free string at the beginning of `text`.
fn string_len(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'"', text.strip_prefix(b"\"")?).map(|len| len + 2)
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
        let b = data(r#"{"a":[1,2],"s":"x \" y","b":1.50}"#).expect("valid");
        assert_eq!(a.digest, b.digest);
        let big = |n: &str| data(n).expect("valid").digest;
        assert_ne!(
            big("123456789012345678901234567890"),
            big("123456789012345678901234567891")
        );
        assert!(data("1e999").is_ok());
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

    /// JSON text whose objects may have unsorted and repeated keys.
    fn any_json() -> impl Strategy<Value = String> {
        let string = "[a-c !\"\\\\é,:{}\\[\\]]{0,4}"
            .prop_map(|text| serde_json::to_string(&text).expect("serializable"));
        let scalar = prop_oneof![
            string.clone(),
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?[1-9][0-9]{0,2}(\\.[0-9]{1,2})?(e[0-9])?",
        ];
        scalar.prop_recursive(4, 40, 5, move |inner| {
            let fields = proptest::collection::vec((string.clone(), inner.clone()), 0..5);
            prop_oneof![
                proptest::collection::vec(inner, 0..5)
                    .prop_map(|all| format!("[{}]", all.join(","))),
                fields.prop_map(|fields| {
                    let fields = fields.iter().map(|(key, value)| format!("{key}:{value}"));
                    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn both_ways_to_canonicalize_agree(json in any_json()) {
            let raw = RawValue::from_string(json.clone()).expect("valid");
            let mut general = Vec::new();
            canonicalize(&raw, &mut general).expect("valid");
            let mut plain = Vec::new();
            match canonicalize_plain(json.as_bytes(), &mut plain) {
                Some(()) => prop_assert_eq!(String::from_utf8(plain), String::from_utf8(general)),
                None => prop_assert!(json.contains('\\')),
            }
        }

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
