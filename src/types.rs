//! Names and events. Parsed once at the edge; inside, the types carry the proof.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Range, str::FromStr};

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::version::Version;

/// Longest feed name, kind, actor or event id, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most feeds one event may name.
pub const EVENT_FEEDS_MAX: usize = 100;
/// Longest `data` of an event, in bytes of compact JSON.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// Largest `data` bytes × feeds of an event: what one event may write.
pub const DATA_FANOUT_BYTES_MAX: usize = 1024 * 1024;
/// Deepest nesting of arrays and objects in `data`.
pub const DATA_DEPTH_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error(
        "must be 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 . _ ~ : @ - (and not . or ..)"
    )]
    Name,
    #[error("must be 1 to {NAME_BYTES_MAX} printable ASCII characters")]
    Id,
    #[error("must name 1 to {EVENT_FEEDS_MAX} feeds")]
    FeedCount,
    #[error("must be at most {DATA_BYTES_MAX} bytes of compact JSON; it has {0}")]
    DataSize(usize),
    #[error("bytes of data times feeds must be at most {DATA_FANOUT_BYTES_MAX}; they are {0}")]
    DataFanout(usize),
    #[error("must not nest deeper than {DATA_DEPTH_MAX}")]
    DataDepth,
    #[error("is not JSON: {0}")]
    DataJson(String),
}

fn is_name(text: &[u8]) -> bool {
    let fits =
        |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'@' | b'-');
    (1..=NAME_BYTES_MAX).contains(&text.len())
        // URL normalizers would swallow these.
        && text != b"."
        && text != b".."
        && text.iter().all(fits)
}

fn is_id(text: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.iter().all(|b| (0x20..=0x7e).contains(b))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:ident, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ByteString);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// Shares the bytes it is made from, and so keeps all of their buffer.
        impl TryFrom<Bytes> for $name {
            type Error = Invalid;

            fn try_from(text: Bytes) -> Result<Self, Invalid> {
                if !$check(&text) {
                    return Err($error);
                }
                text.try_into().map(Self).map_err(|_| $error)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                if $check(text.as_bytes()) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name_type! {
    /// The name of a feed, such as `user:42`.
    FeedName, is_name, Invalid::Name
}
name_type! {
    /// What an event is: `message`, `visit`.
    Kind, is_name, Invalid::Name
}
name_type! {
    /// Who did it.
    Actor, is_name, Invalid::Name
}
name_type! {
    /// The client-chosen idempotency key of an event.
    EventId, is_id, Invalid::Id
}

impl EventId {
    /// A fresh UUIDv7, for events that came without an id.
    pub fn generate() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        Self((&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer)).into())
    }
}

/// What a kind does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// An entry in its feeds.
    Feed,
    /// An entry that also counts as unread.
    Notify,
    /// Live only, in no feed.
    Transient,
}

impl FromStr for Delivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "feed" => Ok(Self::Feed),
            "notify" => Ok(Self::Notify),
            "transient" => Ok(Self::Transient),
            _ => Err(format!(
                "{text:?} is no delivery: use feed, notify or transient"
            )),
        }
    }
}

/// Which marker of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marker {
    /// Everything up to it has been read; moving it clears unread.
    Read,
    /// Everything up to it has been on a screen.
    Seen,
}

/// An event's JSON as text: compact, else as the producer wrote it (order of keys, digits of numbers).
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    text: Bytes,
    /// Of the value, so that another order of keys is still the same content.
    digest: u128,
}

impl Data {
    pub fn null() -> Self {
        Self {
            text: Bytes::from_static(b"null"),
            digest: digest(b"null"),
        }
    }

    /// `raw` must come from a JSON parser: its syntax is taken as checked, its size and depth are not.
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

/// Drops white space outside strings, so that the text is one line and holds no needless byte.
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

/// Writes one text for all texts of a value: keys sorted, characters escaped in one way, every digit kept. (Not by
/// way of `serde_json::Value`, which takes objects with certain keys of its own for numbers.)
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

/// Writes what [`canonicalize`] does, in one pass, for compact text without escapes; `None` if it has some.
fn canonicalize_plain(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if memchr::memchr(b'\\', text).is_some() {
        return None;
    }
    let rest = canonicalize_value(text, out)?;
    rest.is_empty().then_some(())
}

/// Answers what follows the value at the front of `text`.
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
                // Without the quotes, which would sort between some characters of longer keys.
                fields.push((key.get(1..end - 1)?, start..out.len() - begin));
            }
            if !fields.is_sorted_by(|(a, _), (b, _)| a < b) {
                let written = out.split_off(begin);
                // Stable: of equal keys the last one counts.
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

/// Length of the string without escapes at the front of `text`, with its quotes.
fn string_len(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'"', text.strip_prefix(b"\"")?).map(|len| len + 2)
}

fn digest(bytes: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(bytes)
}

/// The condition of a conditional append: no entry in `feed` after `version` (`None`: no entry at all).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    pub feed: FeedName,
    pub version: Option<Version>,
}

impl Expect {
    /// Whether it holds for a feed whose latest entry has the version `latest`.
    pub fn holds(&self, latest: Option<Version>) -> bool {
        match (latest, self.version) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(latest), Some(version)) => latest <= version,
        }
    }
}

/// What a producer appends. Made by [`Draft::check`].
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub kind: Kind,
    pub delivery: Delivery,
    pub feeds: Vec<FeedName>,
    pub actor: Option<Actor>,
    /// Compact JSON.
    pub data: Bytes,
    pub expect: Option<Expect>,
    /// Tells a repeated append (same content) from a reused id (other content). `expect` is a condition, not
    /// content.
    pub digest: u128,
}

/// An event whose parts are checked, but not yet what spans them.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: EventId,
    pub kind: Kind,
    pub delivery: Delivery,
    pub feeds: Vec<FeedName>,
    pub actor: Option<Actor>,
    pub data: Data,
    pub expect: Option<Expect>,
}

impl Draft {
    /// Checks what spans fields, drops repeated feed names. An error names its field.
    pub fn check(mut self) -> Result<Event, (&'static str, Invalid)> {
        if !(1..=EVENT_FEEDS_MAX).contains(&self.feeds.len()) {
            return Err(("feeds", Invalid::FeedCount));
        }
        let mut seen = std::collections::HashSet::new();
        self.feeds.retain(|feed| seen.insert(feed.clone()));
        let fanout = self.data.text().len() * self.feeds.len();
        if fanout > DATA_FANOUT_BYTES_MAX {
            return Err(("data", Invalid::DataFanout(fanout)));
        }
        let digest = self.digest();
        let Self {
            id,
            kind,
            delivery,
            feeds,
            actor,
            data,
            expect,
        } = self;
        Ok(Event {
            id,
            kind,
            delivery,
            feeds,
            actor,
            data: data.text,
            expect,
            digest,
        })
    }

    fn digest(&self) -> u128 {
        let mut feeds: Vec<_> = self.feeds.iter().map(FeedName::as_str).collect();
        feeds.sort_unstable();
        let mut text = String::new();
        // No name holds a line feed, so the lines cannot run into each other.
        for part in [
            self.kind.as_str(),
            self.actor.as_ref().map_or("", Actor::as_str),
        ]
        .into_iter()
        .chain(feeds)
        {
            text.push_str(part);
            text.push('\n');
        }
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.data.digest.to_be_bytes());
        digest(&bytes)
    }
}

impl Event {
    /// Upper estimate of the bytes this event writes, keys and values, in every place it stands.
    pub fn weight(&self) -> usize {
        let head = self.id.as_str().len() + self.kind.as_str().len() + 200;
        let names: usize = self.feeds.iter().map(|f| f.as_str().len() + head).sum();
        2 * (self.data.len() * self.feeds.len() + names)
    }
}

/// An event as it stands in one feed, at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub version: Version,
    pub id: EventId,
    pub kind: Kind,
    pub delivery: Delivery,
    pub actor: Option<Actor>,
    /// Wall time at which a node accepted it, in µs since 1970; shown to people, orders nothing.
    pub at: i64,
    /// Compact JSON.
    pub data: Bytes,
    /// Time (ticks) of the snapshot whose claims the append read: what this may be a twin of is younger. Or [`NO_TWIN`].
    pub read_at: u64,
}

/// [`Entry::read_at`] of an entry whose claim was found free when it was committed: it is no twin of anything.
pub const NO_TWIN: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(json: &str) -> Result<Data, Invalid> {
        Data::from_raw(&RawValue::from_string(json.to_owned()).expect("test JSON"))
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "user:42", "A.b_c~d@e-9", &"x".repeat(128)] {
            assert!(good.parse::<FeedName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\n", &"x".repeat(129)] {
            assert!(bad.parse::<FeedName>().is_err(), "{bad}");
        }
        assert!("an id with spaces / and ~".parse::<EventId>().is_ok());
        assert!("tab\t".parse::<EventId>().is_err());
        assert_eq!(EventId::generate().as_str().len(), 36);
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
        // White space does not count.
        assert!(data(&format!("[{}1]", " ".repeat(DATA_BYTES_MAX))).is_ok());
    }

    /// JSON text, with keys in any order and more than once.
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
