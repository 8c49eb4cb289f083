//! Where `tail` starts.

use crate::client::{
    Error,
    api::Client,
    error::Gone,
    names,
    pages::{Order, Range, Walk},
};

#[derive(Debug, Clone, PartialEq)]
pub enum From {
    Beginning,
    Now,
    At(names::Position),
}

pub fn parse(text: &str) -> Result<From, String> {
    match text {
        "beginning" => Ok(From::Beginning),
        "now" => Ok(From::Now),
        _ => names::position(text)
            .map(From::At)
            .map_err(|error| format!("expected `beginning`, `now`, a version or a time: {error}")),
    }
}

/// What the command was told about where to start.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    From(From),
    /// With this many entries.
    Last(usize),
}

impl Start {
    pub async fn find(&self, client: &Client, range: &Range) -> Result<Position, Error> {
        match self {
            Self::From(start) => from(client, range, start).await,
            Self::Last(count) => last(client, range, *count).await,
        }
    }

    /// Where to start over, because the service cannot continue from `position`; `current` is its version now, if it is known.
    pub async fn again(
        &self,
        client: &Client,
        range: &Range,
        (position, gone): (&str, &Gone),
        current: Option<String>,
    ) -> Result<Position, Error> {
        match (self, gone) {
            // What was kept at that version or time may be gone, too; what is kept now begins later.
            (Self::From(From::At(_)), Gone::Expired { oldest }) => {
                let oldest = match oldest {
                    Some(oldest) => Some(oldest.clone()),
                    None => oldest_kept(client, range, position).await?,
                };
                Ok(Position::after(
                    oldest.unwrap_or_else(|| position.to_owned()),
                ))
            }
            // That version was the position, or is older and as unknown.
            (Self::From(From::At(names::Position::Version(_))), Gone::Unknown) => match current {
                Some(current) => Ok(Position::after(current)),
                None => self.find(client, range).await,
            },
            _ => self.find(client, range).await,
        }
    }
}

/// The position to start from: entries after `after` are printed.
#[derive(Debug, PartialEq)]
pub struct Position {
    pub after: String,
    /// The version as of which the position was determined, if the service was asked.
    pub until: Option<String>,
}

impl Position {
    pub fn after(version: String) -> Self {
        Self {
            after: version,
            until: None,
        }
    }
}

/// Where what is kept begins, if not below `position`.
async fn oldest_kept(
    client: &Client,
    range: &Range,
    position: &str,
) -> Result<Option<String>, Error> {
    let one = [("after", position), ("limit", "1")];
    match client.page(range, &one).await {
        Ok(_) => Ok(None),
        Err(error) => match error.gone_cursor() {
            Some(Gone::Expired { oldest }) => Ok(oldest),
            _ => Err(error),
        },
    }
}

async fn from(client: &Client, range: &Range, from: &From) -> Result<Position, Error> {
    match from {
        From::Beginning => Ok(Position::after("0".to_owned())),
        From::At(position) => Ok(Position::after(position.version(client).await?)),
        From::Now => last(client, range, 0).await,
    }
}

/// The position before the last `count` entries of `range`. Memory does not depend on `count`.
async fn last(client: &Client, range: &Range, count: usize) -> Result<Position, Error> {
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
    Ok(Position {
        after,
        until: walk.until().map(str::to_owned),
    })
}
