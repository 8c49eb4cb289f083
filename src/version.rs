//! [`Version`]: the hybrid timestamp of an entry or of a moment.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};
use hybrid_clocks::Timestamp;

/// Ticks of [`Version::time`] per second: microseconds on the embedded engine, commit versions on FoundationDB.
pub const TICKS_PER_SECOND: u64 = 1_000_000;

/// Length of a version in a key, in bytes.
pub const BYTES_LEN: usize = 16;

/// Length of a version's text form, in characters.
pub const TEXT_LEN: usize = 26;

/// A hybrid timestamp `(epoch, time, count)`. The byte order of [`Version::to_bytes`] and the order of the text form are
/// the order of versions. Opaque to clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Timestamp<u64>);

impl Version {
    /// Below the version of every entry.
    pub const ZERO: Self = Self::new(0, 0, 0);
    /// At or above every version.
    pub const MAX: Self = Self::moment(u32::MAX, u64::MAX);

    pub const fn new(epoch: u32, time: u64, count: u32) -> Self {
        Self(Timestamp { epoch, time, count })
    }

    /// The moment at the end of `time`: everything stamped at `time` or earlier is at or below it. The version of a snapshot
    /// is a moment.
    pub const fn moment(epoch: u32, time: u64) -> Self {
        Self::new(epoch, time, u32::MAX)
    }

    pub const fn epoch(self) -> u32 {
        self.0.epoch
    }

    /// In ticks, see [`TICKS_PER_SECOND`].
    pub const fn time(self) -> u64 {
        self.0.time
    }

    pub const fn timestamp(self) -> Timestamp<u64> {
        self.0
    }

    /// The version of the item with `index` in the transaction whose first item has this version. The low 16 bits of `count`
    /// are the index, the high 16 bits the order of the transaction within its tick.
    pub const fn at_index(self, index: u16) -> Self {
        Self::new(
            self.0.epoch,
            self.0.time,
            (self.0.count & !0xffff) | index as u32,
        )
    }

    /// The next lower version; [`Version::ZERO`] if there is none.
    pub fn before(self) -> Self {
        Self::from_bytes(
            u128::from_be_bytes(self.to_bytes())
                .saturating_sub(1)
                .to_be_bytes(),
        )
    }

    pub fn to_bytes(self) -> [u8; BYTES_LEN] {
        let mut bytes = [0; BYTES_LEN];
        bytes[..4].copy_from_slice(&self.0.epoch.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.0.time.to_be_bytes());
        bytes[12..].copy_from_slice(&self.0.count.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: [u8; BYTES_LEN]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        Self::new((bits >> 96) as u32, (bits >> 32) as u64, bits as u32)
    }

    /// The fixed-width text form.
    pub fn to_text(self) -> VersionText {
        let mut text = [0; TEXT_LEN];
        TEXT.encode_mut(&self.to_bytes(), &mut text);
        VersionText(text)
    }
}

/// A version as a client handed it in, which may be from another life of the store. [`crate::lineage`] makes a [`Version`] of
/// it, or refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(Version);

impl Cursor {
    /// Whether this is the position before everything, in every life of a store.
    pub fn is_beginning(self) -> bool {
        self.0 == Version::ZERO
    }

    pub(crate) fn unchecked(self) -> Version {
        self.0
    }
}

impl From<Version> for Cursor {
    fn from(version: Version) -> Self {
        Self(version)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        text.parse().map(Self)
    }
}

/// Base32hex in lower case, without padding. Its alphabet is in ASCII order, so the order of texts is that of the bytes.
static TEXT: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghijklmnopqrstuv");
    spec.encoding().expect("a fixed, valid alphabet")
});

/// The text form of a [`Version`], without allocation.
#[derive(Clone, Copy, Debug)]
pub struct VersionText([u8; TEXT_LEN]);

impl VersionText {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_text().as_str())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}+{}", self.0.epoch, self.0.time, self.0.count)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a version: expected a version as returned by this service (26 characters of 0-9a-v), or 0 for the beginning"
)]
pub struct BadVersion;

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let mut bytes = [0; BYTES_LEN];
        if text.len() != TEXT_LEN {
            return Err(BadVersion);
        }
        TEXT.decode_mut(text.as_bytes(), &mut bytes)
            .map_err(|_| BadVersion)?;
        Ok(Self::from_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_version() -> impl Strategy<Value = Version> {
        // Small ranges too, so that equal and adjacent parts occur.
        let part = prop_oneof![0..3u64, any::<u64>(), (u64::MAX - 2)..=u64::MAX];
        (part.clone(), part.clone(), part).prop_map(|(e, t, c)| Version::new(e as u32, t, c as u32))
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(v in any_version()) {
            prop_assert_eq!(Version::from_bytes(v.to_bytes()), v);
            prop_assert_eq!(v.to_string().parse(), Ok(v));
            prop_assert_eq!(v.to_string().len(), TEXT_LEN);
        }

        #[test]
        fn text_and_bytes_preserve_the_order(a in any_version(), b in any_version()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(a.cmp(&b), a.timestamp().cmp(&b.timestamp()));
        }

        #[test]
        fn invalid_text_is_refused(text in "[0-9a-zA-Z=]{0,30}") {
            if let Ok(v) = text.parse::<Version>() {
                prop_assert!(text == "0" || v.to_string() == text);
            }
        }
    }

    #[test]
    fn an_item_lies_after_its_transaction_and_below_the_moment() {
        let first = Version::new(1, 7, 3 << 16);
        assert!(first.at_index(1) > first);
        assert!(first.at_index(u16::MAX) < Version::new(1, 7, 4 << 16));
        assert!(Version::new(1, 7, u32::MAX - 1) < Version::moment(1, 7));
    }
}
