//! A strict reader of server-sent events.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;

/// Longest silence of a stream. The heartbeat comes far sooner, unless the store is unavailable.
const SILENCE_MAX: Duration = Duration::from_secs(240);

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

pub struct Stream {
    /// A broken connection yields `None`.
    bytes: std::pin::Pin<Box<dyn futures_util::Stream<Item = Option<bytes::Bytes>> + Send>>,
    buffer: Vec<u8>,
    /// The value for `Last-Event-ID`.
    pub last_id: Option<String>,
    /// The `retry` values received so far, in ms.
    pub retries: Vec<u32>,
}

impl Stream {
    pub async fn open(http: &reqwest::Client, url: &str, last_event_id: Option<&str>) -> Self {
        let opened = Self::try_open(http, url, last_event_id).await;
        opened.expect("an answer")
    }

    /// Fails if there is no answer, or 503 with `Retry-After`. The position is `last_event_id` until the stream sends
    /// another.
    pub async fn try_open(
        http: &reqwest::Client,
        url: &str,
        last_event_id: Option<&str>,
    ) -> reqwest::Result<Self> {
        let mut request = http.get(url).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let mut response = request.send().await?;
        if response.status() == 503 {
            assert!(response.headers().contains_key("retry-after"));
            response = response.error_for_status()?;
        }
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self {
            last_id: last_event_id.map(str::to_owned),
            ..Self::over(response.bytes_stream())
        })
    }

    /// Reads from the body of an answer.
    pub fn over<E: 'static>(
        bytes: impl futures_util::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static,
    ) -> Self {
        Self {
            bytes: Box::pin(bytes.map(Result::ok)),
            buffer: Vec::new(),
            last_id: None,
            retries: Vec::new(),
        }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let retry = block.lines().find_map(|line| line.strip_prefix("retry: "));
            self.retries
                .extend(retry.map(|ms| ms.parse::<u32>().expect("a number")));
            if let Some(event) = parse(&block) {
                self.last_id = event.id.clone().or_else(|| self.last_id.take());
                return Some(event);
            }
        }
    }

    /// The next block as text, without the empty line that ends it.
    pub async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\n\n") {
                let mut block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                block.truncate(end);
                return Some(String::from_utf8(block).expect("UTF-8"));
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.bytes.next());
            match chunk.await.expect("an idle stream sends heartbeats") {
                Some(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(None) | None => return None,
            }
        }
    }

    /// The next event with one of these names.
    pub async fn next_of(&mut self, names: &[&str]) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if names.contains(&event.name.as_str()) {
                return event;
            }
        }
    }

    /// Reads to the `version` event that ends catching up; returns the entries before it.
    pub async fn caught_up(&mut self) -> Vec<Event> {
        let mut entries = Vec::new();
        loop {
            let event = self.next().await.expect("the stream goes on");
            match event.name.as_str() {
                "version" => return entries,
                "entry" | "notify" => entries.push(event),
                _ => {}
            }
        }
    }
}

/// Parses a block of lines; `None` if it has no event (it has only `retry`).
pub fn parse(block: &str) -> Option<Event> {
    let (mut name, mut id, mut data) = (None, None, None);
    for line in block.lines() {
        match line.split_once(": ").expect("a field") {
            ("event", value) => name = Some(value.to_owned()),
            ("id", value) => id = Some(value.to_owned()),
            ("data", value) => data = Some(serde_json::from_str(value).expect("JSON data")),
            ("retry", value) => assert!(value.parse::<u32>().is_ok()),
            (other, _) => panic!("unknown field {other}"),
        }
    }
    Some(Event {
        name: name?,
        id,
        data: data.expect("data"),
    })
}
