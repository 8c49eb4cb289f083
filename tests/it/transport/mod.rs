//! What lies between a client and the API: TLS, CORS, limits of each caller, proxies. On the embedded engine: none of it
//! knows the store.

mod cors;
mod quotas;
mod tls;
