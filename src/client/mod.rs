//! The client side: what `newsfeed replay` and `newsfeed demo` need of a running service.
//!
//! It speaks HTTP only and knows nothing of the server's modules, so that it proves the API from outside.
//! Every call here may be sent again: events carry their id, markers only move forward, a transient heard
//! twice does no harm. So there is one rule for failures, kept by `Patience`: no connection and "not now"
//! (503) are waited out, everything else is told at once.

pub mod demo;
pub mod replay;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use reqwest::{Method, Request, StatusCode, header, redirect};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// Where `newsfeed serve` listens unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Events in one array, at most; the service's own limit.
pub const ARRAY_EVENTS_MAX: usize = 1_000;

/// A call that got no answer it could use for this long is given up.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bounds of the pause before a call is sent again, whether we choose it or `Retry-After` does.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Without a terminal, progress is a line this often.
const PROGRESS_LINE_EVERY: Duration = Duration::from_secs(5);

/// Why a client command ended early; each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not the address of a service; write it like {DEFAULT_URL} (http only)")]
    BadUrl(String),
    #[error("cannot reach {url} ({cause}): is `newsfeed serve` running there?")]
    Unreachable { url: String, cause: String },
    /// A problem document from the service.
    #[error("the service answered {status} {code} to {call}: {detail}")]
    Refused {
        call: String,
        status: u16,
        code: String,
        detail: String,
    },
    #[error("{url} does not answer like a newsfeed service ({cause}): check the address")]
    NotNewsfeed { url: String, cause: String },
    #[error(
        "gave up after {seconds} s; the last failure: {last}. Run the command again when the service is well"
    )]
    GaveUp { seconds: u64, last: Box<Error> },
    /// The service took the request but not this event.
    #[error("{what} was rejected, {code}: {detail}")]
    Rejected {
        what: String,
        code: String,
        detail: String,
    },
    #[error("{file}, line {line}: {reason}; nothing from this line on was sent")]
    BadLine {
        file: String,
        line: u64,
        reason: String,
    },
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{0:?} cannot name events: event ids are at most 128 printable ASCII bytes; rename the file"
    )]
    FileName(PathBuf),
}

/// An event to append. The id is the client's, because it is what makes sending it again harmless.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewEvent {
    pub id: String,
    pub kind: String,
    pub feeds: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    pub data: serde_json::Value,
}

/// What is heard by who listens now, and kept by nobody: typing and the like.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transient {
    pub kind: String,
    pub feeds: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    pub data: serde_json::Value,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    Appended {
        id: String,
        version: String,
    },
    /// The store had it already: from an earlier run, or from a try of ours whose answer was lost.
    Duplicate {
        id: String,
        version: String,
    },
    Rejected {
        id: String,
        error: Rejection,
    },
}

impl Outcome {
    /// Rejected for now: the same event may well be taken in a moment.
    fn is_not_now(&self) -> bool {
        matches!(self, Self::Rejected { error, .. } if error.code == "store_unavailable")
    }
}

/// Why one event of an array was not appended.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rejection {
    pub code: String,
    pub detail: String,
}

/// A connection to one service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    no_progress_max: Duration,
}

impl Client {
    /// `base_url` like `http://127.0.0.1:8080`, with or without a path in front of `/v1`.
    pub fn new(base_url: &str) -> Result<Self, Error> {
        let bad = || Error::BadUrl(base_url.to_owned());
        let url = reqwest::Url::parse(base_url).map_err(|_| bad())?;
        if url.scheme() != "http" || url.query().is_some() || url.fragment().is_some() {
            return Err(bad());
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|_| bad())?;
        let base_url = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self {
            http,
            base_url,
            no_progress_max: NO_PROGRESS_MAX,
        })
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Fails at once when nobody listens there or somebody else does, so that a wrong address is not
    /// waited for. A service that is there but busy is fine: the calls to come are patient.
    pub async fn probe(&self) -> Result<(), Error> {
        let request = self.request(Method::GET, "/readyz", None::<&()>)?;
        match self.attempt(request).await {
            Ok(_) => Ok(()),
            Err(Failure::NotNow {
                last: Error::Refused { .. },
                ..
            }) => Ok(()),
            Err(Failure::NotNow { last, .. } | Failure::Final(last)) => Err(last),
        }
    }

    /// Appends at most [`ARRAY_EVENTS_MAX`] events; they are committed in the order given, and there is
    /// an outcome for each, in the same order. Only those that the store could not take at first, out of
    /// an array it otherwise took, come later than given.
    pub async fn append(&self, events: &[NewEvent]) -> Result<Vec<Outcome>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut patience = Patience::new(self.no_progress_max);
        let mut outcomes = self
            .post_events(&events.iter().collect::<Vec<_>>(), &mut patience)
            .await?;
        loop {
            let open: Vec<usize> = (0..events.len())
                .filter(|&index| outcomes[index].is_not_now())
                .collect();
            if open.is_empty() {
                return Ok(outcomes);
            }
            patience
                .pause(None, self.store_unavailable(open.len()))
                .await?;
            let again: Vec<&NewEvent> = open.iter().map(|&index| &events[index]).collect();
            for (index, outcome) in open
                .into_iter()
                .zip(self.post_events(&again, &mut patience).await?)
            {
                outcomes[index] = outcome;
            }
        }
    }

    /// As many outcomes as events.
    async fn post_events(
        &self,
        events: &[&NewEvent],
        patience: &mut Patience,
    ) -> Result<Vec<Outcome>, Error> {
        let outcomes: Vec<Outcome> = self
            .call(Method::POST, "/v1/events", Some(&events), patience)
            .await?;
        if outcomes.len() != events.len() {
            return Err(self.not_newsfeed(format!(
                "{} outcomes for {} events",
                outcomes.len(),
                events.len()
            )));
        }
        Ok(outcomes)
    }

    /// Sends to who listens now. After a lost answer they may hear it twice.
    pub async fn transient(&self, transient: &Transient) -> Result<(), Error> {
        let mut patience = Patience::new(self.no_progress_max);
        self.call::<_, IgnoredAny>(
            Method::POST,
            "/v1/transient",
            Some(transient),
            &mut patience,
        )
        .await?;
        Ok(())
    }

    /// What a reader of `feed` would now be up to date with.
    pub async fn feed_version(&self, feed: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Feed {
            version: String,
        }
        let mut patience = Patience::new(self.no_progress_max);
        let path = format!("/v1/feeds/{feed}");
        let feed: Feed = self
            .call(Method::GET, &path, None::<&()>, &mut patience)
            .await?;
        Ok(feed.version)
    }

    /// Marks the feed read up to and including `version`.
    pub async fn mark_read(&self, feed: &str, version: &str) -> Result<(), Error> {
        let mut patience = Patience::new(self.no_progress_max);
        let path = format!("/v1/feeds/{feed}/markers/read");
        let body = serde_json::json!({ "version": version });
        self.call::<_, IgnoredAny>(Method::PUT, &path, Some(&body), &mut patience)
            .await?;
        Ok(())
    }

    /// Sends until there is an answer or patience ends.
    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        patience: &mut Patience,
    ) -> Result<T, Error> {
        let request = self.request(method, path, body)?;
        loop {
            let again = request
                .try_clone()
                .expect("the body is bytes in memory, never a stream");
            match self.attempt(again).await {
                Ok(answer) => {
                    return serde_json::from_slice(&answer)
                        .map_err(|error| self.not_newsfeed(error.to_string()));
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::NotNow { after, last }) => patience.pause(after, last).await?,
            }
        }
    }

    fn request<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Request, Error> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base_url));
        if let Some(body) = body {
            request = request.json(body);
        }
        request
            .build()
            .map_err(|_| Error::BadUrl(format!("{}{path}", self.base_url)))
    }

    async fn attempt(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let call = format!("{} {}", request.method(), request.url().path());
        let unreachable = |error: reqwest::Error| Failure::NotNow {
            after: None,
            last: Error::Unreachable {
                url: self.base_url.clone(),
                cause: root_cause(&error),
            },
        };
        let response = self.http.execute(request).await.map_err(unreachable)?;
        let status = response.status();
        let after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(body.into());
        }
        let refused = match serde_json::from_slice(&body) {
            Ok(Rejection { code, detail }) => Error::Refused {
                call,
                status: status.as_u16(),
                code,
                detail,
            },
            Err(_) => self.not_newsfeed(format!("{status} to {call}")),
        };
        // Gateways in front of the service say 502 and 504 when they miss it.
        match status {
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::NotNow {
                after: after.map(Duration::from_secs),
                last: refused,
            }),
            _ => Err(Failure::Final(refused)),
        }
    }

    fn not_newsfeed(&self, cause: String) -> Error {
        Error::NotNewsfeed {
            url: self.base_url.clone(),
            cause,
        }
    }

    fn store_unavailable(&self, events: usize) -> Error {
        Error::Rejected {
            what: format!("{events} of the events"),
            code: "store_unavailable".to_owned(),
            detail: format!("the store behind {} is not available", self.base_url),
        }
    }
}

/// How one attempt failed.
enum Failure {
    /// Worth trying again, when the service names a time after that.
    NotNow {
        after: Option<Duration>,
        last: Error,
    },
    Final(Error),
}

/// How long to go on trying: from the first failure on, pausing a little longer each time.
struct Patience {
    max: Duration,
    failing_since: Option<Instant>,
    pause_next: Duration,
}

impl Patience {
    fn new(max: Duration) -> Self {
        Self {
            max,
            failing_since: None,
            pause_next: PAUSE_MIN,
        }
    }

    async fn pause(&mut self, asked: Option<Duration>, last: Error) -> Result<(), Error> {
        if self.failing_since.is_none() {
            tracing::warn!("{last}; trying again for up to {} s", self.max.as_secs());
        }
        if self
            .failing_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            >= self.max
        {
            return Err(Error::GaveUp {
                seconds: self.max.as_secs(),
                last: Box::new(last),
            });
        }
        tokio::time::sleep(asked.unwrap_or(self.pause_next).clamp(PAUSE_MIN, PAUSE_MAX)).await;
        self.pause_next = (self.pause_next * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// The deepest source: reqwest's own text says only that sending failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Ends at Ctrl-C; never, where that signal cannot be caught.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A bar on a terminal, a line now and then elsewhere; both on stderr, so that stdout is the result alone.
struct Progress {
    bar: ProgressBar,
    line_last: Instant,
}

impl Progress {
    /// `length` in whatever [`Progress::set`] counts; without one there is no bar, only the text.
    fn new(length: Option<u64>) -> Self {
        let template = match length {
            Some(_) => "{bar:30} {percent:>3}%  {msg}",
            None => "{spinner} {msg}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        Self {
            bar: bar.with_style(style).with_finish(ProgressFinish::AndClear),
            line_last: Instant::now(),
        }
    }

    fn set(&mut self, position: u64, text: impl FnOnce() -> String) {
        self.bar.set_position(position);
        if !self.bar.is_hidden() {
            self.bar.set_message(text());
        } else if self.line_last.elapsed() >= PROGRESS_LINE_EVERY {
            self.line_last = Instant::now();
            eprintln!("{}", text());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers connection after connection with the scripted raw responses and keeps the bodies it got;
    /// an empty response is a connection dropped without an answer.
    async fn service(script: Vec<String>) -> (Client, Arc<Mutex<Vec<Value>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = bodies.clone();
        tokio::spawn(async move {
            for response in script {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let body = loop {
                    socket.read_buf(&mut request).await.unwrap();
                    let text = String::from_utf8_lossy(&request);
                    if let Some((_, body)) = text.split_once("\r\n\r\n")
                        && let Ok(body) = serde_json::from_str(body)
                    {
                        break body;
                    }
                };
                kept.lock().unwrap().push(body);
                socket.write_all(response.as_bytes()).await.unwrap();
            }
        });
        (client, bodies)
    }

    fn response(status: &str, headers: &str, body: Value) -> String {
        let body = body.to_string();
        format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn event(id: &str) -> NewEvent {
        NewEvent {
            id: id.to_owned(),
            kind: "message".to_owned(),
            feeds: vec!["user:1".to_owned()],
            actor: None,
            data: json!({}),
        }
    }

    fn busy() -> String {
        response(
            "503 Service Unavailable",
            "retry-after: 0\r\n",
            json!({"code": "busy", "detail": "queue full"}),
        )
    }

    fn appended(id: &str) -> Outcome {
        Outcome::Appended {
            id: id.to_owned(),
            version: "v".to_owned(),
        }
    }

    #[tokio::test]
    async fn busy_and_lost_answers_are_tried_again_with_the_same_ids() {
        let ok = response(
            "200 OK",
            "",
            json!([{"id": "a", "version": "v", "status": "appended"}]),
        );
        let (client, bodies) = service(vec![busy(), String::new(), ok]).await;
        assert_eq!(client.append(&[event("a")]).await.unwrap(), [appended("a")]);
        let bodies = bodies.lock().unwrap();
        assert_eq!(bodies.len(), 3);
        assert!(
            bodies
                .iter()
                .all(|body| body
                    == &json!([{"id":"a","kind":"message","feeds":["user:1"],"data":{}}]))
        );
    }

    #[tokio::test]
    async fn only_events_the_store_could_not_take_are_sent_again() {
        let down = json!({"code": "store_unavailable", "detail": "down"});
        let first = json!([
            {"id": "a", "version": "v", "status": "appended"},
            {"id": "b", "status": "rejected", "error": down},
            {"id": "c", "status": "rejected", "error": {"code": "id_reused", "detail": "other", "version": "w"}},
        ]);
        let second = json!([{"id": "b", "version": "v", "status": "appended"}]);
        let (client, bodies) = service(vec![
            response("200 OK", "", first),
            response("200 OK", "", second),
        ])
        .await;
        let outcomes = client
            .append(&[event("a"), event("b"), event("c")])
            .await
            .unwrap();
        assert_eq!(outcomes[..2], [appended("a"), appended("b")]);
        assert!(
            matches!(&outcomes[2], Outcome::Rejected { error, .. } if error.code == "id_reused")
        );
        assert_eq!(bodies.lock().unwrap()[1].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn problems_are_told_at_once_with_code_and_detail() {
        let problem =
            json!({"status": 400, "code": "invalid_event", "detail": "no feeds", "index": 0});
        let (client, _) = service(vec![response("400 Bad Request", "", problem)]).await;
        let error = client.append(&[event("a")]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the service answered 400 invalid_event to POST /v1/events: no feeds"
        );
    }

    #[tokio::test]
    async fn gives_up_without_progress() {
        let (mut client, _) = service(vec![busy(), busy()]).await;
        client.no_progress_max = Duration::from_millis(1);
        let error = client.append(&[event("a")]).await.unwrap_err();
        assert!(
            matches!(&error, Error::GaveUp { last, .. } if last.to_string().contains("busy")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_wrong_address_is_told_at_once() {
        // Bound and dropped: a port where nobody listens.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let client = Client::new(&format!("http://127.0.0.1:{port}")).unwrap();
        let error = client.probe().await.unwrap_err().to_string();
        assert!(
            error.contains("is `newsfeed serve` running there?"),
            "{error}"
        );
        for url in [
            "",
            "127.0.0.1:8080",
            "https://localhost",
            "ftp://localhost",
            "http://localhost/?a=b",
        ] {
            assert!(matches!(Client::new(url), Err(Error::BadUrl(_))), "{url}");
        }
    }
}
