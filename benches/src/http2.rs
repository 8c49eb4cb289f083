//! An HTTP/2 client without TLS (prior knowledge), for requests on a shared connection.

use std::{future::poll_fn, io, sync::Arc};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use hyper::http::{
    Request, Response, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
    request::Builder,
    uri::{Parts, PathAndQuery, Scheme},
};

use super::{pool::Slot, target::Node};

/// Sends one request at a time.
pub struct Http2 {
    slot: Arc<Slot>,
    sender: Option<SendRequest<Bytes>>,
    body: Vec<u8>,
}

impl Http2 {
    pub fn new(slot: Arc<Slot>) -> Self {
        Self {
            slot,
            sender: None,
            body: Vec::new(),
        }
    }

    /// True if the next call will reuse a connection.
    pub fn is_open(&self) -> bool {
        self.sender.is_some()
    }

    /// Returns the status; the body of the response is in [`Self::body`].
    pub async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<u16> {
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => self.slot.sender().await?,
        };
        let mut request = request(self.slot.node(), path)?.method(method);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(()).map_err(io::Error::other)?;
        let body = Bytes::copy_from_slice(body);
        let mut answer = exchange(&mut sender, request, body).await?;
        self.body.clear();
        while let Some(data) = answer.body_mut().data().await {
            let data = data.map_err(io::Error::other)?;
            self.body.extend_from_slice(&data);
            let taken = answer
                .body_mut()
                .flow_control()
                .release_capacity(data.len());
            taken.map_err(io::Error::other)?;
        }
        self.sender = Some(sender);
        Ok(answer.status().as_u16())
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// The URI of `path` at `node`.
fn uri(node: &Node, path: &str) -> io::Result<Uri> {
    let path = if node.prefix.is_empty() {
        PathAndQuery::try_from(path)
    } else {
        PathAndQuery::try_from([&node.prefix, path].concat())
    };
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(node.authority.clone());
    parts.path_and_query = Some(path.map_err(io::Error::other)?);
    Uri::from_parts(parts).map_err(io::Error::other)
}

/// A request for `path` at `node`, with the token if there is one.
pub fn request(node: &Node, path: &str) -> io::Result<Builder> {
    let request = Request::builder().uri(uri(node, path)?);
    Ok(match node.token.header() {
        Some(token) => request.header(AUTHORIZATION, token),
        None => request,
    })
}

/// Sends a request and waits for the head of its response.
pub async fn exchange(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
) -> io::Result<Response<RecvStream>> {
    let answer = async {
        poll_fn(|context| sender.poll_ready(context)).await?;
        let (answer, mut rest) = sender.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            rest.send_data(body, true)?;
        }
        answer.await
    };
    answer.await.map_err(io::Error::other)
}
