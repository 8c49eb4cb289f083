//! Requests as bytes, for what an HTTP client library would not send.

use std::{net::SocketAddr, time::Duration};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::bed::Answer;

/// A request with `Content-Length` and `Connection: close`.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let mut headers = headers.to_vec();
    if method != "GET" {
        headers.push(("content-length", &length));
    }
    [&head(method, path, &headers)[..], body].concat()
}

/// The head of a request with `Connection: close`.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A chunk of a body with `Transfer-Encoding: chunked`; an empty chunk ends the body.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}

/// Sends `bytes`; returns the answer, read to the end of the connection.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address).await;
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    answer(&mut stream).await
}

/// Reads to the end of the connection.
pub async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(300), stream.read_to_end(&mut bytes));
    // A reset after the answer is accepted as the end.
    let _ = end.await.expect("the server ends the connection");
    bytes
}

/// Reads an answer that ends with the connection.
pub async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> Answer {
    let text = String::from_utf8(drain(stream).await).expect("UTF-8");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no whole head in {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers: HeaderMap = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a header's name");
            (
                name,
                HeaderValue::from_str(value).expect("a header's value"),
            )
        })
        .collect();
    let chunked = headers.contains_key("transfer-encoding");
    Answer {
        status: status
            .and_then(|status| status.parse().ok())
            .expect("a status"),
        body: if chunked {
            unchunk(body)
        } else {
            body.to_owned()
        }
        .into(),
        headers,
    }
}

fn unchunk(mut chunked: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunked.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk's length");
        body.push_str(rest.get(..length).expect("a whole chunk"));
        chunked = rest.get(length + 2..).unwrap_or_default();
    }
    body
}
