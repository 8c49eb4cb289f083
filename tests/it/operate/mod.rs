//! What an operator sees: metrics, health, requests by name.

mod health;
mod metrics;
mod request_ids;
mod scrape;

use crate::support::model::in_time;

/// Looks again and again until something is there.
async fn until<T>(look: impl AsyncFn() -> Option<T>) -> T {
    in_time(async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
