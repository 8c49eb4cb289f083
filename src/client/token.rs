//! The access token that the commands send.

use std::{fmt, path::PathBuf};

use data_encoding::BASE64URL_NOPAD;
use hyper::http::HeaderValue;
use serde::Deserialize;

use super::{Error, names::name};

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
        Ok(Token(value.transpose()?))
    }
}

/// An optional token. Its `Debug` output does not reveal it.
#[derive(Clone, Default)]
pub struct Token(Option<HeaderValue>);

impl Token {
    /// The value of `Authorization`.
    pub fn header(&self) -> Option<&HeaderValue> {
        self.0.as_ref()
    }

    /// The actor of the `actors` claim, if the claim is one exact name. The claim is read without verifying the token:
    /// the service verifies it.
    pub fn only_actor(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Claims {
            actors: Vec<String>,
        }
        let token = self.0.as_ref()?.to_str().ok()?;
        let payload = token.split('.').nth(1)?;
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
        let Claims { actors } = serde_json::from_slice(&payload).ok()?;
        match &*actors {
            [actor] => name(actor).ok(),
            _ => None,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "[token]" } else { "none" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_actor_is_one_exact_name() {
        let only = |payload: &str| {
            let token = format!("Bearer h.{}.s", BASE64URL_NOPAD.encode(payload.as_bytes()));
            Token(HeaderValue::try_from(token).ok()).only_actor()
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
        assert_eq!(Token(Some(opaque)).only_actor(), None);
        assert_eq!(Token::default().only_actor(), None);
    }
}
