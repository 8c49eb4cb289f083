//! Names of feeds, kinds and actors, and event ids.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use bytestring::ByteString;

use super::{Invalid, NAME_BYTES_MAX};

fn is_name(text: &[u8]) -> bool {
    let fits =
        |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'@' | b'-');
    (1..=NAME_BYTES_MAX).contains(&text.len())
        // URL normalization would remove these path segments.
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

        /// Shares the given bytes without copying, and therefore keeps their whole buffer alive.
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
    /// The kind of an event, such as `message` or `visit`.
    Kind, is_name, Invalid::Name
}
name_type! {
    /// Who caused an event.
    Actor, is_name, Invalid::Name
}
name_type! {
    /// The idempotency key of an event, chosen by the client.
    EventId, is_id, Invalid::Id
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
    fn a_new_id_has_a_prefix_that_leaves_room_for_it() {
        let longest = "x".repeat(NAME_BYTES_MAX - 36);
        let id = EventId::generate_under(&longest);
        assert!(id.is_under(&longest) && id.as_str().len() == NAME_BYTES_MAX);
        let id = EventId::generate_under(&format!("{longest}x"));
        assert_eq!(id.as_str().len(), 36);
    }
}
