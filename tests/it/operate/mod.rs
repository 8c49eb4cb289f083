//! What an operator sees: metrics, health, requests by name.

mod health;
mod metrics;
mod request_ids;
mod scrape;
