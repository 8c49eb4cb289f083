//! When an event happened, as its producer wrote it.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use bytestring::ByteString;

use super::{Invalid, TIME_BYTES_MAX};

/// An RFC 3339 time with seconds and an offset; its text is kept. Two of them are the same content if they are the same
/// instant.
#[derive(Clone, PartialEq, Eq)]
pub struct EventTime(ByteString);

impl EventTime {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Microseconds since 1970; 0 for earlier times.
    pub fn micros(&self) -> u64 {
        u64::try_from(self.instant() / 1_000).unwrap_or(0)
    }

    /// Nanoseconds since 1970.
    pub(super) fn instant(&self) -> i128 {
        let time: Option<jiff::Timestamp> = self.0.parse().ok();
        time.expect("checked when this was made").as_nanosecond()
    }
}

/// `jiff` reads many forms besides RFC 3339. Leap seconds are refused, because readers of JSON (JavaScript) cannot read them.
fn is_rfc3339(text: &[u8]) -> bool {
    const DATE_AND_TIME: &[u8] = b"0000-00-00T00:00:00";
    const OFFSET: &[u8] = b"+00:00";
    let like = |part: &[u8], form: &[u8]| {
        part.len() == form.len()
            && part.iter().zip(form).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                b'+' => matches!(byte, b'+' | b'-'),
                _ => byte == form,
            })
    };
    let Some((begin, rest)) = text.split_at_checked(DATE_AND_TIME.len()) else {
        return false;
    };
    let offset = match rest.strip_prefix(b".") {
        None => rest,
        Some(fraction) => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return false;
            }
            &fraction[digits..]
        }
    };
    like(begin, DATE_AND_TIME)
        && !begin.ends_with(b":60")
        && (offset == b"Z" || like(offset, OFFSET))
}

/// Shares the given bytes without copying, and therefore keeps their whole buffer alive.
impl TryFrom<Bytes> for EventTime {
    type Error = Invalid;

    fn try_from(text: Bytes) -> Result<Self, Invalid> {
        if text.len() > TIME_BYTES_MAX || !is_rfc3339(&text) {
            return Err(Invalid::Time);
        }
        let text = ByteString::try_from(text).map_err(|_| Invalid::Time)?;
        match text.parse::<jiff::Timestamp>() {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(Invalid::Time),
        }
    }
}

impl FromStr for EventTime {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Bytes::copy_from_slice(text.as_bytes()).try_into()
    }
}

impl fmt::Debug for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Result<EventTime, Invalid> {
        text.parse()
    }

    #[test]
    fn times_are_rfc_3339_with_seconds_and_an_offset() {
        for good in [
            "2026-11-29T10:53:13Z",
            "2026-11-29T10:53:13.5+01:00",
            "2026-11-29T10:53:13.123456789-00:00",
            "0000-01-01T00:00:00Z",
            "9999-12-30T23:59:59.999999999+14:00",
            "2024-02-29T00:00:00+05:45",
        ] {
            assert_eq!(time(good).expect(good).as_str(), good);
        }
        for bad in [
            "",
            "2026-11-29",
            "2026-11-29T10:53Z",
            "2026-11-29T10:53:13",
            "2026-11-29 10:53:13Z",
            "2026-11-29t10:53:13z",
            "2026-11-29T10:53:13.Z",
            "2026-11-29T10:53:13,5Z",
            "2026-11-29T10:53:13.1234567890Z",
            "2026-11-29T10:53:13+0100",
            "2026-11-29T10:53:13+01",
            "2026-11-29T10:53:13+01:00[Europe/Berlin]",
            "2026-11-29T10:53:13+25:60",
            "2026-12-31T23:59:60Z",
            "2026-11-29T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "-002026-11-29T10:53:13Z",
            "20261129T105313Z",
            " 2026-11-29T10:53:13Z",
            "2026-11-29T10:53:13Z ",
            "9999-12-31T00:00:00Z",
            "٢٠٢٦-11-29T10:53:13Z",
        ] {
            assert_eq!(time(bad), Err(Invalid::Time), "{bad}");
        }
    }

    #[test]
    fn the_same_instant_may_be_written_in_many_ways() {
        let instant = |text| time(text).expect("a time").instant();
        let same = [
            "2026-11-29T10:53:13Z",
            "2026-11-29T10:53:13.000Z",
            "2026-11-29T11:53:13+01:00",
            "2026-11-28T22:53:13.0-12:00",
        ];
        for text in same {
            assert_eq!(instant(text), 1_795_949_593_000_000_000, "{text}");
        }
        assert_ne!(instant("2026-11-29T10:53:13.000000001Z"), instant(same[0]));
    }
}
