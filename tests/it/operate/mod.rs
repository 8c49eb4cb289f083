//! What an operator sees: metrics, health, request ids and the log filter.

mod health;
mod metrics;
mod request_ids;
pub mod scrape;
