//! Clients driven by this process: the crate `eventsource-client`, and curl.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use bytes::Bytes;
use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use launchdarkly_sdk_transport::{ByteStream, HttpTransport, ResponseFuture, TransportError};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    process::{ChildStdout, Command},
    sync::mpsc,
};

use super::{FEED, clients::Tell, heard::Told};
use crate::support::{bed::text, protocol::Protocol, sse::Stream};

/// Reports vN and the history up to it; returns vN.
async fn history<F: Future<Output = Value>>(tell: &Tell, get: impl Fn(String) -> F) -> String {
    let version = text(&get(format!("/v1/feeds/{FEED}")).await["version"]);
    let mut entries = Vec::new();
    let mut path = format!("/v1/feeds/{FEED}/entries?until={version}&limit=7");
    loop {
        let page = get(path).await;
        entries.extend(page["entries"].as_array().expect("entries").iter().cloned());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/feeds/{FEED}/entries?until={version}&limit=7&before={next}");
    }
    let told = version.clone();
    tell.tell(Told::History {
        version: told,
        entries,
    });
    version
}

#[derive(Clone)]
struct Transport(Client<HttpConnector, Body>);

impl HttpTransport for Transport {
    fn request(&self, request: Request<Option<Bytes>>) -> ResponseFuture {
        let request = request.map(|body| body.map_or_else(Body::empty, Body::from));
        let response = tokio::spawn(self.0.request(request));
        Box::pin(async move {
            let response = response.await.map_err(TransportError::new)?;
            let response = response.map_err(TransportError::new)?;
            Ok(response.map(|body| -> ByteStream {
                // Through a channel, as the body itself cannot be shared between threads.
                let (sender, mut receiver) = mpsc::channel(1);
                let mut body = body.into_data_stream();
                tokio::spawn(async move {
                    while let Some(chunk) = body.next().await {
                        if sender
                            .send(chunk.map_err(TransportError::new))
                            .await
                            .is_err()
                        {
                            return;
                        }
                    }
                });
                Box::pin(stream::poll_fn(move |context| receiver.poll_recv(context)))
            }))
        })
    }
}

pub async fn eventsource_client(base: String, protocol: Protocol, tell: Tell) {
    let http = protocol.client();
    let version = history(&tell, |path| {
        let answer = http.get(format!("{base}{path}").parse().expect("a URL"));
        async {
            let response = answer.await.expect("an answer");
            assert_eq!(response.status(), StatusCode::OK);
            let body = response.into_body().collect().await.expect("a whole body");
            serde_json::from_slice(&body.to_bytes()).expect("JSON")
        }
    })
    .await;
    // The crate ignores `retry` in a block without data, and would increase its delay each time.
    let reconnect = ReconnectOptions::reconnect(true)
        .retry_initial(true)
        .delay(Duration::from_millis(50))
        .backoff_factor(1)
        .build();
    let client = ClientBuilder::for_url(&format!("{base}/v1/feeds/{FEED}/live?after={version}"))
        .expect("a URL")
        .reconnect(reconnect)
        .build_with_transport(Transport(http));
    let mut events = client.stream();
    while let Some(event) = events.next().await {
        match event {
            Ok(SSE::Connected(_)) => tell.tell(Told::Opened),
            Ok(SSE::Event(event)) => tell.tell(Told::Event {
                name: event.event_type,
                id: event.id,
                data: event.data,
            }),
            Ok(SSE::Comment(comment)) => panic!("a comment: {comment}"),
            // It reconnects.
            Err(_) => {}
        }
    }
    tell.tell(Told::GaveUp);
}

/// Curl does not parse events, so the test's reader does, and starts curl again with `Last-Event-ID`.
pub async fn curl(base: String, protocol: Protocol, tell: Tell) {
    let curl = |path: &str| {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--fail", "--no-buffer"])
            .arg(match protocol {
                Protocol::Http1 => "--http1.1",
                Protocol::Http2 => "--http2-prior-knowledge",
            })
            .arg(format!("{base}{path}"))
            .kill_on_drop(true);
        command
    };
    let version = history(&tell, |path| {
        let output = curl(&path).output();
        async {
            let Output { status, stdout, .. } = output.await.expect("curl runs");
            assert!(status.success(), "curl: {status}");
            serde_json::from_slice(&stdout).expect("JSON")
        }
    })
    .await;
    let mut position: Option<String> = None;
    loop {
        let mut command = curl(&format!("/v1/feeds/{FEED}/live?after={version}"));
        command.args([
            "--retry",
            "1000",
            "--retry-delay",
            "1",
            "--retry-connrefused",
        ]);
        if let Some(position) = &position {
            command.args(["-H", &format!("Last-Event-ID: {position}")]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("curl runs");
        tell.tell(Told::Opened);
        let mut stream = Stream::over(chunks(child.stdout.take().expect("piped")));
        stream.last_id = position;
        while let Some(event) = stream.next().await {
            tell.tell(Told::Event {
                name: event.name,
                id: event.id,
                data: event.data.to_string(),
            });
        }
        position = stream.last_id;
        let _ = child.wait().await;
    }
}

fn chunks(stdout: ChildStdout) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    stream::unfold(stdout, |mut stdout| async move {
        let mut chunk = Vec::with_capacity(16 * 1024);
        match stdout.read_buf(&mut chunk).await {
            Ok(0) => None,
            read => Some((read.map(|_| chunk.into()), stdout)),
        }
    })
}
