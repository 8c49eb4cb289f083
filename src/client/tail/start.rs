//! Where `tail` starts.

use crate::client::{
    Error,
    api::Client,
    names,
    pages::{Order, Range, Walk},
};

#[derive(Debug, Clone, PartialEq)]
pub enum From {
    Beginning,
    Now,
    Version(String),
}

pub fn parse(text: &str) -> Result<From, String> {
    match text {
        "beginning" => Ok(From::Beginning),
        "now" => Ok(From::Now),
        _ => names::version(text)
            .map(From::Version)
            .map_err(|error| format!("expected `beginning`, `now` or a version: {error}")),
    }
}

/// The position to start from: entries after `after` are printed.
#[derive(Debug, PartialEq)]
pub struct Start {
    pub after: String,
    /// The version as of which the position was determined, if the service was asked.
    pub until: Option<String>,
}

impl Start {
    pub fn after(version: String) -> Self {
        Self {
            after: version,
            until: None,
        }
    }
}

pub async fn from(client: &Client, range: &Range, from: &From) -> Result<Start, Error> {
    match from {
        From::Beginning => Ok(Start::after("0".to_owned())),
        From::Version(version) => Ok(Start::after(version.clone())),
        From::Now => last(client, range, 0).await,
    }
}

/// The position before the last `count` entries of `range`. Memory does not depend on `count`.
pub async fn last(client: &Client, range: &Range, count: usize) -> Result<Start, Error> {
    let one_more = count.saturating_add(1);
    let mut walk = Walk::new(client, range.clone(), Order::NewestFirst, one_more);
    let mut left = count;
    let mut after = "0".to_owned();
    while let Some(entries) = walk.next().await? {
        let until = walk.until().unwrap_or_default();
        if count == 0 {
            after = until.to_owned();
            break;
        }
        match entries.get(left) {
            Some(entry) => {
                after = entry.value.version.clone().unwrap_or_default();
                break;
            }
            None => left -= entries.len(),
        }
    }
    Ok(Start {
        after,
        until: walk.until().map(str::to_owned),
    })
}
