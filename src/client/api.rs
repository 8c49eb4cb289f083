//! The calls of the API that the commands need.

use std::{
    borrow::Cow,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    ClientBuilder, Method, Request, RequestBuilder, Response,
    header::{self, HeaderMap},
    redirect,
};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{
    Error,
    patience::Patience,
    redirect::redirected,
    temporary,
    token::{Author, Token},
    trust::Trust,
    wire::{NewEvent, Outcome, problem},
};

/// A call is given up after this time without a usable response.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A live stream that is silent for this long counts as a lost connection. The service sends something every 15 s.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(45);

/// How one attempt failed.
pub(super) enum Failure {
    /// Worth a retry, not before the time the service asked for, if it did.
    NotNow {
        after: Option<Duration>,
        last: Error,
    },
    Final(Error),
}

/// A connection to one service.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// For responses without an end.
    streams: reqwest::Client,
    base_url: String,
    token: Token,
    no_progress_max: Duration,
}

impl Client {
    /// `base_url` is like `http://127.0.0.1:8080` and may have a path, which goes in front of `/v1`.
    pub fn new(base_url: &str, token: Token, trust: &Trust) -> Result<Self, Error> {
        let bad = || Error::BadUrl(base_url.to_owned());
        let url = reqwest::Url::parse(base_url).map_err(|_| bad())?;
        if !["http", "https"].contains(&url.scheme())
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(bad());
        }
        // A proxy must not see, or answer, what is meant for this machine.
        let local = is_local(&url);
        let build = |set: fn(ClientBuilder) -> ClientBuilder| {
            let builder = reqwest::Client::builder()
                .connect_timeout(CONNECT_MAX)
                .redirect(redirect::Policy::none());
            let builder = if local { builder.no_proxy() } else { builder };
            trust.apply(set(builder))?.build().map_err(|error| {
                Error::Arguments(format!("cannot make connections: {}", root_cause(&error)))
            })
        };
        let http = build(|builder| builder.timeout(ANSWER_MAX))?;
        let streams = build(|builder| builder.read_timeout(STREAM_SILENCE_MAX))?;
        Ok(Self {
            http,
            streams,
            base_url: url.as_str().trim_end_matches('/').to_owned(),
            token,
            no_progress_max: NO_PROGRESS_MAX,
        })
    }

    /// Sets how long to retry while the service cannot be reached or is busy. Zero disables retries.
    pub fn patient_for(self, no_progress_max: Duration) -> Self {
        Self {
            no_progress_max,
            ..self
        }
    }

    pub(super) fn patience(&self) -> Patience {
        Patience::new(self.no_progress_max)
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// What the token says about the events that are appended with it.
    pub fn author(&self) -> &Author {
        self.token.author()
    }

    /// Fails immediately if nothing listens at the address or the answer is not from a newsfeed service, so that a wrong
    /// address is not retried. A service that is busy, or whose proxy cannot reach it, passes, because later calls retry.
    pub async fn probe(&self) -> Result<(), Error> {
        let request = self.built(self.request(Method::GET, "/readyz"))?;
        match self.attempt(request).await {
            Ok(_) => Ok(()),
            Err(Failure::NotNow { last, .. }) if !matches!(last, Error::Unreachable { .. }) => {
                Ok(())
            }
            Err(Failure::NotNow { last, .. } | Failure::Final(last)) => Err(last),
        }
    }

    /// Appends 1 to 1,000 events. They are committed in the given order, and the outcomes are in the same order.
    pub async fn append(&self, events: &[NewEvent]) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = self.post_events(events).await?;
        let mut patience = self.patience();
        while let Some(rejection) = outcomes.iter().find_map(Outcome::not_now) {
            let last = rejection.clone().of("an event".to_owned());
            patience.pause(None, last).await?;
            // An event that was appended before is a duplicate now; its first outcome stands.
            let again = self.post_events(events).await?;
            for (outcome, again) in outcomes.iter_mut().zip(again) {
                if outcome.not_now().is_some() {
                    *outcome = again;
                }
            }
        }
        Ok(outcomes)
    }

    async fn post_events(&self, events: &[NewEvent]) -> Result<Vec<Outcome>, Error> {
        let allowed: Vec<_> = events.iter().map(|event| self.allowed(event)).collect();
        let request = self.request(Method::POST, "/v1/events").json(&allowed);
        let outcomes: Vec<Outcome> = self.call(request).await?;
        if outcomes.len() != events.len() {
            let cause = format!("{} outcomes for {} events", outcomes.len(), events.len());
            return Err(self.not_newsfeed(cause));
        }
        Ok(outcomes)
    }

    /// Sends a transient to current listeners. If a response is lost, they may receive it twice.
    pub async fn transient(&self, event: &NewEvent) -> Result<(), Error> {
        let event = self.allowed(event);
        let request = self.request(Method::POST, "/v1/transient").json(&event);
        self.call(request).await.map(|IgnoredAny| ())
    }

    /// `event` with an id that the token allows.
    fn allowed<'a>(&self, event: &'a NewEvent) -> Cow<'a, NewEvent> {
        let prefix = self.author().id_prefix(Some(&event.actor));
        if prefix.is_empty() {
            return Cow::Borrowed(event);
        }
        let id = prefix + &event.id;
        Cow::Owned(NewEvent {
            id,
            ..event.clone()
        })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}{path}", self.base_url));
        match self.token.header() {
            Some(token) => request.header(header::AUTHORIZATION, token),
            None => request,
        }
    }

    fn built(&self, request: RequestBuilder) -> Result<Request, Error> {
        request
            .build()
            .map_err(|_| Error::BadUrl(self.base_url.clone()))
    }

    /// The response as JSON. Failed attempts are retried.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, Error> {
        let answer = self.answered(request).await?;
        serde_json::from_slice(&answer).map_err(|error| self.not_newsfeed(error.to_string()))
    }

    /// Retries until there is a response or patience ends.
    pub(super) async fn answered(&self, request: RequestBuilder) -> Result<Bytes, Error> {
        let request = self.built(request)?;
        let mut patience = self.patience();
        loop {
            let again = request
                .try_clone()
                .expect("the body is bytes in memory, never a stream");
            match self.attempt(again).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::NotNow { after, last }) => patience.pause(after, last).await?,
            }
        }
    }

    async fn attempt(&self, request: Request) -> Result<Bytes, Failure> {
        let response = self.open(&self.http, request).await?;
        response.bytes().await.map_err(|error| self.failed(&error))
    }

    /// One attempt. Returns the response once its headers arrived, and does not limit its duration.
    pub(super) async fn stream(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let request = self.built(request).map_err(Failure::Final)?;
        self.open(&self.streams, request).await
    }

    /// A successful response.
    async fn open(&self, http: &reqwest::Client, request: Request) -> Result<Response, Failure> {
        let call = format!("{} {}", request.method(), request.url().path());
        let response = http.execute(request).await;
        let response = response.map_err(|error| self.failed(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if let Some(redirected) = redirected(&response, &call, &self.base_url) {
            return Err(Failure::Final(redirected));
        }
        let after = retry_after(response.headers());
        let body = response.bytes().await;
        let body = body.map_err(|error| self.failed(&error))?;
        let refused = problem(status.as_u16(), &body, call, &self.base_url);
        Err(if temporary::status(status.as_u16()) {
            Failure::NotNow {
                after,
                last: refused,
            }
        } else {
            Failure::Final(refused)
        })
    }

    fn failed(&self, error: &reqwest::Error) -> Failure {
        let (url, cause) = (self.base_url.clone(), root_cause(error));
        let last = if error.is_connect() {
            Error::Unreachable { url, cause }
        } else {
            Error::Lost { url, cause }
        };
        Failure::NotNow { after: None, last }
    }

    pub(super) fn not_newsfeed(&self, cause: String) -> Error {
        Error::NotNewsfeed {
            url: self.base_url.clone(),
            cause,
        }
    }
}

/// `Retry-After`, which has seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Whether a service at `url` runs on this machine.
fn is_local(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let local = |ip: IpAddr| ip.to_canonical().is_loopback() || ip.is_unspecified();
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(local)
}

/// The innermost source: reqwest's own message says only that sending failed.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers one connection after another with the scripted raw responses and records the request bodies. An empty
    /// response drops the connection.
    async fn service(script: Vec<String>) -> (Client, Arc<Mutex<Vec<Value>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let client = Client::new(
            &format!("http://{address}/"),
            Token::default(),
            &Trust::default(),
        )
        .expect("a client");
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = bodies.clone();
        tokio::spawn(async move {
            for response in script {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let mut request = Vec::new();
                let body = loop {
                    socket.read_buf(&mut request).await.expect("a request");
                    let text = String::from_utf8_lossy(&request);
                    if let Some((_, body)) = text.split_once("\r\n\r\n")
                        && let Ok(body) = serde_json::from_str(body)
                    {
                        break body;
                    }
                };
                kept.lock().expect("no panic").push(body);
                let _ = socket.write_all(response.as_bytes()).await;
            }
        });
        (client, bodies)
    }

    fn response(status: &str, headers: &str, body: Value) -> String {
        let body = body.to_string();
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
    }

    fn busy() -> String {
        response(
            "503 Service Unavailable",
            "retry-after: 0\r\n",
            json!({"code": "busy", "detail": "queue full"}),
        )
    }

    fn event(id: &str) -> NewEvent {
        NewEvent {
            id: id.to_owned(),
            kind: "message",
            feeds: vec!["user:1".to_owned()],
            actor: "user:2".to_owned(),
            time: None,
            data: json!({}),
        }
    }

    #[tokio::test]
    async fn busy_and_lost_responses_are_retried_with_the_same_ids() {
        let appended = json!([{"id": "a", "version": "v", "status": "appended"}]);
        let ok = response("200 OK", "", appended);
        let too_many = busy().replace("503 Service Unavailable", "429 Too Many Requests");
        let (client, bodies) = service(vec![busy(), String::new(), too_many, ok]).await;
        let outcomes = client.append(&[event("a")]).await.expect("appended");
        assert_eq!(outcomes, [Outcome::Appended]);
        let sent = json!([
            {"id": "a", "kind": "message", "feeds": ["user:1"], "actor": "user:2", "data": {}}
        ]);
        let bodies = bodies.lock().expect("no panic");
        assert_eq!(*bodies, vec![sent; 4]);
    }

    #[tokio::test]
    async fn temporarily_rejected_events_are_sent_again_and_other_outcomes_stand() {
        let rejected = |code| json!({"status": "rejected", "error": {"code": code, "detail": ""}});
        let appended = json!({"status": "appended"});
        let duplicate = json!({"status": "duplicate"});
        let reused = rejected("id_reused");
        let first = json!([appended, rejected("store_unavailable"), reused]);
        let second = json!([duplicate, appended, reused]);
        let script = [first, second].map(|outcomes| response("200 OK", "", outcomes));
        let (client, _) = service(script.into()).await;
        let outcomes = client.append(&[event("a"), event("b"), event("c")]).await;
        let outcomes = outcomes.expect("answered");
        assert_eq!(outcomes[..2], [Outcome::Appended, Outcome::Appended]);
        assert!(
            matches!(&outcomes[2], Outcome::Rejected { error } if error.code == "id_reused"),
            "{outcomes:?}"
        );
    }

    #[tokio::test]
    async fn problems_are_reported_at_once_with_code_and_detail() {
        let problem = json!({"status": 400, "code": "invalid_event", "detail": "no feeds"});
        let (client, _) = service(vec![response("400 Bad Request", "", problem)]).await;
        let error = client.append(&[event("a")]).await.expect_err("a problem");
        assert_eq!(
            error.to_string(),
            "the service answered 400 invalid_event to POST /v1/events: no feeds"
        );
    }

    #[tokio::test]
    async fn gives_up_without_progress() {
        let (mut client, _) = service(vec![busy(), busy()]).await;
        client.no_progress_max = Duration::from_millis(1);
        let error = client.append(&[event("a")]).await.expect_err("gives up");
        assert!(
            matches!(&error, Error::GaveUp { last, .. } if last.to_string().contains("busy")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_wrong_address_is_reported_at_once() {
        // Bound and dropped, so that nobody listens on this port.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let client = Client::new(
            &format!("http://{address}"),
            Token::default(),
            &Trust::default(),
        )
        .expect("an address");
        let error = client
            .probe()
            .await
            .expect_err("no service there")
            .to_string();
        assert!(
            error.contains("is `newsfeed serve` running there?"),
            "{error}"
        );
        for url in [
            "",
            "127.0.0.1:8080",
            "ftp://localhost",
            "http://localhost/?a=b",
        ] {
            let client = Client::new(url, Token::default(), &Trust::default());
            assert!(matches!(client, Err(Error::BadUrl(_))), "{url}");
        }
    }
}
