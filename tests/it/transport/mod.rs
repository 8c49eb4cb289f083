//! What lies between a client and the API: TLS, CORS, quotas of callers, proxies. None of it depends on the store, so
//! these tests use the embedded engine.

mod cors;
mod hosts;
mod quotas;
mod tls;
