//! Names and versions in arguments, validated as the service does, so that a mistake is reported as a usage error.

use super::{Error, api::Client};
use crate::types::{EventTime, FeedName, check_prefix};

const VERSION_LEN: usize = 26;

/// The name of a feed, a kind or an actor.
pub fn name(text: &str) -> Result<String, String> {
    match text.parse::<FeedName>() {
        Ok(_) => Ok(text.to_owned()),
        Err(invalid) => Err(format!("a name, such as user:ben, {invalid}")),
    }
}

/// The name of a feed, or what names of feeds begin with and then `*`.
pub fn pattern(text: &str) -> Result<String, String> {
    let Some(prefix) = text.strip_suffix('*') else {
        return name(text);
    };
    match check_prefix(prefix) {
        Ok(()) => Ok(text.to_owned()),
        Err(invalid) => Err(format!("what stands before the * {invalid}")),
    }
}

/// `i/n`: one of n shards, counted from 0.
pub fn shard(text: &str) -> Result<String, String> {
    let parts = text.split_once('/');
    let number = |text: &str| text.parse::<u32>().ok();
    let parts = parts.and_then(|(index, of)| Some((number(index)?, number(of)?)));
    match parts {
        Some((index, of)) if index < of && of <= 1024 => Ok(text.to_owned()),
        _ => Err("a shard is i/n, such as 0/4: n from 1 to 1024, i from 0 to n-1".to_owned()),
    }
}

/// A version returned by a service, or 0, which is before all entries.
pub fn version(text: &str) -> Result<String, String> {
    let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'v');
    if text == "0" || (text.len() == VERSION_LEN && text.bytes().all(digit)) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a version is {VERSION_LEN} characters from 0-9 a-v as returned by the service (`newsfeed state FEED` shows the \
         current one), or 0, which is before all entries"
    ))
}

/// A version, or a time, whose version the service knows.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    Version(String),
    Time(String),
}

impl Position {
    pub async fn version(&self, client: &Client) -> Result<String, Error> {
        match self {
            Self::Version(version) => Ok(version.clone()),
            Self::Time(time) => client.version_at(time).await,
        }
    }
}

pub fn position(text: &str) -> Result<Position, String> {
    // No version has a colon.
    match text.contains(':') {
        false => version(text)
            .map(Position::Version)
            .map_err(|error| format!("{error}; a time is written like 2026-11-28T00:00:00Z")),
        true => match text.parse::<EventTime>() {
            Ok(_) => Ok(Position::Time(text.to_owned())),
            Err(invalid) => Err(format!("a time, such as 2026-11-28T00:00:00Z, {invalid}")),
        },
    }
}

/// A version, a time, or now.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    Now,
    At(Position),
}

pub fn moment(text: &str) -> Result<Moment, String> {
    match text {
        "now" => Ok(Moment::Now),
        _ => position(text)
            .map(Moment::At)
            .map_err(|error| format!("expected `now`, a version or a time: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_versions_and_moments_are_validated() {
        assert_eq!(
            name("user:ben@home.example"),
            Ok("user:ben@home.example".to_owned())
        );
        assert_eq!(name("repo:owner/name"), Ok("repo:owner/name".to_owned()));
        for bad in ["", ".", "..", " a", "a*", "a\n", &"x".repeat(256)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        let decomposed = name("Zoe\u{308}").expect_err("not normalized");
        assert!(decomposed.contains("NFC"), "{decomposed}");
        for right in ["chat:*", "*", "chat:1"] {
            assert_eq!(pattern(right), Ok(right.to_owned()));
        }
        for bad in ["", "a*b", "a**", " *"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
        assert!(shard("0/1").is_ok() && shard("3/4").is_ok());
        for bad in ["4/4", "1", "0/0", "0/1025", "-1/2"] {
            assert!(shard(bad).is_err(), "{bad}");
        }
        let given = "000000800pgcvgij9uqfvvvvvs";
        assert_eq!(version(given), Ok(given.to_owned()));
        assert_eq!(version("0"), Ok("0".to_owned()));
        for bad in [
            "",
            "1",
            "000000800pgcvgij9uqfvvvvvw",
            "000000800PGCVGIJ9UQFVVVVVS",
        ] {
            assert!(version(bad).is_err(), "{bad}");
        }
        let time = "2026-11-28T00:00:00Z";
        assert_eq!(position(time), Ok(Position::Time(time.to_owned())));
        assert_eq!(position(given), Ok(Position::Version(given.to_owned())));
        for bad in ["2026-11-28", "2026-11-28T00:00Z", "yesterday"] {
            assert!(position(bad).is_err(), "{bad}");
        }
        assert_eq!(moment("now"), Ok(Moment::Now));
        for text in [given, time] {
            assert_eq!(moment(text), position(text).map(Moment::At));
        }
        assert!(moment("later").is_err());
    }
}
