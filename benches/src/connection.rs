//! A client that sends one request at a time, on a connection of its own or, with HTTP/2, on a shared one.

use std::{io, sync::Arc, time::Duration};

use super::{http::Answer, http1::Http1, http2::Http2, pool::Pool, timeout::Timeout};

/// Timeout of a request; longer than any long poll.
const ANSWER_MAX: Duration = Duration::from_secs(120);

pub struct Connection {
    pool: Arc<Pool>,
    number: usize,
    transport: Transport,
    timeout: Timeout,
}

enum Transport {
    Own(Http1),
    Shared(Http2),
}

impl Connection {
    /// The connection is opened at the first call, and again after a failure.
    pub fn new(pool: &Arc<Pool>, number: usize) -> Self {
        let transport = match pool.slot(number) {
            None => Transport::Own(Http1::new(Arc::clone(&pool.dialer), number)),
            Some(slot) => Transport::Shared(Http2::new(slot)),
        };
        Self {
            pool: Arc::clone(pool),
            number,
            transport,
            timeout: Timeout::new(ANSWER_MAX),
        }
    }

    pub fn base_url(&self) -> &str {
        &self.pool.node(self.number).base_url
    }

    pub async fn get(&mut self, path: &str) -> io::Result<Answer<'_>> {
        self.call("GET", path, b"").await
    }

    pub async fn post(&mut self, path: &str, json: &[u8]) -> io::Result<Answer<'_>> {
        self.call("POST", path, json).await
    }

    /// Retries once on a new connection if a reused one fails, because the service may have closed it while it was
    /// idle. Every call of the benchmark is idempotent; appends are, because of their ids.
    async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer<'_>> {
        let kept = self.transport.is_open();
        let call = self.transport.call(method, path, body);
        let mut called = self.timeout.wait(call).await;
        if kept
            && called
                .as_ref()
                .is_err_and(|error| error.kind() != io::ErrorKind::TimedOut)
        {
            let call = self.transport.call(method, path, body);
            called = self.timeout.wait(call).await;
        }
        let status = called?;
        let body = match &self.transport {
            Transport::Own(transport) => transport.body(),
            Transport::Shared(transport) => transport.body(),
        };
        Ok(Answer { status, body })
    }
}

impl Transport {
    fn is_open(&self) -> bool {
        match self {
            Self::Own(transport) => transport.is_open(),
            Self::Shared(transport) => transport.is_open(),
        }
    }

    async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<u16> {
        match self {
            Self::Own(transport) => transport.call(method, path, body).await,
            Self::Shared(transport) => transport.call(method, path, body).await,
        }
    }
}
