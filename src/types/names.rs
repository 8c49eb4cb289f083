//! Names of feeds, kinds and actors, and event ids.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use bytestring::ByteString;

use super::{Invalid, NAME_BYTES_MAX};

/// What one pass over a text finds out.
struct Scan {
    /// Printable ASCII, as most texts are: always normalized.
    is_plain: bool,
    has_asterisk: bool,
}

impl Scan {
    fn of(text: &[u8]) -> Self {
        // Without a way out of the loop, it is compiled to a few instructions for many bytes.
        let (mut is_plain, mut has_asterisk) = (true, false);
        for byte in text {
            is_plain &= (0x20..=0x7e).contains(byte);
            has_asterisk |= *byte == b'*';
        }
        Self {
            is_plain,
            has_asterisk,
        }
    }
}

/// The rules that hold for ids, and for names together with further ones.
fn check_text(text: &[u8]) -> Result<Scan, Invalid> {
    if !(1..=NAME_BYTES_MAX).contains(&text.len()) {
        return Err(Invalid::Length(text.len()));
    }
    let scan = Scan::of(text);
    if !scan.is_plain {
        let text = utf8(text)?;
        if let Some(excluded) = text.chars().find(|character| is_excluded(*character)) {
            return Err(Invalid::Character(excluded));
        }
    }
    Ok(scan)
}

fn utf8(text: &[u8]) -> Result<&str, Invalid> {
    std::str::from_utf8(text).map_err(|_| Invalid::NotUtf8)
}

/// Control characters, line separators, and invisible characters that change how the text around them is displayed or
/// decoded: explicit bidirectional formatting and the byte order mark.
fn is_excluded(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

fn check_normalized(text: &[u8], scan: &Scan) -> Result<(), Invalid> {
    if scan.is_plain || unicode_normalization::is_nfc(utf8(text)?) {
        Ok(())
    } else {
        Err(Invalid::NotNormalized)
    }
}

fn check_name(text: &[u8]) -> Result<Scan, Invalid> {
    let scan = check_text(text)?;
    if scan.has_asterisk {
        return Err(Invalid::Asterisk);
    }
    if matches!(text, b"." | b"..") {
        return Err(Invalid::Dots);
    }
    let has_spaces = match scan.is_plain {
        true => text.first() == Some(&b' ') || text.last() == Some(&b' '),
        false => {
            let text = utf8(text)?;
            text.trim().len() < text.len()
        }
    };
    match has_spaces {
        true => Err(Invalid::Spaces),
        false => Ok(scan),
    }
}

/// Checks what stands before the `*` of a pattern: the beginning of a name, which can be cut anywhere between characters.
pub fn check_prefix(text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Ok(());
    }
    let scan = check_text(text.as_bytes())?;
    if scan.has_asterisk {
        return Err(Invalid::Asterisk);
    }
    if text.trim_start().len() < text.len() {
        return Err(Invalid::Spaces);
    }
    check_normalized(text.as_bytes(), &scan)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ByteString);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// From a store. Whether it is normalized was checked when it was accepted. That is not repeated here, because
            /// a later version of Unicode may normalize characters that were unassigned then.
            ///
            /// Shares the given bytes without copying, and therefore keeps their whole buffer alive.
            pub(crate) fn stored(text: Bytes) -> Result<Self, Invalid> {
                $check(&text)?;
                text.try_into().map(Self).map_err(|_| Invalid::NotUtf8)
            }
        }

        /// Shares the given bytes without copying, and therefore keeps their whole buffer alive.
        impl TryFrom<Bytes> for $name {
            type Error = Invalid;

            fn try_from(text: Bytes) -> Result<Self, Invalid> {
                check_normalized(&text, &$check(&text)?)?;
                text.try_into().map(Self).map_err(|_| Invalid::NotUtf8)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                check_normalized(text.as_bytes(), &$check(text.as_bytes())?)?;
                Ok(Self(text.into()))
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
    FeedName, check_name
}
name_type! {
    /// The kind of an event, such as `message` or `visit`.
    Kind, check_name
}
name_type! {
    /// Who caused an event.
    Actor, check_name
}
name_type! {
    /// The idempotency key of an event, chosen by the client.
    EventId, check_text
}

/// Who reads a feed: somebody with a name like an actor's, or the feed's own reader, as in a personal feed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReaderName(Option<Actor>);

impl ReaderName {
    /// The feed's own reader.
    pub const OWN: Self = Self(None);

    pub fn named(name: Actor) -> Self {
        Self(Some(name))
    }

    /// The name; `None` for the feed's own reader.
    pub fn name(&self) -> Option<&Actor> {
        self.0.as_ref()
    }

    /// The name; empty for the feed's own reader.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", Actor::as_str)
    }

    /// Whether the reader wrote what `actor` did. Nobody writes as the feed's own reader.
    pub fn is(&self, actor: Option<&str>) -> bool {
        actor.is_some_and(|actor| actor == self.as_str())
    }

    /// From a store, see [`Actor::stored`].
    pub(crate) fn stored(text: Bytes) -> Result<Self, Invalid> {
        match text.is_empty() {
            true => Ok(Self::OWN),
            false => Actor::stored(text).map(Self::named),
        }
    }
}

impl EventId {
    /// A new UUIDv7, for events that came without an id.
    pub fn generate() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        Self((&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer)).into())
    }

    /// `prefix` and a new UUIDv7; the UUIDv7 alone if both together are too long for an id.
    pub fn generate_under(prefix: &str) -> Self {
        let uuid = Self::generate();
        format!("{prefix}{uuid}").parse().unwrap_or(uuid)
    }

    pub fn is_under(&self, prefix: &str) -> bool {
        self.as_str().starts_with(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of real systems, and the longest ones.
    const GOOD: [&str; 19] = [
        "a",
        "user:42",
        "A.b_c~d@e-9",
        "...",
        "repo:owner/name",
        "dependabot[bot]",
        "https://example.social/users/anna",
        "at://did:plc:abc/app.bsky.feed.post/3k",
        "#channel",
        "anna+news@example.com",
        "auth0|5f7c",
        "Zoë",
        "日本語",
        "a b",
        "a \u{3000} b",
        "👩\u{200d}💻",
        "می\u{200c}خواهم",
        r#"say "hi" \o/"#,
        "%2F?&=<>{}^`;,$!'()",
    ];

    #[test]
    fn names_of_real_systems_are_accepted() {
        let long = ["x".repeat(255), "é".repeat(127), "日".repeat(85)];
        for name in GOOD.iter().copied().chain(long.iter().map(String::as_str)) {
            let parsed = name.parse::<FeedName>();
            assert_eq!(parsed.as_ref().map(FeedName::as_str), Ok(name));
            let bytes = Bytes::copy_from_slice(name.as_bytes());
            assert_eq!(FeedName::try_from(bytes.clone()), parsed);
            assert_eq!(FeedName::stored(bytes), parsed);
            assert!(name.parse::<EventId>().is_ok(), "{name}");
        }
    }

    #[test]
    fn each_rule_of_names_has_its_error() {
        let refused = |name: &str| name.parse::<FeedName>().expect_err(name);
        assert_eq!(refused(""), Invalid::Length(0));
        assert_eq!(refused(&"x".repeat(256)), Invalid::Length(256));
        assert_eq!(refused(&"é".repeat(128)), Invalid::Length(256));
        assert_eq!(refused("."), Invalid::Dots);
        assert_eq!(refused(".."), Invalid::Dots);
        for name in ["*", "user:*", "a*b"] {
            assert_eq!(refused(name), Invalid::Asterisk);
        }
        for name in [" ", " a", "a ", "\u{a0}a", "a\u{3000}", "\u{2009}a"] {
            assert_eq!(refused(name), Invalid::Spaces, "{name:?}");
        }
        for bad in [
            '\0', '\t', '\n', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{2028}', '\u{2029}',
            '\u{202e}', '\u{2066}', '\u{feff}',
        ] {
            for name in [format!("a{bad}b"), format!("{bad}日"), format!("é{bad}")] {
                assert_eq!(refused(&name), Invalid::Character(bad), "{name:?}");
                assert!(name.parse::<EventId>().is_err(), "{name:?}");
            }
        }
        let decomposed = "Zoe\u{308}";
        assert_eq!(refused(decomposed), Invalid::NotNormalized);
        assert_eq!(decomposed.parse::<EventId>(), Err(Invalid::NotNormalized));
        let broken = Bytes::from_static(b"a\xffb");
        assert_eq!(FeedName::try_from(broken), Err(Invalid::NotUtf8));
    }

    #[test]
    fn ids_may_have_spaces_asterisks_and_dots() {
        for id in [".", "..", "*", " a ", " ", "an id with spaces / and ~"] {
            assert!(id.parse::<EventId>().is_ok(), "{id:?}");
        }
        assert!("tab\t".parse::<EventId>().is_err());
        assert_eq!(EventId::generate().as_str().len(), 36);
    }

    #[test]
    fn what_is_stored_can_be_read_whatever_unicode_normalizes_today() {
        let stored = Bytes::from_static("Zoe\u{308}".as_bytes());
        assert!(FeedName::stored(stored.clone()).is_ok());
        assert!(FeedName::try_from(stored).is_err());
    }

    #[test]
    fn a_prefix_can_be_cut_anywhere() {
        for prefix in ["", ".", "..", "user:", "a ", "repo:owner/", "Zo", "Zoë"] {
            assert_eq!(check_prefix(prefix), Ok(()), "{prefix:?}");
        }
        for prefix in [" a", "a*", "a\n", "Zoe\u{308}", &"x".repeat(256)] {
            assert!(check_prefix(prefix).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn a_new_id_has_a_prefix_that_leaves_room_for_it() {
        let longest = "x".repeat(NAME_BYTES_MAX - 36);
        let id = EventId::generate_under(&longest);
        assert!(id.is_under(&longest) && id.as_str().len() == NAME_BYTES_MAX);
        let id = EventId::generate_under(&format!("{longest}x"));
        assert_eq!(id.as_str().len(), 36);
    }
}
