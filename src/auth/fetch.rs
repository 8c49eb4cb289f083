//! A JWKS at a URL. At most one fetch is under way, in a task of its own; whoever needs its result waits for that one, and
//! nobody else waits for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::redirect;
use tokio::{sync::watch, time::Instant};

use super::{
    args::JwksUrl,
    jwks,
    keys::{self, KEYS_BYTES_MAX, Key},
};
use crate::outbound;

/// Shortest time from the end of a fetch to a fetch because of an unknown key.
pub const UNKNOWN_KID_PAUSE: Duration = Duration::from_secs(10);
/// Timeout of fetching a JWKS, and so the longest time that a request waits for one.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Where a JWKS is fetched from.
#[derive(Debug, Clone)]
pub struct Jwks {
    http: reqwest::Client,
    url: JwksUrl,
}

impl Jwks {
    pub fn new(url: JwksUrl) -> Result<Self, String> {
        let http = outbound::client(&url.url())
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(FETCH_TIME_MAX)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| cause(&error))?;
        Ok(Self { http, url })
    }

    pub async fn fetch(&self) -> Result<Vec<Key>, String> {
        let failed = |error| format!("the JWKS at {}: {error}", self.url);
        self.get().await.map_err(failed)
    }

    async fn get(&self) -> Result<Vec<Key>, String> {
        let asked = self.http.get(self.url.url()).send().await;
        let mut answer = asked.map_err(|error| cause(&error.without_url()))?;
        if answer.status() != 200 {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| cause(&error.without_url()))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > KEYS_BYTES_MAX {
                return Err(format!("it is larger than {KEYS_BYTES_MAX} bytes"));
            }
        }
        let keys = jwks::parse(keys::without_mark(&body))?;
        keys::check_count(&keys)?;
        Ok(keys)
    }
}

/// The root cause: reqwest's own message says only that sending failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The fetch under way, if any, and when the last one ended.
pub struct Fetches(Mutex<State>);

struct State {
    ended: Instant,
    /// Closed when the fetch has ended.
    running: Option<watch::Receiver<()>>,
}

impl Fetches {
    /// A fetch has just ended.
    pub fn after_one() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            ended: Instant::now(),
            running: None,
        })))
    }

    /// Begins `fetch`, unless a fetch is under way or the last one ended less than `pause` ago. Returns a channel that
    /// closes when the fetch under way ends; `None` if none is. The fetch goes on if nobody waits for it.
    pub fn begin(
        self: &Arc<Self>,
        pause: Duration,
        fetch: impl Future<Output = ()> + Send + 'static,
    ) -> Option<watch::Receiver<()>> {
        let mut state = self.lock();
        if let Some(running) = &state.running
            && running.has_changed().is_ok()
        {
            return Some(running.clone());
        }
        if state.ended.elapsed() < pause {
            return None;
        }
        let (ended, running) = watch::channel(());
        state.running = Some(running.clone());
        let fetches = Arc::clone(self);
        tokio::spawn(async move {
            fetch.await;
            fetches.lock().ended = Instant::now();
            drop(ended);
        });
        Some(running)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the fetch has ended.
pub async fn ended(mut running: watch::Receiver<()>) {
    while running.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    /// A fetch that ends when told to.
    fn slow(end: &Arc<Notify>) -> impl Future<Output = ()> + Send + 'static {
        let end = Arc::clone(end);
        async move { end.notified().await }
    }

    #[tokio::test(start_paused = true)]
    async fn all_wait_for_one_fetch_and_the_pause_begins_at_its_end() {
        let pause = UNKNOWN_KID_PAUSE;
        let (fetches, end) = (Fetches::after_one(), Arc::new(Notify::new()));
        let begin = |pause| fetches.begin(pause, slow(&end));
        assert!(
            begin(pause).is_none(),
            "the fetch at the start has just ended"
        );
        tokio::time::advance(pause).await;
        let first = begin(pause).expect("a fetch");
        // Later ones join it, also after a long time and without a pause.
        tokio::time::advance(pause * 2).await;
        for pause in [pause, Duration::ZERO] {
            assert!(begin(pause).expect("the same").same_channel(&first));
        }
        end.notify_one();
        ended(first).await;
        tokio::time::advance(pause - Duration::from_millis(1)).await;
        assert!(begin(pause).is_none(), "the pause is from its end");
        tokio::time::advance(Duration::from_millis(1)).await;
        let second = begin(pause).expect("another fetch");
        // The periodic fetch does not wait for the pause.
        end.notify_one();
        ended(second).await;
        assert!(begin(Duration::ZERO).is_some());
    }
}
