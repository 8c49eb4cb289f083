//! HTTP/1.1 and HTTP/2 without TLS (by prior knowledge), with the same client library.

use axum::{body::Body, http::Version};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }

    pub fn version(self) -> Version {
        match self {
            Self::Http1 => Version::HTTP_11,
            Self::Http2 => Version::HTTP_2,
        }
    }

    pub fn client(self) -> Client<HttpConnector, Body> {
        Client::builder(TokioExecutor::new())
            .http2_only(self == Self::Http2)
            .build_http()
    }
}
