//! The access token that the commands send.

use std::{fmt, path::PathBuf};

use data_encoding::BASE64URL_NOPAD;
use hyper::http::HeaderValue;
use serde::Deserialize;

use super::{Error, names::name};
use crate::types::EventId;

/// The environment variable with the token. There is no flag for it, because other users can see the arguments of a
/// process.
const VARIABLE: &str = "NEWSFEED_TOKEN";

#[derive(Debug, Clone, clap::Args)]
pub struct TokenArgs {
    /// File with the access token [default: the environment variable NEWSFEED_TOKEN holds the token, if it is set]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token in this file.
    pub fn of_file(path: PathBuf) -> Self {
        Self {
            token_file: Some(path),
        }
    }

    pub fn read(&self) -> Result<Token, Error> {
        let text = match &self.token_file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let path = path.clone();
                Some(read.map_err(|source| Error::Read { path, source })?)
            }
            None => std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()),
        };
        let value = text.map(|text| {
            let value = HeaderValue::try_from(format!("Bearer {}", text.trim()));
            let mut value = value.map_err(|_| Error::BadToken)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(value.transpose()?.map_or_else(Token::default, Token::new))
    }
}

/// An optional token. Its `Debug` output does not reveal it.
#[derive(Clone, Default)]
pub struct Token {
    header: Option<HeaderValue>,
    author: Author,
}

/// What the claims of a token say about the events that are appended with it. They are read without verifying the token:
/// the service verifies it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Author {
    actors: Option<Vec<String>>,
    ids: Option<Vec<String>>,
}

impl Token {
    /// The value of `Authorization`.
    pub fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    pub fn author(&self) -> &Author {
        &self.author
    }

    fn new(header: HeaderValue) -> Self {
        let author = || {
            let payload = header.to_str().ok()?.split('.').nth(1)?;
            let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
            serde_json::from_slice(&payload).ok()
        };
        Self {
            author: author().unwrap_or_default(),
            header: Some(header),
        }
    }
}

impl Author {
    /// The actor of the `actors` claim, if the claim is one exact name.
    pub fn only_actor(&self) -> Option<String> {
        match self.actors.as_deref() {
            Some([actor]) => name(actor).ok(),
            _ => None,
        }
    }

    /// What an id must begin with, so that the token allows it for an event of `actor`. Empty if it may begin with anything,
    /// or if the token allows exact ids only.
    pub fn id_prefix(&self, actor: Option<&str>) -> String {
        if let Some(ids) = &self.ids {
            let prefix = ids.iter().find_map(|pattern| pattern.strip_suffix('*'));
            return prefix.unwrap_or_default().to_owned();
        }
        match (&self.actors, actor) {
            (Some(_), Some(actor)) => format!("{actor}/"),
            _ => String::new(),
        }
    }

    /// A new id for an event of `actor`.
    pub fn new_id(&self, actor: Option<&str>) -> String {
        EventId::generate_under(&self.id_prefix(actor)).to_string()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.header {
            Some(_) => "[token]",
            None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_actor_is_one_exact_name() {
        let only = |payload: &str| {
            let token = format!("Bearer h.{}.s", BASE64URL_NOPAD.encode(payload.as_bytes()));
            let token = Token::new(HeaderValue::try_from(token).expect("a header"));
            token.author().only_actor()
        };
        let one = r#"{"sub":"a","actors":["user:anna"]}"#;
        assert_eq!(only(one).as_deref(), Some("user:anna"));
        for other in [
            r#"{"sub":"user:anna"}"#,
            r#"{"actors":[]}"#,
            r#"{"actors":["user:*"]}"#,
            r#"{"actors":["*"]}"#,
            r#"{"actors":["user:anna","user:ben"]}"#,
            r#"{"actors":"user:anna"}"#,
            r#"{"actors":[7]}"#,
            "not JSON",
        ] {
            assert_eq!(only(other), None, "{other}");
        }
        let opaque = HeaderValue::from_static("Bearer opaque");
        assert_eq!(Token::new(opaque).author().only_actor(), None);
        assert_eq!(Token::default().author().only_actor(), None);
    }

    #[test]
    fn new_ids_are_ones_that_the_token_allows() {
        let prefix = |claims: &str, actor: Option<&str>| {
            let author: Author = serde_json::from_str(claims).expect("claims");
            let prefix = author.id_prefix(actor);
            let id = author.new_id(actor);
            assert!(
                id.starts_with(&prefix) && id.len() == prefix.len() + 36,
                "{id}"
            );
            prefix
        };
        let anna = Some("user:anna");
        assert_eq!(prefix("{}", anna), "");
        assert_eq!(prefix(r#"{"actors":["user:*"]}"#, anna), "user:anna/");
        assert_eq!(prefix(r#"{"actors":["user:*"]}"#, None), "");
        for (ids, expected) in [
            (r#"["shop-*"]"#, "shop-"),
            (r#"["one","shop-*","b*"]"#, "shop-"),
            (r#"["*"]"#, ""),
            (r#"["one"]"#, ""),
            ("[]", ""),
        ] {
            let claims = format!(r#"{{"actors":["user:anna"],"ids":{ids}}}"#);
            assert_eq!(prefix(&claims, anna), expected, "{ids}");
        }
    }
}
