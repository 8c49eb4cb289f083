//! What an operator sees: metrics, health, requests by name.

mod health;
mod metrics;
mod requests;
mod scrape;
