//! Calls that read feeds, follow them and change events.

use std::time::Duration;

use reqwest::{Method, Response, header};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::value::RawValue;

use super::{
    Error,
    api::{Client, Failure, root_cause},
    pages::Range,
    sse::{Frame, Frames},
    states::{EntryState, reader_parameter},
};

/// Far above the largest frame of the service, an entry of 64 KiB.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// A parsed value together with the JSON it was parsed from.
#[derive(Debug)]
pub struct Told<T> {
    pub json: Box<RawValue>,
    pub value: T,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Told<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let value = serde_json::from_str(json.get()).map_err(D::Error::custom)?;
        Ok(Self { json, value })
    }
}

/// What happened to an entry after it was appended.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Edited,
    Erased,
}

/// An entry and the requested feeds that hold it, or the news that an entry was changed. A transient has no version.
#[derive(Debug, Deserialize)]
pub struct Entry {
    /// Empty for an event of the log, or one that was asked for by its id: it has `feeds`.
    #[serde(default)]
    pub feed: String,
    #[serde(default)]
    pub feeds: Vec<String>,
    pub version: Option<String>,
    /// `None`: it is an entry, not the news of a change.
    pub change: Option<Change>,
    /// The version of its last edit.
    pub edited: Option<String>,
    /// The version of its erasure.
    pub erased: Option<String>,
    pub id: String,
    pub kind: String,
    pub actor: Option<String>,
    /// Of an erased entry, this and what follows is not told.
    #[serde(default)]
    pub at: String,
    pub time: Option<String>,
    #[serde(default = "null")]
    pub data: Box<RawValue>,
    /// For the reader in whose name a page was read.
    pub state: Option<EntryState>,
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

impl Entry {
    /// The version at which it stands in the order of its feed: that of the change, if it is the news of one.
    pub fn position(&self) -> Option<&str> {
        match self.change {
            None => self.version.as_deref(),
            Some(Change::Edited) => self.edited.as_deref(),
            Some(Change::Erased) => self.erased.as_deref(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct Page {
    pub version: String,
    #[serde(alias = "events")]
    pub entries: Vec<Told<Entry>>,
    /// Of a page of feeds, oldest first. The log has them among its events.
    #[serde(default)]
    pub changes: Vec<Told<Entry>>,
    pub next: Option<String>,
}

/// Feed names and parameters as a query string. Feeds are named in the query, because some proxies change `%2F` in paths.
pub(super) fn query<T: AsRef<str>>(
    feeds: impl IntoIterator<Item = T>,
    parameters: &[(&str, &str)],
) -> String {
    let feeds: Vec<T> = feeds.into_iter().collect();
    let feeds = feeds.iter().map(|feed| ("feed", feed.as_ref()));
    let pairs = feeds.chain(parameters.iter().copied());
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

/// In the query, because some ids cannot stand in a path.
fn event_path(id: &str, revision: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new("/v1/events?".to_owned());
    query.append_pair("id", id);
    query.extend_pairs(revision.map(|revision| ("revision", revision)));
    query.finish()
}

/// An edit of an event.
#[derive(Debug, Serialize)]
pub struct Edit<'a> {
    pub data: &'a RawValue,
    /// Identifies the edit, so that it can be sent again.
    pub change: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<&'a str>,
}

/// The answer to an edit or an erasure of one event.
#[derive(Debug, Deserialize)]
pub struct Changed {
    pub id: String,
    pub status: String,
    /// Of the event.
    pub version: String,
    pub edited: Option<String>,
    pub erased: Option<String>,
}

/// What to erase.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Erase<'a> {
    Events { events: &'a [String] },
    Feed { feed: &'a str, everywhere: bool },
    Actor { actor: &'a str },
}

/// An erasure of several events.
#[derive(Debug, Deserialize)]
pub struct Erasure {
    pub id: String,
    pub status: ErasureStatus,
    /// The number of events that were erased so far.
    pub erased: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErasureStatus {
    Running,
    Done,
}

#[derive(Deserialize)]
struct At {
    version: String,
}

impl Client {
    /// The event with this id.
    pub async fn event(&self, id: &str) -> Result<Told<Entry>, Error> {
        self.call(self.request(Method::GET, &event_path(id, None)))
            .await
    }

    /// Replaces the data of the event with this id. The answer tells whether the change had been made before.
    pub async fn edit(&self, id: &str, edit: &Edit<'_>) -> Result<Told<Changed>, Error> {
        let request = self.request(Method::PATCH, &event_path(id, None));
        self.call(request.json(edit)).await
    }

    /// Erases the event with this id, if it has the revision.
    pub async fn erase(&self, id: &str, revision: Option<&str>) -> Result<Told<Changed>, Error> {
        self.call(self.request(Method::DELETE, &event_path(id, revision)))
            .await
    }

    /// Begins to erase several events. The answer tells whether that has been done already.
    pub async fn begin_erasure(&self, what: &Erase<'_>) -> Result<Told<Erasure>, Error> {
        let request = self.request(Method::POST, "/v1/erasures");
        self.call(request.json(what)).await
    }

    /// How far an erasure is.
    pub async fn erasure(&self, id: &str) -> Result<Told<Erasure>, Error> {
        self.call(self.request(Method::GET, &format!("/v1/erasures/{id}")))
            .await
    }

    /// A page of the feeds of `range`, or of the log.
    pub async fn page(&self, range: &Range, parameters: &[(&str, &str)]) -> Result<Page, Error> {
        let of = if range.log { "log" } else { "entries" };
        let path = format!("/v1/{of}?{}", query(&range.feeds, parameters));
        self.call(self.request(Method::GET, &path)).await
    }

    /// The version that was current at `time`, RFC 3339.
    pub async fn version_at(&self, time: &str) -> Result<String, Error> {
        let path = format!("/v1/versions?{}", query::<&str>([], &[("at", time)]));
        let At { version } = self.call(self.request(Method::GET, &path)).await?;
        Ok(version)
    }

    /// One attempt to open a live stream of what comes after `position`.
    pub(super) async fn live(&self, range: &Range, position: &str) -> Result<Live, Failure> {
        let reader = reader_parameter(range.reader.as_deref());
        let parameters: Vec<_> = range.kind_parameters().chain(reader).collect();
        let of = if range.log { "log/live" } else { "live" };
        let path = format!("/v1/{of}?{}", query(&range.feeds, &parameters));
        let request = self.request(Method::GET, &path);
        let response = self
            .stream(request.header("last-event-id", position))
            .await?;
        let media = response.headers().get(header::CONTENT_TYPE);
        let media = media.map_or(&b""[..], |media| media.as_bytes());
        if !media.starts_with(b"text/event-stream") {
            let cause = format!(
                "{path} answered {} instead of events",
                String::from_utf8_lossy(media)
            );
            return Err(Failure::Final(self.not_newsfeed(cause)));
        }
        Ok(Live {
            response,
            frames: Frames::default(),
        })
    }
}

/// A live stream.
pub struct Live {
    response: Response,
    frames: Frames,
}

impl Live {
    /// How long the service asked to wait before the stream is opened again.
    pub fn retry(&self) -> Option<Duration> {
        self.frames.retry
    }

    /// Waits for bytes and passes on the frames they complete. The error says how the stream ended. Cancel-safe: dropping
    /// the future loses nothing.
    pub async fn next(&mut self, take: impl FnMut(Frame<'_>)) -> Result<(), String> {
        let chunk = match self.response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Err("the stream ended".to_owned()),
            Err(error) => return Err(root_cause(&error)),
        };
        self.frames.pending.extend_from_slice(&chunk);
        self.frames.drain(take);
        if self.frames.pending.len() > FRAME_BYTES_MAX {
            return Err(format!("an event of more than {FRAME_BYTES_MAX} bytes"));
        }
        Ok(())
    }
}
