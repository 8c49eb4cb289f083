//! Reads request bodies within limits of size and time.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, header, request::Parts},
};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    limits::{Limited, OverBytes, Reserved},
    problem::{Code, Problem, Result},
};
use crate::{
    fairness::parse,
    types::surrogates::{self, Lone},
};

/// Longest JSON body, in bytes: an array of events.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest body of a transient, in bytes.
pub const TRANSIENT_BODY_BYTES_MAX: usize = 256 * 1024;
/// Longest body of a request for a ticket, in bytes: the names of its feeds, also if every character is escaped.
pub const TICKET_BODY_BYTES_MAX: usize = 160 * 1024;
/// Longest body that names feeds whose states are read, in bytes: also if every character is escaped.
pub const STATES_BODY_BYTES_MAX: usize = 1_536 * 1024;
/// Longest body of an edit, in bytes.
pub const EDIT_BODY_BYTES_MAX: usize = 256 * 1024;
/// Longest body that says what to erase, in bytes: also if every character is escaped.
pub const ERASURE_BODY_BYTES_MAX: usize = 512 * 1024;
/// Longest body of a request for a backup, in bytes: the names of the files that the client has.
pub const BACKUP_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest body of another request that appends nothing, in bytes.
pub const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// A body of this many bytes or fewer takes no memory from the budget if it arrives together with its head: it is processed
/// at once.
const UNCOUNTED_BYTES_MAX: usize = 4 * 1024;
/// Longest line of an NDJSON body, in bytes.
pub const LINE_BYTES_MAX: usize = 256 * 1024;
/// Longest time without receiving a byte of an incomplete body.
pub const BODY_STALL_MAX: Duration = Duration::from_secs(10);
/// Longest time to receive a whole JSON body, or a whole line of NDJSON.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// How long the rest of an unneeded body is read, and how much of it.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

/// Wraps `body` so that its rest is read for a while if it is dropped before its end. Closing a connection with unread
/// bytes resets it, and a client that is still sending would not see a response that was sent early. A client that sends
/// more than [`LINGER_BYTES_MAX`] all the same does not look at the response, and loses the connection.
pub fn lingering(body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(Lingering(Some(body)))
}

/// `None` once the body has ended.
struct Lingering(Option<Body>);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let rest = async move {
                let mut read = 0;
                while read < LINGER_BYTES_MAX
                    && let Some(Ok(frame)) = body.frame().await
                {
                    read += frame.data_ref().map_or(0, Bytes::len);
                }
            };
            runtime.spawn(timeout(LINGER, rest));
        }
    }
}

/// The media types that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Ndjson,
}

/// The media type of a request's body, according to `Content-Type`.
pub fn media(headers: &HeaderMap) -> Result<Media> {
    // Compressed bodies are refused, because a few bytes could expand to any number.
    let codings = headers.get_all(header::CONTENT_ENCODING);
    if codings.iter().any(|coding| coding != "identity") {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "send the body uncompressed, without Content-Encoding",
        ));
    }
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let name = value.split(';').next().unwrap_or_default().trim();
    let is = |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
    if is(&["application/json"]) {
        Ok(Media::Json)
    } else if is(&["application/x-ndjson", "application/ndjson"]) {
        Ok(Media::Ndjson)
    } else {
        Err(Problem::new(
            Code::UnsupportedMediaType,
            "set Content-Type to application/json (or, for events, application/x-ndjson)",
        ))
    }
}

/// Reads a whole JSON body.
pub async fn read_json(request: &Parts, body: Body) -> Result<Bytes> {
    if media(&request.headers)? != Media::Json {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "set Content-Type to application/json",
        ));
    }
    read_all(request, body).await
}

/// Parses raw JSON values: `bytes` may be any JSON.
pub fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| match std::str::from_utf8(bytes) {
        Ok(_) => Problem::new(Code::InvalidJson, format!("the body is not JSON: {error}")),
        Err(error) => {
            let offset = error.valid_up_to();
            let detail = format!(
                "the body is not JSON, because it is not UTF-8: byte {offset} begins no character"
            );
            Problem::new(Code::InvalidJson, detail).with("offset", offset)
        }
    })
}

/// Parses a `T` from a JSON object in `body`. If that fails, the problem has the code `wrong` and begins with `expected`.
pub fn object<'a, T: Deserialize<'a>>(
    body: &[u8],
    json: &'a RawValue,
    wrong: Code,
    expected: &str,
) -> Result<T> {
    // A derived `Deserialize` would also accept an array of the fields' values.
    if !json.get().starts_with('{') {
        let detail = format!("{expected}: it must be a JSON object");
        return Err(Problem::new(wrong, detail));
    }
    serde_json::from_str(json.get()).map_err(|error| {
        // The grammar has been checked before. Strings have not.
        let lone = match error.is_syntax() {
            true => lone_surrogate(body, json, "", wrong),
            false => None,
        };
        lone.unwrap_or_else(|| Problem::new(wrong, format!("{expected}: {error}")))
    })
}

/// The problem, with the code `wrong`, of a string in `json` that is not Unicode text because it has a lone surrogate.
/// `json` is a part of `body`, and `path` leads to it.
pub fn lone_surrogate(body: &[u8], json: &RawValue, path: &str, wrong: Code) -> Option<Problem> {
    let json = json.get();
    let Lone {
        path,
        in_key,
        offset,
    } = surrogates::find(json, path)?;
    let escape = json.get(offset..offset + 6).unwrap_or_default();
    let begin = json.as_ptr().addr().saturating_sub(body.as_ptr().addr());
    let offset = begin + offset;
    let what = match (&*path, in_key) {
        ("", _) => "a key of the object".to_owned(),
        (path, true) => format!("a key of {path}"),
        (path, false) => path.to_owned(),
    };
    let detail = format!(
        "{what} is JSON by grammar but not Unicode text: the escape {escape} at byte {offset} is half of a surrogate \
         pair; cut strings between characters, not inside them"
    );
    let problem = Problem::new(wrong, detail).with("offset", offset);
    Some(match &*path {
        "" => problem,
        path => problem.with("field", path),
    })
}

/// Reads a JSON body and parses a `T` from it; see [`object`].
pub async fn read_object<T: DeserializeOwned + Send + 'static>(
    request: &Parts,
    body: Body,
    expected: &'static str,
) -> Result<T> {
    let body = read_json(request, body).await?;
    let length = body.len();
    parse(length, move || {
        object(&body, json(&body)?, Code::InvalidBody, expected)
    })
    .await
}

/// Reads a whole body, no longer than the operation allows. The result holds its memory until the last part of it is
/// dropped.
pub async fn read_all(request: &Parts, mut body: Body) -> Result<Bytes> {
    let limits = Limited::of(request)?;
    let bytes_max = limits.body_bytes_max();
    let announced = body.size_hint();
    if announced.lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let announced = announced.exact().map(|bytes| bytes as usize);
    let mut deadline = None;
    let mut reserved = limits.body();
    let mut read = Vec::new();
    loop {
        // Most bodies arrive together with the head and need no timer.
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                reserved.grow(read.capacity())?;
                let now = Instant::now();
                let deadline = *deadline.get_or_insert(now + BODY_TIME_MAX);
                timeout_at(deadline.min(now + BODY_STALL_MAX), body.frame())
                    .await
                    .map_err(|_elapsed| stalled())?
            }
        };
        let Some(frame) = frame else {
            return Ok(match reserved.bytes() {
                0 => read.into(),
                _ => reserved.hold(read),
            });
        };
        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
            let length = read.len() + data.len();
            if length > bytes_max {
                return Err(too_large(bytes_max));
            }
            if length > read.capacity() {
                // Grows by doubling, up to the announced size or the limit.
                let most = announced.unwrap_or(bytes_max);
                let capacity = length.max(most.min(2 * read.capacity()));
                if capacity > UNCOUNTED_BYTES_MAX || deadline.is_some() {
                    reserved.grow(capacity)?;
                }
                read.reserve_exact(capacity - read.len());
            }
            read.extend_from_slice(&data);
        }
    }
}

fn too_large(bytes_max: usize) -> Problem {
    let advice = match bytes_max {
        BODY_BYTES_MAX => "; send fewer events, or NDJSON",
        _ => "",
    };
    let detail =
        format!("the JSON body of this request may have at most {bytes_max} bytes{advice}");
    Problem::new(Code::BodyTooLarge, detail)
}

fn stalled() -> Problem {
    let seconds = BODY_STALL_MAX.as_secs();
    Problem::new(
        Code::BodyTimeout,
        format!(
            "no bytes of the body arrived for {seconds} s, or the whole body (or line of NDJSON) took more than {} s",
            BODY_TIME_MAX.as_secs()
        ),
    )
}

fn broken(error: &axum::Error) -> Problem {
    over_bytes(error)
        .unwrap_or_else(|| Problem::new(Code::InvalidBody, "the body ended before it was complete"))
}

/// The problem to answer with if `error` means that the caller has sent too many bytes.
fn over_bytes(error: &axum::Error) -> Option<Problem> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(OverBytes(problem)) = error.downcast_ref() {
            return Some(problem.clone());
        }
        cause = error.source();
    }
    None
}

/// Lines that are returned together have about this many bytes at most, so that what is under way is bounded.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// The lines of a body, as they arrive.
pub struct Lines {
    body: Body,
    buffer: BytesMut,
    /// Memory for the buffer and the lines that were returned last.
    reserved: Reserved,
    /// By when the line that has arrived in part must be complete.
    deadline: Option<Instant>,
    ended: bool,
    /// Returned after the lines that came before it.
    failed: Option<Problem>,
}

impl Lines {
    pub fn new(body: Body, reserved: Reserved) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            reserved,
            deadline: None,
            ended: false,
            failed: None,
        }
    }

    /// Waits for a line that is not blank, then adds those that have arrived already, up to `max` of them. Returns no
    /// lines at the end of the body. The lines returned before are expected to be dropped. Must not be called again after
    /// an error.
    pub async fn next_chunk(&mut self, max: usize) -> Result<Vec<Bytes>> {
        let mut lines = Vec::new();
        let mut taken = 0;
        self.reserved.settle(self.counted(0));
        loop {
            while lines.len() < max && self.failed.is_none() {
                match self.take_line() {
                    Ok(Some(line)) => {
                        self.deadline = None;
                        if !line.trim_ascii().is_empty() {
                            taken += line.len();
                            lines.push(line);
                        }
                    }
                    Ok(None) => break,
                    Err(problem) => self.failed = Some(problem),
                }
            }
            if lines.is_empty()
                && let Some(problem) = self.failed.take()
            {
                return Err(problem);
            }
            let is_full = lines.len() == max || taken >= CHUNK_BYTES_MAX;
            if self.failed.is_some() || is_full || (self.ended && self.buffer.is_empty()) {
                return Ok(lines);
            }
            // Without memory for more, the lines that there are come first: they give theirs back.
            match self.reserved.grow(self.counted(taken)) {
                Ok(()) => {}
                Err(_) if !lines.is_empty() => return Ok(lines),
                Err(problem) => return Err(problem),
            }
            let more = if lines.is_empty() {
                Some(self.next_frame().await?)
            } else {
                self.body.frame().now_or_never()
            };
            match more {
                None => return Ok(lines),
                Some(None) => self.ended = true,
                Some(Some(frame)) => match frame.map(|frame| frame.into_data()) {
                    Ok(Ok(data)) => self.buffer.extend_from_slice(&data),
                    Ok(Err(_trailers)) => {}
                    // Complete lines before the error count; the last one may be cut short and is dropped.
                    Err(error) => {
                        self.failed = over_bytes(&error);
                        self.ended = true;
                        self.buffer.clear();
                    }
                },
            }
        }
    }

    /// The memory in use, with `taken` bytes of lines; 0 if it is little.
    fn counted(&self, taken: usize) -> usize {
        let bytes = self.buffer.len() + taken;
        match bytes <= UNCOUNTED_BYTES_MAX {
            true => 0,
            false => bytes,
        }
    }

    /// Waits for more of the body. A line that has begun must be complete in time.
    async fn next_frame(
        &mut self,
    ) -> Result<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        let now = Instant::now();
        let mut until = now + BODY_STALL_MAX;
        if !self.buffer.is_empty() {
            until = until.min(*self.deadline.get_or_insert(now + BODY_TIME_MAX));
        }
        let frame = timeout_at(until, self.body.frame()).await;
        frame.map_err(|_elapsed| stalled())
    }

    fn take_line(&mut self) -> Result<Option<Bytes>> {
        let line = match memchr::memchr(b'\n', &self.buffer) {
            Some(end) => {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                line
            }
            None if self.ended && !self.buffer.is_empty() => self.buffer.split(),
            None if self.buffer.len() <= LINE_BYTES_MAX => return Ok(None),
            None => self.buffer.split(),
        };
        if line.len() > LINE_BYTES_MAX {
            return Err(Problem::new(
                Code::BodyTooLarge,
                format!("a line may have at most {LINE_BYTES_MAX} bytes"),
            ));
        }
        Ok(Some(line.freeze()))
    }
}
