//! The token that the commands show to a service with keys.

use std::{fmt, path::PathBuf};

use hyper::http::HeaderValue;

use super::Error;

/// The environment variable with a token; there is no flag, for others see what a process is started with.
const VARIABLE: &str = "NEWSFEED_TOKEN";

#[derive(Debug, Clone, clap::Args)]
pub struct TokenArgs {
    /// File with a token for the service, if it has keys [default: the token in the environment variable NEWSFEED_TOKEN,
    /// if there is one]
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

/// A token, or that there is none. It prints nothing of itself.
#[derive(Clone, Default)]
pub struct Token(Option<HeaderValue>);

impl Token {
    /// The value of `Authorization`.
    pub fn header(&self) -> Option<&HeaderValue> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "[token]" } else { "none" })
    }
}
