//! What the commands say about a redirect, which they do not follow.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{PATIENCE, Said, newsfeed};

/// Answers every request with a redirect to `base` and the path of the request; returns its own URL.
async fn redirecting(base: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 4096];
            let length = socket.read(&mut request).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or("/");
            let answer = format!(
                "HTTP/1.1 308 Permanent Redirect\r\nlocation: {base}{path}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_redirect_is_reported_with_the_address_to_use() {
    for (base, advice) in [
        ("https://feeds.example", "use --url https://feeds.example\n"),
        (
            "https://feeds.example/base",
            "use --url https://feeds.example/base\n",
        ),
        (
            "https://login.example/?next=",
            "give the address of the service itself with --url",
        ),
    ] {
        let url = redirecting(base).await;
        for args in [
            &["state", "user:ben"][..],
            &["tail", "user:ben"],
            &["history", "user:ben"],
            &["mark", "user:ben"],
            &["append", "--kind", "visit", "--feed", "user:ben"],
            &["demo"],
        ] {
            let mut command = newsfeed(args);
            command.env("NEWSFEED_URL", &url);
            let output = timeout(PATIENCE, command.output()).await;
            let said: Said = output.expect("it ends by itself").expect("it runs").into();
            said.told(1, &format!("a redirect to {base}"));
            said.told(1, advice);
        }
    }
}
