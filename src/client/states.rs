//! The states of feeds and of entries, for a reader: calls that read and change them.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Error,
    api::Client,
    feeds::{Told, query},
};

/// What an entry is for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    Unread,
    Read,
    Archived,
}

impl EntryState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Read => "read",
            Self::Archived => "archived",
        }
    }
}

/// The unread count and the markers of a feed, as of `version`.
#[derive(Debug, Deserialize)]
pub struct State {
    pub feed: String,
    /// `None`: the feed's own reader.
    pub reader: Option<String>,
    pub version: String,
    /// Version of the newest entry. Absent after a marker was moved.
    pub latest: Option<String>,
    pub unread: Unread,
    pub markers: Markers,
}

/// An entry that was marked by itself, and what follows from it for the feed.
#[derive(Debug, Deserialize)]
pub struct Marked {
    pub feed: String,
    pub reader: Option<String>,
    pub entry: String,
    pub state: EntryState,
    /// Absent if the token does not allow reading the feed.
    pub unread: Option<Unread>,
}

/// How far a reader has read a feed.
#[derive(Debug, Deserialize)]
pub struct Reader {
    pub reader: String,
    pub markers: Markers,
}

#[derive(Debug, Deserialize)]
pub struct Readers {
    pub readers: Vec<Told<Reader>>,
    /// The name after which the next page begins.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Unread {
    pub total: u64,
    pub kinds: BTreeMap<String, u64>,
    pub more: bool,
}

/// The markers of a reader.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Markers {
    pub read: Option<String>,
    pub seen: Option<String>,
    /// Of other readers, it is not told.
    pub archived: Option<String>,
}

/// A `marker` event of a stream: with `unread`, of the stream's own reader; without, of another one, which is empty for the
/// feed's own.
#[derive(Debug, Deserialize)]
pub struct MarkerFrame {
    pub feed: String,
    pub reader: Option<String>,
    pub unread: Option<Unread>,
    pub markers: Markers,
}

/// A `marked` event of a stream.
#[derive(Debug, Deserialize)]
pub struct MarkFrame {
    pub feed: String,
    pub reader: Option<String>,
    /// `None`: more entries were marked than are told one by one.
    pub entry: Option<String>,
    pub state: Option<EntryState>,
}

/// The states of several feeds as of one moment.
#[derive(Debug, Deserialize)]
struct States {
    feeds: Vec<Told<State>>,
}

/// The parameter that says in whose name a call is made; without it, it is the feed's own reader.
pub(super) fn reader_parameter(reader: Option<&str>) -> Option<(&'static str, &str)> {
    reader.map(|reader| ("reader", reader))
}

impl Client {
    pub async fn state(&self, feed: &str, reader: Option<&str>) -> Result<Told<State>, Error> {
        let reader: Vec<_> = reader_parameter(reader).into_iter().collect();
        let path = format!("/v1/state?{}", query([feed], &reader));
        self.call(self.request(Method::GET, &path)).await
    }

    /// The states of 1 to 1,000 feeds, as of one moment.
    pub async fn states(
        &self,
        feeds: &[String],
        reader: Option<&str>,
    ) -> Result<Vec<Told<State>>, Error> {
        if let [feed] = feeds {
            return Ok(vec![self.state(feed, reader).await?]);
        }
        let reader: Vec<_> = reader_parameter(reader).into_iter().collect();
        let path = format!("/v1/feeds?{}", query::<&str>([], &reader));
        let request = self.request(Method::POST, &path);
        let States { feeds } = self.call(request.json(&json!({ "feeds": feeds }))).await?;
        Ok(feeds)
    }

    /// Moves `marker` (`read`, `seen` or `archived`) up to and including `version`.
    pub async fn move_marker(
        &self,
        (feed, reader): (&str, Option<&str>),
        marker: &str,
        version: &str,
    ) -> Result<Told<State>, Error> {
        let reader: Vec<_> = reader_parameter(reader).into_iter().collect();
        let path = format!("/v1/markers/{marker}?{}", query([feed], &reader));
        let request = self.request(Method::PUT, &path);
        self.call(request.json(&json!({ "version": version })))
            .await
    }

    /// Gives the entry at `version` this state, whatever its state was.
    pub async fn mark_entry(
        &self,
        (feed, reader): (&str, Option<&str>),
        version: &str,
        state: EntryState,
    ) -> Result<Told<Marked>, Error> {
        let reader: Vec<_> = reader_parameter(reader).into_iter().collect();
        let path = format!("/v1/entries/{version}/state?{}", query([feed], &reader));
        let body = match state {
            EntryState::Unread => json!({ "read": false }),
            EntryState::Read => json!({ "read": true, "archived": false }),
            EntryState::Archived => json!({ "archived": true }),
        };
        self.call(self.request(Method::PUT, &path).json(&body))
            .await
    }

    /// The next 1,000 readers of a feed after the name `from`.
    pub async fn readers(&self, feed: &str, from: Option<&str>) -> Result<Readers, Error> {
        let mut parameters = vec![("limit", "1000")];
        parameters.extend(from.map(|from| ("from", from)));
        let path = format!("/v1/readers?{}", query([feed], &parameters));
        self.call(self.request(Method::GET, &path)).await
    }
}
